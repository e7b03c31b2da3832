"""Figures from saved records alone; no attack is run.

Every trial is shown, and every failure. Kinds of statement are drawn differently: PREDICTED as a solid line;
RATE, which has no constant, as a thin grey guide that says so; UPPER and LOWER with triangles pointing where
the truth has to be.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from bounds import SYMBOLS, Kind, UnsupportedBound
from verify.draw.curves import Axis, Curve, curve_of, draw_curves, parameter_names
from verify.draw.style import (
    AXES,
    GUIDE,
    GUIDE_SHIFT,
    STYLES,
    VERDICTS,
    checked_path,
    label_values,
    save_figure,
)
from verify.judge import JUDGES
from verify.judge.base import Conduct, Groups, errors_of
from verify.judge.compare import judged
from verify.judge.predicted import PredictedCheck
from verify.judge.rate import RateCheck, exponent_at
from verify.judge.statistics import LEVEL
from verify.judge.upper import UpperCheck
from verify.judge.verdict import Result
from verify.measure.check import Check
from verify.measure.experiment import Experiment
from verify.measure.groups import group_records
from verify.measure.point import Point
from verify.measure.record import Record
from verify.measure.series import series, value_of


def plot(
    records: Iterable[Record],
    path: str | Path | None = None,
    experiment: Experiment | None = None,
    *,
    x: str | None = None,
    tolerance: float | None = None,
    level: float = LEVEL,
) -> Figure:
    """Error against ``x`` (a key of ``AXES``; None: what the experiment's rate is about, else what varies at its one
    width, else "m"), log-log (a share between 0 and 1: linear), one colour for each series, with the ratio to PREDICTED
    below (band: 1 ± tolerance; None: the experiment's own, else 0.03) and the verdicts at the foot. A statement that takes
    long to compute (UPPER) is drawn where the experiment checks it or there is no experiment. Returns matplotlib's figure,
    and writes it to ``path`` if one is given: PNG, PDF or SVG by its suffix.

    Verdicts are those of ``compare``, by the experiment's rules, if one is given, else by those natural to ``x``. Raises
    ``ValueError`` for an unknown ``x`` or suffix, or no records, and whatever ``compare`` raises.
    """
    if path is not None:
        checked_path(path)
    x = x or natural_axis(experiment)
    if x not in AXES:
        raise ValueError(f"x must be one of {', '.join(AXES)}; got {x!r}")
    groups = group_records(records, experiment)
    if not any(groups.values()):
        raise ValueError("records must hold at least one trial; got none")
    tolerance = _tolerance(experiment) if tolerance is None else tolerance
    results = judged(groups, _checks(experiment, x, tolerance), Conduct(level))
    return draw_judged(groups, results, path, experiment, x=x, tolerance=tolerance, level=level)


def draw_judged(
    groups: Groups,
    results: Sequence[Result],
    path: str | Path | None = None,
    experiment: Experiment | None = None,
    *,
    x: str | None = None,
    tolerance: float | None = None,
    level: float = LEVEL,
) -> Figure:
    """``plot`` for records that are grouped and judged already: at least one trial, and verdicts of the same ``level``."""
    x = x or natural_axis(experiment)
    tolerance = _tolerance(experiment) if tolerance is None else tolerance
    together = series([p for p, group in groups.items() if group], x)
    common, names = _common_and_names(together)
    kinds = _kinds(experiment)
    part = _part(experiment)
    axis = Axis.of(x, [p for s in together for p in s])
    curves = [
        curve_of(s, n, i, groups, x, level, part, kinds)
        for i, (s, n) in enumerate(zip(together, names, strict=True))
    ]

    notes = _verdict_lines(results, common)
    foot = 0.17 * len(notes) + 0.1
    figure = Figure(figsize=(9.2, 5.9 + foot), layout="constrained")
    grid = figure.add_gridspec(3, 2, width_ratios=(1, 0.36), height_ratios=(3.9, 1.6, foot))
    main = figure.add_subplot(grid[0, 0])
    below = figure.add_subplot(grid[1, 0], sharex=main)
    guide = _draw_errors(main, curves, axis)
    _draw_ratios(below, curves, axis, tolerance)
    _draw_legend(figure.add_subplot(grid[:2, 1]), curves, guide, level, tolerance)
    _draw_verdicts(figure.add_subplot(grid[2, :]), notes)
    title = experiment.title if experiment else ", ".join(sorted({p.experiment for s in together for p in s}))
    figure.suptitle(f"{title}\n{', '.join(common)}", fontsize=11)
    if path is not None:
        save_figure(figure, path)
    return figure


def _tolerance(experiment: Experiment | None) -> float:
    """Half the width of the band about ratio 1: the experiment's own, if it has one."""
    own = [c.tolerance for c in experiment.rules if isinstance(c, PredictedCheck)] if experiment else []
    return max(own, default=0.03)


# --- what is drawn ------------------------------------------------------------------------------------------


def natural_axis(experiment: Experiment | None) -> str:
    """What an experiment is drawn against."""
    if experiment is None:
        return "m"
    rates = [c.variable for c in experiment.rules if isinstance(c, RateCheck)]
    if rates:
        return rates[0]
    points = experiment.points
    if len({p.m for p in points}) == 1 and len({type(p.defense) for p in points}) == 1:
        if points[0].defense.strength_parameter() and len({value_of(p, "strength") for p in points}) > 1:
            return "strength"
        if len({p.B for p in points}) > 1:
            return "B"
    return "m"


def _part(experiment: Experiment | None) -> str:
    """What is drawn: R, or the distance from the span where the experiment's bounds are about that."""
    parts = {c.part for c in experiment.rules if isinstance(c, UpperCheck)} if experiment else set()
    return "span" if parts == {"span"} else "error"


def _kinds(experiment: Experiment | None) -> tuple[Kind, ...]:
    """What is drawn of theory: all that can be, but for what is costly where no check asks for it."""
    asked = tuple(JUDGES) if experiment is None else tuple(c.kind for c in experiment.rules)
    return tuple(kind for kind in STYLES if kind in asked or not JUDGES[kind].costly)


def _checks(experiment: Experiment | None, x: str, tolerance: float) -> tuple[Check, ...]:
    if experiment is not None:
        return experiment.rules
    if x in ("B", "strength"):  # of which no rate speaks
        return (PredictedCheck(tolerance),)
    return (PredictedCheck(tolerance), RateCheck("m")) if x == "m" else (RateCheck(x),)


def _common_and_names(together: Sequence[Sequence[Point]]) -> tuple[list[str], list[str]]:
    """Which parts of the description all points share, and a name for each series from the parts that tell it
    apart."""
    words = [[p.describe() for p in s] for s in together]
    parts = list(words[0][0])
    one_in_all = {k for k in parts if len({w[k] for s in words for w in s}) == 1}
    common = [words[0][0][k] for k in parts if k in one_in_all and words[0][0][k]]
    names = [
        ", ".join(s[0][k] for k in parts if k not in one_in_all and s[0][k] and len({w[k] for w in s}) == 1)
        for s in words
    ]
    if len(set(names)) < len(names) and len({type(p.defense) for s in together for p in s}) == 1:
        # Along strengths the defense itself changes: its other parameters tell the series apart.
        pairs = zip(names, parameter_names(together), strict=True)
        names = [", ".join(filter(None, pair)) for pair in pairs]
    return common, names


def _draw_errors(axes: Axes, curves: Sequence[Curve], axis: Axis) -> str:
    """The upper panel; returns the label of the rate's guide, empty if there is none."""
    seen = draw_curves(axes, curves, axis)
    guide = _draw_guide(axes, curves, axis.variable, seen)
    top, bottom = _draw_failures(axes, curves), _draw_exact(axes, curves)
    if seen:
        low, high = math.log(0.75 * min(seen)), math.log(1.35 * max(seen))
        height = (high - low) / (1 - top - bottom)
        axes.set_ylim(math.exp(low - bottom * height), math.exp(high + top * height))
    if seen and max(seen) > 0.6:
        axes.axhline(1.0, color="0.3", linewidth=0.7, linestyle=(0, (1, 2)))
        axes.annotate(
            "guessing zero", (0.01, 1.0), xycoords=("axes fraction", "data"), fontsize=7.5, va="bottom"
        )
    axes.set_ylabel("error R" if curves[0].part == "error" else "distance from the span (rms over features)")
    axes.tick_params(labelbottom=False, which="both")
    return guide


def _draw_failures(axes: Axes, curves: Sequence[Curve]) -> float:
    """A cross and a count at the top wherever trials failed. Returns the share of the height used."""
    counts = [[(m.failed, f"{m.failed} of {m.failed + m.n} failed") for m in c.measured] for c in curves]
    return _draw_counts(axes, curves, counts, marker="x", first=0.965, step=-0.05)


def _draw_exact(axes: Axes, curves: Sequence[Curve]) -> float:
    """The same at the foot for trials that recovered the features exactly: no logarithm shows R = 0."""
    zeros = [[errors_of(group, c.part).count(0.0) for group in c.records] for c in curves]
    counts = [
        [(n, f"{n} of {m.failed + m.n} exact") for n, m in zip(own, c.measured, strict=True)]
        for own, c in zip(zeros, curves, strict=True)
    ]
    return _draw_counts(axes, curves, counts, marker="v", first=0.035, step=0.05)


def _draw_counts(
    axes: Axes,
    curves: Sequence[Curve],
    counts: Sequence[Sequence[tuple[int, str]]],
    *,
    marker: str,
    first: float,
    step: float,
) -> float:
    """A marker and a text at every point whose count is not zero, a row for each series that has any; returns the share of
    the height used."""
    rows = [(curve, own) for curve, own in zip(curves, counts, strict=True) if any(n for n, _ in own)]
    last = max(at for c in curves for at in c.x)
    for row, (curve, own) in enumerate(rows):
        height = first + step * row
        for at, (n, text) in zip(curve.x, own, strict=True):
            if not n:
                continue
            axes.plot(
                at, height, marker, color=curve.colour, transform=axes.get_xaxis_transform(), markersize=6
            )
            axes.annotate(
                text,
                (at, height),
                xycoords=axes.get_xaxis_transform(),
                xytext=(-7 if at == last else 7, 0),
                textcoords="offset points",
                color=curve.colour,
                fontsize=7.5,
                va="center",
                ha="right" if at == last else "left",
            )
    return abs(step) * len(rows)


def _draw_guide(axes: Axes, curves: Sequence[Curve], x: str, seen: list[float]) -> str:
    """The rate's slope, once, above the highest series: a slope has no height of its own."""
    usable = [c for c in curves if sum(m.rms > 0 for m in c.measured) >= 2]
    if not usable or x not in SYMBOLS:
        return ""
    top = max(usable, key=lambda c: max(m.rms for m in c.measured if m.rms > 0))
    try:
        exponent = exponent_at(top.points, x)
    except UnsupportedBound:
        return ""
    pairs = [(at, m.rms) for at, m in zip(top.x, top.measured, strict=True) if m.rms > 0]
    offset = np.mean([math.log(rms) - exponent * math.log(at) for at, rms in pairs])
    ends = np.array([pairs[0][0], pairs[-1][0]])
    heights = GUIDE_SHIFT * np.exp(offset) * ends**exponent
    axes.plot(ends, heights, zorder=1, **GUIDE)
    seen += heights.tolist()
    slope = str(Fraction(exponent).limit_denominator(24)).replace("-", "−")
    return f"slope {slope} (fitted offset,\nraised): order only,\nno constant"


def _draw_ratios(axes: Axes, curves: Sequence[Curve], axis: Axis, tolerance: float) -> None:
    """The lower panel: measured over PREDICTED; of the span, of which nothing is predicted, over UPPER."""
    kind = Kind.UPPER if curves[0].part == "span" else Kind.PREDICTED
    if kind is Kind.PREDICTED:
        axes.axhspan(1 - tolerance, 1 + tolerance, color="0.88", zorder=0)
    axes.axhline(1, color="0.3", linewidth=0.8)
    shown = [min(0.92, 0.99 - tolerance), max(1.08, 1.01 + tolerance)]
    for k, curve in enumerate(curves):
        shift = min(0.022, 0.12 / len(curves)) * (k - (len(curves) - 1) / 2)
        for at, m, predicted in zip(curve.x, curve.measured, curve.values(kind), strict=True):
            if not m.n or not predicted > 0:
                continue
            place = axis.moved(at, shift)
            axes.plot(place, m.rms / predicted, curve.marker, color=curve.colour, markersize=5)
            if m.n >= 2:
                axes.vlines(place, m.low / predicted, m.high / predicted, color=curve.colour, linewidth=1.4)
            shown += [m.rms / predicted - 0.04, m.rms / predicted + 0.04]
    axes.set_ylim(min(shown), max(shown))
    axes.set_ylabel(f"measured /\n{kind.name if kind is Kind.UPPER else 'predicted'}")
    axes.set_xlabel(axis.label)
    ticks = sorted({at for c in curves for at in c.x})
    label_values(axes, ticks)
    axes.set_xlim(axis.moved(ticks[0], -0.07), axis.moved(ticks[-1], 0.07))
    axes.grid(color="0.92", linewidth=0.5)


def _draw_legend(axes: Axes, curves: Sequence[Curve], guide: str, level: float, tolerance: float) -> None:
    axes.axis("off")
    named = [
        Line2D(
            [],
            [],
            color=c.colour,
            marker=c.marker,
            linestyle="",
            label=textwrap.fill(c.name or "measured", 30),
        )
        for c in curves
    ]
    stated = [k for k in STYLES if any(v == v for c in curves for v in c.values(k))]
    how = [
        Line2D([], [], color="0.3", marker=".", linestyle="", markersize=4, alpha=0.6, label="one trial"),
        Line2D(
            [], [], color="0.3", marker="|", linestyle="", markersize=11, label=f"rms, {level:.0%} interval"
        ),
        *(Line2D([], [], color="0.3", label=k.name, **STYLES[k]) for k in stated),
        *([Line2D([], [], label=f"RATE {guide}", **GUIDE)] if guide else []),
        *([Patch(color="0.88", label=f"1 ± {tolerance:g}")] if curves[0].part == "error" else []),
    ]
    first = axes.legend(handles=named, loc="upper left", fontsize=8.5, frameon=False, borderaxespad=0)
    axes.add_artist(first)
    axes.legend(handles=how, loc="lower left", fontsize=8.5, frameon=False, borderaxespad=0)


def _verdict_lines(results: Sequence[Result], common: Sequence[str]) -> list[tuple[str, str]]:
    """(text, colour), wrapped; what the title already says is left out."""
    known = {word for part in common for word in part.split(", ")}
    lines = []
    for r in results:
        name = ", ".join(word for word in r.series.split(", ") if word not in known)
        text = f"{r.kind.name} {name}: {r.text}" if name else f"{r.kind.name}: {r.text}"
        wrapped = textwrap.wrap(text, 150, subsequent_indent="      ")
        lines += [(line, VERDICTS[r.verdict][0]) for line in wrapped]
    return lines


def _draw_verdicts(axes: Axes, lines: Sequence[tuple[str, str]]) -> None:
    axes.axis("off")
    for row, (text, colour) in enumerate(lines):
        axes.text(
            0,
            1 - (row + 0.5) / len(lines),
            text,
            color=colour,
            fontsize=7.5,
            va="center",
            transform=axes.transAxes,
        )
