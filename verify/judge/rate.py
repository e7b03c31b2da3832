"""RATE: fitted exponents against stated ones.

A rate is an order of growth without a constant, R = O(B sqrt(d/m)) up to logarithms. It has an exponent in every one of its
variables, and of each two questions can be asked.

Is it R's own order? ``RateCheck(variable)``: the exponent of R is that of the rate, within a tolerance on either side. So
it is asked in m, d and the noise's sigma, where theory (PREDICTED) has the rate's exponents too: there a faster fall would
refute it as well as a slower one.

Is it an order that R does not exceed? ``RateCheck(variable, upper=True)``: the exponent of R is at most the rate's. So it is
asked in B: there the rate is the order of a published upper bound, to which no lower bound corresponds, and an error that
grows more slowly does not refute it. It holds then, and its result says whether it is also tight, which is the verdict of
the first question: "tight" (that holds), "not tight" (that fails), or neither (more trials would tell).

Both speak of the values measured, not of a limit: what a rate leaves out (logarithms, powers of 1/pi_min and kappa, which
change with the features as B grows) is in the fitted exponent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import sympy as sp

from bounds import DEFENSES, SYMBOLS, Kind, UnsupportedBound, checks, expression
from bounds.words import how_many
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
    return ("m", "d", "B", *dict.fromkeys(growing))


#: What the verdict on a rate as the error's own order makes of an upper one that holds.
TIGHTNESS: Mapping[str, str] = MappingProxyType({"holds": "tight", "fails": "not tight"})


@dataclass(frozen=True)
class RateCheck(Check):
    """The exponent of ``variable`` (one of ``variables()``) within ``tolerance`` of the rate's; ``upper``: at most so far
    above it."""

    kind: ClassVar[Kind] = Kind.RATE
    variable: str = "m"
    tolerance: float = 0.05
    upper: bool = False

    def __post_init__(self) -> None:
        checks.choice("variable", self.variable, variables())


@dataclass(frozen=True, kw_only=True)
class RateResult(Result):
    """RATE: fitted and stated exponent; ``lack_of_fit`` is the p-value of the straight line (small: it is
    curved). ``upper``: asked as an order that the error does not exceed; ``tightness``: whether it is the error's own order,
    "tight", "not tight", or empty where that is not decided (or was all that was asked)."""

    variable: str
    slope: float
    low: float
    high: float
    exponent: float
    tolerance: float
    lack_of_fit: float
    upper: bool = False
    tightness: str = ""


def judge_rate(
    points: Mapping[float, Measured],
    exponent: float,
    variable: str = "m",
    tolerance: float = 0.05,
    level: float = LEVEL,
    baseline: float = BASELINE,
    unproved: str = "",
    *,
    upper: bool = False,
    **where: str,
) -> RateResult:
    """RATE holds iff the interval of the slope of log rms against log ``variable`` lies in exponent ±
    tolerance; with ``upper`` iff it lies below exponent + tolerance (and fails iff it lies above).

    Least squares over the values of the variable, weighted by the number of trials at each (weights that do
    not depend on the errors keep the slope unbiased); its standard error from the scatter of the trials at
    each value, Student's t with the Welch-Satterthwaite degrees of freedom. ``unproved`` says why there is no
    exponent to compare with.
    """
    usable = {x: m for x, m in points.items() if m.n >= 2 and m.rms > 0}
    n, failed = sum(m.n for m in points.values()), sum(m.failed for m in points.values())
    nothing = unproved or next((why for m in points.values() if (why := m.learns_nothing(baseline))), "")
    slope, low, high, fit_p = weighted_slope(usable, level)
    own = within(low, high, exponent - tolerance, exponent + tolerance)
    asked_of = within(low, high, -math.inf, exponent + tolerance) if upper else own
    verdict = settled(asked_of, failed, nothing)
    if len(usable) < len(points) and verdict == "holds":
        verdict = "inconclusive"
    tightness = TIGHTNESS.get(own, "") if upper and verdict == "holds" else ""
    found = f"{slope:+.3f} [{low:+.3f}, {high:+.3f}]" if len(usable) > 1 else "not measurable"
    asked = "" if unproved else f"for {'at most ' if upper else ''}{exponent:+.3g} ± {tolerance:g} "
    text = (
        f"exponent of {variable} {found} {asked}"
        f"over {len(usable)} of {how_many(len(points), 'value')}: {noted(verdict, n, failed, nothing)}"
    )
    text += f"; {tightness} as an order" if tightness else ""
    text += f"; not a straight line (p = {fit_p:.1g})" if fit_p < 1 - level else ""
    return RateResult(
        kind=Kind.RATE,
        **place(where),
        verdict=verdict,
        text=text,
        n=n,
        failed=failed,
        why=nothing,
        variable=variable,
        slope=slope,
        low=low,
        high=high,
        exponent=exponent,
        tolerance=tolerance,
        lack_of_fit=fit_p,
        upper=upper,
        tightness=tightness,
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
            upper=check.upper,
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
