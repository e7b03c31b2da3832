"""Which gradient serves the attack better, that of the output weights (dL/da) or that of the first layer (dL/dW)?

The statement is [W23], Section 6 and Figure 2: m = 5000, x_i = e_i, B = 2, labels +1 and -1, a bias of 30 added to every
residual (so labels -29 and -31). Two observations, and every series says which one it has seen:

- ``output``: the tensor attack on dL/da, plain or residualized,
- ``first``: the tensor attack on dL/dW with the span from its rows, plain or residualized,
- ``first-moment``: the same, plain, with the span from the symmetrised second moment instead (what is left of the
  advantage if the rows are not used for the span),
- ``exact``: the exact recovery from dL/dW, for ReLU without noise.

Panels: ``z2z3`` and ``odd`` (tanh, sigmoid; errors up to sign) in the paper's setting, over d; ``relu`` with labels +1, -1
and no bias, over d; ``noise``: ReLU, d = 20, the same standard deviation on the entries of either gradient, which are of
size 1 in dL/da and 1/m in dL/dW.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bounds import GradientNoise, Setting, TensorAttack, UnsupportedBound, evaluate
from bounds.kinds.predicted.first_layer import first_layer_prediction
from verify.studies.study import Cell, Condition, Failure, Findings, Outcome, Row, Study, failure_note

if TYPE_CHECKING:
    from matplotlib.figure import Figure


M, B = 5000, 2


DIMENSIONS = (20, 50, 100, 200)


SIGMAS = (0.0, 1e-6, 1e-5, 3e-5, 1e-4, 2e-4, 1e-3, 1e-2)


NOISE_DIMENSION = 20


#: Added to every residual: by [W23] in its experiments, nothing elsewhere.
BIAS: Mapping[str, float] = {"z2z3": 30.0, "odd": 30.0, "relu": 0.0, "noise": 0.0}


#: (activation, observation, moments) of every series, by panel.
SERIES: Mapping[str, tuple[tuple[str, str, str], ...]] = {
    "z2z3": (
        ("z2z3", "output", "plain"),
        ("z2z3", "output", "residualized"),
        ("z2z3", "first-moment", "plain"),
        ("z2z3", "first", "plain"),
        ("z2z3", "first", "residualized"),
    ),
    "odd": tuple((a, "first", k) for a in ("tanh", "sigmoid") for k in ("plain", "residualized")),
    "relu": (
        ("relu", "output", "residualized"),
        ("relu", "first", "residualized"),
        ("relu", "exact", "residualized"),
    ),
    "noise": (("relu", "output", "residualized"), ("relu", "first", "residualized")),
}


NAMES: Mapping[str, str] = {
    "output": "dL/da",
    "first": "dL/dW",
    "first-moment": "dL/dW, span from moment",
    "exact": "dL/dW, exact recovery",
}


def conditions() -> tuple[Condition, ...]:
    """Every series of a panel at every value of the panel's variable."""
    return tuple(
        {"panel": panel, "activation": activation, "observation": observation, "moments": moments}
        | {"d": d, "sigma": sigma}
        for panel, series in SERIES.items()
        for activation, observation, moments in series
        for d, sigma in (
            [(NOISE_DIMENSION, s) for s in SIGMAS] if panel == "noise" else [(d, 0.0) for d in DIMENSIONS]
        )
    )


def _labels(condition: Condition) -> list[float]:
    bias = BIAS[str(condition["panel"])]
    return [1.0 - bias, -1.0 - bias]


def trial(condition: Condition, seed: int) -> Outcome:
    """One network: the error R of one attack on one observation of it."""
    import torch

    from attack import (
        ReconstructionError,
        TwoLayerNet,
        first_layer_attack,
        matched_rmse,
        observe,
        observe_first_layer,
        sparse_recovery,
        tensor_attack,
    )

    d, observation = int(condition["d"]), str(condition["observation"])
    X, y = torch.eye(d, dtype=torch.float64)[:B], _labels(condition)
    defense, estimator = GradientNoise(sigma=float(condition["sigma"])), _estimator(condition)
    net = TwoLayerNet.sample(d, M, str(condition["activation"]), seed)
    try:
        if observation == "output":
            found = tensor_attack(observe(defense, net, X, y, seed), net, B, estimator, seed)
        else:
            seen = observe_first_layer(defense, net, X, y, seed)
            if observation == "exact":
                found = sparse_recovery(seen, net, B, seed)
            else:
                span = "moment" if observation == "first-moment" else "rows"
                found = first_layer_attack(seen, net, B, estimator, seed, span)
    except ReconstructionError as error:
        return Failure(str(error))
    return {"error": matched_rmse(X, found.features, sign_free=condition["panel"] == "odd")}


def _estimator(condition: Condition) -> TensorAttack:
    return TensorAttack(moments=str(condition["moments"]))


def predicted(condition: Condition) -> float | None:
    """PREDICTED for this condition's attack on this condition's observation; None where none is stated."""
    d, sigma = int(condition["d"]), float(condition["sigma"])
    setting = Setting.orthonormal(d, M, B, str(condition["activation"]), _labels(condition))
    if condition["observation"] == "output":
        return evaluate(GradientNoise(sigma=sigma), setting, _estimator(condition)).predicted
    if condition["observation"] != "first":
        return None
    try:
        return first_layer_prediction(setting, _estimator(condition), sigma).value
    except UnsupportedBound:
        return None


def summary(found: Findings) -> list[Row]:
    """A row for each condition: measured error with its 99 % interval, prediction, failures."""
    return [_row(cell) for cell in found.cells]


def _row(cell: Cell) -> Row:
    measured, condition = cell.measured("error"), cell.condition
    return {
        "panel": condition["panel"],
        "series": _name(condition),
        "d": condition["d"],
        "sigma": condition["sigma"],
        "R": measured.rms,
        "low": measured.low,
        "high": measured.high,
        "predicted": predicted(condition),
        "failed": measured.failed,
    }


def _name(condition: Condition) -> str:
    """Activation where a panel has several, observation, and moments where there are any."""
    head = f"{condition['activation']}: " if condition["panel"] == "odd" else ""
    tail = "" if condition["observation"] == "exact" else f", {condition['moments']}"
    return head + NAMES[str(condition["observation"])] + tail


def draw(found: Findings) -> Figure:
    """A panel each; dots are trials, markers their root mean square, dashed lines PREDICTED for that observation.

    Failed trials stand at the top edge with their number.
    """
    from matplotlib.figure import Figure

    from verify.draw.style import legend_below

    titles = {
        "z2z3": "z² + z³, bias 30 (setting of [W23])",
        "odd": "tanh and sigmoid, bias 30, up to sign",
        "relu": "ReLU, labels ±1, no bias",
        "noise": f"ReLU, the same noise on either, d = {NOISE_DIMENSION}",
    }
    figure = Figure(figsize=(12, 9.6), layout="constrained")
    panels = figure.subplots(2, 2).ravel()
    for axes, (panel, series) in zip(panels, SERIES.items(), strict=True):
        variable = "sigma" if panel == "noise" else "d"
        for k, (activation, observation, moments) in enumerate(series):
            cells = found.where(panel=panel, activation=activation, observation=observation, moments=moments)
            _draw_series(axes, cells, variable, k, len(series), f"C{k}")
        if panel == "noise":
            axes.set_xscale("symlog", linthresh=SIGMAS[1], linscale=0.6)
            axes.set_xlim(-0.4 * SIGMAS[1], 2 * SIGMAS[-1])
            axes.set_xlabel("standard deviation of the noise on every entry as seen")
        else:
            axes.set_xscale("log")
            axes.set_xticks(DIMENSIONS, [str(d) for d in DIMENSIONS])
            axes.minorticks_off()
            axes.set_xlabel("d")
        axes.set(yscale="log", title=titles[panel], ylabel="error R")
        axes.set_ylim(*((1e-17, 30.0) if panel == "relu" else (1e-4, 4.0)))
        axes.axhline(1.0, color="0.6", linewidth=0.8)
        legend_below(axes, size=8, columns=2)
    failed = failure_note(found.cells)
    figure.suptitle(
        f"The gradient of the output weights (dL/da) against that of the first layer (dL/dW)\n"
        f"m = {M}, B = {B}, orthonormal features, {found.trials} trials each; dashed: PREDICTED for that observation"
        + (f"; {failed} (×)" if failed else ""),
        fontsize=10,
    )
    return figure


def _draw_series(axes: Any, cells: tuple[Cell, ...], variable: str, k: int, count: int, colour: str) -> None:
    condition = cells[0].condition
    shift = 1.03 ** (k - (count - 1) / 2)  # side by side, else the dots of one hide another's
    x = np.array([float(c.condition[variable]) for c in cells])
    for value, cell in zip(x, cells, strict=True):
        errors = cell.values("error")
        axes.plot([value * shift] * len(errors), errors, ".", color=colour, alpha=0.25, markersize=4)
        if cell.failures:
            axes.plot(
                value * shift, 0.96 - 0.045 * k, "x", color=colour, transform=axes.get_xaxis_transform()
            )
            axes.annotate(
                f" {len(cell.failures)}",
                (value * shift, 0.96 - 0.045 * k),
                xycoords=axes.get_xaxis_transform(),
                fontsize=7,
                color=colour,
                va="center",
            )
    axes.plot(
        x * shift,
        [c.measured("error").rms for c in cells],
        "o-",
        color=colour,
        markersize=5,
        label=_name(condition),
    )
    theory = [predicted(c.condition) for c in cells]
    if any(value is not None for value in theory):
        axes.plot(x, [math.nan if v is None else v for v in theory], "--", color=colour, linewidth=1.2)


STUDY = Study(
    name="first-layer",
    title="the gradient of the first layer against that of the output weights",
    claims=("C6",),
    conditions=conditions(),
    quantities=("error",),
    trial=trial,
    summary=summary,
    draw=draw,
    seed=17,
)
