"""Series of one point each: a row for each of them, errors along the horizontal axis."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from bounds import Kind
from verify.draw.curves import Curve, shown_interval
from verify.draw.shown import Shown
from verify.draw.style import GUESS, STYLES, TURNED, even_ticks, label_errors, span_of, wrapped
from verify.measure.outcome import EXACT

HALF = 0.36  #: a row's half height; rows are one apart


def draw_error_rows(axes: Axes, shown: Shown, wrap: int) -> bool:
    """Every trial, the root mean square with its interval, and what theory states, a row for each series, named with what
    failed or was exact; returns whether the line of guessing zero is among them."""
    scale = shown.look.scale
    seen = [v for row, c in enumerate(shown.curves) for v in _draw_row(axes, c, row, scale)]
    axes.set_xscale("log")
    guessed = bool(seen) and max(seen) > 0.6
    if seen:
        axes.set_xlim(0.85 * min(seen), 1.18 * max([*seen, *([1.0] if guessed else [])]))
    if guessed:
        axes.axvline(1.0, zorder=1, **GUESS)
    names = [_name(c, shown, wrap) for c in shown.curves]
    axes.set_yticks(range(len(names)), names, fontsize=shown.look.small)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(shown.error, fontsize=shown.look.text)
    label_errors(axes, "x")
    even_ticks(axes, "x", shown.look)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", which="both", color="0.92", linewidth=0.5 * scale)
    return guessed


def _draw_row(axes: Axes, curve: Curve, row: int, scale: float) -> list[float]:
    """One series; returns the errors and bounds that have to be in the frame."""
    (errors,), (m,) = curve.seen, curve.measured
    spread = row + HALF * 0.8 * np.random.default_rng(row).uniform(-1, 1, len(errors))
    axes.plot(errors, spread, "o", color=curve.colour, markersize=2.6 * scale, alpha=0.35, markeredgewidth=0)
    seen = list(errors)
    if m.n and m.rms >= EXACT:
        axes.plot(m.rms, row, markersize=6 * scale, zorder=5, **curve.mark)
    if m.n >= 2 and m.rms >= EXACT:
        axes.hlines(row, max(m.low, 1e-3 * m.rms), m.high, color=curve.colour, linewidth=2 * scale, zorder=4)
    for kind, style in STYLES.items():
        (value,) = curve.values(kind)
        if not value > 0:
            continue
        line = {k: v for k, v in style.items() if k not in ("marker", "markersize", "fillstyle")}
        line |= {"linestyle": "-"} if "marker" in style else {}  # a row is too short for a pattern
        axes.plot([value, value], [row - HALF, row + HALF], color="0.15", zorder=3, **line)
        if "marker" in style:
            mark = {k: v for k, v in style.items() if k in ("markersize", "fillstyle")}
            axes.plot(
                value, row, TURNED.get(style["marker"], style["marker"]), color="0.15", zorder=3, **mark
            )
        seen.append(value)
    return seen


def _name(curve: Curve, shown: Shown, wrap: int) -> str:
    """The series, or where it is alone its place on the axis it would have; and what no logarithm shows."""
    (point,), (m,), (exact,) = curve.points, curve.measured, curve.exact
    name = curve.name or point.describe()["m"]
    trials = m.n + m.failed
    lost = [f"{n} of {trials} {what}" for n, what in ((m.failed, "failed"), (exact, "exact")) if n]
    return "\n".join([wrapped(name, wrap), *lost])


def draw_ratio_rows(axes: Axes, shown: Shown) -> None:
    """Measured over what theory states, a row for each series, beside ``draw_error_rows``."""
    kind, scale = shown.compared, shown.look.scale
    ends = [0.95, 1.05]
    if kind is Kind.PREDICTED:
        axes.axvspan(1 - shown.tolerance, 1 + shown.tolerance, color="0.88", zorder=0)
        ends += [1 - shown.tolerance, 1 + shown.tolerance]
    axes.axvline(1, color="0.3", linewidth=0.8 * scale)
    for row, curve in enumerate(shown.curves):
        (m,), (stated,) = curve.measured, curve.values(kind)
        if not m.n or not stated > 0:
            continue
        axes.plot(m.rms / stated, row, curve.marker, color=curve.colour, markersize=5 * scale)
        if m.n >= 2:
            axes.hlines(row, m.low / stated, m.high / stated, color=curve.colour, linewidth=1.4 * scale)
        ends += shown_interval(m, stated)
    axes.set_xlim(*span_of(ends))
    axes.set_xlabel(
        f"measured /\n{'predicted' if kind is Kind.PREDICTED else kind.name}", fontsize=shown.look.text
    )
    even_ticks(axes, "x", shown.look)
    axes.tick_params(axis="y", length=0, labelleft=False)
    axes.xaxis.set_major_locator(MaxNLocator(4 if shown.look.wide else 3, steps=[1, 2, 5, 10]))
    axes.grid(axis="x", color="0.92", linewidth=0.5 * scale)
