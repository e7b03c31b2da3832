"""Tables and JSON on standard output. In a table every character is text, and a long word is broken, never cut."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from bounds.serial import plain


def console() -> Console:
    """Prints what it is given as it is; its width is that of the terminal."""
    return Console(markup=False, highlight=False, emoji=False)


def say(text: str, indent: int = 0) -> None:
    """A paragraph, all of its lines indented."""
    console().print(Padding(text, (0, 0, 0, indent), expand=False))


def table(*columns: str, narrow: int = 0) -> Table:
    """An empty table, the first ``narrow`` columns of which are never broken."""
    made = Table()
    for i, name in enumerate(columns):
        made.add_column(name, overflow="fold", no_wrap=i < narrow)
    return made


def print_rows(rows: Sequence[Mapping[str, Any]], number: str = ".4g", narrow: int = 0) -> None:
    """Rows of equal keys as a table, floats in the format ``number``."""
    if rows:
        made = table(*rows[0], narrow=narrow)
        for row in rows:
            made.add_row(*(cell(value, number) for value in row.values()))
        console().print(made)


def cell(value: Any, number: str = ".4g") -> str:
    """One value as text."""
    if value is None:
        return "—"
    return format(value, number) if isinstance(value, float) else str(value)


def print_json(value: Any) -> None:
    """Strict JSON: floats that are not finite by name."""
    print(json.dumps(plain(value), indent=2, allow_nan=False))
