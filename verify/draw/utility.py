"""What attacks find of a defended gradient over what the defense costs in accuracy: a curve for each defense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from verify.draw.style import COLOURS, GUESS, GUIDE, MARKERS, save_figure

#: Points of accuracy up to which the axis is linear, and its marks.
_LINEAR, _MARKS = 1.0, (0, 1, 2, 5, 10, 20, 50)

#: As many as there are families.
_MARKERS = (*MARKERS, "h", "<", ">", "p", "d", "H", "8")


@dataclass(frozen=True)
class Line:
    """A defense: losses of accuracy in points and the errors there, from weak to strong."""

    name: str
    losses: Sequence[float]
    errors: Sequence[float]


@dataclass(frozen=True)
class Panel:
    """One attack: its title, the defenses' lines, and its error without a defense (None: not measured)."""

    title: str
    lines: Sequence[Line]
    undefended: float | None = None


@dataclass(frozen=True)
class Shown:
    """title; names: of all defenses, which have the same looks in every figure; error: the vertical axis's name; losses at
    which defenses are compared; guess: the error of a server that has seen nothing; log: whether errors are on a logarithmic
    axis."""

    title: str
    names: Sequence[str]
    error: str
    losses: Sequence[float]
    guess: float
    log: bool = False


def draw_utility(panels: Sequence[Panel], shown: Shown, path: Path) -> None:
    """The panels side by side on common axes, one legend below them. ``ValueError`` for none, or one without lines."""
    if not panels or not all(panel.lines for panel in panels):
        raise ValueError("panels must hold at least one line each; got none")
    figure = Figure(figsize=(9.2, 5.4), layout="constrained")
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    looks = {name: _look(k) for k, name in enumerate(shown.names)}
    most = max(loss for panel in panels for line in panel.lines for loss in line.losses)
    for ax, panel in zip(axes, panels, strict=True):
        for line in panel.lines:
            ax.plot(line.losses, line.errors, label=line.name, clip_on=False, **looks[line.name])
        for loss in shown.losses:
            ax.axvline(loss, zorder=0, **GUIDE)
        ax.axhline(shown.guess, zorder=0, **GUESS)
        if panel.undefended is not None:
            ax.axhline(panel.undefended, zorder=0, color="0.3", linewidth=0.7)
        ax.set_title(panel.title, fontsize=9)
        ax.set_xscale("symlog", linthresh=_LINEAR)
        ax.set_xlim(min(-0.5, *(loss for line in panel.lines for loss in line.losses)) - 0.1, 1.25 * most + 1)
        ax.xaxis.set_major_locator(FixedLocator([mark for mark in _MARKS if mark <= 1.25 * most + 1]))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.tick_params(labelsize=8)
        ax.set_xlabel("accuracy lost (points)", fontsize=9)
    if shown.log:
        axes[0].set_yscale("log")
    axes[0].set_ylabel(shown.error, fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.suptitle(shown.title, fontsize=9)
    save_figure(figure, path)


def _look(k: int) -> Mapping[str, Any]:
    return {
        "color": COLOURS[k % len(COLOURS)],
        "marker": _MARKERS[k % len(_MARKERS)],
        "linestyle": "-" if k < len(COLOURS) else (0, (4, 1.5)),
        "markersize": 5,
        "linewidth": 1.2,
    }
