"""How the two moments of the attack concentrate: the statements of [W23], Propositions 5.5 and 5.6, measured.

Plain moments, a core of order 3 (z^2 + z^3, labels that make every residual 2), orthonormal features. In each trial: the
sine of the largest angle between the estimated and the true span, and the error of the core in the estimated span,
``|T - T_V| / |T_U|`` (U: the true span) with ``T_V = sum_i r_i c_3 (V^T x_i)^(x)3``, in Frobenius norm, for T from

- ``same``: the neurons that gave V, as in the paper's algorithm,
- ``fresh``: as many neurons that V does not depend on, as in the paper's proof,
- ``left_out``: the neurons that gave V, each without its own share in V (what our attack does).

The population T_V has the span's error in it, so this is the in-span error that the proposition is about.

The networks of one trial share their first neurons across widths, so neighbouring widths are not independent and the
intervals of the exponents of m are about a tenth too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from bounds import NoDefense
from verify.judge.rate import RateResult, judge_rate
from verify.measure.features import Features
from verify.studies.study import Cell, Condition, Findings, Outcome, Row, Study, failure_note

if TYPE_CHECKING:
    from matplotlib.figure import Figure


QUANTITIES = ("span", "same", "fresh", "left_out")


BASE: Mapping[str, int] = {"d": 50, "m": 80_000, "B": 2}


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


FEATURES = Features("orthonormal", seed=15)


ACTIVATION, LABEL = "z2z3", -1.0


def conditions() -> tuple[Condition, ...]:
    """One variable at a time goes through its values; where all are at their base, one condition serves all."""
    grid = ({**BASE, variable: value} for variable, values in VALUES.items() for value in values)
    return tuple({tuple(c.items()): c for c in grid}.values())


def along(found: Findings, variable: str) -> dict[int, Cell]:
    """The cells in which ``variable`` alone differs from its base, by its value."""
    others = {k: v for k, v in BASE.items() if k != variable}
    cells = {int(c.condition[variable]): c for c in found.where(**others)}
    return dict(sorted(cells.items()))


def exponents(found: Findings) -> list[RateResult]:
    """The exponent of each quantity in each variable, with its 99 % interval, against the stated one (±0.05)."""
    return [
        judge_rate(
            {float(x): cell.measured(quantity) for x, cell in along(found, variable).items()},
            STATED[quantity][variable],
            variable,
            baseline=math.inf,
            experiment="concentration",
            series=quantity,
        )
        for quantity in QUANTITIES
        for variable in VALUES
    ]


def summary(found: Findings) -> list[Row]:
    """A row for each exponent."""
    return [
        {"quantity": r.series, "variable": r.variable, "exponent": r.slope, "low": r.low, "high": r.high}
        | {"stated": r.exponent, "failed": r.failed}
        for r in exponents(found)
    ]


def trial(condition: Condition, seed: int) -> Outcome:
    """The four quantities on two networks of their own (see the module)."""
    return _measure(**{k: int(condition[k]) for k in BASE}, seed=seed)


def _measure(d: int, m: int, B: int, seed: int) -> dict[str, float]:
    import torch

    from attack import TwoLayerNet, observe
    from attack.tensor.moments import Response, apply_second_moment, core_moments
    from attack.tensor.span import dominant_span

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


def draw(found: Findings) -> Figure:
    """One panel for each variable, one line for each quantity, every trial a dot."""
    from matplotlib.figure import Figure

    from verify.draw.style import legend_below

    names = {
        "span": "span, sine of the angle",
        "same": "core, same neurons",
        "fresh": "core, fresh neurons",
        "left_out": "core, leave one out",
    }
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    panels = figure.subplots(1, len(VALUES), sharey=True, squeeze=False)[0]
    results = {(r.series, r.variable): r for r in exponents(found)}
    for axes, variable in zip(panels, VALUES, strict=True):
        cells = along(found, variable)
        x = list(cells)
        for k, quantity in enumerate(QUANTITIES):
            colour = f"C{k}"
            for value, cell in cells.items():
                row = cell.values(quantity)
                axes.plot([value] * len(row), row, ".", color=colour, alpha=0.25, markersize=4)
            slope = results[quantity, variable].slope
            label = f"{names[quantity]}: {slope:+.2f}"
            rms = [cell.measured(quantity).rms for cell in cells.values()]
            axes.plot(x, rms, "o-", color=colour, label=label)
        axes.set(xscale="log", yscale="log", xlabel=variable, title=f"exponents of {variable}")
        axes.set_xticks(x, [f"{value:,}".replace(",", " ") for value in x], fontsize=8)
        axes.minorticks_off()
        legend_below(axes)
    panels[0].set_ylabel("error (root mean square and trials)")
    fixed = ", ".join(f"{k} = {v:,}".replace(",", " ") for k, v in BASE.items())
    failed = failure_note(found.cells)
    figure.suptitle(
        f"Concentration of the plain moments, z² + z³, elsewhere {fixed}, {found.trials} trials each"
        + (f", {failed}" if failed else ""),
        fontsize=10,
    )
    return figure


STUDY = Study(
    name="concentration",
    title="how span and core of the plain attack concentrate in m, d and B",
    claims=("C2",),
    conditions=conditions(),
    quantities=QUANTITIES,
    trial=trial,
    summary=summary,
    draw=draw,
    seed=16,
)
