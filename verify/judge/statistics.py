"""Root mean squares and slopes with their confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

LEVEL = 0.99  #: of every confidence interval and test, unless told otherwise


BASELINE = 0.9  #: a root mean square error at or above this is no better than guessing zero, which scores 1


@dataclass(frozen=True)
class Measured:
    """Root mean square of R over the n trials that returned a result, with its confidence interval.

    The interval is Student's for the mean of R^2 (a mean of independent trials), mapped by the square root;
    it is [0, inf) for fewer than two trials. ``se_log`` is the standard error of log rms, by the delta
    method.
    """

    n: int
    failed: int
    rms: float
    low: float
    high: float
    se_log: float

    @staticmethod
    def of(errors: Sequence[float] | NDArray[np.float64], failed: int = 0, level: float = LEVEL) -> Measured:
        squares = np.square(np.asarray(errors, dtype=float))
        n = int(squares.size)
        if n == 0:
            return Measured(0, failed, math.nan, 0.0, math.inf, math.inf)
        mean = float(squares.mean())
        if n == 1:
            return Measured(1, failed, math.sqrt(mean), 0.0, math.inf, math.inf)
        se = float(squares.std(ddof=1)) / math.sqrt(n)
        half = student(level, n - 1) * se
        low, high = math.sqrt(max(0.0, mean - half)), math.sqrt(mean + half)
        return Measured(n, failed, math.sqrt(mean), low, high, se / (2 * mean) if mean > 0 else math.inf)

    @property
    def words(self) -> str:
        """The root mean square, as a verdict's line begins."""
        return f"rms {self.rms:.4f}" if self.n else "no rms"

    def learns_nothing(self, baseline: float) -> str:
        """Why nothing can be learnt from these trials; empty if something can."""
        if self.n == 0 and self.failed:
            return "the only trial failed" if self.failed == 1 else f"all {self.failed} trials failed"
        if self.rms >= baseline:
            return f"rms {self.rms:.3g} is no better than guessing zero (baseline {baseline:g})"
        return ""


@dataclass(frozen=True)
class Share:
    """``k`` of ``n`` trials, those without a result among the n, and the ends of the exact interval (Clopper and Pearson) of
    the share; [0, 1] of no trials."""

    k: int
    n: int
    low: float
    high: float

    @staticmethod
    def of(k: int, n: int, level: float = LEVEL) -> Share:
        tail = (1 - level) / 2
        low = float(scipy.special.betaincinv(k, n - k + 1, tail)) if k else 0.0
        high = float(scipy.special.betaincinv(k + 1, n - k, 1 - tail)) if k < n else 1.0
        return Share(k, n, low, high)

    @property
    def value(self) -> float:
        """nan of no trials."""
        return self.k / self.n if self.n else math.nan


@dataclass(frozen=True)
class Mean:
    """The mean of n independent values (of a run, say) and Student's interval for it; nan of none, no limits below two."""

    n: int
    value: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float] | NDArray[np.float64], level: float = LEVEL) -> Mean:
        told = np.asarray(values, dtype=float)
        n = int(told.size)
        mean = float(told.mean()) if n else math.nan
        if n < 2:
            return Mean(n, mean, -math.inf, math.inf)
        half = student(level, n - 1) * float(told.std(ddof=1)) / math.sqrt(n)
        return Mean(n, mean, mean - half, mean + half)


def half_width(coefficients: Sequence[float], measured: Sequence[Measured], level: float) -> float:
    """Half the confidence interval of ``sum_i c_i log rms_i`` (independent trials, Welch-Satterthwaite
    degrees of freedom); infinite with fewer than two trials anywhere."""
    if any(m.n < 2 for m in measured):
        return math.inf
    parts = [(c * m.se_log) ** 2 for c, m in zip(coefficients, measured, strict=True)]
    variance = sum(parts)
    if variance == 0:
        return 0.0
    dof = variance**2 / sum(v**2 / (m.n - 1) for v, m in zip(parts, measured, strict=True))
    return student(level, dof) * math.sqrt(variance)


def student(level: float, dof: float) -> float:
    """Half the width of the two-sided interval that holds ``level`` of Student's distribution. (From the special function,
    as ``scipy.stats`` does: importing that takes longer than all other statistics here.)"""
    return float(scipy.special.stdtrit(dof, (1 + level) / 2))


def weighted_slope(points: Mapping[float, Measured], level: float) -> tuple[float, float, float, float]:
    """Slope of log rms against log x, its interval, and the p-value of the straight line (F test of lack of
    fit against the scatter of the trials; 1 for two values of x)."""
    if len(points) < 2:
        return math.nan, -math.inf, math.inf, 1.0
    measured = list(points.values())
    x, y = np.log(list(points)), np.log([m.rms for m in measured])
    weights = np.array([m.n for m in measured], dtype=float)
    x = x - np.average(x, weights=weights)
    coefficients = weights * x / np.sum(weights * x**2)
    slope = float(coefficients @ y)
    half = half_width(coefficients.tolist(), measured, level)
    misfit = y - np.average(y, weights=weights) - slope * x
    dof = weights - 1
    scatter = float(np.sum(dof * weights * np.array([m.se_log for m in measured]) ** 2) / np.sum(dof))
    if len(points) == 2 or scatter == 0:
        return slope, slope - half, slope + half, 1.0
    f = float(np.sum(weights * misfit**2)) / (len(points) - 2) / scatter
    return slope, slope - half, slope + half, float(scipy.special.fdtrc(len(points) - 2, np.sum(dof), f))
