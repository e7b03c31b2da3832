"""Colours, lines and files of all figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bounds import DEFENSES, Kind, checks
from bounds.registry import Live
from verify.judge import JUDGES

DPI = 110


#: Okabe and Ito's palette, told apart with any colour vision; markers repeat the distinction without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8B5A2B")


MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")


VERDICTS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "holds": ("#00795A", "o"),
        "fails": ("#C03A00", "X"),
        "inconclusive": ("#0072B2", "D"),
        "uninformative": ("#666666", "s"),
    }
)


#: The lines of theory, for every kind that has a height.
STYLES: Mapping[Kind, Mapping[str, Any]] = MappingProxyType(
    {kind: judge.style for kind, judge in JUDGES.items() if judge.style}
)


GUIDE: Mapping[str, Any] = MappingProxyType({"color": "0.6", "linestyle": "--", "linewidth": 0.8})


GUIDE_SHIFT = 1.5  # a fitted guide would lie on the prediction and could be taken for it


#: What a figure can be drawn against: sizes, every parameter of a defense, and "strength", each defense's own.
AXES: Mapping[str, str] = Live(
    lambda: {
        "m": "width m",
        "d": "dimension d",
        "B": "batch size B",
        **{p.name: p.words or p.name.replace("_", " ") for family in DEFENSES for p in family.parameters()},
        "strength": "strength of the defense",
    }
)


def _few_digits(value: float, _: int | None = None) -> str:
    """Tick labels at 1, 2, 3, 5 times a power of ten."""
    leading = round(value / 10 ** math.floor(math.log10(value)), 6) if value > 0 else 0
    return f"{value:g}" if leading in (1, 2, 3, 5) else ""


def label_values(axes: Axes, ticks: Sequence[float]) -> None:
    """Mark these values on the horizontal axis, and no others."""
    axes.set_xticks(ticks, [f"{t:,.0f}".replace(",", " ") if t >= 1000 else f"{t:g}" for t in ticks])
    axes.set_xticks([], minor=True)


#: Formats of figures by their suffix, and what is left out of each file, dates and versions: equal records give equal bytes.
FORMATS: Mapping[str, Mapping[str, None]] = MappingProxyType(
    {
        ".png": {"Software": None},
        ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
        ".svg": {"Date": None, "Creator": None},
    }
)


def checked_path(path: str | Path) -> Path:
    """A path to which a figure can be written. ``ValueError`` for a suffix that is none of ``FORMATS``."""
    checks.choice("the figure's suffix", Path(path).suffix.lower(), tuple(FORMATS))
    return Path(path)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure in the format that its suffix names (``FORMATS``), making its directory where there is none."""
    path = checked_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": "reconbound"}):
        figure.savefig(path, dpi=DPI, metadata=dict(FORMATS[path.suffix.lower()]))
