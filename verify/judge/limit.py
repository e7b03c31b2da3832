"""LIMIT: no attack's measured error is below it, and message passing's is what state evolution says of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from bounds import BoundValue, Kind, MessagePassing
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
from verify.judge.statistics import BASELINE, Measured
from verify.judge.verdict import Result, noted, place, settled, theory_words, within
from verify.measure.check import Check
from verify.measure.point import Point


@dataclass(frozen=True)
class LimitCheck(Check):
    """The root mean square of R is not below the limit by more than the share ``tolerance`` and what finite d allows."""

    kind: ClassVar[Kind] = Kind.LIMIT
    tolerance: float = 0.05


@dataclass(frozen=True)
class ReachedCheck(Check):
    """The root mean square of message passing is what it reaches in the limit, to within the share ``tolerance`` and what
    finite d allows. Other attacks are not asked."""

    kind: ClassVar[Kind] = Kind.LIMIT
    tolerance: float = 0.05


@dataclass(frozen=True, kw_only=True)
class LimitResult(Result):
    """LIMIT: measured root mean square, its interval, the limit (of message passing, where ``reached``), and the share by
    which the one may differ from the other."""

    limit: float
    measured: float
    low: float
    high: float
    allowance: float
    reached: bool


def finite(point: Point) -> float:
    """The share by which known norms and inner products lower the error at finite d: they are B (B + 1)/2 of the B d numbers
    that the limit takes for unknown, and the error is a root."""
    return (point.B + 1) / (4 * point.d)


def judge_limit(
    m: Measured,
    bound: BoundValue,
    allowance: float = 0.05,
    baseline: float = BASELINE,
    *,
    reached: bool = False,
    **where: str,
) -> LimitResult:
    """LIMIT, of the root mean square as d and m grow, holds iff the whole interval of the measured one lies at or above
    ``1 - allowance`` times it; fails iff wholly below. ``reached``: asked from both sides, of the limit of message passing.
    A limit of zero is vacuous: nothing is below it, and what is rounding has no share of it."""
    value = math.nan if bound.value is None else bound.value
    unstated = bound.why or "not stated" if bound.value is None else "vacuous, limit 0" if value <= 0 else ""
    nothing = m.learns_nothing(baseline) if value < baseline or not reached else ""
    top = (1 + allowance) * value if reached else math.inf
    verdict = settled(within(m.low, m.high, (1 - allowance) * value, top), m.failed, unstated, nothing)
    nothing = unstated or nothing
    note = noted(verdict, m.n, m.failed, nothing)
    interval = f" [{m.low:.4f}, {m.high:.4f}]" if m.n else ""
    name = "limit of message passing" if reached else "limit"
    allowed = "" if bound.value is None else f" {'±' if reached else '−'} {allowance:.1%}"
    text = f"{m.words}{interval}, {theory_words(name, bound.value)}{allowed}: {note}"
    return LimitResult(
        kind=Kind.LIMIT, **place(where), verdict=verdict, text=text, n=m.n, failed=m.failed, why=nothing, limit=value,
        measured=m.rms, low=m.low, high=m.high, allowance=allowance, reached=reached,
    )  # fmt: skip


def passing(bound: BoundValue) -> BoundValue:
    """What the statement says of message passing."""
    return bound if bound.value is None else replace(bound, value=bound.details["passing"])


def _limit(check: LimitCheck, groups: Groups, conduct: Conduct) -> Iterator[Result]:
    for point, records in groups.items():
        bound = corrupted(bound_at(point, Kind.LIMIT), conduct.factor)
        allowance = check.tolerance + finite(point)
        yield judge_limit(
            measured(records, conduct.level),
            bound,
            allowance,
            conduct.baseline,
            reached=False,
            **named(point),
        )


def _reached(check: ReachedCheck, groups: Groups, conduct: Conduct) -> Iterator[Result]:
    for point, records in groups.items():
        if isinstance(point.attack, MessagePassing):
            bound = corrupted(passing(bound_at(point, Kind.LIMIT)), conduct.factor)
            allowance = check.tolerance + finite(point)
            yield judge_limit(
                measured(records, conduct.level),
                bound,
                allowance,
                conduct.baseline,
                reached=True,
                **named(point),
            )


class LimitJudge(Judge):
    """A search tests one side: twice the significance in a two-sided interval."""

    default = LimitCheck()
    rules: ClassVar[Mapping[type[Check], Rule]] = {LimitCheck: _limit, ReachedCheck: _reached}
    style: ClassVar[Mapping[str, Any]] = {
        "linestyle": (0, (6, 2)), "linewidth": 1.2, "marker": "D", "markersize": 4, "fillstyle": "none",
    }  # fmt: skip
    costly = True
    tolerance = 0.05

    def test(self, claim: Claim, samples: Sequence[Sample], significance: float) -> LimitResult:
        return judge_limit(samples[0].measured(1 - 2 * significance), claim.stated, claim.tolerance)
