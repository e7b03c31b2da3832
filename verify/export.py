"""Kept numbers as rows, for other programs: one row for each trial and attack, as CSV or as a pandas DataFrame."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from bounds import serial
from verify.images.record import QUANTITIES, read_image_records
from verify.measure.failure import Failure
from verify.measure.files import read_records
from verify.measure.flat import Cell, flat
from verify.measure.lines import write_whole
from verify.measure.outcome import MEASURED
from verify.measure.pictures import load_pictures
from verify.measure.point import attack_name
from verify.measure.record import Record
from verify.measure.saved import Saved
from verify.origin import DISTRIBUTION
from verify.studies.kept import load_trials
from verify.utility.record import read_training_records

if TYPE_CHECKING:
    import pandas

Row: TypeAlias = Mapping[str, Cell]


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
    """Write what ``source`` holds (a directory that a run wrote to, its records, or one file of them) as CSV files in
    ``out``, one for each experiment, study, set of pictures and table of attacks on them, finished or not; returns their
    paths.

    A row is a trial and an attack, of an experiment as ``to_rows`` has it; a cell is empty where there is no number, and
    ``reason`` then says why. Floats have all their digits.

    Raises ``ValueError`` if ``source`` holds nothing, ``RecordError`` for what cannot be read, before anything is written.
    """
    return write_tables(tables_of(Saved.find("source", Path(source))), Path(out))


def tables_of(saved: Saved) -> dict[str, Sequence[Row]]:
    """The rows of ``export_csv`` by the name of what they are of. ``RecordError`` for what cannot be read."""
    tables: dict[str, Sequence[Row]] = {
        path.stem: to_rows(read_records(path)) for path in (*saved.records, *saved.theories)
    }
    tables |= {path.stem: list(_study(path)) for path in saved.studies}
    tables |= {path.stem: list(_pictures(path)) for path in saved.pictures}
    tables |= {path.stem: list(_images(path)) for path in saved.tables}
    return tables | {path.stem: list(_trainings(path)) for path in saved.utilities}


def write_tables(tables: Mapping[str, Sequence[Row]], out: Path) -> list[Path]:
    """One CSV file in ``out`` for each; their paths."""
    return [_write(out / f"{name}.csv", rows) for name, rows in tables.items()]


def _write(path: Path, rows: Sequence[Row]) -> Path:
    """The columns are those of all rows, in the order in which they first come."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
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


def _study(path: Path) -> Iterator[Row]:
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


def _pictures(path: Path) -> Iterator[Row]:
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


def _images(path: Path) -> Iterator[Row]:
    """A row for each picture of each trial, in the private pictures' order."""
    for record in read_image_records(path):
        for position in range(record.point["B"]):
            yield {
                **flat(dict(record.point)),
                "trial": record.trial,
                "seed": record.seed,
                "picture": position,
                "status": "failed" if record.failed else "ok",
                **{name: record.values[name][position] for name in QUANTITIES},
                "reason": record.reason,
                **_under(record.conditions),
            }


def _trainings(path: Path) -> Iterator[Row]:
    for record in read_training_records(path):
        yield {
            **flat(dict(record.point)),
            "trial": record.trial,
            "seed": record.seed,
            "status": "failed" if record.failed else "ok",
            "accuracy": record.accuracy,
            "loss": record.loss,
            "reason": record.reason,
            **_under(record.conditions),
        }


def _texts(words: Sequence[str]) -> str:
    return json.dumps(list(words), ensure_ascii=False) if words else ""


def _under(conditions: Any) -> dict[str, Cell]:
    return {} if conditions is None else flat(conditions.to_dict(), "conditions.")
