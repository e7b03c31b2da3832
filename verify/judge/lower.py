"""LOWER: the measured error is not below it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from bounds import BoundValue, Kind
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


@dataclass(frozen=True)
class LowerCheck(Check):
    """The mean of R^2 is not below the square of the lower bound."""

    kind: ClassVar[Kind] = Kind.LOWER


@dataclass(frozen=True, kw_only=True)
class LowerResult(Result):
    """LOWER: measured root mean square, its interval, and the bound on it."""

    bound: float
    measured: float
    low: float
    high: float


def judge_lower(m: Measured, bound: BoundValue, baseline: float = BASELINE, **where: str) -> LowerResult:
    """LOWER, a bound on the root mean square, holds iff the whole interval of the measured one lies at or
    above it; fails iff wholly below. A bound of zero is vacuous."""
    value = math.nan if bound.value is None else bound.value
    unstated = bound.why or "not stated" if bound.value is None else "vacuous, bound 0" if value <= 0 else ""
    nothing = m.learns_nothing(baseline)
    verdict = settled(within(m.low, m.high, value, math.inf), m.failed, unstated, nothing)
    nothing = unstated or nothing
    note = noted(verdict, m.n, m.failed, nothing)
    interval = f" [{m.low:.4f}, {m.high:.4f}]" if m.n else ""
    text = f"{m.words}{interval}, {theory_words('bound', bound.value)}: {note}"
    return LowerResult(
        kind=Kind.LOWER,
        **place(where),
        verdict=verdict,
        text=text,
        n=m.n,
        failed=m.failed,
        why=nothing,
        bound=value,
        measured=m.rms,
        low=m.low,
        high=m.high,
    )


def _lower(check: LowerCheck, groups: Groups, conduct: Conduct) -> Iterator[Result]:
    for point, records in groups.items():
        bound = corrupted(bound_at(point, Kind.LOWER), conduct.factor)
        yield judge_lower(measured(records, conduct.level), bound, conduct.baseline, **named(point))


class LowerJudge(Judge):
    """A search tests one side: twice the significance in a two-sided interval."""

    default = LowerCheck()
    rules: ClassVar[Mapping[type[Check], Rule]] = {LowerCheck: _lower}
    style: ClassVar[Mapping[str, Any]] = {
        "linestyle": ":", "linewidth": 1.4, "marker": "^", "markersize": 5, "fillstyle": "none",
    }  # fmt: skip

    def test(self, claim: Claim, samples: Sequence[Sample], significance: float) -> LowerResult:
        return judge_lower(samples[0].measured(1 - 2 * significance), claim.stated)
