"""Studies: conditions times trials, a few numbers from each trial, every failure counted.

An ``Experiment`` puts one attack to the test against the bounds; a ``Study`` is for everything else that is measured over
a list of conditions: parts of the attack, other networks, assumptions that are broken on purpose. It is inert data and
three functions; ``run`` measures it and keeps the numbers in one JSON file, from which its rows and its figure are made.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bounds import checks
from verify.judge.statistics import Measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure


#: Of the files that ``run`` writes.
STUDY_VERSION = 1


#: Trials of one condition at most: trial t has the seed ``SEEDS * study.seed + t``.
SEEDS = 1000


Condition: TypeAlias = Mapping[str, str | int | float]


Row: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Failure:
    """A trial without a result, and why."""

    reason: str

    def __post_init__(self) -> None:
        if not self.reason:
            raise ValueError("reason must say why the trial failed; got an empty one")


Outcome: TypeAlias = Mapping[str, float] | Failure


@dataclass(frozen=True)
class Cell:
    """One condition and what its trials gave, in order: trial t is ``outcomes[t]``."""

    condition: Condition
    outcomes: tuple[Outcome, ...]

    @property
    def failures(self) -> tuple[Failure, ...]:
        return tuple(o for o in self.outcomes if isinstance(o, Failure))

    def values(self, quantity: str) -> NDArray[np.float64]:
        """That quantity in the trials that returned it, in order."""
        return np.array(
            [o[quantity] for o in self.outcomes if not isinstance(o, Failure) and quantity in o], dtype=float
        )

    def measured(self, quantity: str) -> Measured:
        """Root mean square of that quantity with its interval; failed trials are counted in it."""
        return Measured.of(self.values(quantity), len(self.failures))


@dataclass(frozen=True)
class Findings:
    """What a run of the study ``name`` has measured, cell by cell in the order of its conditions; ``quantities``: what it
    measured, each wherever there is one."""

    name: str
    trials: int
    seed: int
    cells: tuple[Cell, ...]
    quantities: tuple[str, ...] = ()

    @property
    def failed(self) -> int:
        """Trials without a result, over all cells."""
        return sum(len(cell.failures) for cell in self.cells)

    def where(self, **fixed: str | int | float) -> tuple[Cell, ...]:
        """The cells whose condition has these values."""
        return tuple(c for c in self.cells if all(c.condition.get(k) == v for k, v in fixed.items()))


@dataclass(frozen=True)
class Study:
    """What is measured, and how it is told.

    conditions: flat mappings of strings and numbers, all different. ``trial(condition, seed)`` does one trial and returns
    a finite number for each of ``quantities`` that there is under this condition, or a ``Failure``; anything it raises is
    a defect and propagates. Trial t of every condition gets the same seed, so that conditions can be compared trial by
    trial; a trial that has to be independent of those of other conditions mixes the condition into its seed (``mixed``).
    ``summary`` makes the rows of the table, all with the same keys; ``draw`` the figure. ``claims``: rows of
    ``paper_notes.md`` that the study is about. Raises ``ValueError`` or ``TypeError`` on values that contradict this.
    """

    name: str
    title: str
    claims: tuple[str, ...]
    conditions: tuple[Condition, ...]
    quantities: tuple[str, ...]
    trial: Callable[[Condition, int], Outcome]
    summary: Callable[[Findings], list[Row]]
    draw: Callable[[Findings], Figure]
    trials: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        checks.integer("trials", self.trials, 2, SEEDS)
        checks.integer("seed", self.seed, 0)
        for name in ("conditions", "quantities"):
            if not getattr(self, name):
                raise ValueError(f"{name} must not be empty; got none in study {self.name!r}")
        if len({_key(c) for c in self.conditions}) < len(self.conditions):
            raise ValueError(f"conditions must be different; study {self.name!r} has one of them twice")

    @property
    def file(self) -> str:
        """Name of the file with its numbers."""
        return f"study-{self.name}.json"

    @property
    def figure(self) -> str:
        """Name of its figure."""
        return f"study-{self.name}.png"


def mixed(seed: int, *keys: int) -> int:
    """A seed of its own for these keys, below 2^53."""
    state = np.random.SeedSequence([seed, *keys]).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(11))


def run(study: Study, path: Path, trials: int | None = None) -> Findings:
    """Measure every condition that ``path`` does not hold yet; it is rewritten after each, so a stopped run goes on where
    it was. What it holds of another number of trials, another seed or other quantities is measured anew.

    trials: None means the study's own. Raises ``ValueError`` or ``TypeError`` for another number of trials than 2 to
    1000, or if ``path`` is not the file of this study.
    """
    count = study.trials if trials is None else checks.integer("trials", trials, 2, SEEDS)
    done: dict[str, Cell] = {}
    if path.exists():
        found = load(path)
        if found.name != study.name:
            raise ValueError(f"path must hold study {study.name!r}; {path} holds {found.name!r}")
        same = (found.trials, found.seed) == (count, study.seed)
        if same and set(found.quantities) == set(study.quantities):
            done = {_key(c.condition): c for c in found.cells if _complete(study, c)}
    for condition in study.conditions:
        if _key(condition) not in done:
            outcomes = (study.trial(condition, SEEDS * study.seed + t) for t in range(count))
            cell = Cell(condition, tuple(_checked(study, condition, outcome) for outcome in outcomes))
            done[_key(condition)] = cell
            save(path, _findings(study, count, done))
    return _findings(study, count, done)


def _key(condition: Condition) -> str:
    return json.dumps(dict(condition), sort_keys=True)


def _complete(study: Study, cell: Cell) -> bool:
    return all(isinstance(o, Failure) or _fits(study, o) for o in cell.outcomes)


def _fits(study: Study, outcome: Mapping[str, float]) -> bool:
    return bool(outcome) and outcome.keys() <= set(study.quantities)


def _checked(study: Study, condition: Condition, outcome: Outcome) -> Outcome:
    if isinstance(outcome, Failure):
        return outcome
    if not _fits(study, outcome) or not all(math.isfinite(v) for v in outcome.values()):
        raise ValueError(
            f"trial must give finite numbers out of {', '.join(study.quantities)} or a Failure; study "
            f"{study.name!r} gave {dict(outcome)} at {dict(condition)}"
        )
    return {q: float(outcome[q]) for q in study.quantities if q in outcome}


def _findings(study: Study, trials: int, done: Mapping[str, Cell]) -> Findings:
    cells = (done.get(_key(condition)) for condition in study.conditions)
    measured = tuple(c for c in cells if c is not None)
    return Findings(study.name, trials, study.seed, measured, study.quantities)


# --- the file of numbers ------------------------------------------------------------------------------------


def save(path: Path, found: Findings) -> None:
    """Write ``found`` as strict JSON. The file is replaced as a whole: it never holds half a record."""
    raw = {
        "schema_version": STUDY_VERSION,
        "study": found.name,
        "trials": found.trials,
        "seed": found.seed,
        "quantities": list(found.quantities),
        "cells": [
            {
                "condition": dict(cell.condition),
                "outcomes": [
                    {"failed": o.reason} if isinstance(o, Failure) else dict(o) for o in cell.outcomes
                ],
            }
            for cell in found.cells
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(raw, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def load(path: Path) -> Findings:
    """What ``save`` has written. ``ValueError`` naming the file if it is anything else."""
    try:
        raw = json.loads(path.read_text("utf-8"))
        if raw["schema_version"] != STUDY_VERSION:
            raise ValueError(f"schema_version must be {STUDY_VERSION}; got {raw['schema_version']!r}")
        cells = tuple(
            Cell(dict(cell["condition"]), tuple(_outcome(o) for o in cell["outcomes"]))
            for cell in raw["cells"]
        )
        trials, seed = checks.integer("trials", raw["trials"], 2), checks.integer("seed", raw["seed"], 0)
        if any(len(cell.outcomes) != trials for cell in cells):
            raise ValueError(f"every cell must hold {trials} trials; got one that does not")
        if "quantities" in raw:
            quantities = tuple(str(q) for q in raw["quantities"])
        else:  # a file from before they were written: those that its trials returned
            quantities = tuple(
                sorted({q for c in cells for o in c.outcomes if not isinstance(o, Failure) for q in o})
            )
        return Findings(str(raw["study"]), trials, seed, cells, quantities)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"path must be a file that a study has written; got {path} ({type(error).__name__}: {error})"
        ) from None


def _outcome(raw: Mapping[str, Any]) -> Outcome:
    if "failed" in raw:
        return Failure(str(raw["failed"]))
    return {quantity: checks.real(quantity, value) for quantity, value in raw.items()}


# --- for the figures ----------------------------------------------------------------------------------------


def failure_note(cells: Sequence[Cell]) -> str:
    """How many trials of these cells failed, for a figure or a table; empty if none did."""
    failed, total = sum(len(c.failures) for c in cells), sum(len(c.outcomes) for c in cells)
    return f"{failed} of {total} FAILED" if failed else ""
