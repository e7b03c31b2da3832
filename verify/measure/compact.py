"""The form in which records are kept: strict JSON with a header for each point and then one row for each trial.

It holds what figures and verdicts use, number by number, and nothing that a second run would give otherwise: no times, no
diagnostics, points and trials sorted. So a run repeated under the same conditions gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bounds import checks
from verify.measure.conditions import Conditions
from verify.measure.flat import flat, sort_key
from verify.measure.lines import RecordError, json_object, parse, write_whole
from verify.measure.outcome import MEASURED, Outcome
from verify.measure.record import Record, distinct, point_from

#: Of the compact form.
COMPACT_VERSION = 1

_HEADER = {"point", "seed", "conditions", "attacks", "rows"}


def write_compact(path: Path, records: Iterable[Record]) -> None:
    """Write records of one experiment in the compact form, replacing ``path`` as a whole."""
    groups: dict[str, list[Record]] = {}
    for record in distinct(records, str(path)):
        header = json.dumps([record.point.key, record.seed, record.conditions.to_dict()], sort_keys=True)
        groups.setdefault(header, []).append(record)
    parts = [_written(groups[header]) for header in sorted(groups, key=lambda h: _order(groups[h][0], h))]
    text = f'{{"compact_version": {COMPACT_VERSION}, "columns": {json.dumps(["trial", *MEASURED])}, "points": [\n'
    write_whole(path, text + ",\n".join(parts) + "\n]}\n")


def _order(record: Record, header: str) -> tuple[Any, ...]:
    return *sort_key(flat(record.point.to_dict())), header


def _written(records: Sequence[Record]) -> str:
    """Records of one point, seed and conditions: a line for the header, a line for each row."""
    first = records[0]
    names = first.point.names
    header = {
        "point": first.point.to_dict(),
        "seed": first.seed,
        "conditions": first.conditions.to_dict(),
        "attacks": list(names),
    }
    rows = [
        [record.trial, *(_cells(record.outcomes[name]) for name in names)]
        for record in sorted(records, key=lambda r: r.trial)
    ]
    lines = ",\n".join(json.dumps(row, allow_nan=False, separators=(",", ":")) for row in rows)
    return f'{json.dumps(header, allow_nan=False)[:-1]}, "rows": [\n{lines}\n]}}'


def _cells(outcome: Outcome) -> list[float | None] | str:
    """The numbers of an outcome, or why there are none."""
    return outcome.reason or [_short(getattr(outcome, name)) for name in MEASURED]


def _short(value: float | None) -> float | None:
    """1.0 as 1, which is read back as an equal number."""
    return int(value) if value is not None and value in (0.0, 1.0) else value


def read_compact(path: str | Path) -> list[Record]:
    """The records of a compact file. ``RecordError``, naming file and place, for any other and for what cannot be true."""
    path = Path(path)
    raw = json_object(parse(path.read_bytes(), str(path)), str(path))
    version = raw.get("compact_version")
    if isinstance(version, bool) or version != COMPACT_VERSION:
        raise RecordError(f"{path}: compact_version must be {COMPACT_VERSION}; got {version!r}")
    json_object(raw, str(path), {"compact_version", "columns", "points"})
    if raw["columns"] != ["trial", *MEASURED] or not isinstance(raw["points"], list):
        raise RecordError(f"{path}: columns must be trial, {', '.join(MEASURED)}, and points a list")
    records: list[Record] = []
    for number, group in enumerate(raw["points"], start=1):
        records += _read_group(group, f"{path}, point {number}")
    return distinct(records, str(path))


def _read_group(raw: Any, where: str) -> list[Record]:
    group = json_object(raw, where, _HEADER)
    try:
        point = point_from(group["point"])
        conditions = Conditions(**json_object(group["conditions"], "conditions"))
        names = list(point.names)
        if group["attacks"] != names:
            raise ValueError(f"attacks must be those of the point, {names}; got {group['attacks']}")
        if not isinstance(group["rows"], list):
            raise TypeError(f"rows must be a list; got {type(group['rows']).__name__}")
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise RecordError(f"{where}: {error}") from None
    records = []
    for number, row in enumerate(group["rows"], start=1):
        try:
            trial, outcomes = _read_row(row, names)
            records.append(Record(point, trial, group["seed"], outcomes, conditions))
        except (ValueError, TypeError, OverflowError) as error:
            raise RecordError(f"{where}, row {number}: {error}") from None
    return records


def _read_row(row: Any, names: Sequence[str]) -> tuple[int, Mapping[str, Outcome]]:
    if not isinstance(row, list) or len(row) != 1 + len(names):
        raise TypeError(f"a row must be a trial and an outcome for each attack; got {row!r}")
    return checks.integer("trial", row[0], 0), {
        name: _read_cells(cells) for name, cells in zip(names, row[1:], strict=True)
    }


def _read_cells(cells: Any) -> Outcome:
    if isinstance(cells, str):
        if not cells:
            raise ValueError("a failed trial must have a reason; got an empty one")
        return Outcome(reason=cells)
    if not isinstance(cells, list) or len(cells) != len(MEASURED):
        raise TypeError(f"an outcome must be {len(MEASURED)} numbers or a reason; got {cells!r}")
    numbers = [float(v) if isinstance(v, int) and not isinstance(v, bool) else v for v in cells]
    named: dict[str, Any] = dict(zip(MEASURED, numbers, strict=True))
    return Outcome(**named)
