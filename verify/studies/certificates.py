"""How far the certificate is from the error that it bounds, on networks whose features are known.

ReLU, features drawn at random for every network, labels +1, -1. Without noise the tensor attack's result is certified; with
noise of standard deviation ``sigma`` on every entry of dL/da that of maximum likelihood, which has the smallest error and so
the hardest one to certify. Quantities: ``error``, R; ``value``, the certificate of it at ``1 - DELTA``; ``proved``, 1 where
it says more than public norms. Negative control: the certificate divided by ``CONTROL`` is to be violated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bounds import GradientNoise, LikelihoodAttack, NoDefense, TensorAttack
from bounds.setting import alternating
from verify.judge.statistics import Share
from verify.measure.failure import Failure, attempt
from verify.measure.features import Features
from verify.studies.study import Condition, Findings, Outcome, Row, Study, failure_note, mixed

if TYPE_CHECKING:
    from matplotlib.figure import Figure


DELTA = 0.05


#: What the certificate is divided by to be refuted.
CONTROL = 20


#: (d, m, B) -> standard deviations of noise, 0 for none.
NARROW = {(20, 40_000, 1): (0.0, 0.1, 0.5), (20, 40_000, 2): (0.0, 0.02)}
WIDE = {(100, 160_000, 1): (0.0, 0.1), (100, 160_000, 2): (0.0,)}


def conditions(sizes: dict[tuple[int, int, int], tuple[float, ...]]) -> tuple[Condition, ...]:
    return tuple(
        {"d": d, "m": m, "B": B, "sigma": sigma} for (d, m, B), sigmas in sizes.items() for sigma in sigmas
    )


def trial(condition: Condition, seed: int) -> Outcome:
    """One network."""
    from attack import TwoLayerNet, certificate, matched_rmse, observe, reconstruct

    d, m, B = (int(condition[name]) for name in ("d", "m", "B"))
    sigma = float(condition["sigma"])
    own = mixed(seed, d, m, B)
    X = np.ascontiguousarray(Features("random", seed=own).sample(d, B))
    net = TwoLayerNet.sample(d, m, "relu", own)
    seen = observe(GradientNoise(sigma) if sigma else NoDefense(), net, X, alternating(B), own)
    spec = LikelihoodAttack(starts=3) if sigma else TensorAttack()
    found = attempt(lambda: reconstruct(seen, net, attack=spec, seed=own))
    if isinstance(found, Failure):
        return Failure(found.reason)
    told = certificate(seen, net, found, DELTA, seed=own)
    error = matched_rmse(X, found.features)
    return {"error": error, "value": told.value, "proved": float(told.proved)}


def summary(found: Findings) -> list[Row]:
    """A row for each condition: networks of which the certificate is below R, with the interval of their share (Clopper and
    Pearson), and whether it is compatible with ``DELTA``; the same of the control; certificate over R where it is proved."""
    rows: list[Row] = []
    for cell in found.cells:
        error, value, proved = (cell.values(q) for q in ("error", "value", "proved"))
        row: Row = dict(cell.condition) | {"networks": len(error), "failed": len(cell.failures)}
        ratio = (value / error)[proved > 0]
        missed, control = (_violated(error, value / by) for by in (1, CONTROL))
        row |= {
            "proved": int(proved.sum()),
            "violated": missed.k if missed else None,
            "share, at most": missed.high if missed else None,
            "covered": None if missed is None else "yes" if missed.low <= DELTA else "NO",
            f"violated at 1/{CONTROL}": control.k if control else None,
            "median R": float(np.median(error)) if len(error) else None,
        }
        rows.append(row | dict(zip(("median ratio", "largest ratio"), _ratios(ratio), strict=True)))
    return rows


def _violated(error: np.ndarray, value: np.ndarray) -> Share | None:
    return Share.of(int(np.sum(error > value)), len(error)) if len(error) else None


def _ratios(ratio: np.ndarray) -> Sequence[float | None]:
    return (float(np.median(ratio)), float(np.max(ratio))) if len(ratio) else (None, None)


def draw(found: Findings) -> Figure:
    """Certificate against R, a dot for each network; below the line it is violated."""
    from matplotlib.figure import Figure

    from verify.draw.style import COLOURS, MARKERS, legend_below

    figure = Figure(figsize=(7, 6.4), layout="constrained")
    axes = figure.subplots()
    ends: list[float] = []
    for k, cell in enumerate(found.cells):
        error, value, proved = (cell.values(q) for q in ("error", "value", "proved"))
        c, note = cell.condition, failure_note([cell])
        words = f"d = {c['d']}, m = {int(c['m']):,}, B = {c['B']}, σ = {c['sigma']:g}".replace(",", " ")
        words += f": proved in {int(proved.sum())} of {len(error)}" + (f", {note}" if note else "")
        style: dict[str, Any] = {
            "color": COLOURS[k % len(COLOURS)],
            "markersize": 4,
            "alpha": 0.5,
            "label": words,
        }
        axes.plot(error, value, MARKERS[k % len(MARKERS)], **style)
        ends += [*error, *value]
    limits = np.array([min(ends, default=0.1), max(ends, default=1.0)])
    axes.plot(limits, limits, "-", color="0.1", label=f"R: {1 - DELTA:.0%} of all dots have to be above")
    axes.plot(limits, 2.5 * limits, ":", color="0.4", label="2.5 R")
    axes.set(xscale="log", yscale="log", xlabel="R of the reconstruction", ylabel="certificate")
    legend_below(axes, size=7, columns=1)
    figure.suptitle(f"Certificates at 1 − δ = {1 - DELTA:g}, ReLU, {found.trials} networks each", fontsize=10)
    return figure


STUDY = Study(
    name="certificates",
    title="certificates of reconstructions against the errors that they bound",
    claims=(),
    conditions=conditions(NARROW),
    quantities=("error", "value", "proved"),
    trial=trial,
    summary=summary,
    draw=draw,
    trials=200,
    seed=63,
)


WIDER = replace(
    STUDY,
    name="certificates-wide",
    title="the same at d = 100, m = 160 000",
    conditions=conditions(WIDE),
    trials=10,
    seed=64,
)
