"""Colours, lines and files of all figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bounds import Kind

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


STYLES: Mapping[Kind, dict[str, Any]] = MappingProxyType(
    {
        Kind.PREDICTED: {"linestyle": "-", "linewidth": 1.6},
        Kind.UPPER: {
            "linestyle": "-.",
            "linewidth": 1.2,
            "marker": "v",
            "markersize": 5,
            "fillstyle": "none",
        },
        Kind.LOWER: {"linestyle": ":", "linewidth": 1.4, "marker": "^", "markersize": 5, "fillstyle": "none"},
        Kind.FLOOR: {"linestyle": (0, (8, 3)), "linewidth": 1.0},
    }
)


GUIDE: Mapping[str, Any] = MappingProxyType({"color": "0.6", "linestyle": "--", "linewidth": 0.8})


GUIDE_SHIFT = 1.5  # a fitted guide would lie on the prediction and could be taken for it


AXES: Mapping[str, str] = MappingProxyType(
    {
        "m": "width m",
        "d": "dimension d",
        "B": "batch size B",
        "sigma": "standard deviation of the noise σ",
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


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure, making its directory where there is none."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    # No software version in the file: equal records give equal bytes.
    figure.savefig(path, dpi=DPI, metadata={"Software": None} if str(path).endswith(".png") else None)
