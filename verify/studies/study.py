"""Studies: conditions times trials, a few numbers from each trial, every failure counted.

An ``Experiment`` puts one attack to the test against the bounds; a ``Study`` is for everything else that is measured over
a list of conditions: parts of the attack, other networks, assumptions that are broken on purpose. It is inert data and
three functions; ``run`` measures it and keeps the numbers, from which its rows and its figure are made.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bounds import checks
from verify.judge.statistics import Measured
from verify.measure.conditions import limited, present
from verify.measure.failure import Failure
from verify.measure.ledger import carry_out
from verify.measure.progress import Progress, following
from verify.studies.kept import Trial, ledger, load_trials, save_trials

if TYPE_CHECKING:
    from matplotlib.figure import Figure


#: Trials of one condition at most: trial t has the seed ``SEEDS * study.seed + t``.
SEEDS = 1000


#: Where trials run: a network is drawn on the CPU unless it is told otherwise, which no study does. Their numbers, down to
#: the last bits, are then the same whatever accelerator is there.
DEVICE = "cpu"


Condition: TypeAlias = Mapping[str, str | int | float]


Row: TypeAlias = dict[str, Any]


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


def run(
    study: Study,
    path: Path,
    trials: int | None = None,
    *,
    jobs: int = 1,
    threads: int = 1,
    progress: Progress | bool = True,
) -> Findings:
    """Measure every trial that ``path`` (NAME.json) does not hold yet, and keep all of them there.

    Each finished trial is at once on disk, as a line of NAME.jsonl, so a run that was stopped or killed goes on where it was
    (``verify.measure.ledger``); at the end the lines become the file of numbers. trials: None means the study's own. jobs:
    processes; threads: of each trial, whatever ``jobs`` is; progress: as of ``sweep``.

    Raises ``ValueError`` or ``TypeError`` for another number of trials than 2 to 1000, ``LedgerError`` if the files hold
    trials of another study, seed or number, of other conditions or quantities, ``RecordError`` if they hold what no study
    has written.
    """
    count = study.trials if trials is None else checks.integer("trials", trials, 2, SEEDS)
    checks.integer("jobs", jobs, 1)
    checks.integer("threads", threads, 1)
    now = present(DEVICE, threads)
    tasks: dict[Hashable, Callable[[], Trial]] = {
        (_key(condition), t): partial(_trial, study, condition, t, count, threads)
        for condition in study.conditions
        for t in range(count)
    }
    book = ledger(study.name, path, study.seed, count, tuple(study.quantities), tasks)
    with following(progress, study.name) as told:
        found = carry_out(
            book,
            tasks,
            now,
            jobs=jobs,
            progress=told,
            finish=lambda found: save_trials(path, found, study.quantities),
        )
    return _findings(study.name, count, study.seed, study.quantities, found)


def _trial(study: Study, condition: Condition, number: int, trials: int, threads: int) -> Trial:
    with limited(threads):
        outcome = study.trial(condition, SEEDS * study.seed + number)
    return Trial(
        study=study.name,
        seed=study.seed,
        trials=trials,
        quantities=tuple(study.quantities),
        condition=condition,
        trial=number,
        outcome=_checked(study, condition, outcome),
        conditions=present(DEVICE, threads),
    )


def _key(condition: Condition) -> str:
    return json.dumps(dict(condition), sort_keys=True)


def _checked(study: Study, condition: Condition, outcome: Outcome) -> Outcome:
    if isinstance(outcome, Failure):
        return outcome
    fits = bool(outcome) and outcome.keys() <= set(study.quantities)
    if not fits or not all(math.isfinite(v) for v in outcome.values()):
        raise ValueError(
            f"trial must give finite numbers out of {', '.join(study.quantities)} or a Failure; study "
            f"{study.name!r} gave {dict(outcome)} at {dict(condition)}"
        )
    return {q: float(outcome[q]) for q in study.quantities if q in outcome}


def load(path: Path) -> Findings:
    """What ``run`` has kept in ``path``, finished or not: the conditions that have all their trials. ``RecordError`` naming
    the file if it is anything else."""
    found = load_trials(path)
    first = found[0]
    trials = max(t.trials for t in found)
    return _findings(first.study, trials, first.seed, first.quantities, found)


def _findings(
    name: str, trials: int, seed: int, quantities: Sequence[str], found: Sequence[Trial]
) -> Findings:
    cells: dict[str, list[Trial]] = {}
    for trial in found:
        cells.setdefault(_key(trial.condition), []).append(trial)
    whole = tuple(
        Cell(cell[0].condition, tuple(t.outcome for t in sorted(cell, key=lambda t: t.trial)))
        for cell in cells.values()
        if len(cell) == trials
    )
    return Findings(name, trials, seed, whole, tuple(quantities))


# --- for the figures ----------------------------------------------------------------------------------------


def failure_note(cells: Sequence[Cell]) -> str:
    """How many trials of these cells failed, for a figure or a table; empty if none did."""
    failed, total = sum(len(c.failures) for c in cells), sum(len(c.outcomes) for c in cells)
    return f"{failed} of {total} FAILED" if failed else ""
