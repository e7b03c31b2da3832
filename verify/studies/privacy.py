"""The noise that (epsilon, delta)-DP asks for, and the noise at which reconstruction provably fails.

[L25], Proposition 2.1: differential privacy is too strong a demand. ReLU, one feature, no clipping, epsilon = 1,
neighbours differ in one example (``Adjacency.REPLACE_ONE``). Conditions of two sorts:

- ``of = "noise"``: standard deviations on an entry of dL/da. ``dp``: with it the gradient is proved to be private;
  ``dp_least``: as m grows, no less is; ``failure``: with it no attack has R below 1/sqrt(2), by the entropy bound;
  ``quotient``: dp over failure; ``quotient_least``: dp_least over it; ``epsilon``: what the noise for failure gives. Nothing
  is drawn here, every trial gives the same.
- ``of`` an attack: ``error``, its R at ``share`` times the noise for failure, on freshly drawn networks.

Needs ``dp-accounting`` (``reconbound[privacy]``) where it measures; figure and table are made from what is kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from bounds.kinds.published.privacy import noise_for_failure, noise_over_sizes
from verify.studies.noisy import ATTACKS, attacked, completed, setting
from verify.studies.study import Cell, Condition, Findings, Outcome, Row, Study, failure_note

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


EPSILON, DELTA = 1.0, 1e-5


#: What is proved of every attack at the noise for failure.
ERROR = math.sqrt(0.5)


DIMENSIONS = (10, 40, 160, 640)


WIDTHS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)


#: Beside ``DELTA``, at the dimension and width before the last.
DELTAS = (1e-3, 1e-8, 1e-12)


#: Where attacks are run.
MEASURED_D, MEASURED_M = (10, 40), (1_000, 4_000, 16_000)


#: Of the noise for failure.
SHARES = (1.0, 0.1)


NOISES = ("dp", "dp_least", "failure", "quotient", "quotient_least", "epsilon")


def conditions() -> tuple[Condition, ...]:
    """Noises over sizes, then over delta; attacks over the sizes and shares of noise that they are run at."""
    sizes: list[Condition] = [
        {"of": "noise", "d": d, "m": m, "delta": DELTA} for d in DIMENSIONS for m in WIDTHS
    ]
    deltas: list[Condition] = [
        {"of": "noise", "d": DIMENSIONS[-2], "m": WIDTHS[-2], "delta": delta} for delta in DELTAS
    ]
    attacks: list[Condition] = [
        {"of": name, "d": d, "m": m, "share": share}
        for share in SHARES
        for name in ATTACKS
        for d in MEASURED_D
        for m in MEASURED_M
    ]
    return (*sizes, *deltas, *attacks)


@lru_cache(maxsize=256)
def noises(d: int, m: int, delta: float) -> Mapping[str, float]:
    """``NOISES`` at these sizes. Raises ``ImportError`` without dp-accounting."""
    found = noise_over_sizes([d], [m], epsilon=EPSILON, delta=delta, error=ERROR)
    columns = (
        found.for_dp,
        found.for_dp_wide,
        found.for_failure,
        found.quotient,
        found.for_dp_wide / found.for_failure,
        found.epsilon_at_failure,
    )
    return {name: float(column[0, 0]) for name, column in zip(NOISES, columns, strict=True)}


@lru_cache(maxsize=256)
def failing(d: int, m: int) -> float:
    """The noise at which reconstruction of one feature provably fails."""
    return noise_for_failure(setting(d, m, 1), ERROR)


def trial(condition: Condition, seed: int) -> Outcome:
    """The noises, which no seed changes, or one attack on one network."""
    of, d, m = str(condition["of"]), int(condition["d"]), int(condition["m"])
    if of == "noise":
        return noises(d, m, float(condition["delta"]))
    return attacked(of, d, m, 1, sigma=float(condition["share"]) * failing(d, m), seed=seed)


def exponent(cells: Sequence[Cell], variable: str, quantity: str) -> float:
    """The slope of log ``quantity`` in log ``variable`` (``delta``: in log log(1/delta)) over the last two of its values: of
    statements, so without an interval."""
    ordered = sorted(cells, key=lambda c: float(c.condition[variable]), reverse=variable == "delta")[-2:]
    x = [float(c.condition[variable]) for c in ordered]
    x = [math.log(1 / v) for v in x] if variable == "delta" else x
    y = [c.values(quantity)[0] for c in ordered]
    return math.log(y[1] / y[0]) / math.log(x[1] / x[0])


def _along(found: Findings) -> dict[str, tuple[Cell, ...]]:
    """The cells of noises in which one variable alone moves, the others at the largest (delta: the one before)."""
    stated = found.where(of="noise", delta=DELTA)
    d, m = (sorted({int(c.condition[k]) for c in stated}) for k in ("d", "m"))
    moved = {
        "m": found.where(of="noise", delta=DELTA, d=d[-1]),
        "d": found.where(of="noise", delta=DELTA, m=m[-1]),
        "delta": found.where(of="noise", d=d[-2], m=m[-2]),
    }
    return {variable: cells for variable, cells in moved.items() if len(cells) > 1}


def summary(found: Findings) -> list[Row]:
    """Exponents of the noises in d, m and log(1/delta), each in its noise's column; a row for each condition with noises;
    one for each with an attack: R with its interval, failures, and whether what is proved there holds: R at least
    1/sqrt(2), a failure counted as a guess of zero."""
    rows = [
        _told(of=f"exponent of {'log(1/delta)' if variable == 'delta' else variable}")
        | {q: exponent(cells, variable, q) for q in NOISES}
        for variable, cells in _along(found).items()
    ]
    for cell in found.cells:
        row = _told(**cell.condition) | {"failed": len(cell.failures)}
        if cell.condition["of"] == "noise":
            rows.append(row | {q: float(cell.values(q)[0]) for q in NOISES})
            continue
        measured, reached = cell.measured("error"), completed(cell)
        if measured.n:
            row |= {"R": measured.rms, "low": measured.low, "high": measured.high}
        holds = ("yes" if reached.high >= ERROR else "NO") if cell.condition["share"] == 1 else "not claimed"
        rows.append(row | {"R with guesses": reached.rms, "at least 1/sqrt(2)": holds})
    return rows


def _told(**known: str | int | float) -> Row:
    """A row with these entries and no others."""
    columns = ("of", "d", "m", "delta", *NOISES, "share", "R", "low", "high", "failed", "R with guesses")
    return {name: known.get(name) for name in (*columns, "at least 1/sqrt(2)")}


def draw(found: Findings) -> Figure:
    """Noises against m, what DP asks for over what failure does against d, and the attacks at the noise for failure and at
    a tenth of it, every trial a dot."""
    from matplotlib.figure import Figure

    from verify.draw.style import legend_below

    figure = Figure(figsize=(13, 5.6), layout="constrained")
    panels = figure.subplots(1, 3)
    _draw_noises(panels[0], found)
    _draw_quotients(panels[1], found)
    _draw_attacks(panels[2], found)
    for axes, columns in zip(panels, (2, 2, 1), strict=True):
        legend_below(axes, size=7, columns=columns)
    failed = failure_note([c for c in found.cells if c.condition["of"] != "noise"])
    figure.suptitle(
        f"(ε, δ) = ({EPSILON:g}, {DELTA:g})-differential privacy against failure of reconstruction: ReLU, B = 1, "
        f"{found.trials} trials each" + (f", {failed}" if failed else ""),
        fontsize=10,
    )
    return figure


def _values(cells: Sequence[Cell], variable: str, quantity: str) -> tuple[list[float], list[float]]:
    return [float(c.condition[variable]) for c in cells], [float(c.values(quantity)[0]) for c in cells]


def _guide(axes: Axes, x: Sequence[float], height: float, words: str) -> None:
    """A line of slope 1/2 above ``height``, its value at the first x."""
    from verify.draw.style import GUIDE, GUIDE_SHIFT

    ends = np.array([x[0], x[-1]])
    axes.plot(ends, GUIDE_SHIFT * height * np.sqrt(ends / x[0]), **GUIDE, label=words)


def _draw_noises(axes: Axes, found: Findings) -> None:
    from verify.draw.style import COLOURS

    stated = found.where(of="noise", delta=DELTA)
    for k, d in enumerate(sorted({int(c.condition["d"]) for c in stated})):
        cells = found.where(of="noise", delta=DELTA, d=d)
        x, dp = _values(cells, "m", "dp")
        axes.plot(x, dp, "-", color=COLOURS[k], label=f"d = {d}: DP, proved")
        axes.plot(
            *_values(cells, "m", "failure"), "--", color=COLOURS[k], label=f"d = {d}: reconstruction fails"
        )
        if k == 0:
            axes.plot(
                *_values(cells, "m", "dp_least"), ":", color="0.1", label="DP: no less, as m grows, any d"
            )
            _guide(axes, x, max(c.values("dp")[0] for c in stated if c.condition["m"] == x[0]), "√m")
    axes.set(xscale="log", yscale="log", xlabel="width m", ylabel="noise σ on every entry of ∂L/∂a")


def _draw_quotients(axes: Axes, found: Findings) -> None:
    from verify.draw.style import COLOURS, label_values

    stated = found.where(of="noise", delta=DELTA)
    widths = sorted({int(c.condition["m"]) for c in stated})
    for k, m in enumerate(widths):
        cells = found.where(of="noise", delta=DELTA, m=m)
        words = f"m = {m:,}".replace(",", " ")
        axes.plot(
            *_values(cells, "d", "quotient"), "o-", color=COLOURS[k], markersize=4, label=f"proved, {words}"
        )
    x, least = _values(found.where(of="noise", delta=DELTA, m=widths[-1]), "d", "quotient_least")
    axes.plot(x, least, "s:", color="0.1", markersize=4, label="no less, as m grows")
    _guide(axes, x, max(c.values("quotient")[0] for c in stated if c.condition["d"] == x[0]), "√d")
    axes.set(xscale="log", yscale="log", xlabel="dimension d", ylabel="noise for DP / noise for failure")
    label_values(axes, x)


def _draw_attacks(axes: Axes, found: Findings) -> None:
    from verify.draw.style import COLOURS, GUESS, MARKERS, label_errors, label_values

    attacks = [c for c in found.cells if c.condition["of"] != "noise"]
    series = list(dict.fromkeys((c.condition["share"], c.condition["of"], c.condition["d"]) for c in attacks))
    sizes, names = sorted({d for _, _, d in series}), list(ATTACKS)
    for k, (share, name, d) in enumerate(series):
        cells = found.where(of=name, d=d, share=share)
        colour, shift = COLOURS[sizes.index(d)], 1.06 ** (k - len(series) / 2)
        face = colour if share == 1 else "white"
        points = []
        for cell in cells:
            x, values = float(cell.condition["m"]) * shift, cell.values("error")
            axes.plot([x] * len(values), values, ".", color=colour, alpha=0.25, markersize=3)
            if values.size:
                points.append((x, cell.measured("error").rms))
            if cell.failures:
                note = failure_note([cell]).lower()
                axes.annotate(note, (x, 2.3), fontsize=6, rotation=90, color=colour, va="top", ha="center")
        x_rms = points or [(math.nan, math.nan)]  # its name stays, with what failed above
        axes.plot(
            *zip(*x_rms, strict=True), MARKERS[names.index(str(name))] + "-", color=colour, markerfacecolor=face,
            markersize=5, linewidth=0.9, label=f"{name}, d = {d}, at {share:g} × the noise for failure",
        )  # fmt: skip
    axes.axhline(ERROR, **GUESS, label="R = 1/√2, proved at the noise for failure")
    axes.set(xscale="log", yscale="log", xlabel="width m", ylabel="R (root mean square and trials)")
    axes.set_ylim(0.03, 2.5)
    label_errors(axes, "y")
    label_values(axes, sorted({float(c.condition["m"]) for c in attacks}))


STUDY = Study(
    name="privacy",
    title="the noise that differential privacy asks for against the noise at which reconstruction fails",
    claims=("C14",),
    conditions=conditions(),
    quantities=(*NOISES, "error"),
    trial=trial,
    summary=summary,
    draw=draw,
    trials=10,
    seed=62,
)
