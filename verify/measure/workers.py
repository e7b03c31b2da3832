"""Tasks in worker processes that end with their parent, however it ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import contextmanager
from itertools import islice
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

#: Seconds between two looks of a worker at whether its parent still lives.
LOOK = 0.5

#: Seconds that idle workers wait for the next run before they end.
IDLE = 300


class Stopped(SystemExit):
    """A signal asked this process to end; its code is 128 and the signal's number, as a shell has it."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number).name


def in_turn(tasks: Iterable[Callable[[], T]], jobs: int) -> Generator[T, None, None]:
    """The results of all tasks as they are finished, by ``jobs`` processes (1: this one).

    A worker gets its next task only when the result before it has been taken and the next one is asked for: what has been
    started and not taken is at most one task for each worker.
    """
    if jobs == 1:
        for task in tasks:
            yield task()
        return
    from joblib.externals.loky import get_reusable_executor

    workers = get_reusable_executor(
        max_workers=jobs, timeout=IDLE, initializer=end_with, initargs=(os.getpid(),)
    )
    waiting = iter(tasks)
    pending = {workers.submit(task) for task in islice(waiting, jobs)}
    finished = False
    try:
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
                pending |= {workers.submit(task) for task in islice(waiting, 1)}
        finished = True
    finally:
        if not finished:
            workers.shutdown(wait=True, kill_workers=True)


def end_with(parent: int) -> None:
    """Make this process end as soon as ``parent``, which started it, is gone. Interrupts are the parent's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end with the parent").start()


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM and SIGHUP raise ``Stopped`` inside, once, where they would have ended the process: what is open gets closed.

    A handler that somebody else has set stays (and so does ``nohup``); in another thread than the main one nothing changes.
    """
    numbers = [s for s in (signal.SIGTERM, getattr(signal, "SIGHUP", None)) if s is not None]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    ours = [s for s in numbers if signal.getsignal(s) is signal.SIG_DFL]

    def stop(number: int, frame: FrameType | None) -> Any:
        for s in ours:
            signal.signal(s, signal.SIG_IGN)
        raise Stopped(number)

    for s in ours:
        signal.signal(s, stop)
    try:
        yield
    finally:
        for s in ours:
            signal.signal(s, signal.SIG_DFL)
