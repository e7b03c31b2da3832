"""Colours, lines and files of all figures."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from bounds import DEFENSES, Kind, checks
from bounds.registry import Live
from verify.judge import JUDGES


@dataclass(frozen=True)
class Look:
    """How large things are: a figure's width in inches, its text in points, and a factor for markers and lines. ``paper``:
    it stands in a page with a caption of its own, so it has no title, and many dots to the inch."""

    width: float
    text: float
    scale: float
    paper: bool

    @property
    def small(self) -> float:
        """Points of the text that is not read first: ticks, legends, notes."""
        return self.text - 1

    @property
    def dpi(self) -> int:
        return 300 if self.paper else 110

    @property
    def wide(self) -> bool:
        """Whether a legend has room beside the panels."""
        return self.width >= 6

    @staticmethod
    def of(width: float | str | None) -> Look:
        """None: for a screen. "column" (3.4 inches), "page" (7) or inches from 2.5 to 20: for a paper, in text of 7 points
        or more."""
        if width is None:
            return Look(9.2, 10, 1, paper=False)
        if isinstance(width, str):
            width = PAPER[checks.choice("width", width, tuple(PAPER))]
        return Look.paper_of(checks.real("width", width, 2.5, 20.0))

    @staticmethod
    def inside(axes: Axes) -> Look:
        """For axes of somebody else's figure, whose size is theirs."""
        return Look.paper_of(axes.get_window_extent().width / axes.figure.dpi / 0.75)

    @staticmethod
    def paper_of(inches: float) -> Look:
        """For a paper of this width."""
        narrow = inches < 6
        return Look(inches, 8 if narrow else 9, 0.75 if narrow else 0.9, paper=True)


#: Widths of a column and of a page of two, in inches, as most journals have them.
PAPER: Mapping[str, float] = MappingProxyType({"column": 3.4, "page": 7.0})


#: Okabe and Ito's palette, told apart with any colour vision; markers repeat the distinction without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8B5A2B")


MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")


#: The line through the root mean squares of an attack of which theory states nothing, by the attack's name; "": any other.
JOINED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "likelihood": {"linestyle": (0, (5, 1.5)), "linewidth": 0.9},
        "message_passing": {"linestyle": (0, (1, 1.5)), "linewidth": 1.1},
        "": {"linestyle": (0, (4, 1, 1, 1)), "linewidth": 0.9},
    }
)


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


#: Where errors run along the horizontal axis, the truth is left of an upper bound, not below it.
TURNED: Mapping[str, str] = MappingProxyType({"v": "<", "^": ">"})


GUIDE: Mapping[str, Any] = MappingProxyType({"color": "0.6", "linestyle": "--", "linewidth": 0.8})


GUIDE_SHIFT = (
    1.25  # how far the guide stands above all that is drawn: on the data it could be taken for a prediction
)


GUESS: Mapping[str, Any] = MappingProxyType({"color": "0.3", "linestyle": (0, (1, 2)), "linewidth": 0.7})


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


def few_digits(value: float, _: int | None = None) -> str:
    """Tick labels at 1, 2, 3, 5 times a power of ten."""
    leading = round(value / 10 ** math.floor(math.log10(value)), 6) if value > 0 else 0
    return f"{value:g}" if leading in (1, 2, 3, 5) else ""


def label_errors(axes: Axes, axis: Literal["x", "y"]) -> None:
    """Values on a logarithmic axis of errors whose ends are set: 1, 2, 3, 5 times powers of ten; where it spans too little
    for them, evenly spaced ones."""
    ends, one = (axes.get_xlim(), axes.xaxis) if axis == "x" else (axes.get_ylim(), axes.yaxis)
    if ends[1] < 5 * ends[0]:
        one.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        one.set_minor_locator(NullLocator())
        one.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        return
    one.set_major_formatter(FuncFormatter(few_digits))
    one.set_minor_formatter(FuncFormatter(few_digits))


def wrapped(text: str, width: int) -> str:
    """Lines of at most ``width`` characters, where that can be, that keep "B = 2", "320 000" and "2 hold" together."""
    glued = re.sub(r" = |(?<=\d) (?=\d{3}\b)|(?<=\d) (?=[a-z])", lambda m: m.group().replace(" ", "\0"), text)
    return textwrap.fill(glued, width, break_long_words=False).replace("\0", " ")


def fitting(text: str, inches: float, points: float) -> str:
    """The same over as many lines as letters of this size need in this width."""
    return wrapped(text, int(inches * 72 / (0.55 * points)))


def even_ticks(axes: Axes, axis: Literal["x", "y"], look: Look) -> None:
    """Ticks and their labels of one size, so that labels of minor ones stand in a line with the others."""
    axes.tick_params(axis=axis, which="both", labelsize=look.small, length=3 * look.scale, pad=3 * look.scale)


def span_of(values: Sequence[float]) -> tuple[float, float]:
    """The ends of an axis that shows all of these, with a margin."""
    low, high = min(values), max(values)
    return low - 0.08 * (high - low), high + 0.08 * (high - low)


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


def save_figure(figure: Figure, path: str | Path, dpi: int = 110) -> None:
    """Write a figure in the format that its suffix names (``FORMATS``), making its directory where there is none."""
    path = checked_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Letters that can be searched and edited, as journals ask, and no dates: equal records give equal bytes.
    with rc_context({"svg.hashsalt": "reconbound", "pdf.fonttype": 42, "ps.fonttype": 42}):
        figure.savefig(path, dpi=dpi, metadata=dict(FORMATS[path.suffix.lower()]))


def legend_below(
    axes: Axes, handles: Sequence[Artist] | None = None, size: float = 7.5, columns: int = 1
) -> None:
    """A legend under one panel whose horizontal axis has its values and its name: below them, so that it hides nothing.
    ``handles``: its entries; None: all that has a label."""
    entries = {} if handles is None else {"handles": handles}
    values = max((float(label.get_fontsize()) for label in axes.get_xticklabels()), default=0.0)
    name = axes.xaxis.label
    lines = 1 + name.get_text().count("\n")
    points = (
        14 + 1.3 * values + 1.3 * lines * float(name.get_fontsize())
    )  # with the ticks and the gaps between
    moved = ScaledTranslation(0, -points / 72, axes.figure.dpi_scale_trans)
    axes.legend(
        **entries, loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=axes.transAxes + moved,
        fontsize=size, ncols=columns, frameon=False, borderaxespad=0,
    )  # fmt: skip
