"""One trial, one record, one line of strict JSON; written durably, read back with suspicion."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

#: Version 2 added ``rmse_span``; records of version 1 are read as such, without it.
SCHEMA_VERSION = 2


_ADDED = {2: ("rmse_span",)}


STATUSES = ("ok", "failed")


_ERRORS = ("rmse", "rmse_orthogonal", "rmse_inplane", "rmse_span")


_MEASURED = (*_ERRORS, "label_accuracy", "residual_error")


class RecordError(ValueError):
    """A file of records is not what it claims to be."""


class TornRecordWarning(UserWarning):
    """The last line of a file was cut short: a run was killed while writing it. That one trial is to be run
    again."""


@dataclass(frozen=True)
class Record:
    """What one trial gave, with everything needed to run it again.

    ``point`` is ``Point.to_dict()`` and ``point_key`` its hash. ``rmse`` is R = min_pi sqrt(mean_i |x_i -
    xhat_pi(i)|^2), and ``rmse_orthogonal``, ``rmse_inplane`` are its parts outside and inside the span of the
    features (rmse^2 = orthogonal^2 + inplane^2). ``rmse_span`` is the root mean square distance of the features
    from the span of the reconstructions (None in records of version 1). ``label_accuracy`` is the fraction
    of samples with |yhat_i - y_i| < 1 (for labels +1, -1: the right one is nearest); ``residual_error`` the
    largest |rhat_i - r_i| against the client's true residuals. All these are None exactly if ``status`` is
    "failed", and then ``reason`` says why. ``seconds`` is the wall time of the trial, network and observation
    included. Raises
    ``ValueError`` if the fields contradict one another.
    """

    experiment: str
    point: Mapping[str, Any]
    point_key: str
    trial: int
    seeds: Mapping[str, int]
    status: str
    reason: str
    rmse: float | None
    rmse_orthogonal: float | None
    rmse_inplane: float | None
    rmse_span: float | None
    label_accuracy: float | None
    residual_error: float | None
    diagnostics: Mapping[str, Any]
    seconds: float
    device: str
    dtype: str
    threads: int
    versions: Mapping[str, str]
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status must be one of {', '.join(STATUSES)}; got {self.status!r}")
        if self.status == "failed" and not self.reason:
            raise ValueError("reason must be given where status is 'failed'; got an empty one")
        if self.schema_version == 1 and self.rmse_span is not None:
            raise ValueError(f"rmse_span must be None in a record of version 1; got {self.rmse_span}")
        for name in _MEASURED if self.schema_version > 1 else (n for n in _MEASURED if n != "rmse_span"):
            value = getattr(self, name)
            if self.status == "failed" and value is not None:
                raise ValueError(f"{name} must be None where status is 'failed'; got {value}")
            if self.status == "ok" and not (
                isinstance(value, int | float) and math.isfinite(value) and value >= 0
            ):
                raise ValueError(f"{name} must be finite and >= 0 where status is 'ok'; got {value}")

    @property
    def failed(self) -> bool:
        return self.status == "failed"


def finite_json(value: Any) -> Any:
    """``value`` with every non-finite float replaced by its name ("nan", "inf", "-inf"): strict JSON has none
    of them."""
    if isinstance(value, Mapping):
        return {str(k): finite_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite_json(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def append_record(path: str | Path, record: Record) -> None:
    """Append ``record`` as one line, on disk when this returns. A torn last line of ``path`` is cut off
    first.

    Not safe against a second writer: ``sweep`` holds a lock.
    """
    path = Path(path)
    line = json.dumps(asdict(record), allow_nan=False, sort_keys=True).encode() + b"\n"
    repair(path)
    first = not path.exists() or path.stat().st_size == 0
    with open(path, "ab", buffering=0) as file:
        if file.write(line) != len(
            line
        ):  # a short write (full disk) leaves a torn line, which the next append repairs
            raise OSError(f"could not write a whole record to {path}")
        os.fsync(file.fileno())
    if first:
        _fsync_directory(path.parent)


def repair(path: str | Path) -> None:
    """Cut off a torn last line of ``path``, if there is one; nothing else is touched."""
    path = Path(path)
    if not path.exists() or path.stat().st_size == 0:
        return
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        torn = file.read(1) != b"\n"
    if torn:
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)


def read_records(path: str | Path) -> list[Record]:
    """The records of a file, in the order written.

    A last line without its line end is what a killed run leaves: it is skipped with a ``TornRecordWarning``.
    Anything else that is not a record of this schema version raises ``RecordError`` naming file and line.
    """
    path = Path(path)
    data = path.read_bytes()
    *lines, tail = data.split(b"\n")
    if tail:
        warnings.warn(
            f"{path}, line {len(lines) + 1}: torn last line skipped", TornRecordWarning, stacklevel=2
        )
    return [_parse(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]


def _parse(line: bytes, where: str) -> Record:
    try:
        raw = json.loads(line, parse_constant=_refuse_constant)
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise RecordError(f"{where}: not a line of strict JSON ({error})") from None
    if not isinstance(raw, dict):
        raise RecordError(f"{where}: a record must be a JSON object; got {type(raw).__name__}")
    version = raw.get("schema_version")
    if not isinstance(version, int) or not 1 <= version <= SCHEMA_VERSION:
        raise RecordError(f"{where}: schema_version must be 1 to {SCHEMA_VERSION}; got {version!r}")
    later = {name for since, names in _ADDED.items() if since > version for name in names}
    expected = {f.name for f in fields(Record)} - later
    if raw.keys() != expected:
        wrong = ", ".join(sorted(raw.keys() ^ expected))
        raise RecordError(f"{where}: fields missing or unknown: {wrong}")
    if (
        not isinstance(raw["point"], dict)
        or not isinstance(raw["seeds"], dict)
        or "experiment" not in raw["seeds"]
    ):
        raise RecordError(f"{where}: point and seeds must be objects, seeds with an entry 'experiment'")
    try:
        for name in later:
            raw[name] = None
        return Record(**raw)
    except (ValueError, TypeError) as error:
        raise RecordError(f"{where}: {error}") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not allowed")


def _fsync_directory(directory: Path) -> None:
    """Make a new file's name durable (a directory cannot be opened for this on every system)."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
