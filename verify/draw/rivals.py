"""Attacks on pictures against each other: how near each comes under every defense, and features against pictures."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from verify.draw.style import COLOURS, MARKERS, save_figure
from verify.images.point import ImagePoint
from verify.images.record import ImageRecord
from verify.images.summary import correlation, heading, mean

Found = Mapping[ImagePoint, Sequence[ImageRecord]]

#: Smallest error of features that is drawn, where float32 ends.
_LEAST = 1e-9

#: Panels of a row.
_ACROSS = 3

#: Of the legend, across the figure.
_LETTERS = 125


def draw_rivals(found: Found, title: str, path: Path) -> None:
    """A line for each defense, on it a dot for each rival: mean PSNR over trials with its interval of 95 per cent, hollow
    where a trial gave no result and counts as grey pictures. ``ValueError`` for no point."""
    groups = _by_defense(found)
    names = _rivals(found)
    figure = Figure(figsize=(8.2, 1.5 + 0.16 * len(names) * len(groups)), layout="constrained")
    axes = figure.add_subplot()
    for row, points in enumerate(groups.values()):
        for point in points:
            value = mean(found[point], "psnr")
            place = names.index(point.rival)
            off = (place - (len(names) - 1) / 2) * 0.8 / max(1, len(names))
            whole = not any(r.failed for r in found[point])
            axes.errorbar(
                value.value, row + off,
                xerr=None if math.isinf(value.high) else [[value.value - value.low], [value.high - value.value]],
                color=_colour(place), marker=_marker(place), markersize=5, linewidth=1, capsize=0,
                markerfacecolor=_colour(place) if whole else "white",
            )  # fmt: skip
        if row:
            axes.axhline(row - 0.5, color="0.9", linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(groups)), [_wrapped(name) for name in groups], fontsize=8)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set_xlabel("PSNR in dB: mean, interval of 95 per cent (hollow: some gave no result)", fontsize=9)
    axes.set_title(title, fontsize=9)
    _legend(figure, names)
    save_figure(figure, path)


def draw_feature_errors(found: Found, title: str, path: Path) -> None:
    """A panel for each defense, a dot for each picture and rival: the squared error of its pixels over the error of its
    features, with their rank correlation. What has no result is left out. ``ValueError`` for no point."""
    groups = _by_defense(found)
    names = _rivals(found)
    down = -(-len(groups) // _ACROSS)
    figure = Figure(figsize=(8.2, 1.2 + 2.3 * down), layout="constrained")
    panels = figure.subplots(down, _ACROSS, sharex=True, sharey=True, squeeze=False).flatten()
    for axes, (name, points) in zip(panels, groups.items(), strict=False):
        for point in points:
            for record in found[point]:
                if not record.failed:
                    _dots(axes, record, names.index(point.rival))
        rank, pictures = correlation([r for p in points for r in found[p]], "feature_error", "mse")
        said = "" if math.isnan(rank) else f"\nrank correlation {rank:.2f} ({pictures} pictures)"
        axes.set_title(f"{_wrapped(name)}{said}", fontsize=8)
        axes.set_xscale("log")
        axes.set_yscale("log")
    for axes in panels[len(groups) :]:
        axes.axis("off")
    figure.suptitle(title, fontsize=9)
    for axes in panels[max(0, len(groups) - _ACROSS) : len(groups)]:
        axes.set_xlabel("error of features, 1 - cos²", fontsize=8)
        axes.tick_params(labelbottom=True)
    figure.supylabel("squared error of pixels", fontsize=9)
    _legend(figure, names)
    save_figure(figure, path)


def _dots(axes: Axes, record: ImageRecord, place: int) -> None:
    x = [max(v, _LEAST) for v in record.values["feature_error"]]
    axes.plot(
        x,
        record.values["mse"],
        linestyle="",
        marker=_marker(place),
        markersize=3.5,
        color=_colour(place),
        alpha=0.7,
    )


def _by_defense(found: Found) -> dict[str, list[ImagePoint]]:
    if not found:
        raise ValueError("points must be at least one; got none")
    groups: dict[str, list[ImagePoint]] = {}
    for point in found:
        groups.setdefault(heading(point), []).append(point)
    return groups


def _rivals(found: Found) -> list[str]:
    return list(dict.fromkeys(point.rival for point in found))


def _legend(figure: Figure, names: Sequence[str]) -> None:
    """In as many columns as the longest name leaves."""
    columns = max(1, min(4, len(names), _LETTERS // (max(map(len, names)) + 6)))
    handles = [
        Line2D([], [], linestyle="", marker=_marker(i), color=_colour(i), markersize=5, label=name)
        for i, name in enumerate(names)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def _marker(place: int) -> str:
    return MARKERS[(place + place // len(COLOURS)) % len(MARKERS)]


def _wrapped(text: str) -> str:

    return "\n".join(textwrap.wrap(text, 44))
