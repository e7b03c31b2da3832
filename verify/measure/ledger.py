"""The one machine behind experiments, studies and pictures: tasks become durable records, whatever happens in between.

A run appends one line for each finished task to its file, on disk before the next result is taken. Killed at any moment it
loses the tasks in flight, one for each worker, and nothing else; called again it goes on with those that are missing.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from bounds import checks
from bounds.words import how_many
from verify.measure.conditions import Conditions, OtherConditionsWarning, differences
from verify.measure.lines import LedgerError, append_line, only_writer, repair
from verify.measure.progress import Progress, Tried
from verify.measure.workers import Stopped, in_turn, stoppable

R = TypeVar("R", bound=Tried)


@dataclass(frozen=True)
class Ledger(Generic[R]):
    """A file of records, and how to read them.

    path: of the running lines. ``read`` gives what has been recorded so far (also elsewhere, as in a finished form beside
    ``path``), no trial twice; ``line`` a record as JSON-able values; ``identity`` what it is the record of, or raises
    ``LedgerError`` if that is no part of the run; ``conditions`` those it was measured under (None: not kept).
    """

    name: str
    path: Path
    read: Callable[[], Sequence[R]]
    line: Callable[[R], Mapping[str, Any]]
    identity: Callable[[R], Hashable]
    conditions: Callable[[R], Conditions | None]


def carry_out(
    ledger: Ledger[R],
    tasks: Mapping[Hashable, Callable[[], R]],
    now: Conditions,
    *,
    jobs: int = 1,
    progress: Progress | None = None,
    told: Callable[[R], None] | None = None,
    finish: Callable[[list[R]], None] | None = None,
) -> list[R]:
    """Do every task that is not yet recorded, in the order given; return all records, in that order.

    tasks: by the identity of what they record; with ``jobs`` above 1 they are carried to other processes. ``now``: the
    conditions of this run; an ``OtherConditionsWarning`` if records that it goes on from have others. ``progress`` is told
    how far it has come; ``told`` is called with each new record once it is on disk; ``finish`` with all of them at the end,
    to keep them in another form: the lines are taken away after it, before another run may write any.

    Raises ``LedgerError`` if the file holds what is not among the tasks, or while another run writes it;
    ``KeyboardInterrupt`` and, on SIGTERM and SIGHUP, ``Stopped`` saying how to go on; whatever a task raises.
    """
    checks.integer("jobs", jobs, 1)
    progress = progress or Progress({ledger.name: 1.0}, shown=False)
    if not ledger.path.exists():
        kept = ledger.read()
        if not _missing(ledger, kept, tasks):
            progress.start(ledger.name, total=len(tasks), done=len(tasks))
            return _sorted(ledger, kept, tasks)  # finished: no file is opened for writing
    with only_writer(ledger.path):
        repair(ledger.path)
        records = list(ledger.read())
        todo = _missing(ledger, records, tasks)
        if todo:
            _warn(ledger, records, now)
        finished = in_turn(todo.values(), jobs)
        progress.start(ledger.name, total=len(tasks), done=len(tasks) - len(todo))
        try:
            with stoppable():
                try:
                    for record in finished:
                        append_line(ledger.path, ledger.line(record))
                        records.append(record)
                        if told is not None:
                            told(record)
                        progress.step(record.failed)
                finally:
                    finished.close()  # ends the workers, if any is left at work
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_how_to_go_on(ledger, len(tasks))) from None
        except Stopped as stop:
            message = _how_to_go_on(ledger, len(tasks))
            print(f"{stop.signal}: {message}", file=sys.stderr)
            raise
        records = _sorted(ledger, records, tasks)
        if finish is not None:
            finish(records)
            ledger.path.unlink()
    return records


def _missing(
    ledger: Ledger[R], records: Sequence[R], tasks: Mapping[Hashable, Callable[[], R]]
) -> dict[Hashable, Callable[[], R]]:
    done = {ledger.identity(record) for record in records}
    strangers = done - tasks.keys()
    if strangers:
        raise LedgerError(
            f"{ledger.path}: holds {how_many(len(strangers), 'trial')} beyond those asked for; "
            "ask for as many, or use another directory"
        )
    return {identity: task for identity, task in tasks.items() if identity not in done}


def _sorted(ledger: Ledger[R], records: Sequence[R], tasks: Mapping[Hashable, Callable[[], R]]) -> list[R]:
    """In the order of the tasks, whoever finished first: sums over them have the same last bits in every run."""
    place = {identity: k for k, identity in enumerate(tasks)}
    return sorted(records, key=lambda r: place[ledger.identity(r)])


def _warn(ledger: Ledger[R], records: Sequence[R], now: Conditions) -> None:
    changed = differences([c for c in map(ledger.conditions, records) if c is not None], now)
    if changed:
        warnings.warn(
            f"{ledger.path}: recorded under other conditions ({'; '.join(changed)}): last digits may differ",
            OtherConditionsWarning,
            stacklevel=3,
        )


def _how_to_go_on(ledger: Ledger[R], total: int) -> str:
    repair(ledger.path)
    recorded = len(ledger.read())  # a record may have been written whose writing did not come to its end here
    return f"stopped with {recorded} of {how_many(total, 'trial')} recorded in {ledger.path}; run it again to continue"
