"""What every judge needs: bounds at points, errors of trials, and what a judge is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar, TypeAlias

from bounds import BoundValue, Evaluation, Kind, evaluate
from verify.judge.statistics import BASELINE, LEVEL, Measured
from verify.judge.verdict import Result
from verify.measure.check import Check
from verify.measure.outcome import Outcome, TrialOutcome
from verify.measure.point import Point
from verify.measure.series import label

#: What each attack gave at each point; every point has one attack.
Groups: TypeAlias = Mapping[Point, Sequence[TrialOutcome]]


@dataclass(frozen=True)
class Conduct:
    """How to judge: confidence level, baseline of the vacuity guard, and the deliberate corruption of a
    negative control."""

    level: float = LEVEL
    baseline: float = BASELINE
    factor: float = 1.0
    exponent_shift: float = 0.0


#: How a check is applied to grouped records. The first argument is a check of the type that it is listed for.
Rule: TypeAlias = Callable[[Any, Groups, Conduct], Iterator[Result]]


@dataclass(frozen=True)
class Sample:
    """The errors of the trials at one point, and how many failed beside them."""

    errors: tuple[float, ...]
    failed: int

    @staticmethod
    def of(outcomes: Iterable[Outcome], part: str = "error") -> Sample:
        outcomes = tuple(outcomes)
        return Sample(tuple(errors_of(outcomes, part)), sum(o.failed for o in outcomes))

    def measured(self, level: float = LEVEL) -> Measured:
        """Root mean square and its interval of confidence ``level``."""
        return Measured.of(self.errors, self.failed, level)


@dataclass(frozen=True)
class Claim:
    """What a bound says in one setting, to be tested by trials of its own.

    value: its number (RATE: its exponent). delta: allowed fraction of violations. tolerance: of a ratio or an exponent.
    sizes: the values of ``variable`` at which trials are made, where it speaks of several. guarded: our own prediction has
    been asked whether first order applies, so the rule need not guess it from ``value``.
    """

    value: float
    delta: float = 0.05
    tolerance: float = 0.0
    variable: str = "m"
    sizes: tuple[float, ...] = ()
    guarded: bool = False

    @property
    def stated(self) -> BoundValue:
        return BoundValue(self.value, "my_bound")


class Judge(ABC):
    """All that depends on the kind of a statement: what is asked of records by default, how each check is applied to
    them, how the statement is drawn, and how a search for counterexamples tests it."""

    default: ClassVar[Check]  #: asked of records where only the kind is named
    rules: ClassVar[Mapping[type[Check], Rule]]  #: every check of this kind, and how it is applied
    #: The line that shows it, in matplotlib's words; empty: it has no height at which to be drawn.
    style: ClassVar[Mapping[str, Any]] = {}
    costly: ClassVar[bool] = False  #: takes seconds at every point: drawn only where a check asks for it

    #: Options of a search that this kind has a use for, beside those that all have.
    options: ClassVar[tuple[str, ...]] = ()
    tolerance: ClassVar[float] = 0.0  #: of a search, unless told otherwise
    widths: ClassVar[tuple[int, int]] = (1_000, 32_000)  #: where a search looks, unless told otherwise
    ladder: ClassVar[bool] = False  #: speaks of several sizes at once
    first_order: ClassVar[bool] = False  #: tested only where first order applies
    reach: ClassVar[float] = math.inf  #: ... which a value above this denies where nothing is predicted

    def judge(self, check: Check, groups: Groups, conduct: Conduct) -> Iterator[Result]:
        """The verdicts on grouped records. ``TypeError`` for a check of another kind."""
        if type(check) not in self.rules:
            known = ", ".join(c.__name__ for c in self.rules)
            raise TypeError(f"check must be one of {known} for {check.kind}; got {check!r}")
        return self.rules[type(check)](check, groups, conduct)

    @abstractmethod
    def test(self, claim: Claim, samples: Sequence[Sample], significance: float) -> Result:
        """The verdict on a claim from one sample (one for each of ``claim.sizes``): a true claim "fails" with probability
        at most ``significance``."""

    def slack(self, claim: Claim, samples: Sequence[Sample], verdict: Result) -> float:
        """How much room the claim leaves: measured over claimed root mean square, unless told otherwise."""
        return samples[0].measured().rms / claim.value

    def statistic(self, claim: Claim, samples: Sequence[Sample]) -> tuple[float, float, float]:
        """What was measured of the quantity that the claim is about, and the ends of its interval."""
        found = samples[0].measured()
        return found.rms, found.low, found.high

    def claimed(self, values: Sequence[float], sizes: Sequence[float]) -> float:
        """The number claimed, from the bound's values at ``sizes``."""
        return values[0]

    def vacuous(self, values: Sequence[float]) -> bool:
        """Whether these values exclude nothing."""
        return min(values) <= 0


def errors_of(outcomes: Iterable[Outcome], part: str = "error") -> list[float]:
    """R of every trial that returned a result, or (``part`` "span") the features' distance from the span."""
    found = [r.rmse if part == "error" else r.rmse_span for r in outcomes]
    return [e for e in found if e is not None]


def measured(outcomes: Iterable[Outcome], level: float = LEVEL, part: str = "error") -> Measured:
    """Root mean square of these errors, failures counted beside it."""
    return Sample.of(outcomes, part).measured(level)


def bound_at(point: Point, kind: Kind, delta: float = 0.05) -> BoundValue:
    """The statement of a kind at a point."""
    return bounds_at(point, delta)[kind]


def bounds_at(point: Point, delta: float = 0.05) -> Evaluation:
    """Every kind of statement at a point. Computed once, whatever experiment and figure ask."""
    return _bounds_at(replace(point, experiment=""), delta)


@lru_cache(maxsize=4096)
def _bounds_at(point: Point, delta: float) -> Evaluation:
    return evaluate(point.defense, point.setting(), point.attack, delta)


def corrupted(bound: BoundValue, factor: float) -> BoundValue:
    """Negative control: the same statement with its value multiplied by ``factor``, and its floor with it."""
    if bound.value is None:
        return bound
    details = {k: v * factor if k == "floor" else v for k, v in bound.details.items()}
    return replace(bound, value=bound.value * factor, details=details)


def named(point: Point, without: Sequence[str] = ()) -> dict[str, str]:
    """Where a result belongs: its experiment, defense and attack, and its points in words."""
    return {
        "experiment": point.experiment,
        "defense": point.defense.name,
        "attack": point.attack.called,
        "series": label(point, without),
    }
