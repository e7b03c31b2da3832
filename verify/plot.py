"""Figures from saved records alone; no attack is run.

Every trial is shown, and every failure. Kinds of statement are drawn differently: PREDICTED as a solid line;
RATE, which has no constant, as a thin grey guide that says so; UPPER and LOWER with triangles pointing where
the truth has to be.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from bounds import SYMBOLS, BoundValue, Kind, UnsupportedBound, expression
from verify.compare import (
    bound_of,
    bounds_at,
    compare,
    errors_of,
    group_records,
    measured,
    rate_exponent,
    series,
    value_of,
)
from verify.experiment import Check, Experiment, Point, PredictedCheck, RateCheck, UpperCheck
from verify.record import Record
from verify.rules import LEVEL, Measured, RatioResult, Result

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


@dataclass(frozen=True)
class Axis:
    """What is on the horizontal axis: a key of ``AXES``, its label, whether it is logarithmic, and its extent (of the
    logarithm, if it is)."""

    variable: str
    label: str
    log: bool
    extent: float

    @staticmethod
    def of(variable: str, points: Sequence[Point]) -> Axis:
        parameters = {p.defense.strength_parameter() for p in points}
        label, log = AXES[variable], True
        if variable == "strength" and len(parameters) == 1 and (one := parameters.pop()):
            label = f"{points[0].defense.name.replace('_', ' ')}: {one.name.replace('_', ' ')}"
            log = one.hi > 1  # a share is drawn as such
        values = [float(value_of(p, variable)) for p in points]
        log = log and min(values) > 0
        extent = math.log(max(values) / min(values)) if log else max(values) - min(values)
        return Axis(variable, label, log, extent or (math.log(4) if log else 1.0))

    def moved(self, value: Any, share: Any) -> Any:
        """``value`` moved by a share of the extent."""
        return value * np.exp(share * self.extent) if self.log else value + share * self.extent


@dataclass(frozen=True)
class Curve:
    """One series as it is drawn: its points in order of x, what was measured and what theory states at
    each."""

    name: str
    colour: str
    marker: str
    x: tuple[float, ...]
    records: tuple[tuple[Record, ...], ...]
    measured: tuple[Measured, ...]
    theory: tuple[Mapping[Kind, BoundValue], ...]
    points: tuple[Point, ...]
    part: str

    def values(self, kind: Kind) -> list[float]:
        """What theory states at each point, nan where it states nothing."""
        stated = [e.get(kind) for e in self.theory]
        return [math.nan if v is None or v.value is None or v.trivial else v.value for v in stated]


def plot(
    records: Iterable[Record],
    path: str | Path,
    experiment: Experiment | None = None,
    *,
    x: str | None = None,
    tolerance: float | None = None,
    level: float = LEVEL,
) -> list[Result]:
    """Error against ``x`` (a key of ``AXES``; None: what the experiment's rate is about, else what varies at its one
    width, else "m"), log-log (a share between 0 and 1: linear), one colour for each series, with the ratio to PREDICTED
    below (band: 1 ± tolerance; None: the experiment's own, else 0.03) and the verdicts at the foot. UPPER, the costly one,
    is drawn where the experiment checks it or there is no experiment. Writes ``path`` and returns the verdicts.

    Verdicts follow the experiment's rules, if one is given, else those natural to ``x``. Raises
    ``ValueError`` for an unknown ``x`` or no records, and whatever ``compare`` raises.
    """
    x = x or natural_axis(experiment)
    if x not in AXES:
        raise ValueError(f"x must be one of {', '.join(AXES)}; got {x!r}")
    groups = group_records(records, experiment)
    kept = [r for group in groups.values() for r in group]
    if not kept:
        raise ValueError("records must hold at least one trial; got none")
    own = [c.tolerance for c in experiment.rules if isinstance(c, PredictedCheck)] if experiment else []
    tolerance = max(own, default=0.03) if tolerance is None else tolerance
    results = [
        r for c in _checks(experiment, x, tolerance) for r in compare(kept, experiment, check=c, level=level)
    ]
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
    title = experiment.title if experiment else ", ".join(sorted({r.experiment for r in kept}))
    figure.suptitle(f"{title}\n{', '.join(common)}", fontsize=11)
    save_figure(figure, path)
    return results


def plot_summary(results: Iterable[Result], path: str | Path, level: float = LEVEL) -> None:
    """Measured over predicted in every comparison of ``results`` (as ``compare`` gives them), a row for each experiment,
    with intervals (of confidence ``level``, for the label), the tolerances asked for as bands, coloured by verdict. What has
    no ratio stands in the row's note, as do failed trials. Writes ``path``. ``ValueError`` if nothing was compared with a
    prediction."""
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
    save_figure(figure, path)


def _row_note(found: Sequence[RatioResult]) -> str:
    """How many comparisons came out how, the trials behind each, and what failed."""
    counts = [f"{n} {v}" for v in VERDICTS if (n := sum(r.verdict == v for r in found))]
    least, most = min(r.n for r in found), max(r.n for r in found)
    trials = f"n = {least}" if least == most else f"n = {least} to {most}"
    failed = sum(r.failed for r in found)
    return f"{', '.join(counts)}; {trials}" + (f", {failed} failed" if failed else "")


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
    """What is drawn of theory: all but UPPER, which takes seconds at every point, where no check asks for it."""
    asked = experiment is None or any(isinstance(c, UpperCheck) for c in experiment.rules)
    return tuple(k for k in STYLES if asked or k is not Kind.UPPER)


def _statements(point: Point, part: str, kinds: Sequence[Kind]) -> dict[Kind, BoundValue]:
    """Theory about that part: only UPPER speaks of the span."""
    stated = bounds_at(point)
    if part == "error":
        return {k: stated[k] for k in kinds}
    return {k: bound_of(stated[k], part) for k in kinds if k is Kind.UPPER}


def _checks(experiment: Experiment | None, x: str, tolerance: float) -> tuple[Check, ...]:
    if experiment is not None:
        return experiment.rules
    if x in ("B", "strength"):  # of which no rate speaks
        return (PredictedCheck(tolerance),)
    return (PredictedCheck(tolerance), RateCheck("m")) if x == "m" else (RateCheck(x),)


def curve_of(
    points: Sequence[Point],
    name: str,
    index: int,
    groups: Mapping[Point, Sequence[Record]],
    x: str,
    level: float = LEVEL,
    part: str = "error",
    kinds: Sequence[Kind] = (Kind.PREDICTED,),
) -> Curve:
    """One series, its records and what theory states, ready to be drawn."""
    return Curve(
        name,
        COLOURS[index % len(COLOURS)],
        MARKERS[(index + index // len(COLOURS)) % len(MARKERS)],  # another marker where a colour comes again
        tuple(float(value_of(p, x)) for p in points),
        tuple(tuple(groups[p]) for p in points),
        tuple(measured(groups[p], level, part) for p in points),
        tuple(_statements(p, part, kinds) for p in points),
        tuple(points),
        part,
    )


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
    return common, names


def _draw_errors(axes: Axes, curves: Sequence[Curve], axis: Axis) -> str:
    """The upper panel; returns the label of the rate's guide, empty if there is none."""
    seen = draw_curves(axes, curves, axis)
    guide = _draw_guide(axes, curves, axis.variable, seen)
    top = _draw_failures(axes, curves)
    if seen:
        low, high = math.log(0.75 * min(seen)), math.log(1.35 * max(seen))
        axes.set_ylim(math.exp(low), math.exp(low + (high - low) / (1 - top)))
    if seen and max(seen) > 0.6:
        axes.axhline(1.0, color="0.3", linewidth=0.7, linestyle=(0, (1, 2)))
        axes.annotate(
            "guessing zero", (0.01, 1.0), xycoords=("axes fraction", "data"), fontsize=7.5, va="bottom"
        )
    axes.set_ylabel("error R" if curves[0].part == "error" else "distance from the span (rms over features)")
    axes.tick_params(labelbottom=False, which="both")
    return guide


def draw_curves(axes: Axes, curves: Sequence[Curve], axis: Axis) -> list[float]:
    """Every trial, the root mean squares with their intervals, and what theory states; returns the heights used."""
    axes.set_xscale("log" if axis.log else "linear")
    axes.set_yscale("log")
    jitter = np.random.default_rng(0)  # only spreads the dots, so that all of them are seen
    seen: list[float] = []
    for curve in curves:
        for at, group, m in zip(curve.x, curve.records, curve.measured, strict=True):
            errors = errors_of(group, curve.part)
            spread = axis.moved(at, 0.012 * jitter.uniform(-1, 1, len(errors)))
            axes.plot(spread, errors, "o", color=curve.colour, markersize=2.6, alpha=0.35, markeredgewidth=0)
            seen += errors
            if m.n:
                axes.plot(
                    at,
                    m.rms,
                    curve.marker,
                    color=curve.colour,
                    markersize=5,
                    markeredgecolor="white",
                    zorder=4,
                )
            if m.n >= 2:
                low = max(m.low, 1e-3 * m.rms)  # an interval that reaches zero leaves the frame
                axes.vlines(at, low, m.high, color=curve.colour, linewidth=1.6, zorder=3)
        for kind, style in STYLES.items():
            values = curve.values(kind)
            if all(math.isnan(v) for v in values):
                continue
            if kind is not Kind.FLOOR:  # one far below everything else may leave the frame
                seen += [v for v in values if v > 0]
            lone = {"marker": "_", "markersize": 28} if len(values) == 1 and "marker" not in style else {}
            axes.plot(curve.x, values, color=curve.colour, zorder=2, **{**style, **lone})
    axes.yaxis.set_major_formatter(FuncFormatter(_few_digits))
    axes.yaxis.set_minor_formatter(FuncFormatter(_few_digits))
    axes.grid(which="both", color="0.92", linewidth=0.5)
    return seen


def _draw_failures(axes: Axes, curves: Sequence[Curve]) -> float:
    """A cross and a count at the top wherever trials failed, a row for each series. Returns the share of the
    height used."""
    failing = [c for c in curves if any(m.failed for m in c.measured)]
    last = max(at for c in curves for at in c.x)
    for row, curve in enumerate(failing):
        for at, m in zip(curve.x, curve.measured, strict=True):
            if not m.failed:
                continue
            height = 0.965 - 0.05 * row
            axes.plot(at, height, "x", color=curve.colour, transform=axes.get_xaxis_transform(), markersize=6)
            axes.annotate(
                f"{m.failed} of {m.failed + m.n} failed",
                (at, height),
                xycoords=axes.get_xaxis_transform(),
                xytext=(-7 if at == last else 7, 0),
                textcoords="offset points",
                color=curve.colour,
                fontsize=7.5,
                va="center",
                ha="right" if at == last else "left",
            )
    return 0.05 * len(failing)


def _few_digits(value: float, _: int | None = None) -> str:
    """Tick labels at 1, 2, 3, 5 times a power of ten."""
    leading = round(value / 10 ** math.floor(math.log10(value)), 6) if value > 0 else 0
    return f"{value:g}" if leading in (1, 2, 3, 5) else ""


def _draw_guide(axes: Axes, curves: Sequence[Curve], x: str, seen: list[float]) -> str:
    """The rate's slope, once, above the highest series: a slope has no height of its own."""
    usable = [c for c in curves if sum(m.n > 0 for m in c.measured) >= 2]
    if not usable or x not in SYMBOLS:
        return ""
    top = max(usable, key=lambda c: max(m.rms for m in c.measured if m.n))
    try:
        exponent = rate_exponent(expression(top.points[0].defense, Kind.RATE), SYMBOLS[x])
    except UnsupportedBound:
        return ""
    pairs = [(at, m.rms) for at, m in zip(top.x, top.measured, strict=True) if m.n]
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


def label_values(axes: Axes, ticks: Sequence[float]) -> None:
    """Mark these values on the horizontal axis, and no others."""
    axes.set_xticks(ticks, [f"{t:,.0f}".replace(",", " ") if t >= 1000 else f"{t:g}" for t in ticks])
    axes.set_xticks([], minor=True)


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


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure, making its directory where there is none."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    # No software version in the file: equal records give equal bytes.
    figure.savefig(path, dpi=DPI, metadata={"Software": None} if str(path).endswith(".png") else None)
