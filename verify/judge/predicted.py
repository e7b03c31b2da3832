"""PREDICTED: measured over predicted; where the span is lost, whether the attack is no better than guessing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from bounds import BoundValue, Kind
from bounds.kinds.predicted.decisions import REACH
from verify.judge.base import (
    Claim,
    Conduct,
    Groups,
    Judge,
    Rule,
    Sample,
    bound_at,
    corrupted,
    measured,
    named,
)
from verify.judge.statistics import BASELINE, LEVEL, Measured, half_width
from verify.judge.verdict import Result, Verdict, noted, place, settled, theory_words, within
from verify.measure.check import Check
from verify.measure.point import Point
from verify.measure.series import has_value, largest, series

# --- checks: inert, what is to be asked of the records ------------------------------------------------------


@dataclass(frozen=True)
class PredictedCheck(Check):
    """Measured over predicted root mean square within ``tolerance`` of 1, at the largest m of each series or
    everywhere."""

    kind: ClassVar[Kind] = Kind.PREDICTED
    tolerance: float = 0.03
    largest_m_only: bool = True


@dataclass(frozen=True)
class SpectralCheck(Check):
    """Wherever PREDICTED rests on the spectral law: measured over predicted root mean square within ``tolerance`` of 1, and
    an attack that is no better than guessing where the span is lost. It is a law of large d: what finite d adds is of order
    d^(-1/2), .14 at d = 50."""

    kind: ClassVar[Kind] = Kind.PREDICTED
    tolerance: float = 0.2


@dataclass(frozen=True)
class ImprovementCheck(Check):
    """Plain over residualized root mean square, at the largest m: above 1 and within ``tolerance`` of the
    predicted factor."""

    kind: ClassVar[Kind] = Kind.PREDICTED
    tolerance: float = 0.05


#: First order is off by a relative O(R): beyond this predicted error it is not put to the test, but where the spectral law
#: is in its place.
FIRST_ORDER = REACH


@dataclass(frozen=True, kw_only=True)
class RatioResult(Result):
    """PREDICTED: measured over predicted (root mean square, or plain over residualized), interval and
    tolerance."""

    measured: float
    predicted: float
    ratio: float
    low: float
    high: float
    tolerance: float


@dataclass(frozen=True, kw_only=True)
class LostResult(Result):
    """PREDICTED, where the span is lost: root mean square of R, a trial without a result being a guess of zero (R = 1), its
    interval, and from which share of guessing on it is no better than that."""

    measured: float
    low: float
    high: float
    baseline: float


def spectral(bound: BoundValue) -> bool:
    """Whether a PREDICTED rests on the spectral law, which says the span's error at every width."""
    return "span_gap" in bound.details


def lost(bound: BoundValue) -> bool:
    """Whether a PREDICTED says that a direction of the span is lost in the noise."""
    return bound.value is None and bound.details.get("span_above", math.inf) <= 1


def judge_lost(
    found: Sample, bound: BoundValue, level: float = LEVEL, baseline: float = BASELINE, **where: str
) -> LostResult:
    """Below the threshold of the spectral law the attack gives no result, or by chance a wrong one. Holds iff the whole
    interval of its R, a trial without a result counted as a guess of zero, is at or above ``baseline``; fails iff wholly
    below. ``ValueError`` where the statement is another."""
    if not lost(bound):
        raise ValueError(f"bound must say that the span is lost; got {bound.why!r}")
    m = Measured.of([*found.errors, *[1.0] * found.failed], level=level)
    verdict = within(m.low, m.high, baseline, math.inf)
    text = (
        f"{m.words} [{m.low:.4f}, {m.high:.4f}] with guesses for the {found.failed} of {m.n} without a result, predicted no "
        f"better than guessing (baseline {baseline:g}), as the span is lost: {noted(verdict, m.n, 0, '')}"
    )
    return LostResult(
        kind=Kind.PREDICTED, **place(where), verdict=verdict, text=text, n=m.n, failed=found.failed, measured=m.rms,
        low=m.low, high=m.high, baseline=baseline,
    )  # fmt: skip


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
    judged, unless it is the spectral law's."""
    predicted = bound.value or math.nan
    ratio, low, high = (x / predicted for x in (m.rms, m.low, m.high))
    unstated = "" if bound.value else bound.why or "no prediction"
    # What has to be small is the random part; a floor is not an approximation.
    random = math.sqrt(max(0.0, predicted**2 - bound.details.get("floor", 0.0) ** 2))
    if not spectral(bound) and (random > reach or bound.details.get("noise_over_signal", 0.0) >= 1):
        unstated = f"beyond first order: a predicted random error above {reach:g}, or noise above the signal"
    nothing = m.learns_nothing(baseline)
    all_failed = m.n == 0 and m.failed > 0
    verdict: Verdict = "fails" if all_failed else within(low, high, 1 - tolerance, 1 + tolerance)
    verdict = settled(verdict, m.failed, unstated, nothing)
    nothing = unstated or nothing
    text = (
        f"{m.words}, {theory_words('predicted', bound.value)}{_ratio(ratio, low, high, tolerance)}: "
        f"{noted(verdict, m.n, m.failed, nothing)}"
    )
    return RatioResult(
        kind=Kind.PREDICTED,
        **place(where),
        verdict=verdict,
        text=text,
        n=m.n,
        failed=m.failed,
        why=nothing,
        measured=m.rms,
        predicted=predicted,
        ratio=ratio,
        low=low,
        high=high,
        tolerance=tolerance,
    )


def _ratio(ratio: float, low: float, high: float, tolerance: float) -> str:
    """In words, where there is one."""
    if math.isnan(ratio):
        return ""
    return f", ratio {ratio:.3f} [{low:.3f}, {high:.3f}] for 1 ± {tolerance:g}"


def judge_improvement(
    plain: Measured,
    better: Measured,
    predicted: float,
    tolerance: float = 0.05,
    level: float = LEVEL,
    baseline: float = BASELINE,
    unproved: str = "",
    reach: float = FIRST_ORDER,
    **where: str,
) -> RatioResult:
    """The factor plain / residualized against the predicted one. Holds iff it is above 1 with confidence and
    its ratio to the predicted factor has its whole interval in [1 - tolerance, 1 + tolerance] (Welch's t for
    the logarithms). An error of exactly zero has no factor. ``unproved``: why none is predicted.
    ``reach``: the largest plain error up to which the prediction is put to the test."""
    factor = plain.rms / better.rms if better.rms else math.nan
    half = half_width((1.0, -1.0), (plain, better), level)
    ratio = factor / predicted
    low, high = (
        (0.0, math.inf) if not math.isfinite(half) else (ratio * math.exp(-half), ratio * math.exp(half))
    )
    failed, n = plain.failed + better.failed, min(plain.n, better.n)
    nothing = "" if predicted > 0 else unproved or "no prediction"
    nothing = nothing or plain.learns_nothing(baseline) or better.learns_nothing(baseline)
    if not nothing and plain.rms > reach:
        nothing = f"beyond first order: a plain error above {reach:g}"
    verdict = within(low, high, 1 - tolerance, 1 + tolerance)
    if verdict == "holds" and low * predicted <= 1:
        verdict = "inconclusive"
    verdict = settled(verdict, failed, nothing)
    found = "no factor" if math.isnan(factor) else f"residualized better by {factor:.3f}"
    asked = f"predicted {predicted:.3f}" if predicted > 0 else "predicted not stated"
    text = f"{found}, {asked}{_ratio(ratio, low, high, tolerance)}: {noted(verdict, n, failed, nothing)}"
    return RatioResult(
        kind=Kind.PREDICTED,
        **place(where),
        verdict=verdict,
        text=text,
        n=n,
        failed=failed,
        why=nothing,
        measured=factor,
        predicted=predicted,
        ratio=ratio,
        low=low,
        high=high,
        tolerance=tolerance,
    )


# --- how each check is applied to grouped records -----------------------------------------------------------


def _predicted(check: PredictedCheck, groups: Groups, conduct: Conduct) -> Iterator[Result]:
    for point in largest(groups) if check.largest_m_only else groups:
        yield _at(point, check.tolerance, groups, conduct)


def _spectral(check: SpectralCheck, groups: Groups, conduct: Conduct) -> Iterator[Result]:
    for point in groups:
        if spectral(bound_at(point, Kind.PREDICTED)):
            yield _at(point, check.tolerance, groups, conduct)


def _at(point: Point, tolerance: float, groups: Groups, conduct: Conduct) -> Result:
    bound = corrupted(bound_at(point, Kind.PREDICTED), conduct.factor)
    if lost(bound):
        return judge_lost(Sample.of(groups[point]), bound, conduct.level, conduct.baseline, **named(point))
    found = measured(groups[point], conduct.level)
    return judge_predicted(found, bound, tolerance, conduct.baseline, FIRST_ORDER, **named(point))


def _improvement(check: ImprovementCheck, groups: Groups, conduct: Conduct) -> Iterator[Result]:
    points = [p for p in largest(groups) if has_value(p, "moments")]
    pairs = [pair for pair in series(points, "moments") if len(pair) == 2]
    if not pairs:
        raise ValueError(
            "an ImprovementCheck needs points that differ in plain and residualized moments alone; got none"
        )
    for plain, better in pairs:
        bounds = [bound_at(p, Kind.PREDICTED) for p in (plain, better)]
        above, below = (b.value for b in bounds)
        yield judge_improvement(
            measured(groups[plain], conduct.level),
            measured(groups[better], conduct.level),
            conduct.factor * above / below if above and below else math.nan,
            check.tolerance,
            conduct.level,
            conduct.baseline,
            next((b.why for b in bounds if b.value is None), ""),
            math.inf if spectral(bounds[0]) else FIRST_ORDER,
            **named(plain, ("attack",)),
        )


class PredictedJudge(Judge):
    """A search asks it where our own prediction, if there is one, is of first order."""

    default = PredictedCheck(largest_m_only=False)
    rules: ClassVar[Mapping[type[Check], Rule]] = {
        PredictedCheck: _predicted,
        SpectralCheck: _spectral,
        ImprovementCheck: _improvement,
    }
    style: ClassVar[Mapping[str, Any]] = {"linestyle": "-", "linewidth": 1.6}
    options = ("tolerance",)
    tolerance = 0.25
    first_order = True
    reach = FIRST_ORDER

    def test(self, claim: Claim, samples: Sequence[Sample], significance: float) -> RatioResult:
        reach = math.inf if claim.guarded else FIRST_ORDER
        found = samples[0].measured(1 - significance)
        return judge_predicted(found, claim.stated, claim.tolerance, reach=reach)

    def slack(self, claim: Claim, samples: Sequence[Sample], verdict: Result) -> float:
        """Tolerance less the deviation of the ratio."""
        return claim.tolerance - abs(samples[0].measured().rms / claim.value - 1)
