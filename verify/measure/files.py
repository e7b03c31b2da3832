"""The files of an experiment's records: the lines of a run, ``NAME.jsonl``, and the compact form, ``NAME.json``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bounds.words import how_many
from verify.measure.compact import read_compact, write_compact
from verify.measure.experiment import Experiment
from verify.measure.lines import LedgerError, RecordError, only_writer, read_lines
from verify.measure.point import Point
from verify.measure.record import Record, distinct


def read_records(path: str | Path) -> list[Record]:
    """The records of ``path``, and of its other form (``NAME.json``, ``NAME.jsonl``) if that is there too.

    A torn last line, which a killed run leaves, is skipped with a ``TornRecordWarning``. Anything that is not a record, or
    cannot be true, raises ``RecordError`` naming file and place.
    """
    kept, running = Path(path).with_suffix(".json"), Path(path).with_suffix(".jsonl")
    if not kept.exists() and not running.exists():
        return _read_lines(Path(path))  # raises FileNotFoundError, or reads a name of another kind
    records = read_compact(kept) if kept.exists() else []
    if running.exists():
        # A compaction that was stopped before it took the lines away leaves the same trials in both.
        told = {record.identity: record for record in records}
        for record in _read_lines(running):
            same = told.get(record.identity)
            if same is None:
                records.append(record)
            elif not _same_numbers(same, record):
                raise RecordError(
                    f"{running}: trial {record.trial} at point {record.point.key} is another in {kept.name}"
                )
    return records


def _read_lines(path: Path) -> list[Record]:
    records = []
    for where, raw in read_lines(path):
        try:
            records.append(Record.from_dict(raw))
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise RecordError(f"{where}: {error}") from None
    return distinct(records, str(path))


def compact(path: str | Path) -> Path:
    """Bring the running lines of ``path`` (NAME.jsonl) into the compact NAME.json beside it, together with what that holds
    already; the lines are then taken away. Returns the path of the compact file.

    Raises ``RecordError`` for lines that are no records, ``LedgerError`` while a run writes them.
    """
    running = Path(path).with_suffix(".jsonl")
    kept = running.with_suffix(".json")
    if not running.exists():
        write_compact(kept, read_records(kept))
        return kept
    with only_writer(running):
        write_compact(kept, read_records(running))
        running.unlink()
    return kept


def compact_finished(
    paths: Iterable[Path], known: Mapping[str, Experiment] = MappingProxyType({})
) -> tuple[list[Path], dict[Path, str]]:
    """``compact`` for every finished run that has lines among ``paths`` (as of ``record_files``): the compact files made,
    and the lines that were left as they are, each with the reason.

    A run is finished if nobody writes it and every one of its points has the same trials, from 0 on without a gap: trials go
    round all points, those of the experiment of its name where that is ``known``. (One that was stopped exactly at the end
    of a round looks like that too; it can be continued from the compact form.) ``RecordError`` for lines that are none.
    """
    made: list[Path] = []
    left: dict[Path, str] = {}
    for path in paths:
        running = path.with_suffix(".jsonl")
        if not running.exists():
            continue
        experiment = known.get(running.stem)
        why = _unfinished(read_records(running), experiment.points if experiment else ())
        try:
            made += [] if why else [compact(running)]
        except LedgerError as error:
            why = str(error)
        if why:
            left[running] = why
    return made, left


def _unfinished(records: Iterable[Record], points: Iterable[Point]) -> str:
    """Why the records are not those of a finished run over these points and whatever others they have; empty if they are."""
    trials: dict[str, set[int]] = {point.key: set() for point in points}
    for record in records:
        trials.setdefault(record.point.key, set()).add(record.trial)
    rounds = max((1 + max(found) for found in trials.values() if found), default=0)
    missing = sum(rounds - len(found) for found in trials.values())
    if not rounds:
        return "it holds no trial"
    asked = how_many(rounds * len(trials), "trial")
    return f"it is not finished: {missing} of {asked} missing" if missing else ""


def _same_numbers(one: Record, other: Record) -> bool:
    def numbers(record: Record) -> list[tuple[str, dict[str, Any]]]:
        told = sorted(record.outcomes.items())
        return [(name, {k: v for k, v in o.to_dict().items() if k != "diagnostics"}) for name, o in told]

    return numbers(one) == numbers(other)


def records_path(experiment: str, directory: str | Path) -> Path:
    """Where a run of an experiment of that name keeps its lines."""
    return Path(directory) / f"{experiment}.jsonl"


def record_files(directory: str | Path) -> list[Path]:
    """One path for each experiment that has records in ``directory``, in either form, by name."""
    found: dict[str, Path] = {}
    for path in sorted(Path(directory).iterdir()):
        if path.suffix in (".json", ".jsonl") and not path.name.startswith(
            ("study-", "pictures-", "images-", "utility-")
        ):
            found.setdefault(path.stem, path)
    return [found[name] for name in sorted(found)]
