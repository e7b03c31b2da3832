"""RATE: fitted exponents against stated ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import sympy as sp

from bounds import DEFENSES, SYMBOLS, Kind, UnsupportedBound, checks, expression
from verify.judge.base import Claim, Conduct, Groups, Judge, Rule, Sample, bound_at, measured, named
from verify.judge.statistics import BASELINE, LEVEL, Measured, weighted_slope
from verify.judge.verdict import Result, noted, place, settled, within
from verify.measure.check import Check
from verify.measure.point import Point
from verify.measure.series import parameter_of, series, value_of


def variables() -> tuple[str, ...]:
    """What an exponent can be about: the sizes, and every parameter in a defense's rate that can grow (a share does not)."""
    growing = (
        p.name
        for family in DEFENSES
        for p in family.parameters()
        if family.rate is not None and p.symbol in family.rate.free_symbols and p.hi > 1
    )
    return ("m", "d", *dict.fromkeys(growing))


@dataclass(frozen=True)
class RateCheck(Check):
    """The exponent of ``variable`` (one of ``variables()``) within ``tolerance`` of the rate's."""

    kind: ClassVar[Kind] = Kind.RATE
    variable: str = "m"
    tolerance: float = 0.05

    def __post_init__(self) -> None:
        checks.choice("variable", self.variable, variables())


@dataclass(frozen=True, kw_only=True)
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
    slope, low, high, fit_p = weighted_slope(usable, level)
    verdict = settled(within(low, high, exponent - tolerance, exponent + tolerance), failed, nothing)
    if len(usable) < len(points) and verdict == "holds":
        verdict = "inconclusive"
    found = f"{slope:+.3f} [{low:+.3f}, {high:+.3f}]" if len(usable) > 1 else "not measurable"
    asked = "" if unproved else f"for {exponent:+.3g} ± {tolerance:g} "
    text = (
        f"exponent of {variable} {found} {asked}"
        f"over {len(usable)} of {len(points)} values: {noted(verdict, n, failed, nothing)}"
    ) + (f"; not a straight line (p = {fit_p:.1g})" if fit_p < 1 - level else "")
    return RateResult(
        kind=Kind.RATE,
        **place(where),
        verdict=verdict,
        text=text,
        n=n,
        failed=failed,
        variable=variable,
        slope=slope,
        low=low,
        high=high,
        exponent=exponent,
        tolerance=tolerance,
        lack_of_fit=fit_p,
    )


def rate_exponent(rate: sp.Expr, variable: sp.Symbol) -> float:
    """The exponent of ``variable`` in a rate: the limit of dlog(rate)/dlog(variable) as it grows without
    bound."""
    rate = rate.replace(sp.Max, lambda *terms: _larger(terms, variable))
    return float(sp.limit(sp.simplify(variable * sp.diff(rate, variable) / rate), variable, sp.oo))


def exponent_at(points: Sequence[Point], variable: str) -> float:
    """The exponent of ``variable`` that theory states for a series of points. ``UnsupportedBound`` where it states no rate
    at one of them."""
    for point in points:
        stated = bound_at(point, Kind.RATE)
        if stated.value is None:
            raise UnsupportedBound(stated.why)
    rate = expression(points[0].defense, Kind.RATE, type(points[0].attack))
    return rate_exponent(rate, SYMBOLS[variable])


def _larger(terms: Sequence[sp.Expr], variable: sp.Symbol) -> sp.Expr:
    """Max of these for large ``variable``: the one that grows without bound, where there is exactly one."""
    growing = [t for t in terms if sp.limit(t, variable, sp.oo) == sp.oo]
    return growing[0] if len(growing) == 1 else sp.Max(*terms)


def _rate(check: RateCheck, groups: Groups, conduct: Conduct) -> Iterator[Result]:
    for points in series(groups, check.variable):
        hidden = "defense" if parameter_of(points[0], check.variable) else check.variable
        exponent, unproved = math.nan, ""
        try:
            exponent = exponent_at(points, check.variable) + conduct.exponent_shift
        except UnsupportedBound as reason:
            unproved = str(reason)
        yield judge_rate(
            {float(value_of(p, check.variable)): measured(groups[p], conduct.level) for p in points},
            exponent,
            check.variable,
            check.tolerance,
            conduct.level,
            conduct.baseline,
            unproved,
            **named(points[0], (hidden,)),
        )


class RateJudge(Judge):
    """A search measures the exponent over several sizes; no height is drawn, as a rate has no constant."""

    default = RateCheck("m")
    rules: ClassVar[Mapping[type[Check], Rule]] = {RateCheck: _rate}
    options = ("tolerance", "variable", "ladder")
    tolerance = 0.2
    widths = (2_000, 8_000)  # the lower end of the ladder
    ladder = True
    first_order = True

    def test(self, claim: Claim, samples: Sequence[Sample], significance: float) -> RateResult:
        return self._fitted(claim, samples, 1 - significance)

    def slack(self, claim: Claim, samples: Sequence[Sample], verdict: Result) -> float:
        """Tolerance less the deviation of the exponent."""
        return claim.tolerance - abs(self._fitted(claim, samples, LEVEL).slope - claim.value)

    def statistic(self, claim: Claim, samples: Sequence[Sample]) -> tuple[float, float, float]:
        """The exponent."""
        found = self._fitted(claim, samples, LEVEL)
        return found.slope, found.low, found.high

    def claimed(self, values: Sequence[float], sizes: Sequence[float]) -> float:
        """The slope of log value against log size."""
        return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])

    @staticmethod
    def _fitted(claim: Claim, samples: Sequence[Sample], level: float) -> RateResult:
        points = dict(zip(claim.sizes, (s.measured(level) for s in samples), strict=True))
        return judge_rate(points, claim.value, claim.variable, claim.tolerance, level)
