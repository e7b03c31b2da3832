"""Phase diagrams: the share of trials in which the features came out exactly, and the error, of every attack over one number
that says how much the server has; from saved records alone."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from verify.draw.caption import MEANINGS, caption_path
from verify.draw.curves import Axis, Curve, curve_of, draw_curves, drawn_kinds, speaks_of
from verify.draw.key import EXACTLY
from verify.draw.shown import kinds_of
from verify.draw.style import GUESS, STYLES, checked_path, few_digits, label_errors, save_figure, wrapped
from verify.judge.base import Groups
from verify.judge.statistics import LEVEL, Measured, Share
from verify.measure.experiment import Experiment
from verify.measure.plane import ABSCISSAE, PARTS, Plane
from verify.measure.point import point_key
from verify.measure.series import series, without

#: Of the heights of the errors: above, a prediction says nothing; failed trials are marked at the top.
TOP = 2.0


@dataclass(frozen=True)
class Panel:
    """What is drawn for one activation or defense."""

    title: str
    curves: tuple[Curve, ...]


def panels_of(groups: Groups, experiment: Experiment, plane: Plane, level: float = LEVEL) -> list[Panel]:
    """The curves of every panel, against the plane's abscissa. A setting has one colour in all of them, for every attack."""
    across = ABSCISSAE[plane.across].of
    found = {replace(p, experiment=experiment.name): trials for p, trials in groups.items() if trials}
    parts = [p for p in PARTS if p not in plane.panels and len({q.describe()[p] for q in found}) > 1]
    settings: dict[str, int] = {}
    panels: dict[str, list[Curve]] = {}
    for points in series(found, "m"):
        first = points[0]
        setting = point_key(without(first, ("attack", "m", *plane.panels)))
        colour = settings.setdefault(setting, len(settings))
        words = first.describe()
        name = ", ".join([first.attack.called, *(words[part] for part in parts)])
        curve = curve_of(points, name, colour, found, "m", level, kinds=kinds_of(experiment))
        title = ", ".join(words[part] for part in plane.panels)
        panels.setdefault(title, []).append(replace(curve, x=tuple(across(p) for p in points)))
    return [Panel(title, tuple(curves)) for title, curves in panels.items()]


def shares(curve: Curve, level: float = LEVEL) -> list[Share]:
    """At each point, in how many of all trials, failed ones too, the features came out exactly."""
    return [Share.of(n, len(trials), level) for n, trials in zip(curve.exact, curve.records, strict=True)]


def boundary(curve: Curve) -> float | None:
    """The smallest place from which on at least half of the trials are exact everywhere; None if there is none."""
    start = None
    for at, share in sorted(zip(curve.x, shares(curve), strict=True), key=lambda pair: pair[0]):
        start = None if 2 * share.k < share.n else at if start is None else start
    return start


def draw_plane(
    groups: Groups, experiment: Experiment, path: str | Path | None = None, level: float = LEVEL
) -> Figure:
    """The figure of an experiment with a ``plane`` and of those beside it, their trials in ``groups``; written to ``path``
    if one is given, every number in its caption. ``ValueError`` for a suffix that is no format, an experiment without a
    plane, or no trials."""
    if path is not None:
        checked_path(path)
    plane = experiment.plane
    if plane is None:
        raise ValueError(f"experiment must have a plane to be drawn over; {experiment.name!r} has none")
    panels = panels_of(groups, experiment, plane, level)
    if not panels:
        raise ValueError("groups must hold at least one trial; got none")
    rows, width = 1 + plane.success, max(7.0, 3.1 * len(panels))
    figure = Figure(figsize=(width, 2.4 * rows + 2.1), layout="constrained")
    grid = figure.subplots(rows, len(panels), sharex=True, sharey="row", squeeze=False)
    for column, panel in enumerate(panels):
        if plane.success:
            _draw_shares(grid[0, column], panel, level)
        _draw_errors(grid[-1, column], panel)
        grid[0, column].set_title(wrapped(panel.title, 34), fontsize=9.5)
    _label(grid[-1], [c for p in panels for c in p.curves], plane)
    grid[-1, 0].set_ylabel("error R")
    if plane.success:
        grid[0, 0].set_ylabel("share of trials exact")
    figure.legend(handles=_key(panels, level), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.suptitle(wrapped(f"{experiment.title} ({EXACTLY})", int(11 * width)), fontsize=11)
    if path is not None:
        save_figure(figure, path)
        caption_path(path).write_text(caption(panels, experiment, level), encoding="utf-8")
    return figure


def _axis(curves: Sequence[Curve], label: str = "") -> Axis:
    values = [at for c in curves for at in c.x]
    return Axis("m", label, log=True, extent=math.log(max(values) / min(values)) or math.log(4))


def _draw_shares(axes: Axes, panel: Panel, level: float) -> None:
    axis = _axis(panel.curves)
    for k, curve in enumerate(panel.curves):
        found = shares(curve, level)
        places = [axis.moved(at, 0.008 * (k - (len(panel.curves) - 1) / 2)) for at in curve.x]
        joined = {"linewidth": 0.9, **dict(curve.joined or {})}
        axes.plot(places, [s.value for s in found], color=curve.colour, zorder=2, **joined)
        axes.plot(places, [s.value for s in found], markersize=5, zorder=4, **curve.mark)
        axes.vlines(places, [s.low for s in found], [s.high for s in found], color=curve.colour, linewidth=1)
    axes.set_ylim(-0.04, 1.04)
    axes.grid(which="major", color="0.92", linewidth=0.5)


def _draw_errors(axes: Axes, panel: Panel) -> None:
    """Errors as in every figure, but that marks without numbers, which the caption has, say at the top where trials failed,
    and at the foot where all that gave a result were exact."""
    axis = _axis(panel.curves)
    draw_curves(axes, panel.curves, axis)
    for curve in panel.curves:
        lost = [at for at, m in zip(curve.x, curve.measured, strict=True) if m.failed]
        whole = [at for at, n, m in zip(curve.x, curve.exact, curve.measured, strict=True) if n == m.n > 0]
        for places, height, marker in ((lost, 0.96, "x"), (whole, 0.04, "v")):
            heights = [height] * len(places)
            axes.plot(places, heights, marker, color=curve.colour, transform=axes.get_xaxis_transform())
    axes.axhline(1.0, **GUESS)


def _label(lowest: Sequence[Axes], curves: Sequence[Curve], plane: Plane) -> None:
    axis = _axis(curves)
    seen = [e for c in curves for errors in c.seen for e in errors]
    lowest[0].set_ylim(0.6 * min([0.5, *seen]), TOP)  # shared by all
    label_errors(lowest[0], "y")
    values = [at for c in curves for at in c.x]
    for axes in lowest:
        axes.set_xlim(axis.moved(min(values), -0.05), axis.moved(max(values), 0.05))
        axes.set_xlabel(ABSCISSAE[plane.across].label, fontsize=8.5)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{at:g}"))
        between = FuncFormatter(few_digits) if max(values) < 30 * min(values) else NullFormatter()
        axes.xaxis.set_minor_formatter(between)


def _key(panels: Sequence[Panel], level: float) -> list[Artist]:
    named = {c.name: c for p in panels for c in p.curves}
    curves = [c for p in panels for c in p.curves]
    drawn = drawn_kinds(curves)
    return [
        *(
            Line2D([], [], color=c.colour, markersize=5, label=name, **{**c.mark, **(c.joined or {})})
            for name, c in named.items()
        ),
        Line2D([], [], color="0.3", marker=".", linestyle="", markersize=4, alpha=0.6, label="one trial"),
        Line2D([], [], color="0.3", marker="|", linestyle="", label=f"rms or share, {level:.0%} interval"),
        Line2D([], [], color="0.3", marker="x", linestyle="", label="some trials failed"),
        Line2D([], [], color="0.3", marker="v", linestyle="", label="all results exact"),
        *(
            Line2D([], [], color="0.3", label=f"{k.name} ({speaks_of(k, curves)})", **STYLES[k])
            for k in drawn
        ),
        Line2D([], [], **GUESS, label="guessing zero, R = 1"),
    ]


def caption(panels: Sequence[Panel], experiment: Experiment, level: float = LEVEL) -> str:
    """What the marks mean, and every number: in how many of all trials the features came out exactly, with the interval of
    that share, the root mean square error, and how many trials failed."""
    plane = experiment.plane
    curves = [c for p in panels for c in p.curves]
    told = [
        f"{experiment.title}. {EXACTLY[0].upper()}{EXACTLY[1:]}; a trial without a result counts as one that is not.",
        f"Intervals: {level:.0%}, of shares exact (Clopper and Pearson), of root mean squares Student's.",
        "Hollow marks: other attacks than the tensor attack. Crosses at the top: some trials failed; triangles at the foot: "
        "all that gave a result were exact.",
        *(
            f"{MEANINGS[kind]} It is about the {speaks_of(kind, curves)}."
            for kind in drawn_kinds(curves)
            if kind in MEANINGS
        ),
    ]
    lines = [textwrap.fill(" ".join(told), 110), ""]
    across = ABSCISSAE[plane.across].label if plane else ""
    for panel in panels:
        for curve in panel.curves:
            start = boundary(curve)
            half = "" if start is None else f" (at least half exact from {start:.3g} on)"
            lines.append(f"{panel.title}, {curve.name}, by {across}{half}:")
            lines += [
                f"  {at:.3g}: {s.k} of {s.n} exact [{s.low:.2f}, {s.high:.2f}], {_rms(m)}, {m.failed} failed"
                for at, s, m in zip(curve.x, shares(curve, level), curve.measured, strict=True)
            ]
    return "\n".join([*lines, ""])


def _rms(m: Measured) -> str:
    """With two digits, however small."""
    return f"rms {m.rms:.2g}" if m.n else "no rms"
