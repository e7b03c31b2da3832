"""Measured over predicted in every comparison, in one figure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from verify.draw.style import VERDICTS, checked_path, save_figure
from verify.judge.predicted import RatioResult
from verify.judge.statistics import LEVEL
from verify.judge.verdict import Result


def plot_summary(results: Iterable[Result], path: str | Path | None = None, level: float = LEVEL) -> Figure:
    """Measured over predicted in every comparison of ``results`` (as ``compare`` gives them), a row for each experiment,
    with intervals (of confidence ``level``, for the label), the tolerances asked for as bands, coloured by verdict. What has
    no ratio stands in the row's note, as do failed trials. Returns the figure, and writes it to ``path`` if one is given.
    ``ValueError`` if nothing was compared with a prediction, or for a suffix that is no format."""
    if path is not None:
        checked_path(path)
    rows: dict[str, list[RatioResult]] = {}
    for r in results:
        if isinstance(r, RatioResult):
            rows.setdefault(r.experiment, []).append(r)
    if not rows:
        raise ValueError("results must hold at least one comparison with a prediction; got none")
    figure = Figure(figsize=(9.6, 1.5 + 0.3 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(1, color="0.3", linewidth=0.8, zorder=1)
    shown = [r.ratio for found in rows.values() for r in found if math.isfinite(r.ratio)]
    lowest, highest = min([0.9, *(v - 0.05 for v in shown)]), max([1.1, *(v + 0.05 for v in shown)])
    for row, found in enumerate(rows.values()):
        widest = max(r.tolerance for r in found)
        axes.fill_betweenx(
            [row - 0.42, row + 0.42], 1 - widest, 1 + widest, color="0.9", zorder=0, linewidth=0
        )
        places = row + (np.linspace(-0.32, 0.32, len(found)) if len(found) > 1 else np.zeros(1))
        for place, r in zip(places, found, strict=True):
            if math.isfinite(r.ratio):
                colour, marker = VERDICTS[r.verdict]
                axes.plot(r.ratio, place, marker, color=colour, markersize=3.5, zorder=3)
                axes.hlines(
                    place, max(r.low, lowest), min(r.high, highest), color=colour, linewidth=0.9, zorder=2
                )
        axes.annotate(
            _row_note(found), (1.01, row), xycoords=("axes fraction", "data"), fontsize=7, va="center",
            annotation_clip=False,
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), list(rows), fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(lowest, highest)
    axes.grid(axis="x", color="0.93", linewidth=0.6)
    axes.set_xlabel(f"measured / predicted, {level:.0%} intervals (bands: the largest tolerance asked for)")
    handles = [Line2D([], [], color=c, marker=k, linestyle="", label=v) for v, (c, k) in VERDICTS.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    if path is not None:
        save_figure(figure, path)
    return figure


def _row_note(found: Sequence[RatioResult]) -> str:
    """How many comparisons came out how, the trials behind each, and what failed."""
    counts = [f"{n} {v}" for v in VERDICTS if (n := sum(r.verdict == v for r in found))]
    least, most = min(r.n for r in found), max(r.n for r in found)
    trials = f"n = {least}" if least == most else f"n = {least} to {most}"
    failed = sum(r.failed for r in found)
    return f"{', '.join(counts)}; {trials}" + (f", {failed} failed" if failed else "")
