"""Records of trials that say themselves what they are of: one reader and one book for pictures and trainings."""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from verify.measure.conditions import Conditions
from verify.measure.ledger import Ledger
from verify.measure.lines import LedgerError, RecordError, read_lines


class Keyed(Protocol):
    """A trial of the point ``key``, number ``trial`` under ``seed``."""

    @property
    def key(self) -> str: ...
    @property
    def trial(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def failed(self) -> bool: ...
    @property
    def conditions(self) -> Conditions | None: ...
    def to_dict(self) -> dict[str, Any]:
        """The line."""
        ...


K = TypeVar("K", bound=Keyed)


def read_keyed(path: Path, from_dict: Callable[[Mapping[str, Any], str], K]) -> list[K]:
    """Every record of a file. ``RecordError`` for a file that holds anything else, or a trial twice."""
    found: dict[tuple[str, int], K] = {}
    for where, raw in read_lines(path):
        record = from_dict(raw, where)
        if (record.key, record.trial) in found:
            raise RecordError(f"{where}: trial {record.trial} of this point is there twice")
        found[record.key, record.trial] = record
    return list(found.values())


def keyed_ledger(
    path: Path,
    seed: int,
    tasks: Container[Hashable],
    *,
    read: Callable[[Path], Sequence[K]],
    words: Callable[[K], str],
) -> Ledger[K]:
    """The book of a run into ``path`` (NAME.jsonl) of ``tasks``, pairs of a key and a trial; words: what a record is of, as
    the ``LedgerError`` says it for one that is not asked for."""

    def identity(record: K) -> Hashable:
        if record.seed != seed:
            raise LedgerError(f"{path}: recorded with seed {record.seed}, not {seed}. Use another directory")
        if (record.key, record.trial) not in tasks:
            raise LedgerError(
                f"{path}: holds trial {record.trial} {words(record)} that is not asked for: settings have changed, or fewer "
                "trials are asked for. Use another directory"
            )
        return record.key, record.trial

    return Ledger(
        path.stem,
        path,
        lambda: read(path) if path.exists() else [],
        lambda record: record.to_dict(),
        identity,
        lambda record: record.conditions,
    )
