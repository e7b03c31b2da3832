"""One trial, one record: one line of strict JSON while a run goes on, one row of numbers once it is kept.

``NAME.jsonl`` holds the lines of a run, ``NAME.json`` the compact form (``verify.measure.compact``);
``verify.measure.files`` reads both, and takes nothing on trust.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from bounds import ATTACKS, DEFENSES, checks
from verify.measure.conditions import Conditions
from verify.measure.lines import RecordError, append_line, json_object
from verify.measure.outcome import Outcome
from verify.measure.point import Point
from verify.measure.seeds import trial_seeds

#: Of the running lines. Version 2 added ``rmse_span``, version 3 several attacks on one observation; 1 and 2 are still read.
SCHEMA_VERSION = 3

#: A trial's number lies below.
MAX_TRIALS = 1_000_000

#: What the lines of versions 1 and 2 hold of their one outcome.
_FLAT = ("status", "reason", "rmse", "rmse_orthogonal", "rmse_inplane", "label_accuracy", "residual_error")

_SHARED = {"experiment", "point", "point_key", "trial", "seeds", "seconds", "device", "dtype", "threads"}

_FIELDS = {
    1: _SHARED | {"versions", "schema_version", "diagnostics", *_FLAT},
    2: _SHARED | {"versions", "schema_version", "diagnostics", "rmse_span", *_FLAT},
    3: _SHARED | {"versions", "schema_version", "outcomes"},
}


@dataclass(frozen=True)
class Record:
    """What one trial gave, with everything needed to run it again.

    ``outcomes``: one for each of the point's attacks, by ``attack_name``; all ran on the same observation. ``seed`` is the
    experiment's. ``seconds``: wall time of the trial, network and observation included; None where it is not kept.

    Raises ``ValueError`` or ``TypeError`` for what cannot be true.
    """

    point: Point
    trial: int
    seed: int
    outcomes: Mapping[str, Outcome]
    conditions: Conditions
    seconds: float | None = None

    def __post_init__(self) -> None:
        checks.integer("trial", self.trial, 0, MAX_TRIALS - 1)
        checks.integer("seed", self.seed, 0)
        if self.seconds is not None:
            checks.real("seconds", self.seconds, 0.0)
        wanted = self.point.names
        if sorted(self.outcomes) != sorted(wanted):
            raise ValueError(
                f"outcomes must be those of {', '.join(wanted)}; got {', '.join(map(str, self.outcomes))}"
            )

    @property
    def experiment(self) -> str:
        """The experiment it belongs to."""
        return self.point.experiment

    @property
    def seeds(self) -> dict[str, int]:
        """The trial's own, by purpose."""
        return trial_seeds(self.point, self.trial, self.seed)

    @property
    def outcome(self) -> Outcome:
        """The outcome of the point's one attack; ``ValueError`` if there are several."""
        if len(self.outcomes) != 1:
            raise ValueError(f"outcome must be the only one; this trial has {', '.join(self.outcomes)}")
        return next(iter(self.outcomes.values()))

    @property
    def failed(self) -> bool:
        """Has any attack no result?"""
        return any(outcome.failed for outcome in self.outcomes.values())

    @property
    def identity(self) -> tuple[str, int, int]:
        """What no two records have in common: key of the point, trial, seed."""
        return self.point.key, self.trial, self.seed

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values; ``Record.from_dict`` inverts it."""
        return {
            "schema_version": SCHEMA_VERSION,
            "experiment": self.experiment,
            "point": self.point.to_dict(),
            "point_key": self.point.key,
            "trial": self.trial,
            "seeds": self.seeds,
            "outcomes": {name: outcome.to_dict() for name, outcome in self.outcomes.items()},
            "seconds": self.seconds,
            "dtype": self.point.dtype,
            **self.conditions.to_dict(),
        }

    @staticmethod
    def from_dict(raw: Mapping[str, Any]) -> Record:
        """Inverse of ``to_dict``; reads versions 1 and 2 too. ``ValueError`` or ``TypeError`` for anything else."""
        version = raw.get("schema_version")
        if isinstance(version, bool) or not isinstance(version, int) or version not in _FIELDS:
            raise ValueError(f"schema_version must be 1 to {SCHEMA_VERSION}; got {version!r}")
        if raw.keys() != _FIELDS[version]:
            wrong = ", ".join(sorted(raw.keys() ^ _FIELDS[version]))
            raise ValueError(f"fields missing or unknown: {wrong}")
        point = point_from(raw["point"])
        for name, stated, true in (
            ("point_key", raw["point_key"], point.key),
            ("experiment", raw["experiment"], point.experiment),
            ("dtype", raw["dtype"], point.dtype),
        ):
            if stated != true:
                raise ValueError(f"{name} must be that of the point, {true!r}; got {stated!r}")
        return _with_true_seeds(
            Record(
                point=point,
                trial=raw["trial"],
                seed=json_object(raw["seeds"], "seeds").get("experiment", -1),
                outcomes=_outcomes(raw, version, point.names[0]),
                conditions=Conditions(raw["device"], raw["threads"], raw["versions"]),
                seconds=raw["seconds"],
            ),
            raw["seeds"],
        )


def _with_true_seeds(record: Record, stated: Mapping[str, Any]) -> Record:
    if stated != record.seeds:
        raise ValueError(f"seeds must be those of the trial, {record.seeds}; got {dict(stated)}")
    return record


def _outcomes(raw: Mapping[str, Any], version: int, name: str) -> dict[str, Outcome]:
    if version == SCHEMA_VERSION:
        found = json_object(raw["outcomes"], "outcomes")
        return {attack: Outcome.from_dict(json_object(o, attack)) for attack, o in found.items()}
    flat = {key: raw[key] for key in (*_FLAT, "diagnostics")} | {"rmse_span": raw.get("rmse_span")}
    if version == 2 and flat["status"] == "ok":
        checks.real("rmse_span", flat["rmse_span"], 0.0)
    return {name: Outcome.from_dict(flat)}


def point_from(raw: Any) -> Point:
    """``Point.from_dict``, once for equal forms: a file has few points and many trials."""
    return _parsed(json.dumps(raw, sort_keys=True), (*DEFENSES, *ATTACKS))


@lru_cache(maxsize=4096)
def _parsed(text: str, specifications: tuple[type, ...]) -> Point:
    """``specifications``: what names of defenses and attacks stand for, which a user may define again."""
    return Point.from_dict(json.loads(text))


def append_record(path: str | Path, record: Record) -> None:
    """Append ``record`` as one line, on disk when this returns (``append_line``)."""
    append_line(path, record.to_dict())


def distinct(records: Iterable[Record], where: str = "records") -> list[Record]:
    """The records as a list; ``RecordError`` if a trial is there twice."""
    found = list(records)
    seen: set[tuple[str, int, int]] = set()
    for record in found:
        if record.identity in seen:
            raise RecordError(f"{where}: trial {record.trial} at point {record.point.key} is there twice")
        seen.add(record.identity)
    return found
