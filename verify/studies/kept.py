"""The trials of a study as they are kept: lines of NAME.jsonl while a run goes on, rows of numbers in NAME.json after it."""

from __future__ import annotations

import json
from collections.abc import Container, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bounds import checks
from bounds.words import how_many
from verify.measure.conditions import Conditions
from verify.measure.failure import Failure
from verify.measure.ledger import Ledger
from verify.measure.lines import LedgerError, RecordError, json_object, parse, read_lines, write_whole

#: Of both forms. Version 1, a file of objects without the conditions it was measured under, is still read.
STUDY_VERSION = 2


@dataclass(frozen=True)
class Trial:
    """One trial of a study: number ``trial`` of ``trials`` asked for under ``condition``, by the study's ``seed``.

    ``outcome``: finite numbers out of ``quantities``, or why there are none. ``conditions``: None where they were not kept.
    Raises ``ValueError`` or ``TypeError`` for what cannot be true.
    """

    study: str
    seed: int
    trials: int
    quantities: tuple[str, ...]
    condition: Mapping[str, str | int | float]
    trial: int
    outcome: Mapping[str, float] | Failure
    conditions: Conditions | None

    def __post_init__(self) -> None:
        checks.instance("study", self.study, str)
        checks.integer("seed", self.seed, 0)
        checks.integer("trials", self.trials, 2)
        checks.integer("trial", self.trial, 0, self.trials - 1, "fewer than the trials asked for")
        for name, value in self.condition.items():
            if not isinstance(value, str):
                checks.real(name, value)
        if not isinstance(self.outcome, Failure):
            strangers = self.outcome.keys() - set(self.quantities)
            if strangers or not self.outcome:
                raise ValueError(
                    f"outcome must be numbers out of {', '.join(self.quantities)}; got {dict(self.outcome)}"
                )
            for name, number in self.outcome.items():
                checks.real(name, number)

    @property
    def failed(self) -> bool:
        """Is there no result?"""
        return isinstance(self.outcome, Failure)

    @property
    def identity(self) -> tuple[str, int]:
        """What no two trials of a study have in common."""
        return json.dumps(dict(self.condition), sort_keys=True), self.trial

    def to_dict(self) -> dict[str, Any]:
        """The line of a run."""
        outcome = {"failed": self.outcome.reason} if isinstance(self.outcome, Failure) else dict(self.outcome)
        return {
            "schema_version": STUDY_VERSION,
            "study": self.study,
            "seed": self.seed,
            "trials": self.trials,
            "quantities": list(self.quantities),
            "condition": dict(self.condition),
            "trial": self.trial,
            "outcome": outcome,
            "conditions": None if self.conditions is None else self.conditions.to_dict(),
        }


def ledger(
    study: str,
    path: Path,
    seed: int,
    trials: int,
    quantities: tuple[str, ...],
    tasks: Container[Hashable],
) -> Ledger[Trial]:
    """The book of a study's run into ``path`` (NAME.json)."""
    running = path.with_suffix(".jsonl")

    def read() -> Sequence[Trial]:
        return load_trials(path) if path.exists() or (running.exists() and running.stat().st_size) else []

    def identity(trial: Trial) -> Hashable:
        for name, kept, asked in (
            ("study", trial.study, study),
            ("seed", trial.seed, seed),
            ("quantities", sorted(trial.quantities), sorted(quantities)),
        ):
            if kept != asked:
                raise LedgerError(f"{path}: holds {name} {kept!r}, not {asked!r}. Use another directory")
        if trial.trial >= trials:
            raise LedgerError(
                f"{path}: holds more than the {how_many(trials, 'trial')} asked for. Ask for at least "
                f"{1 + max(t.trial for t in read())}, or use another directory"
            )
        if trial.identity not in tasks:
            raise LedgerError(
                f"{path}: holds a trial under {dict(trial.condition)}, which study {study!r} lacks: its conditions have "
                "changed. Use another directory"
            )
        return trial.identity

    return Ledger(study, running, read, Trial.to_dict, identity, lambda trial: trial.conditions)


# --- reading --------------------------------------------------------------------------------------------------


def load_trials(path: Path) -> list[Trial]:
    """The trials kept in NAME.json and in the NAME.jsonl beside it, at least one. ``RecordError`` naming the file and what
    is wrong with it; ``FileNotFoundError`` if there is neither."""
    running = path.with_suffix(".jsonl")
    found = _load_kept(path) if path.exists() or not running.exists() else []
    told = {trial.identity: trial for trial in found}
    if len(told) < len(found):
        raise _refused(path, ValueError("a trial is there twice"))
    if running.exists():
        new: set[tuple[str, int]] = set()
        for where, raw in read_lines(running):
            trial = _load_line(raw, where)
            same = told.setdefault(trial.identity, trial)
            # A run that was stopped between writing NAME.json and taking the lines away leaves the same in both.
            if trial.identity in new or same.outcome != trial.outcome:
                raise RecordError(
                    f"{where}: trial {trial.trial} under {dict(trial.condition)} is there twice"
                )
            new.add(trial.identity)
    trials = list(told.values())
    if not trials:
        raise _refused(path, ValueError("it holds no trial"))
    whose = {(t.study, t.seed, tuple(sorted(t.quantities))) for t in trials}
    if len(whose) > 1:
        raise _refused(path, ValueError("its trials belong to several studies"))
    return trials


def _refused(path: Path, error: Exception) -> RecordError:
    return RecordError(
        f"path must be a file that a study has written; got {path} ({type(error).__name__}: {error})"
    )


def _load_line(raw: Mapping[str, Any], where: str) -> Trial:
    try:
        wanted = {"schema_version", "study", "seed", "trials", "quantities", "condition", "trial", "outcome"}
        values = json_object(raw, "a line", wanted | {"conditions"})
        if values.pop("schema_version") != STUDY_VERSION:
            raise ValueError(f"schema_version must be {STUDY_VERSION}; got {raw.get('schema_version')!r}")
        return Trial(
            **values
            | {
                "quantities": _words(values["quantities"]),
                "condition": json_object(values["condition"], "condition"),
                "outcome": _outcome(values["outcome"]),
                "conditions": _conditions(values["conditions"]),
            }
        )
    except (ValueError, TypeError, OverflowError) as error:
        raise RecordError(f"{where}: {error}") from None


def _load_kept(path: Path) -> list[Trial]:
    try:
        raw = json_object(parse(path.read_bytes(), "the file"), "the file")
        version = raw.get("schema_version")
        if isinstance(version, bool) or version not in (1, STUDY_VERSION):
            raise ValueError(f"schema_version must be 1 or {STUDY_VERSION}; got {version!r}")
        return _version_1(raw) if version == 1 else _version_2(raw)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise _refused(path, error) from None


def _version_2(raw: Mapping[str, Any]) -> list[Trial]:
    wanted = {"schema_version", "study", "seed", "trials", "quantities", "cells"}
    quantities = _words(json_object(raw, "the file", wanted)["quantities"])
    found = []
    for cell in _listed("cells", raw["cells"]):
        json_object(cell, "a cell", {"condition", "conditions", "rows"})
        condition, conditions = json_object(cell["condition"], "condition"), _conditions(cell["conditions"])
        for row in _listed("rows", cell["rows"]):
            number, outcome = _row(row, quantities)
            found.append(
                Trial(
                    raw["study"],
                    raw["seed"],
                    raw["trials"],
                    quantities,
                    condition,
                    number,
                    outcome,
                    conditions,
                )
            )
    return found


def _row(row: Any, quantities: tuple[str, ...]) -> tuple[int, Mapping[str, float] | Failure]:
    """A row is a trial's number and then why it failed, or a number for each quantity (None: not measured)."""
    cells = _listed("a row", row)
    if len(cells) == 2 and isinstance(cells[1], str):
        return cells[0], Failure(cells[1])
    if len(cells) != 1 + len(quantities):
        raise ValueError(f"a row must hold a trial and {len(quantities)} numbers or a reason; got {row!r}")
    numbers = zip(quantities, cells[1:], strict=True)
    return cells[0], {name: checks.real(name, value) for name, value in numbers if value is not None}


def _version_1(raw: Mapping[str, Any]) -> list[Trial]:
    cells = _listed("cells", raw["cells"])
    outcomes = [[_outcome(o) for o in _listed("outcomes", cell["outcomes"])] for cell in cells]
    trials = checks.integer("trials", raw["trials"], 2)
    if any(len(cell) != trials for cell in outcomes):
        raise ValueError(f"every cell must hold {trials} trials; got one that does not")
    if "quantities" in raw:
        quantities = _words(raw["quantities"])
    else:  # a file from before they were written: those that its trials returned
        numbers = (o for cell in outcomes for o in cell if not isinstance(o, Failure))
        quantities = tuple(sorted({name for o in numbers for name in o}))
    return [
        Trial(
            raw["study"],
            raw["seed"],
            trials,
            quantities,
            json_object(cell["condition"], "condition"),
            t,
            o,
            None,
        )
        for cell, found in zip(cells, outcomes, strict=True)
        for t, o in enumerate(found)
    ]


def _outcome(raw: Any) -> Mapping[str, float] | Failure:
    values = json_object(raw, "an outcome")
    if "failed" in values:
        return Failure(json_object(values, "a failure", {"failed"})["failed"])
    return {name: checks.real(name, value) for name, value in values.items()}


def _conditions(raw: Any) -> Conditions | None:
    return None if raw is None else Conditions(**json_object(raw, "conditions"))


def _listed(name: str, raw: Any) -> list[Any]:
    if not isinstance(raw, list):
        raise TypeError(f"{name} must be a list; got {type(raw).__name__}")
    return raw


def _words(raw: Any) -> tuple[str, ...]:
    if not all(isinstance(word, str) for word in _listed("quantities", raw)):
        raise TypeError(f"quantities must be words; got {raw!r}")
    return tuple(raw)


# --- writing --------------------------------------------------------------------------------------------------


def save_trials(path: Path, found: Sequence[Trial], quantities: Sequence[str]) -> None:
    """Write the trials of one study as strict JSON with a row for each, replacing ``path`` as a whole.

    What was measured under the same conditions stands under one header; the same trials give the same bytes.
    """
    groups: dict[str, list[Trial]] = {}
    for trial in found:
        under = None if trial.conditions is None else trial.conditions.to_dict()
        header = json.dumps({"condition": dict(trial.condition), "conditions": under})
        groups.setdefault(header, []).append(trial)
    parts = []
    for header, cell in groups.items():
        rows = [_cells(trial, quantities) for trial in sorted(cell, key=lambda t: t.trial)]
        lines = ",\n".join(json.dumps(row, allow_nan=False, separators=(",", ":")) for row in rows)
        parts.append(f'{header[:-1]}, "rows": [\n{lines}\n]}}')
    top = {
        "schema_version": STUDY_VERSION,
        "study": found[0].study,
        "seed": found[0].seed,
        "trials": max(trial.trials for trial in found),
        "quantities": list(quantities),
    }
    write_whole(path, f'{json.dumps(top)[:-1]}, "cells": [\n' + ",\n".join(parts) + "\n]}\n")


def _cells(trial: Trial, quantities: Sequence[str]) -> list[Any]:
    if isinstance(trial.outcome, Failure):
        return [trial.trial, trial.outcome.reason]
    return [trial.trial, *(trial.outcome.get(name) for name in quantities)]
