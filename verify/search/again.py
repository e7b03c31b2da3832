"""A counterexample as one line of Python that measures it again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

import bounds
from bounds import Kind
from verify.measure.point import Point


def again(name: str, kind: Kind, point: Point, options: Mapping[str, Any]) -> str:
    """``check_point`` at ``point`` for the bound with that name: "module:function" is imported, any other is taken to be
    there."""
    shown = code(point)
    named = {made for made in map(type, (point.defense, *point.attacks)) if f"{made.__name__}(" in shown}
    module, _, called = name.rpartition(":")
    return (
        f"{_imports(named, module, called)}from verify import Features, Point, check_point; "
        f"print(check_point({called}, {str(kind)!r}, "
        f"{shown}, {', '.join(f'{k}={v!r}' for k, v in options.items())}).text)"
    )


def _imports(named: Iterable[type], module: str, called: str) -> str:
    """Statements that bring these classes, from ``bounds`` where it offers them, else from where they are, and the bound
    ``called`` so in ``module``, if it has one."""
    places: dict[str, list[str]] = {module: [called.partition(".")[0]]} if module else {}
    for kind in named:
        offered = getattr(bounds, kind.__name__, None) is kind
        places.setdefault("bounds" if offered else kind.__module__, []).append(kind.__name__)
    return "".join(f"from {place} import {', '.join(sorted(places[place]))}; " for place in sorted(places))


def code(value: Any) -> str:
    """A point, or a part of one, as the Python expression that a person would write: defaults are left out."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    if isinstance(value, tuple):
        inner = ", ".join(code(v) for v in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if not is_dataclass(value):
        return repr(value)
    parts = []
    for f in fields(value):
        given = getattr(value, f.name)
        factory = f.default_factory
        default = factory() if factory is not MISSING else f.default
        if isinstance(value, Point) and f.name == "labels":
            default = Point("", value.features, value.d, value.m, value.B).labels
        if f.default is MISSING and factory is MISSING:
            parts.append(code(given))
        elif given != default:
            parts.append(f"{f.name}={code(given)}")
    return f"{type(value).__name__}({', '.join(parts)})"
