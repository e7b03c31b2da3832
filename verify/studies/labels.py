"""Labels from the gradient: the published strategies against one another, fresh and trained networks, under defenses.

Digits of 8 x 8 in ten classes, chosen at random, so that classes repeat; a convolutional network with an added layer
(m = 128, d = 64). In each trial every strategy sees the same gradient; what is measured is the share of the labels that it
finds, each counted as often as it occurs. ("yin" names no class twice, and is for batches of at most ten.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bounds import Defense, Dropout, GradientNoise, GradientPruning, NoDefense
from verify.images.point import ImagePoint, NetworkSpec
from verify.studies.study import Cell, Condition, Findings, Outcome, Row, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Keys of ``attack.image.labels.STRATEGIES``: the published ones for more than one picture.
STRATEGIES = ("yin", "llg", "llg-dummy", "bias", "ilrg")

SIZES = (2, 8, 32)

EPOCHS = (0, 5)

#: With whether noise is in root mean squares of the gradient's entries.
DEFENSES: Mapping[str, tuple[Defense, bool]] = {
    "none": (NoDefense(), False),
    "noise 1": (GradientNoise(1.0), True),
    "pruning .99": (GradientPruning(0.99), False),
    "dropout .5": (Dropout(0.5, per_sample=True), False),
}

#: Of the digits.
CLASSES = 10


def conditions() -> tuple[Condition, ...]:
    return tuple(
        {"defense": defense, "epochs": epochs, "B": B}
        for defense in DEFENSES
        for epochs in EPOCHS
        for B in SIZES
    )


def trial(condition: Condition, seed: int) -> Outcome:
    """The share of labels that each strategy finds."""
    from attack.image.labels import label_accuracy, recover_labels
    from attack.image.matching import ImageMatching
    from verify.images.trial import observed

    defense, relative = DEFENSES[str(condition["defense"])]
    network = NetworkSpec(width=8, m=128, features=64, epochs=int(condition["epochs"]))
    point = ImagePoint(
        "digits-8", int(condition["B"]), network, defense, "labels", ImageMatching(), relative=relative
    )
    _, labels, seen = observed(point, seed, "cpu")
    return {s: label_accuracy(labels, recover_labels(seen, s).cpu()) for s in strategies(point.B)}


def strategies(B: int) -> tuple[str, ...]:
    """Those for batches of B."""
    return STRATEGIES if B <= CLASSES else STRATEGIES[1:]


def evenly(B: int) -> float:
    """The mean share that a server without the gradient has right at best, where each label is any class with equal chance:
    by naming every class as often as any other, or once more. A class that is named g times has min(g, X) right, X binomial
    of B, of which the mean is ``P(X > 0) + ... + P(X > g - 1)``: each time more adds less, so that even is best."""
    from scipy.stats import binom

    named = [B // CLASSES + (c < B % CLASSES) for c in range(CLASSES)]
    return float(sum(binom.sf(range(g), B, 1 / CLASSES).sum() for g in named)) / B


def summary(found: Findings) -> list[Row]:
    """A row for each condition: the mean share of each strategy."""
    return [
        {**cell.condition, **{s: _mean(cell, s) for s in STRATEGIES}}
        | {"without the gradient": round(evenly(int(cell.condition["B"])), 3)}
        for cell in found.cells
    ]


def draw(found: Findings) -> Figure:
    """A panel for each defense and age of the network, a line for each strategy, and what is right without the gradient."""
    from matplotlib.figure import Figure

    from verify.draw.style import COLOURS, MARKERS

    figure = Figure(figsize=(11, 5.6), layout="constrained")
    panels = figure.subplots(len(EPOCHS), len(DEFENSES), sharex=True, sharey=True, squeeze=False)
    for row, epochs in zip(panels, EPOCHS, strict=True):
        for axes, defense in zip(row, DEFENSES, strict=True):
            cells = {int(c.condition["B"]): c for c in found.where(defense=defense, epochs=epochs)}
            for k, strategy in enumerate(STRATEGIES):
                _line(axes, cells, strategy, color=COLOURS[k], marker=MARKERS[k])
            axes.plot(list(cells), [evenly(B) for B in cells], ":", color="0.5", label="without the gradient")
            axes.set_title(f"{defense}, {f'{epochs} epochs' if epochs else 'not trained'}", fontsize=9)
            axes.set(xscale="log", ylim=(-0.03, 1.05))
            axes.set_xticks(list(cells), [str(B) for B in cells])
            axes.minorticks_off()
    for axes in panels[-1]:
        axes.set_xlabel("pictures in the batch")
    for axes in panels[:, 0]:
        axes.set_ylabel("share of labels found")
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    figure.suptitle(
        f"Labels from the gradient, {found.trials} trials each, mean with its standard error", fontsize=10
    )
    return figure


def _mean(cell: Cell, strategy: str) -> float | None:
    values = cell.values(strategy)
    return round(float(values.mean()), 3) if len(values) else None


def _line(axes: Axes, cells: Mapping[int, Cell], strategy: str, **look: Any) -> None:
    """Where there are results; the mean of a single one has no bar."""
    told = {B: cell.values(strategy) for B, cell in cells.items() if strategy in strategies(B)}
    told = {B: values for B, values in told.items() if len(values)}
    means = [float(v.mean()) for v in told.values()]
    errors = [float(v.std(ddof=1)) / len(v) ** 0.5 if len(v) > 1 else math.nan for v in told.values()]
    axes.errorbar(list(told), means, yerr=errors, label=strategy, markersize=4, linewidth=1, **look)


STUDY = Study(
    name="labels",
    title="labels from the gradient: strategies, fresh and trained networks, defenses",
    claims=("C3",),
    conditions=conditions(),
    quantities=STRATEGIES,
    trial=trial,
    summary=summary,
    draw=draw,
    seed=37,
)
