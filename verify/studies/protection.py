"""Which defense protects: the least error of any attack against what the defense costs the gradient.

ReLU, two orthonormal features, one dimension and width. The cost is how far what is seen is from the gradient, as a part
of its norm, the best multiple of it taken, as a step size can undo a scale: a first measure of utility, not accuracy.
Beside LIMIT, the least error of all attacks as d and m grow at this m/d, stands R of the likelihood attack at this one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from bounds import (
    DPSGD,
    Clamping,
    Defense,
    DeterministicRounding,
    Dropout,
    GradientNoise,
    GradientPruning,
    LikelihoodAttack,
    NoDefense,
    SignCompression,
    StochasticRounding,
    evaluate,
)
from bounds.setting import alternating
from verify.measure.outcome import EXACT
from verify.studies.noisy import completed, measured, problem, setting
from verify.studies.study import Cell, Condition, Failure, Findings, Outcome, Row, Study, failure_note

if TYPE_CHECKING:
    from matplotlib.figure import Figure

D, M, B = 50, 5_000, 2

#: The defenses by the name of their family in the figure, from weak to strong.
FAMILIES: Mapping[str, tuple[Defense, ...]] = MappingProxyType(
    {
        "noise": tuple(GradientNoise(sigma) for sigma in (0.1, 0.3, 1.0, 3.0)),
        "DP-SGD": tuple(DPSGD(1.0, z, per_sample=False) for z in (0.003, 0.01, 0.03, 0.1)),
        "random rounding": tuple(StochasticRounding(step) for step in (0.3, 1.0, 3.0)),
        "rounding to the nearest": tuple(DeterministicRounding(step) for step in (0.3, 1.0, 2.0)),
        "signs": (SignCompression(),),
        "clamping": (Clamping(1.0), Clamping(0.3)),
        "pruning": tuple(GradientPruning(ratio) for ratio in (0.5, 0.8, 0.9)),
        "dropout, one mask": tuple(Dropout(p) for p in (0.2, 0.5, 0.8)),
        "dropout, a mask for each sample": tuple(Dropout(p, per_sample=True) for p in (0.2, 0.5, 0.8)),
    }
)


def trial(condition: Condition, seed: int) -> Outcome:
    """``cost`` of one observation, ``error`` of the likelihood attack on it, and ``limit``, which is the setting's own and
    the same in every trial (left out where it is not computed)."""
    from attack import observe

    defense = FAMILIES[str(condition["family"])][int(condition["member"])]
    X, net = problem(D, M, B, seed)
    found, seen = measured("likelihood", defense, X, net, seed)
    if isinstance(found, Failure):
        return found
    clean = observe(NoDefense(), net, X, alternating(B), seed).gradient
    share = float(seen @ clean / (seen.norm() * clean.norm()))
    told = {"cost": math.sqrt(max(0.0, 1 - share**2)), **found}
    limit = least(defense)
    return told if limit is None else {**told, "limit": limit}


@lru_cache(maxsize=64)
def least(defense: Defense) -> float | None:
    """LIMIT of this setting; None where it is not computed."""
    return evaluate(defense, setting(D, M, B), LikelihoodAttack()).limit


def summary(found: Findings) -> list[Row]:
    """A row for each defense: its strength, its cost, LIMIT, R of the likelihood attack with its interval, and how many
    trials were exact."""
    return [_row(cell) for cell in found.cells]


def _row(cell: Cell) -> Row:
    error, limit = cell.measured("error"), cell.values("limit")
    return {
        "family": str(cell.condition["family"]),
        "strength": float(cell.condition["strength"]),
        "cost": float(np.mean(cell.values("cost"))) if error.n else None,
        "LIMIT": float(limit[0]) if len(limit) else None,
        "R": error.rms if error.n else None,
        "low": error.low if error.n else None,
        "high": error.high if error.n else None,
        "R with guesses": completed(cell).rms,
        "exact": int(np.sum(cell.values("error") < EXACT)),
        "failed": len(cell.failures),
    }


def draw(found: Findings) -> Figure:
    """LIMIT as lines and R of the likelihood attack as marks over the cost; at the foot, in a row for each family, the
    strengths at which the limit is zero."""
    from matplotlib.figure import Figure

    from verify.draw.style import COLOURS, MARKERS, label_errors, legend_below

    figure = Figure(figsize=(8, 6.6), layout="constrained")
    axes = figure.subplots()
    hidden, table = 0, summary(found)
    for k, family in enumerate(FAMILIES):
        rows = [row for row in table if row["family"] == family and row["cost"] is not None]
        style: dict[str, Any] = {
            "color": COLOURS[k % len(COLOURS)],
            "marker": (*MARKERS, "h")[k],
            "markersize": 6,
        }
        left = [row for row in rows if row["LIMIT"] is None or row["LIMIT"] > 0]
        stated = [row for row in left if row["LIMIT"] is not None]
        axes.plot(
            [r["cost"] for r in stated], [r["LIMIT"] for r in stated], linewidth=1.6, color=style["color"]
        )
        axes.plot(
            [r["cost"] for r in left],
            [r["R"] for r in left],
            linestyle="",
            label=family,
            markerfacecolor="white",
            **style,
        )
        gone = [row for row in rows if row["LIMIT"] == 0]
        if gone:
            height = 2.2e-3 * 1.35**hidden
            hidden += 1
            axes.plot([r["cost"] for r in gone], [height] * len(gone), linestyle="", **style)
            exact, tried = sum(r["exact"] for r in gone), len(gone) * found.trials
            axes.annotate(
                f"{family}: limit 0, {exact} of {tried} exact", (gone[0]["cost"], height), fontsize=7,
                xytext=(-8, -3), textcoords="offset points", ha="right",
            )  # fmt: skip
    axes.axhline(1.0, color="0.4", linewidth=0.7, linestyle=":")
    axes.set(
        yscale="log",
        xlabel="what is lost of the gradient (part of its norm, best multiple)",
        ylim=(1.6e-3, 2),
    )
    axes.set_xlim(-0.5, 1.03)
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    axes.set_ylabel("error R: LIMIT (lines), likelihood attack (marks)")
    label_errors(axes, "y")
    legend_below(axes, columns=3)
    failed = failure_note(found.cells)
    figure.suptitle(
        f"What no attack can avoid, against what it costs: ReLU, B = {B}, d = {D}, m = {M}, {found.trials} trials each"
        + (f", {failed}" if failed else ""),
        fontsize=9,
    )
    return figure


def _strength(defense: Defense) -> float:
    parameter = defense.strength_parameter()
    return 0.0 if parameter is None else float(getattr(defense, parameter.name))


STUDY = Study(
    name="protection",
    title="which defense protects: the least error of any attack against what the gradient loses",
    claims=("C17",),
    conditions=tuple(
        {"family": family, "member": k, "strength": _strength(defense)}
        for family, members in FAMILIES.items()
        for k, defense in enumerate(members)
    ),
    quantities=("cost", "error", "limit"),
    trial=trial,
    summary=summary,
    draw=draw,
    trials=5,
    seed=67,
)
