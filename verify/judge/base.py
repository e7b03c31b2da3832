"""What every judge needs: bounds at points, errors of records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeAlias

from bounds import BoundValue, Evaluation, Kind, evaluate
from verify.judge.statistics import BASELINE, LEVEL, Measured
from verify.measure.outcome import Outcome, TrialOutcome
from verify.measure.point import Point
from verify.measure.series import label

Groups: TypeAlias = Mapping[Point, Sequence[TrialOutcome]]


@dataclass(frozen=True)
class Conduct:
    """How to judge: confidence level, baseline of the vacuity guard, and the deliberate corruption of a
    negative control."""

    level: float = LEVEL
    baseline: float = BASELINE
    factor: float = 1.0
    exponent_shift: float = 0.0


def errors_of(records: Iterable[Outcome], part: str = "error") -> list[float]:
    """R of every trial that returned a result, or (``part`` "span") the features' distance from the span."""
    found = [r.rmse if part == "error" else r.rmse_span for r in records]
    return [e for e in found if e is not None]


def measured(records: Iterable[Outcome], level: float = LEVEL, part: str = "error") -> Measured:
    """Root mean square of these records' errors, failures counted beside it."""
    records = list(records)
    return Measured.of(errors_of(records, part), sum(r.failed for r in records), level)


def bound_at(point: Point, kind: Kind, delta: float = 0.05) -> BoundValue:
    """The statement of a kind at a point."""
    return bounds_at(point, delta)[kind]


@lru_cache(maxsize=4096)
def bounds_at(point: Point, delta: float = 0.05) -> Evaluation:
    """Every kind of statement at a point."""
    return evaluate(point.defense, point.setting(), point.attack, delta)


def corrupted(bound: BoundValue, factor: float) -> BoundValue:
    """Negative control: the same statement with its value multiplied by ``factor``, and its floor with it."""
    if bound.value is None:
        return bound
    details = {k: v * factor if k == "floor" else v for k, v in bound.details.items()}
    return replace(bound, value=bound.value * factor, details=details)


def _named(point: Point, without: Sequence[str] = ()) -> dict[str, Any]:
    return {"experiment": point.experiment, "series": label(point, without)}
