"""Which labels came back: what records say of the claim that labels of +1 and -1 are recovered."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from verify.measure.point import Point

#: So many of the points at which labels were lost are named, those that lost the largest share first.
NAMED = 3

HEADER = (
    "defense",
    "activation",
    "trials",
    "no result",
    "all labels right",
    "labels right",
    "residual off by",
    "lost at",
)


class Trial(Protocol):
    """What is asked of a trial; ``label_accuracy`` and ``residual_error`` are None exactly if it failed."""

    @property
    def failed(self) -> bool: ...
    @property
    def label_accuracy(self) -> float | None: ...
    @property
    def residual_error(self) -> float | None: ...


@dataclass(frozen=True)
class LabelRow:
    """All trials under one family of defenses with one activation, whatever else differs.

    failed: trials without a result, which are part of ``trials``; right: trials with a result in which every label is
    nearest to the true one; share: of all labels of the trials with a result; residual_error: the median over these trials
    of the largest |rhat_i - r_i|. share and residual_error are nan where no trial gave a result. lost: points at which
    labels were lost, in words.
    """

    defense: str
    activation: str
    trials: int
    failed: int
    right: int
    share: float
    residual_error: float
    lost: tuple[str, ...]

    def cells(self) -> tuple[str, ...]:
        """As text, in the order of ``HEADER``."""
        measured = [
            f"{x:{form}}" if math.isfinite(x) else ""
            for x, form in ((self.share, ".3f"), (self.residual_error, ".2g"))
        ]
        lost = "; ".join(self.lost[:NAMED])
        if len(self.lost) > NAMED:
            lost += f"; {len(self.lost) - NAMED} more"
        counts = (str(self.trials), str(self.failed), f"{self.right} of {self.trials - self.failed}")
        return (self.defense.replace("_", " "), self.activation, *counts, *measured, lost)


def label_rows(groups: Mapping[Point, Sequence[Trial]]) -> list[LabelRow]:
    """One row for each defense and activation, in the order in which they come.

    Under defenses that change the residuals (clipping, several local steps) a label read off them is wrong although the
    features are right: these rows say so, and are no failure of the attack.
    """
    together: dict[tuple[str, str], list[tuple[Point, Sequence[Trial]]]] = {}
    for point, trials in groups.items():
        if trials:
            together.setdefault((point.defense.name, point.activation), []).append((point, trials))
    return [_row(*key, cells) for key, cells in together.items()]


def _row(defense: str, activation: str, cells: Sequence[tuple[Point, Sequence[Trial]]]) -> LabelRow:
    every = [t for _, trials in cells for t in trials]
    labels = [(_accuracies(trials), point) for point, trials in cells]
    accuracies = [a for found, _ in labels for a in found]
    # A label's share: trials of several batch sizes count by their labels.
    counted = sum(len(found) * point.B for found, point in labels)
    right_labels = sum(sum(found) * point.B for found, point in labels)
    errors = [t.residual_error for t in every if t.residual_error is not None]
    return LabelRow(
        defense,
        activation,
        trials=len(every),
        failed=sum(t.failed for t in every),
        right=sum(a == 1 for a in accuracies),
        share=right_labels / counted if counted else math.nan,
        residual_error=median(errors) if errors else math.nan,
        lost=_lost(labels),
    )


def _accuracies(trials: Iterable[Trial]) -> list[float]:
    return [t.label_accuracy for t in trials if t.label_accuracy is not None]


def _lost(labels: Iterable[tuple[Sequence[float], Point]]) -> tuple[str, ...]:
    """``experiment, m: lost of results`` for experiments and widths at which a trial lost a label, largest share first."""
    counts: dict[str, tuple[int, int]] = {}
    for found, point in labels:
        place = f"{point.experiment}, m = {point.m:,}".replace(",", " ").replace("  ", ", ")
        lost, results = counts.get(place, (0, 0))
        counts[place] = lost + sum(a < 1 for a in found), results + len(found)
    found_lost = [(lost / results, place, lost, results) for place, (lost, results) in counts.items() if lost]
    return tuple(
        f"{place}: {lost} of {results}" for _, place, lost, results in sorted(found_lost, key=lambda r: -r[0])
    )


def label_table(rows: Iterable[LabelRow]) -> str:
    """The rows as a section of a Markdown page."""
    lines = [HEADER, ("---",) * len(HEADER), *(row.cells() for row in rows)]
    return "## Labels recovered\n\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
