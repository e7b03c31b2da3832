"""LOWER: the measured error is not below it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from bounds import (
    BoundValue,
    Kind,
)
from verify.judge.base import Conduct, Groups, _named, bound_at, corrupted, measured
from verify.judge.statistics import BASELINE, Measured, _within
from verify.judge.verdict import Result, _note, _settle, _where


@dataclass(frozen=True)
class LowerCheck:
    """The mean of R^2 is not below the square of the lower bound."""


@dataclass(frozen=True)
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
    unstated = bound.why if bound.value is None else "vacuous, bound 0" if value <= 0 else ""
    nothing = m.learns_nothing(baseline)
    verdict = _settle(_within(m.low, m.high, value, math.inf), m.failed, unstated, nothing)
    nothing = unstated or nothing
    note = _note(verdict, m.n, m.failed, nothing)
    text = f"rms {m.rms:.4f} [{m.low:.4f}, {m.high:.4f}], bound {value:.4f}: {note}"
    return LowerResult(Kind.LOWER, *_where(where), verdict, text, m.n, m.failed, value, m.rms, m.low, m.high)


def _lower(check: LowerCheck, groups: Groups, conduct: Conduct) -> Iterator[Result]:
    for point, records in groups.items():
        bound = corrupted(bound_at(point, Kind.LOWER), conduct.factor)
        yield judge_lower(measured(records, conduct.level), bound, conduct.baseline, **_named(point))
