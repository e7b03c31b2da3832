"""The literature's bounds, this project's, and two attacks, against the noise on dL/da.

ReLU, one and two orthonormal features, one dimension and width. Each trial is one attack on a freshly drawn network;
bounds are on the mean of R^2 over networks and noise. Some hold of every attack, others of unbiased ones only
(``bounds.kinds.published.together``): an attack may pass those, and where noise hides most it does. A bound "on every
attack" that lies above the 99 % interval of an attack is refuted by it: ``crossed``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from bounds import GradientNoise, LikelihoodAttack, evaluate
from bounds.arrays import Array
from bounds.kinds.published.together import PUBLISHED, published_bounds
from verify.judge.statistics import Measured
from verify.studies.noisy import ATTACKS, attacked, completed, setting
from verify.studies.study import Cell, Condition, Findings, Outcome, Row, Study, failure_note

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


D, M = 50, 10_000


BATCHES = (1, 2)


SIGMAS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


#: This project's statements about every attack, by their names in an ``Evaluation``, and how they are called.
OURS: Mapping[str, str] = MappingProxyType({"lower": "LOWER", "limit": "LIMIT (d, m → ∞)"})


def trial(condition: Condition, seed: int) -> Outcome:
    """One attack on one network."""
    d, m, B = (int(condition[k]) for k in ("d", "m", "B"))
    return attacked(str(condition["attack"]), d, m, B, sigma=float(condition["sigma"]), seed=seed)


@lru_cache(maxsize=256)
def ours(d: int, m: int, B: int, sigma: float) -> Mapping[str, float | None]:
    """This project's statements about every attack; None where one is not stated."""
    found = evaluate(GradientNoise(sigma=sigma), setting(d, m, B), LikelihoodAttack())
    return {name: getattr(found, name) for name in OURS}


def literature(d: int, m: int, B: int, sigmas: Array) -> dict[str, Array | None]:
    """All of ``PUBLISHED``, None where one is not proved."""
    found = published_bounds(setting(d, m, B), sigmas)
    return {name: found.get(name) for name in PUBLISHED}


def crossed(measured: Measured, bounds: Mapping[str, float | None]) -> list[str]:
    """The bounds that are above the interval of what an attack reached."""
    return [name for name, value in bounds.items() if value is not None and value > measured.high]


def summary(found: Findings) -> list[Row]:
    """A row for each condition: R with its interval, failures, R with a failure as a guess of zero, every bound, and those
    that the attack is below: proved of every attack (``crossed``: none may be), and of unbiased ones (``passed``)."""
    return [_row(cell) for cell in found.cells]


def _row(cell: Cell) -> Row:
    d, m, B = (int(cell.condition[k]) for k in ("d", "m", "B"))
    sigma = float(cell.condition["sigma"])
    measured, reached = cell.measured("error"), completed(cell)
    published = {
        name: None if values is None else float(values[0])
        for name, values in literature(d, m, B, np.array([sigma])).items()
    }
    own = ours(d, m, B, sigma)
    proved = {k: v for k, v in published.items() if PUBLISHED[k].any_attack} | {"lower": own["lower"]}
    unbiased = {k: v for k, v in published.items() if not PUBLISHED[k].any_attack}
    return {
        "B": B,
        "sigma": sigma,
        "attack": str(cell.condition["attack"]),
        "R": measured.rms if measured.n else None,
        "low": measured.low if measured.n else None,
        "high": measured.high if measured.n else None,
        "failed": len(cell.failures),
        "R with guesses": reached.rms,
        **published,
        **own,
        "crossed": ", ".join(crossed(reached, proved)),
        "passed": ", ".join(crossed(reached, unbiased)),
    }


def draw(found: Findings) -> Figure:
    """A panel for each batch size: bounds as lines, dashed where they hold of unbiased attackers only, and the attacks'
    root mean squares with their intervals, every trial a dot, failures noted at their noise."""
    from matplotlib.figure import Figure

    from verify.draw.style import label_errors, legend_below

    batches = sorted({int(c.condition["B"]) for c in found.cells})
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    panels = figure.subplots(1, len(batches), sharey=True, squeeze=False)[0]
    for axes, B in zip(panels, batches, strict=True):
        cells = found.where(B=B)
        d, m = (int(cells[0].condition[k]) for k in ("d", "m"))
        sigmas = sorted({float(c.condition["sigma"]) for c in cells})
        _draw_bounds(axes, d, m, B, sigmas=sigmas)
        for k, name in enumerate(ATTACKS):
            _draw_attack(axes, found.where(B=B, attack=name), name, k)
        width = f"{m:,}".replace(",", " ")
        title = f"B = {B}, d = {d}, m = {width}"
        axes.set(xscale="log", yscale="log", xlabel="noise σ on every entry of ∂L/∂a", title=title)
        axes.set_ylim(2e-3, 2.5)
        label_errors(axes, "y")
        legend_below(axes, columns=2)
    panels[0].set_ylabel("R (root mean square and trials)")
    failed = failure_note(found.cells)
    figure.suptitle(
        f"Bounds on every attack (solid, ours thick), on unbiased ones (dashed), and two attacks, {found.trials} trials each"
        + (f", {failed}" if failed else ""),
        fontsize=10,
    )
    return figure


def _draw_bounds(axes: Axes, d: int, m: int, B: int, *, sigmas: list[float]) -> None:
    from verify.draw.style import COLOURS

    fine = np.geomspace(sigmas[0], sigmas[-1], 61)
    for k, (name, values) in enumerate(literature(d, m, B, fine).items()):
        if values is None:
            continue
        bound = PUBLISHED[name]
        scope = "" if bound.any_attack else ", unbiased attackers"
        axes.plot(
            fine,
            np.where(values > 0, values, np.nan),
            linestyle="-" if bound.any_attack else (4 * k, (4, 4)),  # two that agree alternate
            linewidth=1.1,
            color=COLOURS[k],
            label=bound.words + scope,
        )
    stated = [ours(d, m, B, sigma) for sigma in sigmas]
    for name, colour, marker in zip(OURS, COLOURS[5:8:2], "^v", strict=True):
        points = [(s, v) for s, at in zip(sigmas, stated, strict=True) if (v := at[name]) is not None]
        if points:
            axes.plot(
                *zip(*points, strict=True), marker=marker, color=colour, linewidth=2.2, markersize=5,
                fillstyle="none", label=OURS[name],
            )  # fmt: skip


def _draw_attack(axes: Axes, cells: tuple[Cell, ...], name: str, k: int) -> None:
    from verify.draw.style import JOINED

    shift, face = 1.05 ** (2 * k - 1), ("0.1", "white")[k]
    points = []
    for cell in cells:
        x, measured = float(cell.condition["sigma"]) * shift, cell.measured("error")
        values = cell.values("error")
        axes.plot([x] * len(values), values, ".", color="0.1", alpha=0.25, markersize=3)
        if measured.n:
            points.append((x, measured.rms, measured.rms - measured.low, measured.high - measured.rms))
        if cell.failures:
            axes.annotate(
                failure_note([cell]).lower(), (x, 2.3), fontsize=6.5, rotation=90, va="top", ha="center"
            )
    if points:
        at, rms, below, above = (np.array(column) for column in zip(*points, strict=True))
        known = np.isfinite(above)  # of one trial nothing is known but itself
        axes.errorbar(
            at, rms, np.where(known, [below, above], 0.0), marker="os"[k], color="0.1", markerfacecolor=face,
            markersize=5, capsize=3, label=f"{name} attack, 99 % interval", **JOINED.get(name, JOINED[""]),
        )  # fmt: skip


STUDY = Study(
    name="published",
    title="bounds of the literature and ours against the noise, with two attacks",
    claims=("C9",),
    conditions=tuple(
        {"d": D, "m": M, "B": B, "sigma": sigma, "attack": name}
        for B in BATCHES
        for sigma in SIGMAS
        for name in ATTACKS
    ),
    quantities=("error",),
    trial=trial,
    summary=summary,
    draw=draw,
    trials=8,
    seed=61,
)
