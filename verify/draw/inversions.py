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
from verify.images.record import Bytes, ImageRecord
from verify.images.summary import defense_words, mean, words

#: Inches: a picture, and the column of labels.
CELL, LABEL = 0.95, 2.2


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
    figure = Figure(
        figsize=(LABEL + CELL * first.B + 0.1, 0.75 + CELL * (1 + len(points))), layout="constrained"
    )
    figure.suptitle(f"{first.data}, B = {first.B}, {first.network.words}\n{defense_words(first)}", fontsize=8)
    grid = figure.add_gridspec(1 + len(points), 1 + first.B, width_ratios=(LABEL / CELL, *(1.0,) * first.B))
    lines: list[tuple[str, Bytes | None]] = [("private", private)]
    for point, records in found.items():
        pictures = shown[point]
        failed = sum(r.failed for r in records)
        found_words = "no result" if failed == len(records) else f"{words(mean(records, 'psnr'))} dB"
        label = f"{point.rival}\n{found_words}" + (f", {failed} failed" if 0 < failed < len(records) else "")
        lines.append((label, None if pictures is None else pictures[1]))
    for row, (label, pictures) in enumerate(lines):
        _label(figure.add_subplot(grid[row, 0]), label)
        for column in range(first.B):
            _draw(figure.add_subplot(grid[row, 1 + column]), None if pictures is None else pictures[column])
    save_figure(figure, path)


def draw_inversion(private: Any, found: Any, title: str, path: Path) -> None:
    """What one attack found, pictures (n, C, H, W) in [0, 1], below the private ones (B, C, H, W) where there are any, in
    the order of the least squared errors."""
    from attack.image.metrics import image_errors

    rows: list[tuple[str, list[Bytes | None]]] = []
    guesses = _bytes(found)
    order: tuple[int | None, ...] = tuple(range(len(guesses)))
    if private is not None:
        order = image_errors(private, found).order
        rows.append(("private", list(_bytes(private))))
    rows.append(("found", [None if i is None else guesses[i] for i in order]))
    figure = Figure(
        figsize=(LABEL / 2 + CELL * len(order) + 0.1, 0.6 + CELL * len(rows)), layout="constrained"
    )
    figure.suptitle(title, fontsize=8)
    ratios = (LABEL / 2 / CELL, *(1.0,) * len(order))
    grid = figure.add_gridspec(len(rows), 1 + len(order), width_ratios=ratios)
    for row, (label, pictures) in enumerate(rows):
        _label(figure.add_subplot(grid[row, 0]), label)
        for column, picture in enumerate(pictures):
            _draw(figure.add_subplot(grid[row, 1 + column]), picture)
    save_figure(figure, path)


def _bytes(pictures: Any) -> Bytes:
    return np.asarray((pictures.detach().cpu().double().clamp(0, 1) * 255).round().numpy(), dtype=np.uint8)


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
