"""FLOOR: the limit of the measured error as m grows."""

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
from verify.measure.series import largest


@dataclass(frozen=True)
class FloorCheck(Check):
    """The root mean square at the largest m of each series, less the random part that m leaves, within ``tolerance`` of
    the floor."""

    kind: ClassVar[Kind] = Kind.FLOOR
    tolerance: float = 0.05


@dataclass(frozen=True, kw_only=True)
class FloorResult(Result):
    """FLOOR: measured root mean square, the random part in it as predicted, what is left as m grows with its interval,
    and the floor."""

    floor: float
    measured: float
    random: float
    limit: float
    low: float
    high: float
    tolerance: float


def judge_floor(
    m: Measured,
    bound: BoundValue,
    random: float,
    tolerance: float = 0.05,
    baseline: float = BASELINE,
    **where: str,
) -> FloorResult:
    """FLOOR, a limit, against a measurement at one width. ``random``: the part of the root mean square that still falls
    with m, as PREDICTED has it (infinite: not known).

    Where random^2 is at most ``2 tolerance`` of floor^2, taking it out moves the result by no more than the tolerance: the
    floor then holds iff the whole interval of sqrt(rms^2 - random^2) lies within floor (1 ± tolerance), and fails iff wholly
    outside. What is taken out is the random part as predicted, so that the verdict presupposes PREDICTED: where that is
    at its largest and the true one has twice its variance, the result is off by about the tolerance. Where it is larger,
    an error above the floor says nothing; one wholly below ``floor (1 - tolerance)`` still refutes it: a random part adds to
    the mean square, though a bias of order 1/m along the floor may take from it. A floor of zero is vacuous.
    """
    value = math.nan if bound.value is None else bound.value
    unstated = (
        bound.why or "not stated"
        if bound.value is None
        else "vacuous, floor 0: no error lies below it"
        if value <= 0
        else ""
    )
    told = random <= math.sqrt(2 * tolerance) * value
    limit, low, high = (_without(x, random) for x in (m.rms, m.low, m.high)) if told else (m.rms, 0.0, m.high)
    verdict = within(low, high, (1 - tolerance) * value, (1 + tolerance) * value)
    nothing = m.learns_nothing(baseline)
    verdict = settled(verdict, m.failed, unstated, nothing)
    note = noted(verdict, m.n, m.failed, unstated or nothing)
    left = f", random part {random:.4f}" if math.isfinite(random) else ", random part unknown"
    if not (told or unstated or nothing or verdict == "fails"):
        note += "; the random part hides the limit, larger m would show it"
    found = f"{left}, limit {limit:.4f} [{low:.4f}, {high:.4f}]" if m.n and bound.value is not None else ""
    floor = theory_words("floor", bound.value) + ("" if bound.value is None else f" ± {tolerance:.0%}")
    text = f"{m.words}{found}, {floor}: {note}"
    return FloorResult(
        kind=Kind.FLOOR, **place(where), verdict=verdict, text=text, n=m.n, failed=m.failed, why=unstated or nothing,
        floor=value, measured=m.rms, random=random, limit=limit, low=low, high=high, tolerance=tolerance,
    )  # fmt: skip


def _without(rms: float, random: float) -> float:
    return math.sqrt(max(0.0, rms**2 - random**2))


def random_part(predicted: BoundValue) -> float:
    """What of a prediction falls with m; infinite where nothing is predicted."""
    if predicted.value is None:
        return math.inf
    return _without(predicted.value, predicted.details.get("floor", 0.0))


def _floor(check: FloorCheck, groups: Groups, conduct: Conduct) -> Iterator[Result]:
    for point in largest(groups):
        floor = bound_at(point, Kind.FLOOR)
        random = random_part(bound_at(point, Kind.PREDICTED)) if floor.value else math.inf
        found = measured(groups[point], conduct.level)
        bound = corrupted(floor, conduct.factor)
        yield judge_floor(found, bound, random, check.tolerance, conduct.baseline, **named(point))


class FloorJudge(Judge):
    """A search tests one side alone: the error at the largest widths is not below the floor."""

    default = FloorCheck()
    rules: ClassVar[Mapping[type[Check], Rule]] = {FloorCheck: _floor}
    style: ClassVar[Mapping[str, Any]] = {"linestyle": (0, (8, 3)), "linewidth": 1.0}
    widths = (32_000, 32_000)  # a limit

    def test(self, claim: Claim, samples: Sequence[Sample], significance: float) -> FloorResult:
        return judge_floor(samples[0].measured(1 - 2 * significance), claim.stated, math.inf, 0.0)
