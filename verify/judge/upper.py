"""UPPER: violations against the allowed probability."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import scipy

from bounds import BoundValue, Kind, checks
from verify.judge.base import Claim, Conduct, Groups, Judge, Rule, Sample, bound_at, corrupted, named
from verify.judge.statistics import BASELINE, LEVEL, Measured
from verify.judge.verdict import Result, Verdict, noted, place, settled, theory_words
from verify.measure.check import Check


@dataclass(frozen=True)
class UpperCheck(Check):
    """R exceeds the upper bound in a fraction of at most ``delta`` of all trials (a failed trial counts as
    exceeding). ``part`` "span": the same for the features' distance from the span, bounded in the details."""

    kind: ClassVar[Kind] = Kind.UPPER
    delta: float = 0.05
    part: str = "error"

    def __post_init__(self) -> None:
        checks.choice("part", self.part, ("error", "span"))
        checks.inside("delta", self.delta)


@dataclass(frozen=True, kw_only=True)
class UpperResult(Result):
    """UPPER: how many trials exceeded the bound, against the allowed probability ``delta``, and their root mean square."""

    bound: float
    rms: float
    violations: int
    delta: float
    p_value: float


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
    # The binomial's tail as a function of its probability is the beta distribution's.
    p_value = float(scipy.special.betainc(violations, n - violations + 1, delta)) if violations else 1.0
    limit = float(scipy.special.betaincinv(violations + 1, n - violations, level)) if violations < n else 1.0
    unstated = (
        bound.why or "not stated"
        if bound.value is None or bound.trivial
        else f"vacuous, bound {value:.3g} >= 1"
        if value >= 1
        else ""
    )
    nothing = Measured.of(errors, failed).learns_nothing(baseline)
    verdict: Verdict = "fails" if p_value < 1 - level else "holds" if limit <= delta else "inconclusive"
    verdict = settled(verdict, 0, unstated, nothing)  # failed trials are violations already
    nothing = unstated or nothing
    rms = math.sqrt(sum(e * e for e in errors) / len(errors)) if errors else math.nan
    over = f" = {value / rms:.2f} rms" if rms > 0 else ""
    counted = f"{violations} of {n} above {value:.4f}{over}, allowed {delta:g}"
    text = (
        f"{part}: {theory_words('bound', bound.value) if bound.value is None else counted}: "
        f"{noted(verdict, n, failed, nothing)}"
    )
    return UpperResult(
        kind=Kind.UPPER,
        **place(where),
        verdict=verdict,
        text=text,
        n=n,
        failed=failed,
        why=nothing,
        bound=value,
        rms=rms,
        violations=violations,
        delta=delta,
        p_value=p_value,
    )


def bound_of(whole: BoundValue, part: str) -> BoundValue:
    """An UPPER as it stands, or (``part`` "span") what its details say of the span."""
    if part == "error":
        return whole
    span = whole.details.get("span")
    silent = span is None and whole.value is not None and not whole.trivial
    return replace(whole, value=span, trivial=False, why="not stated of the span" if silent else whole.why)


def _upper(check: UpperCheck, groups: Groups, conduct: Conduct) -> Iterator[Result]:
    for point, records in groups.items():
        bound = bound_of(bound_at(point, Kind.UPPER, check.delta), check.part)
        found = Sample.of(records, check.part)
        yield judge_upper(
            found.errors,
            found.failed,
            corrupted(bound, conduct.factor),
            check.delta,
            conduct.level,
            conduct.baseline,
            check.part,
            **named(point),
        )


class UpperJudge(Judge):
    """A failed trial is a violation."""

    default = UpperCheck()
    rules: ClassVar[Mapping[type[Check], Rule]] = {UpperCheck: _upper}
    style: ClassVar[Mapping[str, Any]] = {
        "linestyle": "-.", "linewidth": 1.2, "marker": "v", "markersize": 5, "fillstyle": "none",
    }  # fmt: skip
    costly = True
    options = ("delta",)

    def test(self, claim: Claim, samples: Sequence[Sample], significance: float) -> UpperResult:
        (found,) = samples
        return judge_upper(found.errors, found.failed, claim.stated, claim.delta, 1 - significance)

    def slack(self, claim: Claim, samples: Sequence[Sample], verdict: Result) -> float:
        """Bound over the 1 - delta quantile of R."""
        found = [*samples[0].errors, *[math.inf] * samples[0].failed]
        quantile = float(np.quantile(found, 1 - claim.delta, method="inverted_cdf"))
        return claim.value / quantile if quantile else math.inf

    def vacuous(self, values: Sequence[float]) -> bool:
        """Guessing zero scores 1."""
        return values[0] >= 1
