"""How every kind of statement grows with d, m and the strength of a defense, how far they are apart, and where they meet.

ReLU, orthonormal features, labels +1, -1. Three defenses: Gaussian noise on every entry; the same noise, then one mask for
the batch (``dropout``; what is kept is rescaled); little noise, then pruning, with the threshold of infinitely many entries
(``pruning``; there the tensor attack and its floor are those of pruning alone). Nothing is drawn, and every trial gives the
same. Conditions of two sorts: ``of`` a defense, one variable moving (``along``), with the quantities that are stated there;
``of = "meeting"``: the smallest width from which on two of them are near each other (``MEETINGS``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from bounds import (
    Dropout,
    GradientNoise,
    GradientPruning,
    Kind,
    Setting,
    TensorAttack,
    evaluate,
)
from bounds.density import Density, Erased, Plain, Thresholded
from bounds.gaussian.normals import normals
from bounds.gaussian.slope import derivative
from bounds.kinds.limit.channel import Channel
from bounds.kinds.limit.entries import drawn
from bounds.kinds.limit.optimal import limit
from bounds.kinds.lower.theorem import lower_bound
from bounds.kinds.predicted.likelihood import population_cramer_rao
from bounds.kinds.predicted.spectral.span import SpectralLaw
from bounds.kinds.predicted.unbiased import first_order
from bounds.law import Unbiased
from verify.studies.noisy import setting
from verify.studies.study import Cell, Condition, Findings, Outcome, Row, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: What is stated, and how it is called; ``share``: of the Jacobian's squared norm in rows that are kept, C13's 1 - p-hat.
WORDS: Mapping[str, str] = MappingProxyType(
    {
        "rate": "RATE (no constant)",
        "upper": "UPPER",
        "split": "UPPER, split",
        "tensor": "PREDICTED, tensor",
        "likelihood": "PREDICTED, likelihood",
        "limit": "LIMIT",
        "lower": "LOWER",
        "floor": "FLOOR",
    }
)
QUANTITIES = (*WORDS, "share", "width")

#: Where all but one variable are, and the values of that one. Pruning: noise before it, and m/d = 10 000.
D, M, SIGMA, SMALL = 100, 30_000_000, 1.0, 0.1
DIMENSIONS, WIDTHS = (50, 100, 200, 400), (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
SIGMAS, KEPT = (0.25, 1.0, 4.0, 8.0, 16.0), (0.5, 0.3, 0.1, 0.05, 0.03)
MASKED_M, PRUNED_M = 1_000_000, 1_000_000

#: Two quantities have met where one is within this part of the other.
NEAR = 0.05

SPLIT = TensorAttack(same_neuron="split")

#: Entries for the share of the Jacobian that is kept (a power of 2).
_DRAWS = 2**16


def conditions() -> tuple[Condition, ...]:
    """Of noise for one and two features, of the others for two; then the meetings."""
    base = {"d": D, "m": M, "sigma": SIGMA}
    moved: Mapping[str, Sequence[float]] = {"m": WIDTHS, "d": DIMENSIONS, "sigma": SIGMAS}
    noise: list[Condition] = [
        {"of": "noise", "along": along, "B": B, **base, along: value}
        for B in (1, 2)
        for along, values in moved.items()
        for value in values
    ]
    masked: list[Condition] = [
        {"of": "dropout", "along": "kept", "B": 2, "d": D, "m": MASKED_M, "sigma": SIGMA, "kept": kept}
        for kept in KEPT
    ]
    pruned: list[Condition] = [
        {"of": "pruning", "along": "kept", "B": 2, "d": D, "m": PRUNED_M, "sigma": SMALL, "kept": kept}
        for kept in KEPT
    ]
    met: list[Condition] = [{"of": "meeting", "what": what, "B": 2, "d": D} for what in MEETINGS]
    return (*noise, *masked, *pruned, *met)


def trial(condition: Condition, seed: int) -> Outcome:
    """What is stated under a condition; no seed changes it."""
    B, d, of = int(condition["B"]), int(condition["d"]), str(condition["of"])
    if of == "meeting":
        return meeting(str(condition["what"]), d, B)
    return quantities(
        of, d, int(condition["m"]), B, float(condition["sigma"]), float(condition.get("kept", 1.0))
    )


@lru_cache(maxsize=256)
def quantities(of: str, d: int, m: int, B: int, sigma: float, kept: float) -> Mapping[str, float]:
    """The quantities that there are; a bound that is no better than what holds of anything is none."""
    found = _OF[of](setting(d, m, B), sigma, kept)
    return {name: value for name, value in found.items() if value is not None}


def _noise(where: Setting, sigma: float, kept: float) -> dict[str, float | None]:
    defense = GradientNoise(sigma=sigma)
    default, split = evaluate(defense, where), evaluate(defense, where, SPLIT)
    told = {"rate": default.rate_scale, "tensor": default.predicted}
    for name, found in (("upper", default), ("split", split)):
        bound = found[Kind.UPPER]
        told[name] = None if bound.trivial else bound.value
    return told | _information(where, Plain(sigma=sigma))


def _dropout(where: Setting, sigma: float, kept: float) -> dict[str, float | None]:
    """What is seen is the noisy entry over ``kept``, or nothing: unbiased, with a variance that grows."""
    r, p = where.residuals, 1 - kept
    seen = Unbiased(r, sigma**2 / kept, p / kept * np.outer(r, r))
    found = first_order(where, TensorAttack(), seen)
    square = ((where.d - where.B) * found.orthogonal.mean() + found.inplane.mean()) / where.m
    rate = evaluate(Dropout(p=p, per_sample=False), where).rate_scale
    return {"rate": rate, "tensor": math.sqrt(square)} | _information(where, Erased(sigma=sigma, p=p))


def _pruning(where: Setting, sigma: float, kept: float) -> dict[str, float | None]:
    density, alone = Thresholded(sigma=sigma, ratio=1 - kept), evaluate(GradientPruning(1 - kept), where)
    return {
        "tensor": alone.predicted,
        "floor": alone.floor,
        "share": kept_share(where, density),
        **_information(where, density),
    }


_OF: Mapping[str, Callable[[Setting, float, float], dict[str, float | None]]] = MappingProxyType(
    {"noise": _noise, "dropout": _dropout, "pruning": _pruning}
)


def _information(where: Setting, density: Density) -> dict[str, float | None]:
    """What is stated of every attack, or of the likelihood's, on entries with this density."""
    d, m, G, r, activation = where.d, where.m, where.gram, where.residuals, where.activation
    threshold = _threshold(where, density)
    lower = lower_bound(density, G, r, d=d, m=m, activation=activation, threshold=threshold)
    return {
        "likelihood": population_cramer_rao(density, G, r, activation, d=d, m=m, threshold=threshold),
        "limit": least(where, density),
        "lower": math.sqrt(lower.square),
    }


def least(where: Setting, density: Density) -> float:
    """LIMIT of entries with this density: as ``Channel.of`` has it for a defense."""
    plain, alpha = Plain(sigma=density.sigma), where.m / where.d
    if isinstance(density, Erased):
        alpha, density = (1 - density.p) * alpha, plain
    found = Channel(alpha, where.gram, where.residuals, where.activation, density)
    if isinstance(density, Thresholded):
        found = replace(found, density=found.censored(density))
    return limit(found).error


def _threshold(where: Setting, density: Density) -> float:
    if not isinstance(density, Thresholded):
        return 0.0
    channel = Channel(where.m / where.d, where.gram, where.residuals, where.activation, density)
    return float(getattr(channel.censored(density), "threshold", 0.0))


def kept_share(where: Setting, density: Thresholded) -> float:
    """Of the expected squared norm of the Jacobian's rows, ``r_i sigma'(w.x_i) w`` for each feature, the part in rows whose
    entries are kept."""
    B, r = where.B, where.residuals
    normal = normals(2 * B + 1, _DRAWS)
    z = normal[:, :B] @ where.directions.T * where.norms
    entries = drawn(Plain(sigma=density.sigma), r * where.activation(z), normal[:, B:])
    rows = np.sum((r * derivative(where.activation)(z)) ** 2, axis=1)
    return float(rows @ (np.abs(entries) >= _threshold(where, density)) / rows.sum())


# --- where they meet --------------------------------------------------------------------------------------------------


def _above(quantity: str, d: int, B: int, m: int) -> bool:
    """Whether UPPER says something."""
    attack = SPLIT if quantity == "split" else TensorAttack()
    bound = evaluate(GradientNoise(SIGMA), setting(d, m, B), attack)[Kind.UPPER]
    return not bound.trivial and (bound.value or math.inf) < 1


def _bayes(of: str, d: int, B: int, m: int) -> bool:
    """Whether LIMIT is near LOWER, or Cramer and Rao's value near LIMIT."""
    where, density = setting(d, m, B), Plain(sigma=SIGMA)
    told = least(where, density)
    if of == "likelihood":
        args = (density, where.gram, where.residuals, where.activation)
        return abs(population_cramer_rao(*args, d=d, m=m) / told - 1) <= NEAR
    lower = lower_bound(density, where.gram, where.residuals, d=d, m=m, activation=where.activation)
    return math.sqrt(lower.square) >= (1 - NEAR) * told


def _reported(d: int, B: int, m: int) -> bool:
    """Whether the tensor attack has a result."""
    return not SpectralLaw(GradientNoise(SIGMA), setting(d, m, B), TensorAttack()).found().unreported


def _floored(d: int, B: int, m: int) -> bool:
    """Whether pruning's floor is at least the random part of the tensor attack's error."""
    found = evaluate(GradientPruning(0.7), setting(d, m, B))
    value, floor = found.predicted, found.floor
    return value is not None and floor is not None and value <= math.sqrt(2) * floor


def _pruned_worse(d: int, B: int, m: int) -> bool:
    """Whether pruning leaves the tensor attack a larger error than dropout of as many entries."""
    where = setting(d, m, B)
    pruned, masked = evaluate(GradientPruning(0.7), where), evaluate(Dropout(p=0.7, per_sample=False), where)
    return None not in (pruned.predicted, masked.predicted) and pruned.predicted >= masked.predicted  # type: ignore[operator]


#: What is asked of a width m (and d, B), noise of standard deviation 1 unless another defense is named.
MEETINGS: Mapping[str, Callable[[int, int, int], bool]] = MappingProxyType(
    {
        "UPPER below guessing": partial(_above, "upper"),
        "UPPER, split, below guessing": partial(_above, "split"),
        "LOWER within 5 % of LIMIT": partial(_bayes, "lower"),
        "likelihood within 5 % of LIMIT": partial(_bayes, "likelihood"),
        "tensor has a result": _reported,
        "pruning of .7: floor over random part": _floored,
        "pruning of .7 worse than dropout of .7": _pruned_worse,
    }
)


@lru_cache(maxsize=64)
def meeting(what: str, d: int, B: int) -> Mapping[str, float]:
    """The smallest width, to 2 per cent, from which on it is so up to ``WIDTHS[-1]``."""
    holds = MEETINGS[what]
    low, high = math.log(2 * d), math.log(WIDTHS[-1])
    if not holds(d, B, WIDTHS[-1]):
        raise ArithmeticError(f"{what} is so at no width up to {WIDTHS[-1]}")
    while high - low > 0.02:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(d, B, round(math.exp(middle))) else (middle, high)
    return {"width": math.exp(high)}


# --- what is told -----------------------------------------------------------------------------------------------------


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """The slope of log y in log x by least squares: of statements, so without an interval."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def moved_cells(found: Findings) -> dict[tuple[str, str, int], tuple[Cell, ...]]:
    """The cells of each defense, variable and B, in the order of the variable (what is kept: falling)."""
    made: dict[tuple[str, str, int], tuple[Cell, ...]] = {}
    for cell in found.cells:
        c = cell.condition
        if c["of"] != "meeting":
            key = (str(c["of"]), str(c["along"]), int(c["B"]))
            made[key] = (*made.get(key, ()), cell)
    return made


def _series(cells: Sequence[Cell], along: str, quantity: str) -> tuple[list[float], list[float]]:
    """Values of a variable, be it moved or a quantity itself, and of a quantity where that is stated."""
    told = [c for c in cells if len(c.values(quantity))]
    x = [float(c.condition[along] if along in c.condition else c.values(along)[0]) for c in told]
    return x, [float(c.values(quantity)[0]) for c in told]


def summary(found: Findings) -> list[Row]:
    """Exponents over all values of a variable at which a quantity is stated, and over the last two of these (pruning: also
    in the share of the Jacobian that is kept); then at the last value every quantity over LOWER, the gap; then the widths
    of meetings."""
    rows: list[Row] = []
    for (of, along, B), cells in moved_cells(found).items():
        for last, words in ((len(cells), "all values"), (2, "last two")):
            begun = f"{of}, B = {B}, {words}: exponent of"
            rows.append(_told(what=f"{begun} {along}", **_slopes(cells, along, last)))
            if of == "pruning":
                rows.append(_told(what=f"{begun} share", **_slopes(cells, "share", last)))
    for (of, along, B), cells in moved_cells(found).items():
        last_cell = cells[-1]
        lower = float(last_cell.values("lower")[0])
        ratios = {n: float(v[0]) / lower for n in WORDS if n != "rate" and len(v := last_cell.values(n))}
        rows.append(
            _told(what=f"{of}, B = {B}, {along} = {last_cell.condition[along]:g}: over LOWER", **ratios)
        )
    rows += [
        _told(what=f"m from which on {cell.condition['what']}", width=float(cell.values("width")[0]))
        for cell in found.where(of="meeting")
    ]
    return rows


def _slopes(cells: Sequence[Cell], along: str, last: int) -> dict[str, float]:
    """Of every quantity that is stated at two values or more, over the ``last`` of them."""
    told = {name: _series(cells, along, name) for name in WORDS}
    return {name: exponent(x[-last:], y[-last:]) for name, (x, y) in told.items() if len(x) > 1}


def _told(what: str, **known: float | None) -> Row:
    return {"what": what} | {name: known.get(name) for name in (*WORDS, "width")}


def draw(found: Findings) -> Figure:
    """A panel for each defense and variable, two features where there are both; every kind a line."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from verify.draw.style import COLOURS, label_errors

    many = moved_cells(found)
    most = {(of, along): max(b for o, a, b in many if (o, a) == (of, along)) for of, along, _ in many}
    styles = {
        name: {"color": COLOURS[k % len(COLOURS)], "marker": "osv^D*xp"[k]} for k, name in enumerate(WORDS)
    }
    figure = Figure(figsize=(3.2 * len(most), 4.8), layout="constrained")
    panels = figure.subplots(1, len(most), squeeze=False)[0]
    for axes, ((of, along), B) in zip(panels, most.items(), strict=True):
        _panel(axes, many[of, along, B], along, styles)
        axes.set_title(f"{of}, B = {B}", fontsize=9.5)
        label_errors(axes, "y")
        if along != "m":
            label_errors(axes, "x")
    panels[0].set_ylabel("error R")
    handles = [Line2D([], [], markersize=4, label=WORDS[name], **style) for name, style in styles.items()]  # type: ignore[arg-type]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.suptitle(
        f"Every kind of statement along d, m and strength: ReLU, orthonormal, d = {D} unless it moves",
        fontsize=10,
    )
    return figure


def _panel(axes: Axes, cells: Sequence[Cell], along: str, styles: Mapping[str, Mapping[str, str]]) -> None:
    for name, style in styles.items():
        x, y = _series(cells, along, name)
        if x:
            axes.plot(x, y, markersize=4, linewidth=1.2, **style)  # type: ignore[arg-type]
    axes.set(xscale="log", yscale="log", xlabel={"sigma": "σ", "kept": "part that is kept"}.get(along, along))


STUDY = Study(
    name="exponents",
    title="exponents of every kind of statement, the gap between them, and where they meet",
    claims=("C9", "C12", "C13"),
    conditions=conditions(),
    quantities=QUANTITIES,
    trial=trial,
    summary=summary,
    draw=draw,
    trials=2,
    seed=71,
)
