"""Theory against records: groups records by point, evaluates the bounds there, and applies the rule of each
kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any, TypeAlias

import sympy as sp

from bounds import SYMBOLS, BoundValue, Evaluation, Kind, UnsupportedBound, checks, evaluate, expression
from verify import rules
from verify.experiment import (
    Check,
    Experiment,
    ImprovementCheck,
    LowerCheck,
    Point,
    PredictedCheck,
    RateCheck,
    UpperCheck,
    alternating,
    point_key,
)
from verify.record import Record
from verify.rules import BASELINE, LEVEL, Measured, Result

Groups: TypeAlias = Mapping[Point, Sequence[Record]]

#: What is asked of records when only a kind is named.
DEFAULT_CHECKS: Mapping[Kind, Check] = MappingProxyType(
    {
        Kind.PREDICTED: PredictedCheck(largest_m_only=False),
        Kind.RATE: RateCheck("m"),
        Kind.UPPER: UpperCheck(),
        Kind.LOWER: LowerCheck(),
    }
)


@dataclass(frozen=True)
class Conduct:
    """How to judge: confidence level, baseline of the vacuity guard, and the deliberate corruption of a
    negative control."""

    level: float = LEVEL
    baseline: float = BASELINE
    factor: float = 1.0
    exponent_shift: float = 0.0


def compare(
    records: Iterable[Record],
    experiment: Experiment | None = None,
    kind: Kind | str | None = None,
    *,
    check: Check | None = None,
    level: float = LEVEL,
    baseline: float = BASELINE,
    corrupt_factor: float = 1.0,
    corrupt_exponent: float = 0.0,
) -> list[Result]:
    """Judge records: by the rules of ``experiment``, or by one ``check``, or by a ``kind`` with that kind's
    default check.

    With an experiment, its points decide what is to be there: a point without records is "inconclusive",
    never left out, and records of other points are refused. level: of all intervals; baseline: see
    ``rules.BASELINE``. corrupt_factor, corrupt_exponent: negative control; every bound is multiplied by the
    one, every stated exponent raised by the other, and a sound comparison must then fail.

    Raises ``ValueError`` if none or several of the three are given, for a kind that has no rule yet, on
    values out of range, and for records that contradict their own points.
    """
    if not 0 < checks.real("level", level) < 1:
        raise ValueError(f"level must lie strictly between 0 and 1; got {level}")
    named = sum(way is not None for way in (check, kind))
    if named > 1 or (named == 0 and experiment is None):
        raise ValueError(
            "compare needs an experiment, or one of check and kind (with or without an experiment)"
        )
    conduct = Conduct(level, checks.real("baseline", baseline, 0.0), corrupt_factor, corrupt_exponent)
    asked: tuple[Check, ...]
    if kind is not None:
        asked = (_default_check(kind),)
    elif check is not None:
        asked = (check,)
    else:
        assert experiment is not None
        asked = experiment.rules
    groups = group_records(records, experiment)
    return [result for one in asked for result in _RULES[type(one)](one, groups, conduct)]


def _default_check(kind: Kind | str) -> Check:
    wanted = Kind(checks.choice("kind", str(kind), tuple(Kind)))
    if wanted not in DEFAULT_CHECKS:
        raise ValueError(
            f"kind must be one of {', '.join(DEFAULT_CHECKS)}: there is no rule yet for {wanted}"
        )
    return DEFAULT_CHECKS[wanted]


def group_records(
    records: Iterable[Record], experiment: Experiment | None = None
) -> dict[Point, list[Record]]:
    """Records by point; with an experiment, every one of its points is there and no other is allowed
    (``ValueError``)."""
    groups: dict[Point, list[Record]] = {p: [] for p in experiment.points} if experiment else {}
    seen: set[tuple[str, int, int]] = set()
    for record in records:
        if point_key(record.point) != record.point_key:
            raise ValueError(
                f"record of trial {record.trial}: its point does not have its key {record.point_key}"
            )
        identity = (record.point_key, record.trial, record.seeds["experiment"])
        if identity in seen:
            raise ValueError(
                f"records must be distinct; trial {record.trial} at point {record.point_key} is there twice"
            )
        seen.add(identity)
        point = Point.from_dict(record.point)
        if experiment is not None and point not in groups:
            raise ValueError(
                f"records must belong to experiment {experiment.name!r}; got a trial at {label(point)}"
            )
        groups.setdefault(point, []).append(record)
    return groups


def errors_of(records: Iterable[Record], part: str = "error") -> list[float]:
    """R of every trial that returned a result, or (``part`` "span") the features' distance from the span."""
    found = [r.rmse if part == "error" else r.rmse_span for r in records]
    return [e for e in found if e is not None]


def bound_of(stated: BoundValue, part: str) -> BoundValue:
    """An UPPER as it stands, or (``part`` "span") what its details say of the span."""
    return stated if part == "error" else replace(stated, value=stated.details.get("span"), trivial=False)


def measured(records: Iterable[Record], level: float = LEVEL, part: str = "error") -> Measured:
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


def rate_exponent(rate: sp.Expr, variable: sp.Symbol) -> float:
    """The exponent of ``variable`` in a rate: the limit of dlog(rate)/dlog(variable) as it grows without
    bound."""
    rate = rate.replace(sp.Max, lambda *terms: _larger(terms, variable))
    return float(sp.limit(sp.simplify(variable * sp.diff(rate, variable) / rate), variable, sp.oo))


def _larger(terms: Sequence[sp.Expr], variable: sp.Symbol) -> sp.Expr:
    """Max of these for large ``variable``: the one that grows without bound, where there is exactly one."""
    growing = [t for t in terms if sp.limit(t, variable, sp.oo) == sp.oo]
    return growing[0] if len(growing) == 1 else sp.Max(*terms)


def label(point: Point, without: Sequence[str] = ()) -> str:
    """A point in words, less some parts."""
    return ", ".join(text for part, text in point.describe().items() if text and part not in without)


def series(points: Iterable[Point], variable: str) -> list[list[Point]]:
    """Points that differ in ``variable`` alone, together; each series sorted by it.

    variable: "m", "d", "sigma", "moments", "B" (alternating labels grow with it), or "strength" (the defense's own
    parameter; where its points come with batches of several sizes, one for each value, as more clients bring more features,
    these stay together too).
    """
    if variable != "strength":
        return _grouped(points, (variable,))
    found = []
    for together in _grouped(points, ("strength", "B")):
        distinct = len({value_of(p, "strength") for p in together}) == len(together)
        found += [together] if distinct else _grouped(together, ("strength",))
    return found


def _grouped(points: Iterable[Point], variables: Sequence[str]) -> list[list[Point]]:
    """Points that differ in these alone, together, sorted by the first."""
    together: dict[str, list[Point]] = {}
    for point in points:
        raw = point.to_dict()
        for variable in variables:
            part, name = _place(point, variable)
            (raw[part] if part else raw)[name] = None
            if variable == "B" and point.labels == alternating(point.B):
                raw["labels"] = None
        together.setdefault(point_key(raw), []).append(point)
    return [sorted(s, key=lambda p: value_of(p, variables[0])) for s in together.values()]


def _place(point: Point, variable: str) -> tuple[str, str]:
    """The part of a point ("" for itself) that keeps ``variable``, and its name there."""
    if variable == "strength":
        parameter = point.defense.strength_parameter()
        return "defense", parameter.name if parameter else variable
    return {"sigma": "defense", "moments": "attack"}.get(variable, ""), variable


def value_of(point: Point, variable: str) -> Any:
    """The value of ``variable`` (as in ``series``) at a point. ``ValueError`` if its defense has no such parameter."""
    part, name = _place(point, variable)
    owner = getattr(point, part) if part else point
    if not hasattr(owner, name):
        raise ValueError(
            f"variable {variable!r} must be a parameter of the defense; {point.defense!r} has none"
        )
    return getattr(owner, name)


def largest(points: Iterable[Point]) -> list[Point]:
    """The point of largest m in each series."""
    return [s[-1] for s in series(points, "m")]


# --- how each check is applied to grouped records -----------------------------------------------------------


def _predicted(check: PredictedCheck, groups: Groups, conduct: Conduct) -> Iterator[Result]:
    for point in largest(groups) if check.largest_m_only else groups:
        bound = corrupted(bound_at(point, Kind.PREDICTED), conduct.factor)
        found = measured(groups[point], conduct.level)
        yield rules.judge_predicted(found, bound, check.tolerance, conduct.baseline, **_named(point))


def _improvement(check: ImprovementCheck, groups: Groups, conduct: Conduct) -> Iterator[Result]:
    pairs = [pair for pair in series(largest(groups), "moments") if len(pair) == 2]
    if not pairs:
        raise ValueError(
            "an ImprovementCheck needs points that differ in plain and residualized moments alone; got none"
        )
    for plain, better in pairs:
        above, below = (bound_at(p, Kind.PREDICTED).value for p in (plain, better))
        yield rules.judge_improvement(
            measured(groups[plain], conduct.level),
            measured(groups[better], conduct.level),
            conduct.factor * above / below if above and below else math.nan,
            check.tolerance,
            conduct.level,
            conduct.baseline,
            **_named(plain, ("attack",)),
        )


def _rate(check: RateCheck, groups: Groups, conduct: Conduct) -> Iterator[Result]:
    hidden = ("defense",) if check.variable == "sigma" else (check.variable,)
    for points in series(groups, check.variable):
        exponent, unproved = math.nan, ""
        try:
            rate = expression(points[0].defense, Kind.RATE)
            exponent = rate_exponent(rate, SYMBOLS[check.variable]) + conduct.exponent_shift
        except UnsupportedBound as reason:
            unproved = str(reason)
        yield rules.judge_rate(
            {float(value_of(p, check.variable)): measured(groups[p], conduct.level) for p in points},
            exponent,
            check.variable,
            check.tolerance,
            conduct.level,
            conduct.baseline,
            unproved,
            **_named(points[0], hidden),
        )


def _upper(check: UpperCheck, groups: Groups, conduct: Conduct) -> Iterator[Result]:
    for point, records in groups.items():
        stated = bound_at(point, Kind.UPPER, check.delta)
        yield rules.judge_upper(
            errors_of(records, check.part),
            sum(r.failed for r in records),
            corrupted(bound_of(stated, check.part), conduct.factor),
            check.delta,
            conduct.level,
            conduct.baseline,
            check.part,
            **_named(point),
        )


def _lower(check: LowerCheck, groups: Groups, conduct: Conduct) -> Iterator[Result]:
    for point, records in groups.items():
        bound = corrupted(bound_at(point, Kind.LOWER), conduct.factor)
        yield rules.judge_lower(measured(records, conduct.level), bound, conduct.baseline, **_named(point))


def _named(point: Point, without: Sequence[str] = ()) -> dict[str, Any]:
    return {"experiment": point.experiment, "series": label(point, without)}


_RULES: Mapping[type, Callable[[Any, Groups, Conduct], Iterator[Result]]] = MappingProxyType(
    {
        PredictedCheck: _predicted,
        ImprovementCheck: _improvement,
        RateCheck: _rate,
        UpperCheck: _upper,
        LowerCheck: _lower,
    }
)
