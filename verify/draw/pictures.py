"""What the server recovers, to look at: private pictures over their reconstructions as the network grows."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bounds import AttackSpec, TensorAttack
from verify.draw.style import save_figure
from verify.measure.pictures import FloatArray, PictureRow, row_labels
from verify.measure.point import attack_words, defense_words

if TYPE_CHECKING:
    from attack.image.datasets import ImageBatch

CELL = 1.15  # inches


LABEL = 2.5  # inches, the column of labels on the left


# --- the figure ---------------------------------------------------------------------------------------------


def draw_pictures(batch: ImageBatch | None, rows: Sequence[PictureRow], path: str | Path) -> None:
    """Write a figure to ``path``: the originals on top, below them one row for each of ``rows``, which says its attack
    where they are of several; a failed attack is a row of empty frames with the reason. Grey for one
    channel, colour for three.

    Raises ``ValueError`` if there are no rows, if the pictures were too large to be kept (see
    ``load_pictures``), or for another number of channels.
    """
    if batch is None:
        raise ValueError("batch must be a batch of pictures; got None: they were too many numbers to be kept")
    if not rows:
        raise ValueError("rows must hold at least one reconstruction; got none")
    if batch.shape[0] not in (1, 3):
        raise ValueError(f"pictures must have 1 or 3 channels to be drawn; got {batch.shape[0]}")
    for row in rows:
        if not row.failed and row.features is None:
            raise ValueError(f"rows must hold their pictures; that of m = {row.m} was saved without them")
    size = len(batch.features)
    figure = Figure(
        figsize=(LABEL + CELL * size, 0.55 + (CELL + 0.05) * (1 + len(rows))), layout="constrained"
    )
    figure.suptitle(_title(batch, rows), fontsize=10)
    grid = figure.add_gridspec(1 + len(rows), 1 + size, width_ratios=(LABEL / CELL, *(1.0,) * size))
    shown = [
        ("private pictures", "", batch.features),
        *((label, row.reason, row.features) for label, row in zip(row_labels(rows), rows, strict=True)),
    ]
    for line, (label, reason, features) in enumerate(shown):
        _draw_label(figure.add_subplot(grid[line, 0]), label, reason)
        pictures = None if features is None else batch.pictures(features)
        for column in range(size):
            axes = figure.add_subplot(grid[line, 1 + column])
            if line == 0:
                axes.set_title(f"y = {batch.labels[column]:+g}".replace("-", "−"), fontsize=8)
            _draw_picture(axes, batch.shape, None if pictures is None else pictures[column])
    save_figure(figure, path)


def _title(batch: ImageBatch, rows: Sequence[PictureRow]) -> str:
    def one_of(values: Iterable[str]) -> str:
        return " / ".join(dict.fromkeys(values))

    mean = "mean removed" if batch.mean.any() else "mean kept"
    attacks = dict.fromkeys(_attack(r.attack) for r in rows)
    between = ", " if len(attacks) == 1 else "\n"
    return (
        f"{batch.name}, B = {len(batch.features)}, d = {batch.features.shape[1]}, {mean}\n"
        f"{one_of(r.activation for r in rows)}, {one_of(defense_words(r.defense) for r in rows)}{between}"
        f"{one_of(attacks)}"
    )


def _attack(attack: AttackSpec) -> str:
    words = attack_words(attack)
    moments = attack.moments if isinstance(attack, TensorAttack) else None
    return words.replace(moments, f"{moments} moments", 1) if moments else words


def _draw_label(axes: Axes, label: str, reason: str) -> None:
    axes.axis("off")
    at = axes.transAxes
    lines = label.split(", ")
    height = 0.46 + 0.08 * len(lines) if reason else 0.5
    axes.text(1, height, "\n".join(lines), ha="right", va="center", fontsize=9, transform=at)
    axes.text(1, 0.45, textwrap.fill(reason, 44), ha="right", va="top", fontsize=6.5, transform=at)


def _draw_picture(axes: Axes, shape: tuple[int, int, int], picture: FloatArray | None) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    if picture is None:
        axes.set_box_aspect(shape[1] / shape[2])
        for spine in axes.spines.values():
            spine.set(color="0.5", linestyle=(0, (3, 3)))
        return
    for spine in axes.spines.values():
        spine.set(color="0.8", linewidth=0.6)
    pixels = picture[0] if shape[0] == 1 else picture.transpose(1, 2, 0)
    axes.imshow(pixels, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
