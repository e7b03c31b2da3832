"""What a table of attacks on pictures says: means with intervals, failures counted, and who is best at what."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from bounds import Defense
from verify.images.point import ImagePoint
from verify.images.record import ImageRecord
from verify.judge.statistics import student
from verify.measure.point import parameter_words

#: Of the intervals in the table.
LEVEL = 0.95


@dataclass(frozen=True)
class Mean:
    """Mean of a quantity over trials (each the mean over its pictures), and half of Student's interval; infinite for one
    trial. Trials without a result are not in it: ``failed`` counts them."""

    value: float
    half: float
    n: int
    failed: int

    @property
    def words(self) -> str:
        """ "23.1 ± 0.8", "23.1 (1 trial)", "failed" """
        if not self.n:
            return "failed"
        spread = (
            f"{self.value:.3g}" if not math.isfinite(self.half) else f"{self.value:.3g} ± {self.half:.2g}"
        )
        return spread + (f" ({self.failed} failed)" if self.failed else "")


def mean(records: Sequence[ImageRecord], quantity: str) -> Mean:
    """Of these records of one point. A picture that is exact has infinitely many dB: 100 stands for more than 100."""
    each = [float(np.mean(np.minimum(r.values[quantity], 100.0))) for r in records if quantity in r.values]
    failed = sum(r.failed for r in records)
    n = len(each)
    if n < 2:
        return Mean(each[0] if each else math.nan, math.inf, n, failed)
    half = student(LEVEL, n - 1) * float(np.std(each, ddof=1)) / math.sqrt(n)
    return Mean(float(np.mean(each)), half, n, failed)


def paired(ours: Sequence[ImageRecord], other: Sequence[ImageRecord], quantity: str) -> Mean:
    """Mean difference, trial by trial, of two attacks on the same observations."""
    theirs = {r.trial: r for r in other if not r.failed}
    apart = [
        float(
            np.mean(np.minimum(r.values[quantity], 100.0))
            - np.mean(np.minimum(theirs[r.trial].values[quantity], 100.0))
        )
        for r in ours
        if not r.failed and r.trial in theirs
    ]
    n = len(apart)
    if n < 2:
        return Mean(apart[0] if apart else math.nan, math.inf, n, 0)
    half = student(LEVEL, n - 1) * float(np.std(apart, ddof=1)) / math.sqrt(n)
    return Mean(float(np.mean(apart)), half, n, 0)


def defense_words(point: ImagePoint) -> str:
    """The defense as a table's row is headed: "pruning .9 (layer)"."""
    return described(point.defense) + (", of the gradient's norm" if point.relative else "")


def described(defense: Defense) -> str:
    """A defense in words, with its parameters."""
    if defense.name == "none":
        return "none"
    told = ", ".join(parameter_words(defense).values())
    return defense.name.replace("_", " ") + (f" ({told})" if told else "")


def rows(found: Mapping[ImagePoint, Sequence[ImageRecord]]) -> list[dict[str, object]]:
    """One row for each point: data, B, defense, rival, and each quantity's mean, half interval, n and failures."""
    table: list[dict[str, object]] = []
    for point, records in found.items():
        numbers = {q: mean(records, q) for q in ("psnr", "ssim", "feature_error", "mse")}
        some = numbers["psnr"]
        table.append(
            {
                "data": point.data,
                "B": point.B,
                "defense": defense_words(point),
                "rival": point.rival,
                "n": some.n,
                "failed": some.failed,
                **{
                    name: value
                    for q, m in numbers.items()
                    for name, value in ((q, m.value), (f"{q} ±", m.half if math.isfinite(m.half) else None))
                },
            }
        )
    return table


def correlation(records: Sequence[ImageRecord], one: str, other: str) -> tuple[float, int]:
    """Spearman's rank correlation of two quantities over all pictures of these records, and how many those are."""
    x = [v for r in records if not r.failed for v in r.values[one]]
    y = [v for r in records if not r.failed for v in r.values[other]]
    if len(x) < 3:
        return math.nan, len(x)
    return float(scipy.stats.spearmanr(x, y).statistic), len(x)
