"""UPPER: violations against the allowed probability."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from scipy import stats

from bounds import (
    BoundValue,
    Kind,
    checks,
)
from verify.judge.base import Conduct, Groups, _named, bound_at, corrupted, errors_of
from verify.judge.statistics import BASELINE, LEVEL, Measured, Verdict
from verify.judge.verdict import Result, _note, _settle, _where


@dataclass(frozen=True)
class UpperCheck:
    """R exceeds the upper bound in a fraction of at most ``delta`` of all trials (a failed trial counts as
    exceeding). ``part`` "span": the same for the features' distance from the span, bounded in the details."""

    delta: float = 0.05
    part: str = "error"

    def __post_init__(self) -> None:
        checks.choice("part", self.part, ("error", "span"))
        if not 0 < checks.real("delta", self.delta) < 1:
            raise ValueError(f"delta must lie strictly between 0 and 1; got {self.delta}")


@dataclass(frozen=True)
class UpperResult(Result):
    """UPPER: how many trials exceeded the bound, against the allowed probability ``delta``."""

    bound: float
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


def bound_of(stated: BoundValue, part: str) -> BoundValue:
    """An UPPER as it stands, or (``part`` "span") what its details say of the span."""
    return stated if part == "error" else replace(stated, value=stated.details.get("span"), trivial=False)


def _upper(check: UpperCheck, groups: Groups, conduct: Conduct) -> Iterator[Result]:
    for point, records in groups.items():
        stated = bound_at(point, Kind.UPPER, check.delta)
        yield judge_upper(
            errors_of(records, check.part),
            sum(r.failed for r in records),
            corrupted(bound_of(stated, check.part), conduct.factor),
            check.delta,
            conduct.level,
            conduct.baseline,
            check.part,
            **_named(point),
        )
