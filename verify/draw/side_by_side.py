"""All defenses in one figure: the same setting, the same attacks, from saved records alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bounds import (
    DPSGD,
    Defense,
    Dropout,
    GradientClipping,
    GradientNoise,
    GradientPruning,
    Kind,
    LocalAggregation,
    NoDefense,
    SecureAggregation,
    TensorAttack,
)
from bounds.setting import alternating
from bounds.words import how_many
from verify.draw.curves import Axis, Curve, curve_of, draw_curves, drawn_kinds
from verify.draw.key import EXACTLY
from verify.draw.names import Wording
from verify.draw.shown import colours
from verify.draw.style import (
    STYLES,
    checked_path,
    fitting,
    label_errors,
    label_values,
    legend_below,
    save_figure,
    wrapped,
)
from verify.experiments.grid import RANDOM
from verify.experiments.map import PLANE_NAMES
from verify.judge.base import Groups, bound_at
from verify.judge.statistics import Measured
from verify.measure.groups import group_records
from verify.measure.outcome import TrialOutcome
from verify.measure.point import Point, attack_name
from verify.measure.record import Record
from verify.measure.series import series

#: The defenses that are compared, in the order of the panels, and their titles.
PANELS: Mapping[type[Defense], str] = {
    NoDefense: "No defense",
    GradientNoise: "Additive noise",
    GradientClipping: "Clipping",
    DPSGD: "DP-SGD",
    Dropout: "Dropout",
    GradientPruning: "Pruning",
    LocalAggregation: "Local aggregation",
    SecureAggregation: "Secure aggregation",
}


COLUMNS = 4

#: The share of a panel's height at its foot that marks of exact recoveries take.
FOOT = 0.09

LABEL = 2.6  # inches that the name of an axis may take: a panel without the values at its side


WIDTHS = (
    1_000,
    10_000,
    100_000,
    1_000_000,
)  # the marks of the width's axis, as far as any width was measured


@dataclass(frozen=True)
class Panel:
    """What is drawn of one defense: error against width, and against strength at one width."""

    title: str
    widths: tuple[Curve, ...]
    strengths: tuple[Curve, ...]
    variable: str

    @property
    def measured(self) -> dict[Point, Measured]:
        """What was measured at every point drawn."""
        return {
            p: m for c in (*self.widths, *self.strengths) for p, m in zip(c.points, c.measured, strict=True)
        }

    @property
    def heading(self) -> str:
        """The title, how far measured over predicted ranges wherever both are there, and how many trials failed."""
        measured = self.measured
        stated = {p: bound_at(p, Kind.PREDICTED).value for p in measured}
        ratios = [m.rms / v for p, m in measured.items() if m.n and (v := stated[p])]
        failed = sum(m.failed for m in measured.values())
        trials = failed + sum(m.n for m in measured.values())
        curves = (*self.widths, *self.strengths)
        exact = {p: n for c in curves for p, n in zip(c.points, c.exact, strict=True)}
        said = f"measured / predicted: {min(ratios):.2f} to {max(ratios):.2f}" if ratios else ""
        lost = f"{failed} of {trials} failed" if failed else ""
        zero = f"{n} of {trials} exact, at the foot" if (n := sum(exact.values())) else ""
        return "\n".join([self.title, *filter(None, (said, lost, zero))])


@dataclass(frozen=True)
class SideBySide:
    """All panels, and how many trials in the common setting are in none of them."""

    panels: tuple[Panel, ...]
    not_drawn: int

    @property
    def measured(self) -> list[Panel]:
        """The panels that have something to show."""
        return [p for p in self.panels if p.measured]

    @property
    def compares(self) -> bool:
        """Whether there are defenses to be compared: at least two."""
        return len(self.measured) > 1

    @staticmethod
    def of(records: Iterable[Record]) -> SideBySide:
        """Of all records those in the common setting (``is_common``): of a defense that was measured at several widths, or
        at the width at which most of its members were; of others the number is given. What a point runs also, beside its own
        attack, is compared elsewhere (``strongest``)."""
        groups: dict[Point, list[TrialOutcome]] = {}
        for point, found in group_records(map(_own, filter(lambda r: is_common(r.point), records))).items():
            groups.setdefault(replace(point, experiment="side-by-side"), []).extend(found)
        panels = tuple(_panel(family, title, groups) for family, title in PANELS.items())
        drawn = {p for panel in panels for p in panel.measured}
        return SideBySide(panels, sum(len(found) for p, found in groups.items() if p not in drawn))


def plot_side_by_side(records: Iterable[Record], path: str | Path | None = None) -> Figure:
    """Two panels for each defense, all on one scale: error against width, and error against strength; one where it was
    measured along one of them alone. Measured: dots and root mean squares with intervals; predicted: lines; dotted: two
    features without a defense.

    Drawn are the trials that ``SideBySide`` chooses; a defense without any has no panels, and the title counts those that
    have. Returns the figure, and writes it to ``path`` if one is given. ``ValueError`` for a suffix that is no format.
    """
    if path is not None:
        checked_path(path)
    return draw_side_by_side(SideBySide.of(records), path)


def draw_side_by_side(chosen: SideBySide, path: str | Path | None = None) -> Figure:
    """``plot_side_by_side`` for trials that are chosen already."""
    cells = _cells(chosen.measured)
    columns = 1 + max((c.column for c in cells), default=0)
    rows = 1 + max((c.row for c in cells), default=0)
    width = 3.3 * max(columns, 2)
    figure = Figure(figsize=(width, 3.5 * rows + 1.2), layout="constrained")
    _draw_cells(figure, cells, rows, columns)
    figure.legend(
        handles=_key(cells),
        loc="outside lower center",
        ncols=5 if columns > 2 else 2,
        fontsize=9,
        frameon=False,
    )
    figure.suptitle("\n".join(wrapped(line, int(11 * width)) for line in _title(chosen, cells)), fontsize=11)
    if path is not None:
        save_figure(figure, path)
    return figure


@dataclass(frozen=True)
class _Cell:
    """One pair of axes' place, what is drawn there against ``variable``, and its heading."""

    row: int
    column: int
    curves: tuple[Curve, ...]
    variable: str
    heading: str


def _cells(panels: Sequence[Panel]) -> list[_Cell]:
    """Where everything is drawn, without gaps: defenses measured along both, a column of two axes for each; below them those
    measured along one."""
    pairs = [p for p in panels if p.widths and p.strengths]
    alone = [p for p in panels if not (p.widths and p.strengths)]
    columns = _columns(max(len(pairs), len(alone)))
    cells = []
    for k, p in enumerate(pairs):
        row, column = 2 * (k // columns), k % columns
        cells.append(_Cell(row, column, p.widths, "m", p.heading))
        cells.append(_Cell(row + 1, column, p.strengths, p.variable, ""))
    above = 2 * -(-len(pairs) // columns)
    for k, p in enumerate(alone):
        row, column = above + k // columns, k % columns
        cells.append(_Cell(row, column, p.widths or p.strengths, "m" if p.widths else p.variable, p.heading))
    return cells


def _columns(count: int) -> int:
    """At most ``COLUMNS``, as many as fill their rows best."""
    rows = max(1, -(-count // COLUMNS))
    return max(1, -(-count // rows))


def _draw_cells(figure: Figure, cells: Sequence[_Cell], rows: int, columns: int) -> None:
    """All of one scale."""
    grid = figure.add_gridspec(rows, columns, wspace=0.06)
    first: Axes | None = None
    heights: list[float] = []
    marks = _marks([at for cell in cells if cell.variable == "m" for c in cell.curves for at in c.x])
    for cell in cells:
        axes = figure.add_subplot(grid[cell.row, cell.column], sharey=first)
        first = first or axes
        heights += _draw(axes, cell.curves, cell.variable, marks)
        axes.set_title(cell.heading, fontsize=10)
        if cell.column:
            axes.tick_params(labelleft=False, which="both")
        else:
            axes.set_ylabel("error R")
    if first and heights:
        low, high = math.log(0.75 * min(heights)), math.log(1.35 * max(heights))
        foot = FOOT if any(n for cell in cells for c in cell.curves for n in c.exact) else 0.0
        first.set_ylim(math.exp(low - foot / (1 - foot) * (high - low)), math.exp(high))
        label_errors(first, "y")


def _marks(widths: Sequence[float]) -> list[float]:
    """On every panel's axis of widths: those of ``WIDTHS`` in the range measured; where they are too few, its ends."""
    ends = (min(widths, default=0.0), max(widths, default=0.0))
    inside = [float(m) for m in WIDTHS if ends[0] <= m <= ends[1]]
    return inside if len(inside) > 1 else list(ends)


def _key(cells: Sequence[_Cell]) -> list[Line2D]:
    drawn = drawn_kinds([c for cell in cells for c in cell.curves])
    exact = any(n for cell in cells for c in cell.curves for n in c.exact)
    others = {c.points[0].attack.called: c for cell in cells for c in cell.curves if c.other}
    return [
        *(
            Line2D(
                [],
                [],
                **dict(c.mark) | {"color": "0.3", "markeredgecolor": "0.3"} | dict(c.joined or {}),
                label=name,
            )
            for name, c in others.items()
        ),
        Line2D([], [], color="0.3", marker=".", linestyle="", markersize=4, alpha=0.6, label="one trial"),
        Line2D([], [], color="0.3", marker="|", linestyle="", markersize=11, label="rms, 99% interval"),
        *(Line2D([], [], color="0.3", label=f"{k.name} (tensor attack)", **STYLES[k]) for k in drawn),
        Line2D([], [], color="0.3", linestyle=":", label="PREDICTED, no defense, two features"),
        *([Line2D([], [], color="0.3", marker="v", linestyle="", label=EXACTLY)] if exact else []),
    ]


def _title(chosen: SideBySide, cells: Sequence[_Cell]) -> list[str]:
    """Its lines: how many defenses, in which setting, and what is not drawn."""
    drawn = len(chosen.measured)
    share = "eight" if drawn == len(PANELS) == 8 else f"{drawn} of {len(PANELS)}"
    lost = f". Not drawn: {how_many(chosen.not_drawn, 'trial')} at single widths" if chosen.not_drawn else ""
    return [
        f"{_attacks(cells)} against {share} defenses (ReLU, random features, d = 50, residualized moments; two features, or "
        "two for each client or local batch)",
        f"{_which(cells)}{lost}",
    ]


def _attacks(cells: Sequence[_Cell]) -> str:
    """Those that are drawn, as a title begins."""
    called = list(dict.fromkeys(c.points[0].attack.called for cell in cells for c in cell.curves))
    if len(called) < 2:
        return f"The {called[0]}" if called else "One attack"
    return f"{', '.join(called[:-1])} and {called[-1]}".capitalize()


def _which(cells: Sequence[_Cell]) -> str:
    """What the horizontal axes are, in a sentence."""
    if any(not cell.heading for cell in cells):
        return "Upper of each pair: error against width. Lower: against strength"
    along = {"width" if cell.variable == "m" else "strength" for cell in cells}
    return f"Error against {' or '.join(sorted(along, reverse=True))}" if along else "Nothing is drawn"


def is_common(point: Point) -> bool:
    """Whether a point is in the setting in which defenses are compared: two features, or two for each client or local
    batch; any number where there is no defense. Its attack is any, as it is by default. The map has figures of its own."""
    return (
        point.experiment not in PLANE_NAMES
        and type(point.defense) in PANELS
        and point.features == RANDOM
        and (point.d, point.activation, point.dtype) == (50, "relu", "float64")
        and attack_name(point.attack) == point.attack.name
        and point.labels == alternating(point.B)
        and (isinstance(point.defense, NoDefense) or 2 * _batches(point.defense) == point.B)
    )


def _own(record: Record) -> Record:
    """Of a trial in which several attacks ran what the point's own one gave."""
    name = record.point.names[0]
    point = record.point.single[name]
    return replace(record, point=point, outcomes={name: record.outcomes[name]})


def _batches(defense: Defense) -> int:
    """How many batches are in one observation."""
    if isinstance(defense, SecureAggregation):
        return defense.clients
    return defense.steps if isinstance(defense, LocalAggregation) and defense.batches == "different" else 1


def _panel(family: type[Defense], title: str, groups: Groups) -> Panel:
    own = [p for p in groups if type(p.defense) is family]
    batch_alone = family is NoDefense  # its strength is the batch size
    variable = "B" if batch_alone else "strength"
    widths = [s for s in series([p for p in own if not batch_alone or p.B == 2], "m") if len(s) > 1]
    strengths: list[list[Point]] = []
    for attack in dict.fromkeys(p.attack for p in own):
        alike = [p for p in own if p.attack == attack]
        # At one width: that of most members, the larger one where two are even.
        width = max({p.m for p in alike}, key=lambda m: (sum(p.m == m for p in alike), m))
        strengths += [s for s in series([p for p in alike if p.m == width], variable) if len(s) > 1]
    return Panel(title, _curves(widths, groups, "m"), _curves(strengths, groups, variable), variable)


def _curves(together: Sequence[Sequence[Point]], groups: Groups, x: str) -> tuple[Curve, ...]:
    """A series of another attack has the colour of the tensor attack's in the same setting, and no name of its own."""
    tensor = [points for points in together if isinstance(points[0].attack, TensorAttack)]
    names = {points[0]: name for points, name in zip(tensor, Wording.of(tensor, x).names, strict=True)}
    return tuple(
        curve_of(points, names.get(points[0], ""), index, groups, x, kinds=(Kind.PREDICTED, Kind.FLOOR))
        for index, points in zip(colours(together, x), together, strict=True)
    )


def _draw(axes: Axes, curves: Sequence[Curve], variable: str, marks: Sequence[float]) -> list[float]:
    """One panel, ``marks`` on its axis if that is the width; returns the heights that have to be in the frame."""
    points = [p for c in curves for p in c.points]
    axis = Axis.of(variable, points)
    heights = draw_curves(axes, curves, axis)
    for c in curves:
        whole = [at for at, n in zip(c.x, c.exact, strict=True) if n]
        style = {**c.mark, "marker": "v", "color": c.colour}
        axes.plot(whole, [FOOT / 2] * len(whole), transform=axes.get_xaxis_transform(), **style)
    ticks = sorted({at for c in curves for at in c.x} | set(marks if variable == "m" else ()))
    axes.set_xlim(axis.moved(ticks[0], -0.07), axis.moved(ticks[-1], 0.07))
    width, *_ = (p.m for p in points)
    widths = ticks if variable == "m" else [width] * len(ticks)
    stated = [bound_at(Point("", RANDOM, d=50, m=int(m), B=2), Kind.PREDICTED).value for m in widths]
    axes.plot(ticks, [v or math.nan for v in stated], color="0.3", linestyle=":", linewidth=1.2, zorder=1)
    label_values(axes, marks if variable == "m" else _readable(ticks, axis))
    axes.tick_params(axis="x", labelsize=7.5)
    at = [] if variable == "m" else _at_widths(points)
    at += Wording.of([c.points for c in curves], variable).parameters
    name = axis.label.split(": ")[-1]
    axes.set_xlabel(fitting(f"{name} ({', '.join(at)})" if at else name, LABEL, 8.5), fontsize=8.5)
    if any(c.name for c in curves):
        legend_below(
            axes,
            [
                Line2D([], [], color=c.colour, marker=c.marker, linestyle="", markersize=4, label=c.name)
                for c in curves
                if c.name
            ],
        )
    return heights


def _at_widths(points: Sequence[Point]) -> list[str]:
    """At which width each attack ran; without its name where that is one for all."""
    widths = {p.attack.called: p.describe()["m"] for p in points}
    return (
        [*dict.fromkeys(widths.values())]
        if len({*widths.values()}) == 1
        else [f"{called}: {width}" for called, width in widths.items()]
    )


def _readable(ticks: Sequence[float], axis: Axis) -> list[float]:
    """As many of these values as can be labelled without running into each other."""
    kept = [ticks[-1]]
    for at in reversed(ticks[:-1]):
        if axis.moved(at, 0.14) <= kept[-1]:
            kept.append(at)
    return kept[::-1]
