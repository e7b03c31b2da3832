"""One rule for each kind of statement: errors and a bound in, a verdict out.

There are four verdicts. "holds" and "fails" are decisions: the confidence interval lies inside, or wholly
outside, what the statement allows. "inconclusive": neither; more trials would decide. "uninformative":
no statement applies (not proved, vacuous, beyond first order), or the attack was no better than guessing zero, which
can confirm nothing (it can still refute). A failed trial is never counted out: with one, no statement about the size
of the error "holds" (UPPER, which speaks of a fraction of trials, counts it as a violation), and where all failed a
prediction fails.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bounds import BoundValue, Kind

Verdict: TypeAlias = Literal["holds", "fails", "inconclusive", "uninformative"]

LEVEL = 0.99  #: of every confidence interval and test, unless told otherwise
BASELINE = 0.9  #: a root mean square error at or above this is no better than guessing zero, which scores 1
FIRST_ORDER = (
    0.25  #: PREDICTED is off by a relative O(R): beyond this predicted error it is not put to the test
)


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
        half = float(stats.t.ppf((1 + level) / 2, n - 1)) * se
        low, high = math.sqrt(max(0.0, mean - half)), math.sqrt(mean + half)
        return Measured(n, failed, math.sqrt(mean), low, high, se / (2 * mean) if mean > 0 else math.inf)

    def learns_nothing(self, baseline: float) -> str:
        """Why nothing can be learnt from these trials; empty if something can."""
        if self.n == 0 and self.failed:
            return f"all {self.failed} trials failed"
        if self.rms >= baseline:
            return f"rms {self.rms:.3g} is no better than guessing zero (baseline {baseline:g})"
        return ""


@dataclass(frozen=True)
class Result:
    """One statement judged. ``series`` names the points it is about, ``text`` says it all in one line."""

    kind: Kind
    experiment: str
    series: str
    verdict: Verdict
    text: str
    n: int
    failed: int

    def to_dict(self) -> dict[str, Any]:
        """As strict JSON: infinite ends of an interval, and what could not be computed, become None."""
        return {
            k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(self).items()
        }


@dataclass(frozen=True)
class RatioResult(Result):
    """PREDICTED: measured over predicted (root mean square, or plain over residualized), interval and
    tolerance."""

    measured: float
    predicted: float
    ratio: float
    low: float
    high: float
    tolerance: float


@dataclass(frozen=True)
class RateResult(Result):
    """RATE: fitted and stated exponent; ``lack_of_fit`` is the p-value of the straight line (small: it is
    curved)."""

    variable: str
    slope: float
    low: float
    high: float
    exponent: float
    tolerance: float
    lack_of_fit: float


@dataclass(frozen=True)
class UpperResult(Result):
    """UPPER: how many trials exceeded the bound, against the allowed probability ``delta``."""

    bound: float
    violations: int
    delta: float
    p_value: float


@dataclass(frozen=True)
class LowerResult(Result):
    """LOWER: measured root mean square, its interval, and the bound on it."""

    bound: float
    measured: float
    low: float
    high: float


# --- the rules: numbers in, a result out --------------------------------------------------------------------


def _within(low: float, high: float, lo: float, hi: float) -> Verdict:
    """Is the interval [low, high] inside [lo, hi], disjoint from it, or neither?"""
    if lo <= low and high <= hi:
        return "holds"
    return "fails" if high < lo or low > hi else "inconclusive"


def _settle(verdict: Verdict, failed: int, unstated: str, nothing: str = "") -> Verdict:
    """``unstated``: why no statement applies here; nothing can then be said. ``nothing``: why these trials teach nothing
    in favour of one; what they refute stays refuted."""
    if unstated or (nothing and verdict != "fails"):
        return "uninformative"
    return "inconclusive" if failed and verdict == "holds" else verdict


def _note(verdict: Verdict, n: int, failed: int, nothing: str) -> str:
    note = f"{verdict}: {nothing}" if nothing else verdict
    note += f"; consistent, n = {n}" if verdict == "inconclusive" else f", n = {n}"
    return note + (f", {failed} FAILED" if failed else "")


def _half_width(coefficients: Sequence[float], measured: Sequence[Measured], level: float) -> float:
    """Half the confidence interval of ``sum_i c_i log rms_i`` (independent trials, Welch-Satterthwaite
    degrees of freedom); infinite with fewer than two trials anywhere."""
    if any(m.n < 2 for m in measured):
        return math.inf
    parts = [(c * m.se_log) ** 2 for c, m in zip(coefficients, measured, strict=True)]
    variance = sum(parts)
    if variance == 0:
        return 0.0
    dof = variance**2 / sum(v**2 / (m.n - 1) for v, m in zip(parts, measured, strict=True))
    return float(stats.t.ppf((1 + level) / 2, dof)) * math.sqrt(variance)


def _weighted_slope(points: Mapping[float, Measured], level: float) -> tuple[float, float, float, float]:
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
    half = _half_width(coefficients.tolist(), measured, level)
    misfit = y - np.average(y, weights=weights) - slope * x
    dof = weights - 1
    scatter = float(np.sum(dof * weights * np.array([m.se_log for m in measured]) ** 2) / np.sum(dof))
    if len(points) == 2 or scatter == 0:
        return slope, slope - half, slope + half, 1.0
    f = float(np.sum(weights * misfit**2)) / (len(points) - 2) / scatter
    return slope, slope - half, slope + half, float(stats.f.sf(f, len(points) - 2, np.sum(dof)))


def _where(where: Mapping[str, str]) -> tuple[str, str]:
    return where.get("experiment", ""), where.get("series", "")


def judge_predicted(
    m: Measured,
    bound: BoundValue,
    tolerance: float = 0.03,
    baseline: float = BASELINE,
    reach: float = FIRST_ORDER,
    **where: str,
) -> RatioResult:
    """PREDICTED holds iff the whole interval of measured/predicted lies in [1 - tolerance, 1 + tolerance] and
    no trial failed; it fails iff the interval lies wholly outside. Beyond ``reach`` the ratio is stated but not
    judged."""
    predicted = bound.value or math.nan
    ratio, low, high = (x / predicted for x in (m.rms, m.low, m.high))
    unstated = "" if bound.value else f"no prediction ({bound.why})"
    # What has to be small is the random part; a floor is not an approximation.
    random = math.sqrt(max(0.0, predicted**2 - bound.details.get("floor", 0.0) ** 2))
    if random > reach or bound.details.get("noise_over_signal", 0.0) >= 1:
        unstated = (
            f"a predicted random error above {reach:g}, or noise above the signal, is beyond first order"
        )
    nothing = m.learns_nothing(baseline)
    all_failed = m.n == 0 and m.failed > 0
    verdict: Verdict = "fails" if all_failed else _within(low, high, 1 - tolerance, 1 + tolerance)
    verdict = _settle(verdict, m.failed, unstated, nothing)
    nothing = unstated or nothing
    text = (
        f"rms {m.rms:.4f}, predicted {predicted:.4f}, ratio {ratio:.3f} [{low:.3f}, {high:.3f}] "
        f"for 1 ± {tolerance:g}: {_note(verdict, m.n, m.failed, nothing)}"
    )
    return RatioResult(
        Kind.PREDICTED,
        *_where(where),
        verdict,
        text,
        m.n,
        m.failed,
        m.rms,
        predicted,
        ratio,
        low,
        high,
        tolerance,
    )


def judge_improvement(
    plain: Measured,
    better: Measured,
    predicted: float,
    tolerance: float = 0.05,
    level: float = LEVEL,
    baseline: float = BASELINE,
    **where: str,
) -> RatioResult:
    """The factor plain / residualized against the predicted one. Holds iff it is above 1 with confidence and
    its ratio to the predicted factor has its whole interval in [1 - tolerance, 1 + tolerance] (Welch's t for
    the logarithms)."""
    factor = plain.rms / better.rms
    half = _half_width((1.0, -1.0), (plain, better), level)
    ratio = factor / predicted
    low, high = (0.0, math.inf) if half == math.inf else (ratio * math.exp(-half), ratio * math.exp(half))
    failed, n = plain.failed + better.failed, min(plain.n, better.n)
    nothing = plain.learns_nothing(baseline) or better.learns_nothing(baseline)
    nothing = nothing or ("" if predicted > 0 else "no prediction")
    if not nothing and plain.rms > FIRST_ORDER:
        nothing = f"a plain error above {FIRST_ORDER:g} is beyond first order"
    verdict = _within(low, high, 1 - tolerance, 1 + tolerance)
    if verdict == "holds" and low * predicted <= 1:
        verdict = "inconclusive"
    verdict = _settle(verdict, failed, nothing)
    text = (
        f"residualized better by {factor:.3f}, predicted {predicted:.3f}, "
        f"ratio {ratio:.3f} [{low:.3f}, {high:.3f}] for 1 ± {tolerance:g}: "
        f"{_note(verdict, n, failed, nothing)}"
    )
    return RatioResult(
        Kind.PREDICTED,
        *_where(where),
        verdict,
        text,
        n,
        failed,
        factor,
        predicted,
        ratio,
        low,
        high,
        tolerance,
    )


def judge_rate(
    points: Mapping[float, Measured],
    exponent: float,
    variable: str = "m",
    tolerance: float = 0.05,
    level: float = LEVEL,
    baseline: float = BASELINE,
    unproved: str = "",
    **where: str,
) -> RateResult:
    """RATE holds iff the interval of the slope of log rms against log ``variable`` lies in exponent ±
    tolerance.

    Least squares over the values of the variable, weighted by the number of trials at each (weights that do
    not depend on the errors keep the slope unbiased); its standard error from the scatter of the trials at
    each value, Student's t with the Welch-Satterthwaite degrees of freedom. ``unproved`` says why there is no
    exponent to compare with.
    """
    usable = {x: m for x, m in points.items() if m.n >= 2 and m.rms > 0}
    n, failed = sum(m.n for m in points.values()), sum(m.failed for m in points.values())
    nothing = unproved or next((why for m in points.values() if (why := m.learns_nothing(baseline))), "")
    slope, low, high, fit_p = _weighted_slope(usable, level)
    verdict = _settle(_within(low, high, exponent - tolerance, exponent + tolerance), failed, nothing)
    if len(usable) < len(points) and verdict == "holds":
        verdict = "inconclusive"
    found = f"{slope:+.3f} [{low:+.3f}, {high:+.3f}]" if len(usable) > 1 else "not measurable"
    asked = "" if unproved else f"for {exponent:+.3g} ± {tolerance:g} "
    text = (
        f"exponent of {variable} {found} {asked}"
        f"over {len(usable)} of {len(points)} values: {_note(verdict, n, failed, nothing)}"
    ) + (f"; not a straight line (p = {fit_p:.1g})" if fit_p < 1 - level else "")
    return RateResult(
        Kind.RATE,
        *_where(where),
        verdict,
        text,
        n,
        failed,
        variable,
        slope,
        low,
        high,
        exponent,
        tolerance,
        fit_p,
    )


def judge_upper(
    errors: Sequence[float],
    failed: int,
    bound: BoundValue,
    delta: float,
    level: float = LEVEL,
    baseline: float = BASELINE,
    part: str = "error",
    **where: str,
) -> UpperResult:
    """UPPER: violations against the allowed fraction ``delta``, failed trials counted as violations. Fails
    iff the exact binomial test refutes delta at ``level``; holds iff the exact (Clopper-Pearson) upper limit
    of the violation probability is at most delta. A bound of 1 or more is vacuous: guessing zero scores 1.
    ``part`` says in words what the errors are of."""
    n = len(errors) + failed
    value = math.nan if bound.value is None else bound.value
    violations = failed + sum(e > value for e in errors)
    p_value = float(stats.binom.sf(violations - 1, n, delta)) if n else 1.0
    limit = float(stats.beta.ppf(level, violations + 1, n - violations)) if violations < n else 1.0
    unstated = (
        bound.why
        if bound.value is None or bound.trivial
        else f"vacuous, bound {value:.3g} >= 1"
        if value >= 1
        else ""
    )
    nothing = Measured.of(errors, failed).learns_nothing(baseline)
    verdict: Verdict = "fails" if p_value < 1 - level else "holds" if limit <= delta else "inconclusive"
    verdict = _settle(verdict, 0, unstated, nothing)  # failed trials are violations already
    nothing = unstated or nothing
    rms = math.sqrt(sum(e * e for e in errors) / len(errors)) if errors else math.nan
    text = (
        f"{part}: {violations} of {n} above {value:.4f} = {value / rms:.2f} rms, allowed {delta:g}: "
        f"{_note(verdict, n, failed, nothing)}"
    )
    return UpperResult(
        Kind.UPPER, *_where(where), verdict, text, n, failed, value, violations, delta, p_value
    )


def judge_lower(m: Measured, bound: BoundValue, baseline: float = BASELINE, **where: str) -> LowerResult:
    """LOWER, a bound on the root mean square, holds iff the whole interval of the measured one lies at or
    above it; fails iff wholly below. A bound of zero is vacuous."""
    value = math.nan if bound.value is None else bound.value
    unstated = bound.why if bound.value is None else "vacuous, bound 0" if value <= 0 else ""
    nothing = m.learns_nothing(baseline)
    verdict = _settle(_within(m.low, m.high, value, math.inf), m.failed, unstated, nothing)
    nothing = unstated or nothing
    note = _note(verdict, m.n, m.failed, nothing)
    text = f"rms {m.rms:.4f} [{m.low:.4f}, {m.high:.4f}], bound {value:.4f}: {note}"
    return LowerResult(Kind.LOWER, *_where(where), verdict, text, m.n, m.failed, value, m.rms, m.low, m.high)
