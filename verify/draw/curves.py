"""One series as it is drawn: every trial, root mean squares with intervals, theory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from bounds import BoundValue, Kind, LikelihoodAttack, TensorAttack
from verify.draw.style import AXES, COLOURS, JOINED, MARKERS, STYLES
from verify.judge.base import Groups, bounds_at, errors_of, measured
from verify.judge.statistics import LEVEL, Measured
from verify.judge.upper import bound_of
from verify.measure.outcome import EXACT, TrialOutcome
from verify.measure.point import Point
from verify.measure.series import parameter_of, value_of


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
        parameters = {parameter_of(p, variable) for p in points}
        label, log = AXES[variable], True
        if len(parameters) == 1 and (one := parameters.pop()):
            if variable == "strength":
                label = (
                    f"{points[0].defense.name.replace('_', ' ')}: {one.words or one.name.replace('_', ' ')}"
                )
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
    records: tuple[tuple[TrialOutcome, ...], ...]
    measured: tuple[Measured, ...]
    theory: tuple[Mapping[Kind, BoundValue], ...]
    points: tuple[Point, ...]
    part: str

    @property
    def exact(self) -> list[int]:
        """How many trials at each point recovered the features exactly: no logarithm shows their errors beside others."""
        return [sum(e < EXACT for e in errors_of(found, self.part)) for found in self.records]

    @property
    def seen(self) -> list[list[float]]:
        """The errors at each point that have a height: all but the exact ones."""
        return [[e for e in errors_of(found, self.part) if e >= EXACT] for found in self.records]

    @property
    def other(self) -> bool:
        """Whether it is of another attack than the tensor attack."""
        return not isinstance(self.points[0].attack, TensorAttack)

    @property
    def mark(self) -> Mapping[str, Any]:
        """The marker of its root mean squares: hollow for the likelihood attack, half filled for any other than that and the
        tensor attack."""
        filled = {"markerfacecolor": self.colour, "markeredgecolor": "white"}
        hollow: dict[str, Any] = {
            "markerfacecolor": "white",
            "markeredgecolor": self.colour,
            "markeredgewidth": 1.3,
        }
        if self.other and not isinstance(self.points[0].attack, LikelihoodAttack):
            hollow |= {"fillstyle": "left", "markerfacecolor": self.colour, "markerfacecoloralt": "white"}
        return {"marker": self.marker, "linestyle": "", **(hollow if self.other else filled)}

    @property
    def joined(self) -> Mapping[str, Any] | None:
        """The line through its root mean squares where theory states nothing to lead the eye; None where it does."""
        stated = any(not math.isnan(v) for kind in STYLES for v in self.values(kind))
        return JOINED.get(self.points[0].attack.name, JOINED[""]) if self.other and not stated else None

    def values(self, kind: Kind) -> list[float]:
        """What theory states at each point, nan where it states nothing."""
        stated = [e.get(kind) for e in self.theory]
        return [math.nan if v is None or v.value is None or v.trivial else v.value for v in stated]


def drawn_kinds(curves: Sequence[Curve]) -> list[Kind]:
    """The kinds of statement that have a line: a height above zero, which alone is on a logarithmic axis."""
    return [k for k in STYLES if any(v > 0 for c in curves for v in c.values(k))]


def speaks_of(kind: Kind, curves: Sequence[Curve]) -> str:
    """The attacks about which statements of this kind are drawn."""
    spoken = (c.points[0].attack.called for c in curves if any(v > 0 for v in c.values(kind)))
    return ", ".join(dict.fromkeys(spoken))


def _statements(point: Point, part: str, kinds: Sequence[Kind]) -> dict[Kind, BoundValue]:
    """Theory about that part: only UPPER speaks of the span."""
    stated = bounds_at(point)
    if part == "error":
        return {k: stated[k] for k in kinds}
    return {k: bound_of(stated[k], part) for k in kinds if k is Kind.UPPER}


def curve_of(
    points: Sequence[Point],
    name: str,
    index: int,
    groups: Groups,
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


def shown_interval(m: Measured, stated: float) -> tuple[float, float]:
    """What of an interval of measured over stated has to be in the frame: all of it, unless it is so long that it would make
    the others small."""
    ratio = m.rms / stated
    return max(m.low / stated, ratio - 0.1), min(m.high / stated, ratio + 0.1)


def _alone(values: Sequence[float]) -> list[float]:
    """Those of these values that have none beside them, nan for the others."""
    there = [False, *(not math.isnan(v) for v in values), False]
    return [v if not (there[k] or there[k + 2]) else math.nan for k, v in enumerate(values)]


def draw_curves(axes: Axes, curves: Sequence[Curve], axis: Axis, scale: float = 1.0) -> list[float]:
    """Every trial, the root mean squares with their intervals, and what theory states, dots ``scale`` times as large as on a
    screen; returns the heights used, all positive."""
    axes.set_xscale("log" if axis.log else "linear")
    axes.set_yscale("log")
    jitter = np.random.default_rng(0)  # only spreads the dots, so that all of them are seen
    seen: list[float] = []
    for curve in curves:
        for at, errors, m in zip(curve.x, curve.seen, curve.measured, strict=True):
            # No logarithm shows an exact recovery beside others: it is counted at the foot (``draw_counts``).
            spread = axis.moved(at, 0.012 * jitter.uniform(-1, 1, len(errors)))
            axes.plot(
                spread, errors, "o", color=curve.colour, markersize=2.6 * scale, alpha=0.35, markeredgewidth=0
            )
            seen += errors
            if m.n and m.rms >= EXACT:
                axes.plot(at, m.rms, markersize=5 * scale, zorder=4, **curve.mark)
            if m.n >= 2 and m.rms >= EXACT:
                low = max(m.low, 1e-3 * m.rms)  # an interval that reaches zero leaves the frame
                axes.vlines(at, low, m.high, color=curve.colour, linewidth=1.6 * scale, zorder=3)
        if curve.joined is not None:
            heights = [m.rms if m.n and m.rms >= EXACT else math.nan for m in curve.measured]
            axes.plot(curve.x, heights, color=curve.colour, zorder=2, **curve.joined)
        for kind, style in STYLES.items():
            values = curve.values(kind)
            if all(math.isnan(v) for v in values):
                continue
            if kind is not Kind.FLOOR:  # one far below everything else may leave the frame
                seen += [v for v in values if v > 0]
            axes.plot(curve.x, values, color=curve.colour, zorder=2, **style)
            if "marker" not in style:  # no line joins a value that has none beside it
                dash = {"marker": "_", "markersize": 28 * scale, "linestyle": "none"}
                axes.plot(curve.x, _alone(values), color=curve.colour, zorder=2, **{**style, **dash})
    axes.grid(which="both", color="0.92", linewidth=0.5)
    return seen
