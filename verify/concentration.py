"""How the two moments of the attack concentrate: the statements of [W23], Propositions 5.5 and 5.6, measured.

Plain moments, a core of order 3 (z^2 + z^3, labels that make every residual 2), orthonormal features. In each trial: the
sine of the largest angle between the estimated and the true span, and the error of the core in the estimated span,
``|T - T_V| / |T_U|`` (U: the true span) with ``T_V = sum_i r_i c_3 (V^T x_i)^(x)3``, in Frobenius norm, for T from

- ``same``: the neurons that gave V, as in the paper's algorithm,
- ``fresh``: as many neurons that V does not depend on, as in the paper's proof,
- ``left_out``: the neurons that gave V, each without its own share in V (what our attack does).

The population T_V has the span's error in it, so this is the in-span error that the proposition is about.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bounds import NoDefense
from verify.experiment import Features
from verify.rules import Measured, RateResult, judge_rate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUANTITIES = ("span", "same", "fresh", "left_out")
BASE = {"d": 50, "m": 80_000, "B": 2}
VALUES: Mapping[str, tuple[int, ...]] = {
    "m": (20_000, 40_000, 80_000, 160_000, 320_000),
    "d": (25, 50, 100, 200, 400),
    "B": (1, 2, 4, 8),
}
#: Exponents of the propositions; for B those of an upper bound, which no experiment has to reach.
STATED: Mapping[str, Mapping[str, float]] = {
    "span": {"m": -0.5, "d": 0.5, "B": 1.0},
    "same": {"m": -0.5, "d": 0.0, "B": 2.5},
    "fresh": {"m": -0.5, "d": 0.0, "B": 2.5},
    "left_out": {"m": -0.5, "d": 0.0, "B": 2.5},
}
#: Name of the file that keeps the numbers.
CONCENTRATION = "concentration.json"
FEATURES = Features("orthonormal", seed=15)
ACTIVATION, LABEL, SEED = "z2z3", -1.0, 16


@dataclass(frozen=True)
class Study:
    """Measured values: ``values[variable][value][quantity]`` is one number for each trial."""

    trials: int
    values: Mapping[str, Mapping[int, Mapping[str, Sequence[float]]]]

    def exponents(self) -> list[RateResult]:
        """The exponent of each quantity in each variable, with its 99 % interval, against the stated one (±0.05)."""
        return [
            judge_rate(
                {float(x): Measured.of(found[quantity]) for x, found in by_value.items()},
                STATED[quantity][variable],
                variable,
                baseline=math.inf,
                experiment="concentration",
                series=quantity,
            )
            for quantity in QUANTITIES
            for variable, by_value in self.values.items()
        ]


def study(trials: int = 20, path: Path | None = None) -> Study:
    """Measure, or take from ``path`` what is there already: it is written after every value of a variable."""
    done: dict[str, Any] = {}
    if path is not None and path.exists():
        saved = json.loads(path.read_text())
        done = saved["values"] if saved.get("trials") == trials and saved.get("seed") == SEED else {}
    for variable, value in _grid():
        found = done.setdefault(variable, {})
        if str(value) in found:
            continue
        rows = [_trial(**{**BASE, variable: value}, seed=SEED * 1000 + t) for t in range(trials)]
        found[str(value)] = {q: [row[q] for row in rows] for q in QUANTITIES}
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"trials": trials, "seed": SEED, "values": done}, allow_nan=False))
    return _study(trials, done)


def load(path: Path) -> Study:
    """What ``study`` has written. Raises ``ValueError`` for a file that is not."""
    saved = json.loads(path.read_text())
    if not isinstance(saved, dict) or not {"trials", "values"} <= saved.keys():
        raise ValueError(f"path must be a file of concentration measurements; got {path}")
    return _study(saved["trials"], saved["values"])


def _study(trials: int, values: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]) -> Study:
    return Study(trials, {k: {int(x): v for x, v in by.items()} for k, by in values.items()})


def _grid() -> Iterator[tuple[str, int]]:
    return ((variable, value) for variable, values in VALUES.items() for value in values)


def _trial(d: int, m: int, B: int, seed: int) -> dict[str, float]:
    import torch

    from attack import TwoLayerNet, observe
    from attack.moments import Response, apply_second_moment, core_moments
    from attack.span import dominant_span

    X = torch.from_numpy(np.ascontiguousarray(FEATURES.sample(d, B)))
    labels = [LABEL] * B

    def plain(network_seed: int) -> tuple[TwoLayerNet, Response]:
        net = TwoLayerNet.sample(d, m, ACTIVATION, network_seed)
        gradient = observe(NoDefense(), net, X, labels).gradient
        zero = torch.zeros(d, dtype=torch.float64)
        return net, Response(gradient, torch.zeros((), dtype=torch.float64), zero)

    net, response = plain(2 * seed)
    start = torch.from_numpy(np.random.default_rng(seed).standard_normal((d, B + 2)))
    span = dominant_span(lambda V: apply_second_moment(net, response, V), start, B)
    other, fresh = plain(2 * seed + 1)
    basis = torch.linalg.qr(X.T)[0]
    sine = float(torch.linalg.matrix_norm(basis - span.V @ (span.V.T @ basis), 2))
    inside = (X @ span.V).numpy()

    def core(where: TwoLayerNet, seen: Response, left_out: bool) -> float:
        found = core_moments(where, seen, span.V, span.eigenvalues, 3, False, left_out).core.numpy()
        residuals = where.forward(X).numpy() - LABEL
        strength = residuals * where.activation.coefficient(3)
        truth = np.einsum("i,ia,ib,ic->abc", strength, inside, inside, inside)
        return float(np.linalg.norm(found - truth) / np.linalg.norm(strength))

    return {
        "span": sine,
        "same": core(net, response, False),
        "fresh": core(other, fresh, False),
        "left_out": core(net, response, True),
    }


def draw(found: Study) -> Figure:
    """One panel for each variable, one line for each quantity, every trial a dot."""
    from matplotlib.figure import Figure

    names = {
        "span": "span, sine of the angle",
        "same": "core, same neurons",
        "fresh": "core, fresh neurons",
        "left_out": "core, leave one out",
    }
    figure = Figure(figsize=(11, 4), layout="constrained")
    panels = figure.subplots(1, len(found.values), sharey=True, squeeze=False)[0]
    results = {(r.series, r.variable): r for r in found.exponents()}
    for axes, (variable, by_value) in zip(panels, found.values.items(), strict=True):
        x = list(by_value)
        for k, quantity in enumerate(QUANTITIES):
            rows = [np.asarray(by_value[value][quantity]) for value in x]
            colour = f"C{k}"
            for value, row in zip(x, rows, strict=True):
                axes.plot([value] * len(row), row, ".", color=colour, alpha=0.25, markersize=4)
            slope = results[quantity, variable].slope
            label = f"{names[quantity]}: {slope:+.2f}"
            axes.plot(x, [math.sqrt(np.mean(row**2)) for row in rows], "o-", color=colour, label=label)
        axes.set(xscale="log", yscale="log", xlabel=variable, title=f"exponents of {variable}")
        axes.set_xticks(x, [f"{value:,}".replace(",", " ") for value in x], fontsize=8)
        axes.minorticks_off()
        axes.legend(fontsize=7.5, loc="best")
    panels[0].set_ylabel("error (root mean square and trials)")
    fixed = ", ".join(f"{k} = {v:,}".replace(",", " ") for k, v in BASE.items())
    figure.suptitle(
        f"Concentration of the plain moments, z² + z³, elsewhere {fixed}, {found.trials} trials each",
        fontsize=10,
    )
    return figure
