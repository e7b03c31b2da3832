"""How far a run has come, on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar


class Tried(Protocol):
    """What may have failed."""

    @property
    def failed(self) -> bool: ...


T = TypeVar("T", bound=Tried)


def with_progress(
    finished: Iterable[T], name: str, *, total: int, done: int, progress: bool = True
) -> Iterator[T]:
    """The same, with a bar on stderr, failures counted beside it, if that is a terminal and ``progress``."""
    if not (progress and sys.stderr.isatty()):
        yield from finished
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=total, completed=done)
        failed = 0
        for one in finished:
            failed += one.failed
            yield one
            bar.update(task, advance=1, description=f"{name} ({failed} failed)" if failed else name)
