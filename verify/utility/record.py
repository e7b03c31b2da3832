"""One training under a defense as it is kept: what was asked, its accuracy, or why there is none."""

from __future__ import annotations

import json
from collections.abc import Container, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bounds import checks
from verify.measure.conditions import Conditions, limited, present
from verify.measure.keyed import keyed_ledger, read_keyed
from verify.measure.ledger import Ledger
from verify.measure.lines import RecordError, json_object
from verify.utility.federation import TrainingPoint, learn

VERSION = 1

_FIELDS = {"schema_version", "point", "seed", "trial", "accuracy", "loss", "reason", "conditions"}


@dataclass(frozen=True, eq=False)
class TrainingRecord:
    """point: as ``TrainingPoint.to_dict``; accuracy, loss, reason: as of ``Learned``. Trial t of every point has the same
    first weights and the same pictures in the same order, so that losses of accuracy are told trial by trial."""

    point: Mapping[str, Any]
    seed: int
    trial: int
    accuracy: float
    loss: float | None
    reason: str
    conditions: Conditions | None

    def __post_init__(self) -> None:
        checks.integer("seed", self.seed, 0)
        checks.integer("trial", self.trial, 0)
        checks.real("accuracy", self.accuracy, 0.0, 1.0)
        if self.loss is not None:
            checks.real("loss", self.loss, 0.0)
        elif not self.reason:
            raise ValueError("loss must be a number where there is no reason why not; got None")

    @property
    def failed(self) -> bool:
        """Is there no network to speak of?"""
        return bool(self.reason)

    @property
    def key(self) -> str:
        """That of its point."""
        return json.dumps(dict(self.point), sort_keys=True)

    def to_dict(self) -> dict[str, Any]:
        """The line."""
        return {
            "schema_version": VERSION,
            "point": dict(self.point),
            "seed": self.seed,
            "trial": self.trial,
            "accuracy": float(f"{self.accuracy:.6g}"),
            "loss": None if self.loss is None else float(f"{self.loss:.6g}"),
            "reason": self.reason,
            "conditions": None if self.conditions is None else self.conditions.to_dict(),
        }

    @staticmethod
    def from_dict(raw: Any, where: str) -> TrainingRecord:
        """Inverse of ``to_dict``; ``RecordError`` for anything else."""
        try:
            values = json_object(raw, where, _FIELDS)
            if values["schema_version"] != VERSION:
                raise ValueError(f"schema_version must be {VERSION}; got {values['schema_version']!r}")
            told = values["conditions"]
            return TrainingRecord(
                json_object(values["point"], "point"),
                values["seed"],
                values["trial"],
                values["accuracy"],
                values["loss"],
                str(values["reason"]),
                None if told is None else Conditions(**json_object(told, "conditions")),
            )
        except (TypeError, ValueError, OverflowError) as error:
            raise RecordError(f"{where}: {error}") from None


def read_training_records(path: Path) -> list[TrainingRecord]:
    """Every record of a file. ``RecordError`` for a file that holds anything else, or a trial twice."""
    return read_keyed(path, TrainingRecord.from_dict)


def training_ledger(path: Path, seed: int, tasks: Container[Hashable]) -> Ledger[TrainingRecord]:
    """The book of a run into ``path`` (NAME.jsonl)."""
    return keyed_ledger(
        path, seed, tasks, read=read_training_records, words=lambda r: f"under {r.point['defense']}"
    )


def run_training(
    point: TrainingPoint, trial: int, seed: int, device: str = "cpu", threads: int = 1
) -> TrainingRecord:
    """Training number ``trial`` under ``seed``. Every exception but ``TrainingError`` propagates."""
    from verify.images.trial import trial_seed

    with limited(threads):
        found = learn(point, trial_seed(seed, checks.integer("trial", trial, 0)), device)
    kind = device.partition(":")[0]
    return TrainingRecord(
        point.to_dict(), seed, trial, found.accuracy, found.loss, found.reason, present(kind, threads)
    )
