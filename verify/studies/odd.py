"""Odd activations as d grows. [W23], Remark 3: a third-order moment contracted with any unit vector keeps the rate.

The error up to signs of each feature, at a fixed number of neurons per dimension, for the contraction with the gradient's
own first moment (ours) and with a random unit vector (as stated). A random one leaves ``1/sqrt(d)`` of the signal, so its
error should stay flat only when m grows like d^2: that is measured too. Quantities: ``error``, R up to signs; ``labels``,
the share of labels within 1 of the truth; ``signs``, 1 where the attack claims to know the signs and has them right, 0 where
it does not claim, -1 where it claims and is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from bounds import NoDefense, Setting, TensorAttack, evaluate
from bounds.setting import alternating
from verify.judge.rate import RateResult, judge_rate
from verify.measure.features import Features
from verify.studies.study import Cell, Condition, Failure, Findings, Outcome, Row, Study, failure_note, mixed

if TYPE_CHECKING:
    from matplotlib.figure import Figure


B = 2


FEATURES = Features("orthonormal", seed=31)


#: Name of a series: activation, contraction, dimensions, and the width for a dimension.
SERIES: Mapping[str, tuple[str, str, tuple[int, ...], Callable[[int], int]]] = {
    "tanh, first moment, m = 125 d": ("tanh", "first_moment", (64, 128, 256, 512, 1024), lambda d: 125 * d),
    "sigmoid, first moment, m = 1000 d": (
        "sigmoid",
        "first_moment",
        (16, 32, 64, 128, 256),
        lambda d: 1000 * d,
    ),
    "tanh, random, m = 500 d": ("tanh", "random", (16, 32, 64, 128, 256), lambda d: 500 * d),
    "tanh, random, m = 8 d²": ("tanh", "random", (16, 32, 64, 128, 256), lambda d: 8 * d * d),
}


#: "The same rate" at a fixed m/d (or m/d^2): an exponent of 0. Set before measuring.
TOLERANCE = 0.1


def trial(condition: Condition, seed: int) -> Outcome:
    """The attack on one network."""
    import torch

    from attack import ReconstructionError, TwoLayerNet, matched_error, observe, tensor_attack

    d, m = int(condition["d"]), int(condition["m"])
    activation, contraction, _, _ = SERIES[str(condition["series"])]
    X, y = torch.from_numpy(FEATURES.sample(d, B)), torch.tensor(alternating(B), dtype=torch.float64)
    net = TwoLayerNet.sample(d, m, activation, mixed(seed, d, m))
    attack = TensorAttack(contraction=contraction)
    try:
        found = tensor_attack(observe(NoDefense(), net, X, y), net, attack=attack, seed=seed)
    except ReconstructionError as error:
        return Failure(str(error))
    match = matched_error(X, found.features, sign_free=True)
    labels = found.labels.cpu().numpy()[list(match.permutation)]
    known = 0.0 if found.diagnostics.sign_free else (1.0 if min(match.signs) > 0 else -1.0)
    return {
        "error": match.rmse,
        "labels": float(np.mean(np.abs(labels - alternating(B)) < 1)),
        "signs": known,
    }


def predicted(cell: Cell) -> float | None:
    """First-order error at the cell's condition."""
    activation, contraction, _, _ = SERIES[str(cell.condition["series"])]
    setting = Setting.orthonormal(int(cell.condition["d"]), int(cell.condition["m"]), B, activation)
    return evaluate(NoDefense(), setting, TensorAttack(contraction=contraction)).predicted


def exponent(found: Findings, series: str) -> RateResult:
    """The exponent of d over the cells of a series, against 0."""
    points = {float(c.condition["d"]): c.measured("error") for c in found.where(series=series)}
    return judge_rate(points, 0.0, "d", TOLERANCE, experiment="odd", series=series)


def summary(found: Findings) -> list[Row]:
    """A row for each series: exponent of d with its interval, error at both ends, labels and signs, failures."""
    rows = []
    for series in SERIES:
        cells = found.where(series=series)
        if not cells:
            continue
        rate = exponent(found, series)
        last = cells[-1].measured("error")
        prediction = predicted(cells[-1])
        done = [o for c in cells for o in c.outcomes if not isinstance(o, Failure)]
        rows.append(
            {
                "series": series,
                "exponent of d": rate.slope,
                "low": rate.low,
                "high": rate.high,
                "verdict": rate.verdict,
                "R first": cells[0].measured("error").rms,
                "R last": last.rms,
                "over predicted": None if prediction is None else last.rms / prediction,
                "labels": float(np.mean([o["labels"] for o in done])) if done else None,
                "signs known": sum(o["signs"] > 0 for o in done),
                "signs wrong": sum(o["signs"] < 0 for o in done),
                "trials": sum(len(c.outcomes) for c in cells),
                "failed": sum(len(c.failures) for c in cells),
            }
        )
    return rows


def draw(found: Findings) -> Figure:
    """R against d, a line for each series, every trial a dot, failures noted at their dimension."""
    from matplotlib.figure import Figure

    from verify.draw.style import COLOURS, MARKERS, legend_below

    figure = Figure(figsize=(9, 5.4), layout="constrained")
    axes = figure.subplots()
    for k, series in enumerate(SERIES):
        cells = found.where(series=series)
        if not cells:
            continue
        colour, shift = COLOURS[k], 1.09 ** (k - 1.5)
        for cell in cells:
            values = cell.values("error")
            x = float(cell.condition["d"]) * shift
            axes.plot([x] * len(values), values, ".", color=colour, alpha=0.25, markersize=4)
            if cell.failures:
                axes.annotate(
                    failure_note([cell]).lower(),
                    (x, 1.7),
                    fontsize=7,
                    rotation=90,
                    color=colour,
                    va="top",
                    ha="center",
                )
        rate = exponent(found, series)
        measured = [
            (float(c.condition["d"]) * shift, c.measured("error").rms)
            for c in cells
            if c.values("error").size
        ]
        label = f"{series}: exponent {rate.slope:+.2f} [{rate.low:+.2f}, {rate.high:+.2f}]"
        axes.plot(*zip(*measured, strict=True), MARKERS[k] + "-", color=colour, markersize=5, label=label)
        curve = [(float(c.condition["d"]) * shift, p) for c in cells if (p := predicted(c)) is not None]
        if curve:
            axes.plot(*zip(*curve, strict=True), "--", color="0.2", linewidth=1.2)
    ticks = sorted({int(c.condition["d"]) for c in found.cells})
    axes.set(
        xscale="log", yscale="log", xlabel="dimension d", ylabel="R up to signs (root mean square and trials)"
    )
    axes.set_ylim(0.05, 2.0)
    axes.set_xticks(ticks, [str(d) for d in ticks])
    axes.minorticks_off()
    legend_below(axes, size=8, columns=2)
    axes.set_title(
        f"Odd activations, B = {B} orthonormal features, {found.trials} trials each; dashed: PREDICTED (99 % intervals)",
        fontsize=10,
    )
    return figure


STUDY = Study(
    name="odd",
    title="odd activations as d grows: contraction with the first moment and with a random vector",
    claims=("C3", "C4"),
    conditions=tuple(
        {"series": series, "d": d, "m": width(d)}
        for series, (_, _, dimensions, width) in SERIES.items()
        for d in dimensions
    ),
    quantities=("error", "labels", "signs"),
    trial=trial,
    summary=summary,
    draw=draw,
    trials=20,
    seed=31,
)
