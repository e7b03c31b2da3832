"""Series along an axis: errors against it, and below them their ratio to theory."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from bounds import Kind
from verify.draw.curves import Curve, draw_curves, shown_interval
from verify.draw.key import guides
from verify.draw.shown import Shown
from verify.draw.style import (
    GUESS,
    GUIDE,
    GUIDE_SHIFT,
    even_ticks,
    fitting,
    label_errors,
    label_values,
    span_of,
)

#: More texts than these in a row are shortened.
CROWDED = 3


def draw_errors(axes: Axes, shown: Shown, *, labelled: bool) -> bool:
    """Errors, theory, guides of rates, and how many trials failed or were exact; ``labelled``: with the axis' own name and
    values, as no panel stands below. Returns whether the line of guessing zero is among them."""
    look = shown.look
    seen = draw_curves(axes, shown.curves, shown.axis, look.scale)
    guessed = bool(seen) and max(seen) > 0.6
    seen += [*_draw_guides(axes, shown), *([1.0] if guessed else [])]
    top, bottom = _draw_failures(axes, shown), _draw_exact(axes, shown)
    if seen:
        low, high = math.log(0.75 * min(seen)), math.log(1.35 * max(seen))
        height = (high - low) / (1 - top - bottom)
        axes.set_ylim(math.exp(low - bottom * height), math.exp(high + top * height))
    label_errors(axes, "y")
    if guessed:
        axes.axhline(1.0, **GUESS)
    axes.set_ylabel(shown.error, fontsize=look.text)
    even_ticks(axes, "y", look)
    if labelled:
        _label(axes, shown)
    else:
        axes.tick_params(labelbottom=False, which="both")
    return guessed


def draw_ratios(axes: Axes, shown: Shown) -> None:
    """Measured over what theory states."""
    kind, scale, tolerance = shown.compared, shown.look.scale, shown.tolerance
    ends = [0.95, 1.05]
    if kind is Kind.PREDICTED:
        axes.axhspan(1 - tolerance, 1 + tolerance, color="0.88", zorder=0)
        ends += [1 - tolerance, 1 + tolerance]
    axes.axhline(1, color="0.3", linewidth=0.8 * scale)
    for k, curve in enumerate(shown.curves):
        shift = min(0.022, 0.12 / len(shown.curves)) * (k - (len(shown.curves) - 1) / 2)
        for at, m, stated in zip(curve.x, curve.measured, curve.values(kind), strict=True):
            if not m.n or not stated > 0:
                continue
            place = shown.axis.moved(at, shift)
            axes.plot(place, m.rms / stated, curve.marker, color=curve.colour, markersize=5 * scale)
            if m.n >= 2:
                low, high = m.low / stated, m.high / stated
                axes.vlines(place, low, high, color=curve.colour, linewidth=1.4 * scale)
            ends += shown_interval(m, stated)
    axes.set_ylim(*span_of(ends))
    axes.set_ylabel(
        f"measured /\n{'predicted' if kind is Kind.PREDICTED else kind.name}", fontsize=shown.look.text
    )
    even_ticks(axes, "y", shown.look)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.grid(color="0.92", linewidth=0.5 * scale)
    _label(axes, shown)


def _label(axes: Axes, shown: Shown) -> None:
    """The horizontal axis: its name, the values measured, and a margin on either side."""
    ticks = sorted({at for c in shown.curves for at in c.x})
    label_values(axes, ticks)
    axes.set_xlim(shown.axis.moved(ticks[0], -0.07), shown.axis.moved(ticks[-1], 0.07))
    inches = axes.get_window_extent().width / axes.figure.dpi
    axes.set_xlabel(fitting(shown.axis.label, inches, shown.look.text), fontsize=shown.look.text)
    even_ticks(axes, "x", shown.look)


def _draw_guides(axes: Axes, shown: Shown) -> list[float]:
    """The slope of every rate that was judged, above all that is drawn: a slope has no height of its own. Returns its
    heights."""
    pairs = [
        (at, height)
        for c in shown.curves
        for k, (at, found) in enumerate(zip(c.x, c.seen, strict=True))
        for height in (*found, *(c.values(kind)[k] for kind in c.theory[k]))
        if height > 0
    ]
    heights: list[float] = []
    for exponent in guides(shown) if pairs else ():
        offset = max(math.log(height) - exponent * math.log(at) for at, height in pairs)
        ends = np.array([min(at for at, _ in pairs), max(at for at, _ in pairs)])
        line = GUIDE_SHIFT * np.exp(offset) * ends**exponent
        axes.plot(ends, line, zorder=1, **GUIDE)
        heights += line.tolist()
    return heights


def _draw_failures(axes: Axes, shown: Shown) -> float:
    """A cross and a count at the top wherever trials failed. Returns the share of the height used."""
    counts = [
        [(m.failed, f"{m.failed} of {m.failed + m.n} failed") for m in c.measured] for c in shown.curves
    ]
    return _draw_counts(axes, shown, counts, marker="x", top=True)


def _draw_exact(axes: Axes, shown: Shown) -> float:
    """The same at the foot for trials that recovered the features exactly: no logarithm shows their errors beside others."""
    counts = [
        [(n, f"{n} of {m.failed + m.n} exact") for n, m in zip(c.exact, c.measured, strict=True)]
        for c in shown.curves
    ]
    return _draw_counts(axes, shown, counts, marker="v", top=False)


def _draw_counts(
    axes: Axes, shown: Shown, counts: Sequence[Sequence[tuple[int, str]]], *, marker: str, top: bool
) -> float:
    """A marker and a text at every point whose count is not zero, a row for each series that has any; returns the share of
    the height used."""
    look = shown.look
    inches = axes.get_window_extent().height / axes.figure.dpi
    step = max(0.05, 1.4 * look.small / 72 / inches)
    rows: list[tuple[Curve, Sequence[tuple[int, str]]]] = [
        (curve, own) for curve, own in zip(shown.curves, counts, strict=True) if any(n for n, _ in own)
    ]
    last = max(at for c in shown.curves for at in c.x)
    for row, (curve, own) in enumerate(rows):
        height = step * (0.7 + row)
        height = 1 - height if top else height
        told = _told(curve, own)
        for at, (n, _), text in zip(curve.x, own, told, strict=True):
            if not n:
                continue
            side = -1 if at == last else 1
            across = axes.get_xaxis_transform()
            fill = curve.mark["markerfacecolor"]
            axes.plot(
                at,
                height,
                marker,
                color=curve.colour,
                markerfacecolor=fill,
                transform=across,
                markersize=5 * look.scale,
            )
            axes.annotate(
                text, (at, height), xycoords=across, xytext=(7 * side * look.scale, 0), textcoords="offset points",
                color=curve.colour, fontsize=look.small - 1, va="center", ha="right" if side < 0 else "left",
            )  # fmt: skip
    return step * len(rows)


def _told(curve: Curve, own: Sequence[tuple[int, str]]) -> list[str]:
    """The texts of one row: of many, equal ones once and others short; and first whose they are where that is another attack
    than the tensor attack, which has the same colour."""
    places = [k for k, (n, _) in enumerate(own) if n]
    told = [text if n else "" for n, text in own]
    if len(places) > CROWDED and len({told[k] for k in places}) == 1:
        told = [f"each {text}" if k == places[0] else "" for k, text in enumerate(told)]
    elif len(places) > CROWDED:
        told = [text if k == places[0] else text.rpartition(" ")[0] for k, text in enumerate(told)]
    if curve.other:
        told[places[0]] = f"{curve.points[0].attack.called}: {told[places[0]]}"
    return told
