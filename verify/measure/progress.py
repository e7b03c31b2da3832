"""How far a run has come: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, Self, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

#: Seconds between two lines where there is no terminal; a run that is shorter prints none.
EVERY = 20.0

#: Seconds of work before a guess is made of how much is left.
SOON = 2.0


class Tried(Protocol):
    """What may have failed."""

    @property
    def failed(self) -> bool: ...


class Progress:
    """A run of several parts, one after the other, each of several tasks; told on ``stream`` (None: stderr).

    parts: what each costs as a whole, by name, in whatever unit they have in common: what is left is guessed from the cost
    of what has been done and the seconds that it took, drawing and all. Of a single part its tasks are counted, of several
    the parts. shown: whether anything is told at all. Open it with ``with``.
    """

    def __init__(
        self,
        parts: Mapping[str, float],
        *,
        shown: bool = True,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._parts = dict(parts)
        self._shown = shown
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._told = clock()
        self._begun: float | None = None  # when the first task was done: before it, workers start
        self._bar: Bar | None = None
        self._started, self._name, self._total, self._tasks, self._failed = 0, "", 0, 0, 0
        self._ended = False
        # Costs: of what was there before the first task was done, that one included, and of what was done since.
        self._recorded, self._worked = 0.0, 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def start(self, name: str, *, total: int, done: int) -> None:
        """The next part begins; so many of its tasks are done already."""
        self._started += 1
        self._name, self._total, self._tasks = name, total, done
        self._recorded += self._cost(done)
        if done < total:
            self._tell()

    def step(self, failed: bool) -> None:
        """One task more is done."""
        self._tasks += 1
        self._failed += failed
        if self._begun is None:
            self._begun = self._clock()
            self._recorded += self._cost(1)
        else:
            self._worked += self._cost(1)
        self._tell()

    def end(self, what: str) -> None:
        """All parts are done; ``what`` is still to be."""
        self._ended, self._name = True, what
        self._tell()

    def words(self) -> str:
        """How far it has come, in one line: "12 of 46 · noise, trial 3 of 40 · 3 min left · 1 failed"."""
        within = f"{self._tasks} of {self._total}"
        if len(self._parts) == 1:
            done, at = within, self._name
        else:
            done = f"{self._started - (self._tasks < self._total)} of {len(self._parts)}"
            at = self._name if self._ended else f"{self._name}, trial {within}"
        failed = f"{self._failed} failed" if self._failed else ""
        return " · ".join(filter(None, (done, at, self._left(), failed)))

    def _cost(self, tasks: int) -> float:
        return self._parts.get(self._name, 0.0) * tasks / self._total

    def _left(self) -> str:
        if self._ended or self._begun is None or not self._worked:
            return ""
        gone = self._clock() - self._begun
        left = max(0.0, sum(self._parts.values()) - self._recorded - self._worked)
        return f"{_duration(gone * left / self._worked)} left" if gone >= SOON else ""

    def _tell(self) -> None:
        if not self._shown:
            return
        if self._stream.isatty():
            self._draw()
        elif self._clock() - self._told >= EVERY:
            self._told = self._clock()
            print(self.words(), file=self._stream, flush=True)

    def _draw(self) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = (BarColumn(20), TextColumn("{task.description}", markup=False))
            self._bar = Bar(*columns, console=Console(file=self._stream))
            self._bar.add_task("", total=sum(self._parts.values()))
            self._bar.start()
        (task,) = self._bar.task_ids
        self._bar.update(task, completed=self._recorded + self._worked, description=self.words())


@contextmanager
def following(progress: Progress | bool, name: str) -> Iterator[Progress]:
    """``progress``, or one of a run that has the part ``name`` alone, shown or not."""
    if isinstance(progress, Progress):
        yield progress
        return
    with Progress({name: 1.0}, shown=progress) as own:
        yield own


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than 1 min"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
