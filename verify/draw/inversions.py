"""Private pictures over what every attack found of them: a figure for each defense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from verify.draw.style import save_figure
from verify.images.point import ImagePoint
from verify.images.record import Bytes, ImageRecord, eight_bits
from verify.images.summary import heading, mean, words

#: Inches: a picture, and the column of labels.
CELL, LABEL = 0.95, 2.2

#: A label and the pictures behind it; None where there is none.
Row = tuple[str, Sequence[Bytes | None]]


def draw_grid(found: Mapping[ImagePoint, Sequence[ImageRecord]], path: Path) -> None:
    """The first trial of every point, all of one defense, data set and batch size: a row for each rival, whose label has its
    mean PSNR over all trials. ``ValueError`` for none, or points of several of these."""
    points = list(found)
    if len({(p.data, p.B, p.defense, p.relative) for p in points}) != 1:
        raise ValueError(
            f"points must be of one defense, data set and batch size, at least one; got {len(points)}"
        )
    shown = {p: _kept(records) for p, records in found.items()}
    private = next((pictures[0] for pictures in shown.values() if pictures is not None), None)
    if private is None:
        raise ValueError("records must hold the pictures of at least one attack; got none")
    first = points[0]
    rows: list[Row] = [("private", list(private))]
    for point, records in found.items():
        pictures = shown[point]
        failed = sum(r.failed for r in records)
        said = "no result" if failed == len(records) else f"{words(mean(records, 'psnr'))} dB"
        label = f"{point.rival}\n{said}" + (f", {failed} failed" if 0 < failed < len(records) else "")
        rows.append((label, [None] * first.B if pictures is None else list(pictures[1])))
    title = f"{first.data}, B = {first.B}, {first.network.words}\n{heading(first)}"
    _draw_rows(title, rows, LABEL, path)


def draw_inversion(private: Any, found: Any, title: str, path: Path) -> None:
    """What one attack found, pictures (n, C, H, W) in [0, 1], below the private ones (B, C, H, W) where there are any, in
    the order of the least squared errors."""
    from attack.image.metrics import image_errors

    rows: list[Row] = []
    guesses = eight_bits(found)
    order: tuple[int | None, ...] = tuple(range(len(guesses)))
    if private is not None:
        order = image_errors(private, found).order
        rows.append(("private", list(eight_bits(private))))
    rows.append(("found", [None if i is None else guesses[i] for i in order]))
    _draw_rows(title, rows, LABEL / 2, path)


def _draw_rows(title: str, rows: Sequence[Row], label: float, path: Path) -> None:
    """A line for each row, behind a column for its label, so many inches wide."""
    across = len(rows[0][1])
    head = 0.6 + 0.15 * title.count("\n")
    figure = Figure(figsize=(label + CELL * across + 0.1, head + CELL * len(rows)), layout="constrained")
    figure.suptitle(title, fontsize=8)
    grid = figure.add_gridspec(len(rows), 1 + across, width_ratios=(label / CELL, *(1.0,) * across))
    for row, (text, pictures) in enumerate(rows):
        _label(figure.add_subplot(grid[row, 0]), text)
        for column, picture in enumerate(pictures):
            _draw(figure.add_subplot(grid[row, 1 + column]), picture)
    save_figure(figure, path)


def _label(axes: Axes, text: str) -> None:
    axes.axis("off")
    axes.text(1, 0.5, text, ha="right", va="center", fontsize=8, transform=axes.transAxes)


def _kept(records: Sequence[ImageRecord]) -> Bytes | None:
    return next((r.pictures for r in records if r.pictures is not None), None)


def _draw(axes: Axes, picture: Bytes | None) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    if picture is None:
        axes.set_box_aspect(1)
        for spine in axes.spines.values():
            spine.set(color="0.5", linestyle=(0, (3, 3)))
        return
    for spine in axes.spines.values():
        spine.set(color="0.8", linewidth=0.6)
    pixels = picture[0] if len(picture) == 1 else np.transpose(picture, (1, 2, 0))
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
