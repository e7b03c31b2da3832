"""The key of a figure: which curve is which series, what each mark means, and the verdicts in a word each."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from typing import Any

from matplotlib.artist import Artist
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from bounds import Kind
from verify.draw.curves import drawn_kinds, speaks_of
from verify.draw.shown import Shown
from verify.draw.style import GUESS, GUIDE, STYLES, TURNED, VERDICTS, wrapped
from verify.judge import JUDGES
from verify.judge.rate import RateResult
from verify.judge.verdict import Result
from verify.measure.outcome import EXACT

#: What is counted at the foot of a figure, in words.
EXACTLY = f"exact: R < {EXACT:g}"


def key_handles(shown: Shown, wrap: int, guessed: bool) -> list[Artist]:
    """What a legend has to show, names wrapped at ``wrap`` characters. Series have entries where there are several and
    they are no rows, which are named beside them. ``guessed``: the line of guessing zero is drawn."""
    scale = shown.look.scale
    named = [] if shown.rows or len(shown.curves) == 1 else shown.curves
    series = [
        Line2D(
            [], [], color=c.colour, markersize=6 * scale, label=wrapped(c.name, wrap),
            **{**c.mark, **(c.joined or {})},
        )
        for c in named
    ]  # fmt: skip
    bar = "_" if shown.rows else "|"
    drawn = drawn_kinds(shown.curves)
    marks: list[Artist] = [
        Line2D([], [], color="0.3", marker=".", linestyle="", markersize=4, alpha=0.6, label="one trial"),
        Line2D(
            [], [], color="0.3", marker=bar, linestyle="", markersize=11 * scale,
            label=f"rms, {shown.level:.0%} interval",
        ),
        *(
            Line2D([], [], color="0.3", **_style(kind, shown), label=wrapped(_judged(kind, shown), wrap))
            for kind in drawn
        ),
        *(
            Line2D([], [], **GUIDE, label=wrapped(_rate(exponent, found), wrap))
            for exponent, found in guides(shown).items()
        ),
        *([Line2D([], [], **GUESS, label="guessing zero, R = 1")] if guessed else []),
        *([Line2D([], [], linestyle="", label=EXACTLY)] if any(n for c in shown.curves for n in c.exact) else []),
    ]  # fmt: skip
    if shown.compared is Kind.PREDICTED and Kind.PREDICTED in drawn:
        marks.append(Patch(color="0.88", label=f"tolerance: 1 ± {shown.tolerance:g}"))
    told = (Line2D([], [], linestyle="", label=wrapped(text, wrap)) for text in _undrawn(shown, drawn))
    return [*series, *marks, *told]


def _undrawn(shown: Shown, drawn: Sequence[Kind]) -> list[str]:
    """Kinds without a line, in words: those judged, with their verdicts, and those of height 0, which no logarithm has."""
    guided = [id(r) for found in guides(shown).values() for r in found]
    told = []
    for kind in JUDGES:
        found = [r for r in shown.results if r.kind is kind and id(r) not in guided]
        zero = any(v == 0 for c in shown.curves for v in c.values(kind))
        if kind not in drawn and (found or zero):
            name = f"{kind.name} = 0 (not drawn)" if zero else kind.name
            told.append(f"{name}: {_numbers(found)}" if found else name)
    return told


def _style(kind: Kind, shown: Shown) -> Mapping[str, Any]:
    style = STYLES[kind]
    return (
        {**style, "marker": TURNED.get(style["marker"], style["marker"])}
        if shown.rows and "marker" in style
        else style
    )


def guides(shown: Shown) -> dict[float, list[RateResult]]:
    """The exponents of the figure's variable that were judged, with the verdicts. A rate without one is not drawn."""
    found: dict[float, list[RateResult]] = {}
    for r in shown.results:
        if isinstance(r, RateResult) and r.variable == shown.axis.variable and math.isfinite(r.exponent):
            found.setdefault(r.exponent, []).append(r)
    return found


def counted(results: Collection[Result]) -> str:
    """How many came out how: "holds"; "5 hold, 1 inconclusive"."""
    verdicts = [r.verdict for r in results]
    return verdicts[0] if len(verdicts) == 1 else _numbers(results)


def _numbers(results: Collection[Result]) -> str:
    verdicts: list[str] = [r.verdict for r in results]
    if len(verdicts) == 1:
        return f"1 {verdicts[0]}"
    plural = {"holds": "hold", "fails": "fail"}
    return ", ".join(f"{n} {plural.get(v, v)}" for v in VERDICTS if (n := verdicts.count(v)))


def _judged(kind: Kind, shown: Shown) -> str:
    """The kind, of whose statements it speaks where there are several attacks, and the verdicts."""
    own = [r for r in shown.results if r.kind is kind]
    name = kind.name
    if len({c.points[0].attack.called for c in shown.curves}) > 1:
        name += f" ({speaks_of(kind, shown.curves)})"
    return f"{name}: {counted(own)}" if own else name


def _rate(exponent: float, found: list[RateResult]) -> str:
    slope = str(Fraction(exponent).limit_denominator(24)).replace("-", "−")
    order = "upper order" if found[0].upper else "order"
    tight = {r.tightness for r in found}
    said = counted(found) + (f", {one}" if len(tight) == 1 and (one := tight.pop()) else "")
    return f"RATE, {order} only, slope {slope}: {said}"
