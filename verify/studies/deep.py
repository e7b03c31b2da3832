"""A deep network under attack: [W23], Algorithm 2 and Corollary 5.2, measured.

The server sets the first layers so that they carry the input through (``DeepNet``); the attack then runs on the deep
network's own gradient and is judged by the prediction for two layers. 0 carry layers are the two-layer network itself.
Weights and starts of a trial are the same for every activation and depth, and independent for different widths.

For comparison the same attack on networks with standard first layers: it finds what the last hidden layer receives, not
the input. The reduction is what the chosen layers do.

Quantities: ``error``, R of the inputs; ``hidden``, R of what the last hidden layer receives in the two-layer view (the
inputs themselves behind carry layers); ``gradient``, the largest difference between the deep network's gradient, by
autograd, and the closed form for two layers, over the largest entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import sympy as sp

from bounds import Activation, BoundValue, Kind, NoDefense, Setting, evaluate, resolve_activation
from bounds.gaussian.activations import Z
from bounds.setting import alternating
from verify.judge.predicted import RatioResult, judge_predicted
from verify.judge.rate import RateResult, judge_rate
from verify.judge.statistics import Measured
from verify.measure.features import Features
from verify.studies.study import Cell, Condition, Failure, Findings, Outcome, Row, Study, failure_note, mixed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from attack.networks.deep import DeepNet


D, B = 50, 2


WIDTHS = (20_000, 40_000, 80_000)


DEPTHS = (0, 1, 2, 3)


#: Depths of the standard networks, at the largest width.
STANDARD_DEPTHS = (1, 2)


NAMES: Mapping[str, str | sp.Expr] = {
    "ReLU": "relu",
    "leaky ReLU, slope 0.01": "leaky_relu",
    "leaky ReLU, slope 0.3": sp.Max(Z, 3 * Z / 10),
}


FEATURES = Features("random", seed=21)


#: Standard first layers are drawn once, so that what the last hidden layer receives is the same in every trial.
FIRST_LAYERS_SEED = 22


#: What 20 trials at three widths within a factor of 4 can decide; set before measuring.
TOLERANCE, RATE_TOLERANCE = 0.1, 0.1


def conditions() -> tuple[Condition, ...]:
    """Every activation, depth and width; standard first layers at the largest width."""
    carry: list[Condition] = [
        {"first": "carry", "activation": name, "layers": k, "m": m}
        for name in NAMES
        for k in DEPTHS
        for m in WIDTHS
    ]
    standard: list[Condition] = [
        {"first": "standard", "activation": "ReLU", "layers": k, "m": WIDTHS[-1]} for k in STANDARD_DEPTHS
    ]
    return (*carry, *standard)


@lru_cache
def activation_of(name: str) -> Activation:
    """The activation with a name in ``NAMES``."""
    return resolve_activation(NAMES[name])


def network(condition: Condition, seed: int) -> DeepNet:
    """The client's network in the trial with that seed."""
    from attack.networks.deep import DeepNet
    from attack.networks.two_layer import TwoLayerNet

    m, layers = int(condition["m"]), int(condition["layers"])
    net = TwoLayerNet.sample(D, m, activation_of(str(condition["activation"])), mixed(seed, m))
    if condition["first"] == "carry":
        return DeepNet.carrying(net, layers)
    return DeepNet.standard(net, layers, FIRST_LAYERS_SEED)


def trial(condition: Condition, seed: int) -> Outcome:
    """The attack on one network."""
    import torch

    from attack import ReconstructionError, matched_rmse, observe, tensor_attack

    X, y = torch.from_numpy(FEATURES.sample(D, B)), torch.tensor(alternating(B), dtype=torch.float64)
    deep = network(condition, seed)
    carried = condition["first"] == "carry"
    view = deep.reduced() if carried else deep.head()
    received = X if carried else deep.representation(X)
    norms = torch.linalg.vector_norm(received, dim=1).tolist()
    observation = observe(NoDefense(), deep, X, y, norms=norms)
    closed = view.output_gradient(received, y)[0]
    try:
        found = tensor_attack(observation, view, seed=seed)
    except ReconstructionError as error:
        return Failure(str(error))
    return {
        "error": matched_rmse(X, found.features),
        "hidden": matched_rmse(received, found.features),
        "gradient": float((observation.gradient - closed).abs().max() / closed.abs().max()),
    }


@lru_cache(maxsize=64)
def predicted(activation: str, m: int) -> BoundValue:
    """What theory predicts for two layers."""
    setting = Setting.from_features(FEATURES.sample(D, B), alternating(B), m, activation_of(activation))
    return evaluate(NoDefense(), setting)[Kind.PREDICTED]


def predicted_error(condition: Condition) -> BoundValue:
    """What the corollary predicts for ``error``: as for two layers, whatever the depth."""
    return predicted(str(condition["activation"]), int(condition["m"]))


def predicted_hidden(condition: Condition) -> BoundValue:
    """What theory predicts for two layers with the features that ``hidden`` is about."""
    if condition["first"] == "carry":
        return predicted_error(condition)
    import torch

    # Standard first layers are the same at any width of the last one.
    received = network({**condition, "m": D}, 0).representation(torch.from_numpy(FEATURES.sample(D, B)))
    activation = activation_of(str(condition["activation"]))
    setting = Setting.from_features(received, alternating(B), int(condition["m"]), activation)
    return evaluate(NoDefense(), setting)[Kind.PREDICTED]


PREDICTIONS: Mapping[str, Callable[[Condition], BoundValue]] = {
    "error": predicted_error,
    "hidden": predicted_hidden,
}


def judge_size(cells: Sequence[Cell], quantity: str = "error") -> RatioResult:
    """``quantity`` against its prediction, over all trials of these cells: those of smaller widths are brought to the
    largest one by the ratio of the predictions."""
    widest = max(cells, key=lambda c: c.condition["m"])
    bound = PREDICTIONS[quantity](widest.condition)
    brought = [
        c.values(quantity) * ((bound.value or np.nan) / (PREDICTIONS[quantity](c.condition).value or np.nan))
        for c in cells
    ]
    measured = Measured.of(np.concatenate(brought), sum(len(c.failures) for c in cells))
    return judge_predicted(measured, bound, TOLERANCE, experiment="deep", series=quantity)


def judge_exponent(cells: Sequence[Cell]) -> RateResult:
    """The exponent of m over these cells, which differ in m alone, against -1/2."""
    points = {float(c.condition["m"]): c.measured("error") for c in cells}
    return judge_rate(points, -0.5, tolerance=RATE_TOLERANCE, experiment="deep")


def summary(found: Findings) -> list[Row]:
    """A row for each activation, depth and kind of first layers: R over predicted (all widths), the exponent of m, and the
    largest relative differences of gradient and, trial by trial, R from those of the two-layer network."""
    rows = []
    settings = dict.fromkeys(
        (c.condition["first"], c.condition["activation"], c.condition["layers"]) for c in found.cells
    )
    for first, activation, layers in settings:
        cells = found.where(first=first, activation=activation, layers=layers)
        ratio, hidden = judge_size(cells), judge_size(cells, "hidden")
        rate = judge_exponent(cells) if len(cells) > 1 else None
        rows.append(
            {
                "first": first,
                "activation": activation,
                "layers": layers,
                "ratio": ratio.ratio,
                "ratio_low": ratio.low,
                "ratio_high": ratio.high,
                "predicted": ratio.verdict,
                "exponent": None if rate is None else rate.slope,
                "exponent_low": None if rate is None else rate.low,
                "exponent_high": None if rate is None else rate.high,
                "rate": None if rate is None else rate.verdict,
                "hidden_ratio": hidden.ratio,
                "hidden": hidden.verdict,
                "gradient": max((float(c.values("gradient").max(initial=0.0)) for c in cells), default=0.0),
                "error_change": max(_change(found, c) for c in cells) if first == "carry" else None,
                "failed": sum(len(c.failures) for c in cells),
            }
        )
    return rows


def _change(found: Findings, cell: Cell) -> float:
    """Largest |R / R of the two-layer network - 1| over the trials that gave both."""
    (two,) = found.where(**{**cell.condition, "layers": 0}) or (cell,)
    pairs = [
        (deep["error"], flat["error"])
        for deep, flat in zip(cell.outcomes, two.outcomes, strict=True)
        if not isinstance(deep, Failure) and not isinstance(flat, Failure)
    ]
    return max((abs(a / b - 1) for a, b in pairs), default=0.0)


def draw(found: Findings) -> Figure:
    """A panel for each activation: R against m at every depth, every trial a dot, with the prediction for two layers; a
    last one for standard first layers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4.8), layout="constrained")
    *panels, last = figure.subplots(1, len(NAMES) + 1, squeeze=False)[0]
    for axes in panels[1:]:
        axes.sharey(panels[0])
    for axes, activation in zip(panels, NAMES, strict=True):
        _draw_activation(axes, found, activation)
    panels[0].set_ylabel("R of the inputs (root mean square and trials)")
    _draw_standard(last, found)
    figure.suptitle(
        f"A deep network whose first layers carry the input through, d = {D}, B = {B}, {found.trials} trials each "
        f"(99 %); line: PREDICTED for two layers; h(x): what the last hidden layer receives",
        fontsize=10,
    )
    return figure


def _draw_activation(axes: Axes, found: Findings, activation: str) -> None:
    from verify.draw.style import COLOURS, MARKERS, legend_below

    for i, layers in enumerate(dict.fromkeys(c.condition["layers"] for c in found.where(first="carry"))):
        cells = found.where(first="carry", activation=activation, layers=layers)
        shift = 1.05 ** (i - 1.5)  # the depths give the same numbers and would hide one another
        x = [int(c.condition["m"]) * shift for c in cells]
        _draw_dots(axes, x, cells, "error", COLOURS[i])
        rate = judge_exponent(cells)
        label = f"{layers} layers: exponent {rate.slope:+.3f} [{rate.low:+.3f}, {rate.high:+.3f}]"
        rms = [c.measured("error").rms for c in cells]
        note = failure_note(cells) if any(c.failures for c in cells) else ""
        axes.plot(
            x, rms, MARKERS[i], color=COLOURS[i], markersize=5, label=", ".join(t for t in (label, note) if t)
        )
    grid = np.geomspace(WIDTHS[0] / 1.2, WIDTHS[-1] * 1.2, 9)
    curve = [predicted(activation, int(m)).value or np.nan for m in grid]
    axes.plot(grid, curve, color="0.2", linewidth=1.4, zorder=0)
    axes.set(xscale="log", yscale="log", xlabel="width m", title=activation)
    axes.set_xticks(WIDTHS, [_spaced(m) for m in WIDTHS], fontsize=8)
    axes.minorticks_off()
    axes.set_yticks([0.03, 0.05, 0.1, 0.2], ["0.03", "0.05", "0.1", "0.2"])
    legend_below(axes)


def _draw_standard(axes: Axes, found: Findings) -> None:
    from verify.draw.style import COLOURS

    carry = found.where(first="carry", activation="ReLU", m=WIDTHS[-1])
    standard = found.where(first="standard")
    shown: list[tuple[str, Cell, str, str]] = [
        *(("carry", c, "error", COLOURS[0]) for c in carry if c.condition["layers"] in STANDARD_DEPTHS),
        *(("standard", c, "error", COLOURS[1]) for c in standard),
        *(("standard", c, "hidden", COLOURS[5]) for c in standard),
    ]
    names = {"error": "x", "hidden": "h(x)"}
    for at, (_, cell, quantity, colour) in enumerate(shown):
        spread = at + np.linspace(-0.2, 0.2, max(1, len(cell.values(quantity))))
        axes.plot(spread, cell.values(quantity), ".", color=colour, alpha=0.3, markersize=4)
        m = cell.measured(quantity)
        if m.n:
            axes.plot(at, m.rms, "o", color=colour)
        bound = PREDICTIONS[quantity](cell.condition)
        if bound.value is not None:
            axes.plot([at - 0.35, at + 0.35], [bound.value] * 2, color="0.2", linewidth=1.4)
        if cell.failures:
            axes.annotate(failure_note([cell]), (at, 1.5), fontsize=7, rotation=90, ha="center", va="top")
    axes.axhline(1.0, color="0.6", linestyle="--", linewidth=0.8)
    ticks = [f"{f}\n{c.condition['layers']}\n{names[q]}" for f, c, q, _ in shown]
    axes.set_xticks(range(len(shown)), ticks, fontsize=7)
    axes.set(xlabel="first layers, how many, error of what", yscale="log")
    axes.set_title(f"ReLU, m = {_spaced(WIDTHS[-1])}; dashed: guessing zero", fontsize=10)


def _draw_dots(axes: Axes, x: Sequence[float], cells: Sequence[Cell], quantity: str, colour: str) -> None:
    for at, cell in zip(x, cells, strict=True):
        row = cell.values(quantity)
        axes.plot([at] * len(row), row, ".", color=colour, alpha=0.25, markersize=4)


def _spaced(number: int) -> str:
    return f"{number:,}".replace(",", " ")


STUDY = Study(
    name="deep",
    title="a deep network whose first layers carry the input through, against the two-layer prediction",
    claims=("C5",),
    conditions=conditions(),
    quantities=("error", "hidden", "gradient"),
    trial=trial,
    summary=summary,
    draw=draw,
    seed=21,
)
