"""Nested JSON values as one row of cells."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

Cell: TypeAlias = str | int | float | bool | None


def flat(raw: Mapping[str, Any], prefix: str = "") -> dict[str, Cell]:
    """Nested mappings as one, names joined by dots: {"defense": {"sigma": 1}} is {"defense.sigma": 1}; a list is one cell
    with its JSON."""
    cells: dict[str, Cell] = {}
    for name, value in raw.items():
        if isinstance(value, Mapping):
            cells |= flat(value, f"{prefix}{name}.")
        else:
            cells[prefix + name] = json.dumps(value) if isinstance(value, list | tuple) else value
    return cells


def sort_key(cells: Mapping[str, Cell]) -> tuple[tuple[str, bool, str, float], ...]:
    """Sorts rows of any cells: name by name, words after numbers, numbers by their size."""
    return tuple(
        (name, True, value, 0.0) if isinstance(value, str) else (name, False, "", float(value or 0))
        for name, value in sorted(cells.items())
    )
