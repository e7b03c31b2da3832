"""Kept numbers as rows, for other programs: one row for each trial and attack, as CSV or as a pandas DataFrame."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bounds import serial
from verify.measure.failure import Failure
from verify.measure.files import read_records, record_files
from verify.measure.flat import Cell, flat
from verify.measure.lines import write_whole
from verify.measure.outcome import MEASURED
from verify.measure.pictures import load_pictures
from verify.measure.point import attack_name
from verify.measure.record import Record
from verify.origin import DISTRIBUTION
from verify.studies.kept import load_trials

if TYPE_CHECKING:
    import pandas

Rows = Iterable[Mapping[str, Cell]]


def to_rows(records: Iterable[Record]) -> list[dict[str, Cell]]:
    """A row for each trial and attack: the point's values (names joined by dots: ``defense.sigma``), seeds, what was
    measured (None where there is no number, and ``reason`` says why), conditions. ``pandas.DataFrame`` takes it as it is."""
    return [row for record in records for row in _of_record(record)]


def to_frame(records: Iterable[Record]) -> pandas.DataFrame:
    """``to_rows`` as a pandas DataFrame. ``ImportError`` without pandas, which the extra ``pandas`` brings."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError(
            f"to_frame needs pandas: python -m pip install '{DISTRIBUTION}[pandas]'; to_rows does without"
        ) from error
    return pandas.DataFrame(to_rows(records))


def export_csv(source: Path, out: Path) -> list[Path]:
    """Write what is kept in the directory ``source`` as CSV files in ``out``, one for each experiment, study and set of
    pictures, finished or not; returns their paths.

    A row is a trial and an attack, of an experiment as ``to_rows`` has it; a cell is empty where there is no number, and
    ``reason`` then says why. Floats have all their digits.

    Raises ``ValueError`` if ``source`` is no directory or holds nothing, ``RecordError`` for what cannot be read.
    """
    if not source.is_dir():
        raise ValueError(f"source must be a directory with records; got {source}")
    tables: dict[str, Rows] = {path.stem: to_rows(read_records(path)) for path in record_files(source)}
    tables |= {name: _study(source / f"{name}.json") for name in _names(source, "study-", ".json", ".jsonl")}
    tables |= {name: _pictures(source / f"{name}.json") for name in _names(source, "pictures-", ".json")}
    if not tables:
        raise ValueError(
            f"source must hold records of experiments, studies or pictures; got none in {source}"
        )
    return [_write(out / f"{name}.csv", rows) for name, rows in tables.items()]


def _names(source: Path, prefix: str, *endings: str) -> list[str]:
    return sorted({p.stem for p in source.glob(f"{prefix}*") if p.suffix in endings and p.stat().st_size})


def _write(path: Path, rows: Rows) -> Path:
    """The columns are those of all rows, in the order in which they first come."""
    found = list(rows)
    columns = list(dict.fromkeys(name for row in found for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    write_whole(path, text.getvalue())
    return path


def _of_record(record: Record) -> Iterator[dict[str, Cell]]:
    seeds = {f"seeds.{purpose}": seed for purpose, seed in record.seeds.items()}
    under = flat(record.conditions.to_dict(), "conditions.")
    for name, alone in record.point.single.items():
        outcome = record.outcomes[name]
        yield {
            **flat(alone.to_dict()),
            "attack.name": name,
            "trial": record.trial,
            **seeds,
            "status": outcome.status,
            **{quantity: getattr(outcome, quantity) for quantity in MEASURED},
            "reason": outcome.reason,
            **under,
        }


def _study(path: Path) -> Rows:
    for trial in load_trials(path):
        failure = trial.outcome if isinstance(trial.outcome, Failure) else None
        numbers: Mapping[str, float] = {} if isinstance(trial.outcome, Failure) else trial.outcome
        yield {
            "study": trial.study,
            **{f"condition.{name}": value for name, value in trial.condition.items()},
            "trial": trial.trial,
            "seed": trial.seed,
            "status": "failed" if failure else "ok",
            **{name: numbers.get(name) for name in trial.quantities},
            "reason": failure.reason if failure else "",
            **_under(trial.conditions),
        }


def _pictures(path: Path) -> Rows:
    _, rows = load_pictures(path)
    for row in rows:
        yield {
            "m": row.m,
            "activation": row.activation,
            **flat(serial.defense_to_dict(row.defense), "defense."),
            **flat(serial.attack_to_dict(row.attack), "attack."),
            "attack.name": attack_name(row.attack),
            "seed": row.seed,
            "status": "failed" if row.failed else "ok",
            "rmse": row.rmse,
            "predicted": row.predicted,
            "reason": row.reason,
            "warnings": _texts(row.warnings),
            **_under(row.conditions),
        }


def _texts(words: Sequence[str]) -> str:
    return json.dumps(list(words), ensure_ascii=False) if words else ""


def _under(conditions: Any) -> dict[str, Cell]:
    return {} if conditions is None else flat(conditions.to_dict(), "conditions.")
