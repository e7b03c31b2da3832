"""Points that differ in one variable alone, and points in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

from bounds import Param
from bounds.setting import alternating
from verify.measure.point import Point, point_key


def label(point: Point, without: Sequence[str] = ()) -> str:
    """A point in words, less some parts."""
    return ", ".join(text for part, text in point.describe().items() if text and part not in without)


def series(points: Iterable[Point], variable: str) -> list[list[Point]]:
    """Points that differ in ``variable`` alone, together; each series sorted by it.

    variable: "m", "d", "B" (alternating labels grow with it), a parameter of the defense, an option of the attack, or
    "strength" (the defense's own parameter; where its points come with batches of several sizes, one for each value, as
    more clients bring more features, these stay together too).
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
        together.setdefault(point_key(without(point, variables)), []).append(point)
    return [sorted(s, key=lambda p: value_of(p, variables[0])) for s in together.values()]


def without(point: Point, variables: Iterable[str]) -> dict[str, Any]:
    """The point's JSON form with these variables (as in ``series``, or fields of a point) left open."""
    raw = point.to_dict()
    for variable in variables:
        part, name = _place(point, variable)
        if isinstance(raw[part] if part else raw, dict):
            (raw[part] if part else raw)[name] = None
        if variable == "B" and point.labels == alternating(point.B):
            raw["labels"] = None
    return raw


def _place(point: Point, variable: str) -> tuple[str, str]:
    """The part of a point ("" for itself) that keeps ``variable``, and its name there."""
    parameter = parameter_of(point, variable)
    if parameter is not None:
        return "defense", parameter.name
    return ("attack" if variable in {f.name for f in fields(point.attack)} else ""), variable


def parameter_of(point: Point, variable: str) -> Param | None:
    """The parameter of the point's defense that ``variable`` (as in ``series``) names; None where it names none."""
    if variable == "strength":
        return point.defense.strength_parameter()
    return next((p for p in point.defense.parameters() if p.name == variable), None)


def has_value(point: Point, variable: str) -> bool:
    """Whether ``variable`` (as in ``series``) has a value at a point."""
    part, name = _place(point, variable)
    return hasattr(getattr(point, part) if part else point, name)


def value_of(point: Point, variable: str) -> Any:
    """The value of ``variable`` (as in ``series``) at a point. ``ValueError`` if neither its defense nor its attack has
    it."""
    if not has_value(point, variable):
        raise ValueError(
            f"variable {variable!r} must be a parameter of the defense or an option of the attack; "
            f"{point.defense!r} and {point.attack!r} have none"
        )
    part, name = _place(point, variable)
    return getattr(getattr(point, part) if part else point, name)


def largest(points: Iterable[Point]) -> list[Point]:
    """The point of largest m in each series."""
    return [s[-1] for s in series(points, "m")]
