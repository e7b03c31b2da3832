"""Tables and JSON on standard output. In a table every character is text, and a long word is broken, never cut."""

from __future__ import annotations

import itertools
import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from bounds.serial import plain

if TYPE_CHECKING:
    from attack.own.findings import Finding

#: Stands for a space at which a line is not to be broken.
_JOINED = "\u00a0"


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


def print_wide(rows: Sequence[Mapping[str, Any]], number: str = ".4g") -> None:
    """Rows of equal keys, floats in the format ``number``: as a table where no value has to be broken for that, headings in
    lines of one word if need be; else each row as a paragraph, the words that it begins with and then every value after its
    name, but for those that there are none of."""
    if not rows:
        return
    texts = [[cell(value, number) for value in row.values()] for row in rows]
    widths = [
        max(max(map(len, column)), *map(len, name.split()))
        for name, column in zip(rows[0], zip(*texts, strict=True), strict=True)
    ]
    screen = console()
    if sum(widths) + 3 * len(widths) + 1 > screen.width:
        lines = itertools.chain.from_iterable(_paragraph(row, rows, number, screen.width) for row in rows)
        screen.print("\n".join(lines), soft_wrap=True)
        return
    made = Table()
    for name, width in zip(rows[0], widths, strict=True):
        made.add_column(name, min_width=width)
    for cells in texts:
        made.add_row(*cells)
    screen.print(made)


def _paragraph(
    row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], number: str, width: int
) -> list[str]:
    """The lines of one row, all but the first indented; no value is parted from its name, nor broken if it has the room."""
    head = list(itertools.takewhile(lambda name: all(isinstance(other[name], str) for other in rows), row))
    parts = [
        f"{name} {cell(row[name], number)}" for name in row if name not in head and row[name] is not None
    ]
    told = ", ".join(part.replace(" ", _JOINED) for part in parts)
    text = f"{', '.join(row[name] for name in head)}: {told}" if head else told
    lines = textwrap.wrap(text, width, subsequent_indent="    ", break_on_hyphens=False)
    return [line.replace(_JOINED, " ") for line in lines]


def cell(value: Any, number: str = ".4g") -> str:
    """One value as text."""
    if value is None:
        return "—"
    return format(value, number) if isinstance(value, float) else str(value)


def print_findings(findings: Iterable[Finding]) -> None:
    """What a check of a gradient has found, as a table."""
    shown = table("check", "level", "what was found", narrow=2)
    for finding in findings:
        shown.add_row(finding.name, finding.level, finding.text)
    console().print(shown)


def print_json(value: Any) -> None:
    """Strict JSON: floats that are not finite by name."""
    print(json.dumps(plain(value), indent=2, allow_nan=False))
