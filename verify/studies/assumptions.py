"""Each assumption of the tensor attack broken in turn: what it costs, and what a server that knows can do about it.

A ``Case`` is a world (weights, biases, output weights, features: one assumption broken) and a server (``naive``: the
attack as it is; otherwise a remedy that uses public knowledge alone). The same seed gives the same world to every server.
The first conditions break nothing: the negative control.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from verify.studies.study import Cell, Condition, Failure, Findings, Outcome, Row, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

from verify.studies.servers import attacked
from verify.studies.worlds import CONSTANT, WIDTHS, Case, D

QUANTITIES = ("rmse", "direction", "span", "label", "own_label", "predicted")


# --- the study --------------------------------------------------------------------------------------------------------


def _cases() -> tuple[Case, ...]:
    narrow, wide = WIDTHS
    found: list[Case] = []

    def add(
        group: str,
        servers: Sequence[str],
        shown: Sequence[str] = ("rmse",),
        floor: Sequence[str] = (),
        **world: Any,
    ) -> None:
        """floor: servers that are also measured at the larger width, where a floor would show."""
        for server in servers:
            for m in (narrow, wide) if server in floor else (narrow,):
                found.append(Case(group, server, m, tuple(sorted(world.items())), tuple(shown)))

    add("nothing broken, ReLU", ["naive"], floor=["naive"])
    add("nothing broken, GELU", ["naive"], activation="gelu")
    known = "known scale"
    add("Kaiming weights, ReLU", ["naive", known], floor=[known], weights="kaiming")
    add("Kaiming weights, GELU", ["naive", known], floor=[known], weights="kaiming", activation="gelu")
    remedies = [known, "Gaussian map", "diagonal removed"]
    add("uniform weights, spread x", ["naive", *remedies], floor=remedies, weights="uniform")
    add(
        "uniform weights, x = e_i",
        ["naive", *remedies],
        floor=remedies[:1],
        weights="uniform",
        features="axes",
    )
    add("random output weights", ["naive"], ["rmse", "label", "own_label"], output="random")
    add("after 1 training step", ["naive", "whitened"], steps=1)
    add("after 10 training steps", ["naive", "whitened"], floor=["naive", "whitened"], steps=10)
    add("after 100 training steps", ["naive"], steps=100)
    add(
        "after 100 training steps",
        ["whitened"],
        ["rmse", "label", "own_label"],
        floor=["whitened"],
        steps=100,
    )
    unequal = (0.5, 2.0)
    both = ["norms taken for 1", "norms known"]
    add("norms .5 and 2, ReLU", both, ["rmse", "direction"], norms=unequal)
    add("norms .5 and 2, GELU", both, ["rmse", "direction"], activation="gelu", norms=unequal)
    add("features at cosine .99", ["naive"], features="cosine .99")
    add("x₃ in the span of x₁, x₂", ["naive"], features="dependent", norms=(1.0, 1.0, 1.0))
    add("z²", ["naive", "span only"], activation="z2")
    add(
        "biases N(0, 1)",
        ["naive", "bias as a coordinate"],
        floor=["naive", "bias as a coordinate"],
        bias="gaussian",
    )
    add(f"biases all {CONSTANT:g}", ["naive", "shifted activation"], bias="constant")
    return tuple(found)


CASES: tuple[Case, ...] = _cases()


def trial(condition: Condition, seed: int) -> Outcome:
    """One attack; a ``Failure`` where the attack reports that it has no result."""
    from attack import ReconstructionError

    case = next(case for case in CASES if case.condition == condition)
    try:
        return {k: float(f"{v:.6g}") for k, v in attacked(case, seed).items()}
    except ReconstructionError as error:
        return Failure(str(error))


def rms(cell: Cell, quantity: str) -> float | None:
    """Root mean square over the trials that have the quantity; None if none has."""
    values = cell.values(quantity)
    return math.sqrt(np.mean(np.square(values))) if values.size else None


def ratio(cell: Cell) -> float | None:
    """Root mean square over the trials of measured over predicted, each trial with its own residuals."""
    values = [
        o["rmse"] / o["predicted"]
        for o in cell.outcomes
        if not isinstance(o, Failure) and {"rmse", "predicted"} <= o.keys()
    ]
    return math.sqrt(np.mean(np.square(values))) if values else None


def summary(found: Findings) -> list[Row]:
    """A row for each condition: failures, and root mean squares over the trials that have a result."""
    return [
        dict(cell.condition)
        | {"failed": f"{len(cell.failures)}/{len(cell.outcomes)}"}
        | {name: rms(cell, name) for name in QUANTITIES}
        | {"ratio": ratio(cell)}
        for cell in found.cells
    ]


def draw(found: Findings) -> Figure:
    """A row for each world and server on a logarithmic axis: trials, their root mean square, PREDICTED, failures."""
    from matplotlib.figure import Figure

    words = {
        "rmse": "",
        "direction": " (directions)",
        "label": " (labels, f with 1/m)",
        "own_label": " (labels, own f)",
    }
    lines: dict[tuple[str, str, str], list[tuple[int, Cell]]] = {}
    for case in CASES:
        for cell in found.where(**case.condition):
            for shown in ("span",) if case.server == "span only" else case.shown:
                lines.setdefault((case.group, case.server, shown), []).append((case.m, cell))
    figure = Figure(figsize=(11, 0.235 * len(lines) + 1.4), layout="constrained")
    axes = figure.subplots()
    groups = list(dict.fromkeys(group for group, _, _ in lines))
    for y, ((group, server, shown), cells) in enumerate(lines.items()):
        if groups.index(group) % 2 == 0:
            axes.axhspan(y - 0.5, y + 0.5, color="0.95", zorder=0)
        colour = (
            "C3" if server in ("naive", "norms taken for 1") and not group.startswith("nothing") else "C0"
        )
        for m, cell in cells:
            full = m == WIDTHS[1]
            at = y if len(cells) == 1 else y + (0.18 if full else -0.18)
            values = cell.values(shown)
            axes.plot(
                values,
                [at] * len(values),
                ".",
                color=colour,
                alpha=0.35 if full else 0.2,
                markersize=3,
            )
            mean, promised = rms(cell, shown), rms(cell, "predicted")
            if mean is not None:
                axes.plot(
                    [mean],
                    [at],
                    "o",
                    color=colour,
                    alpha=1.0 if m == WIDTHS[1] else 0.45,
                    markersize=5,
                    markeredgewidth=0,
                )
            if promised is not None and shown == "rmse":
                axes.plot([promised], [at], "|", color="black", markersize=8, markeredgewidth=1.4)
            if cell.failures:
                note = f"{len(cell.failures)} of {len(cell.outcomes)} fail"
                axes.text(4.4, at, note, fontsize=7, color=colour, va="center")
    axes.set_yticks(
        range(len(lines)), [f"{g}: {s}{words.get(w, f' ({w})')}" for g, s, w in lines], fontsize=8
    )
    axes.set(xscale="log", xlim=(0.004, 9.0), ylim=(len(lines) - 0.5, -0.5))
    axes.set_xlabel("error: R, or what the row says (1: guessing zero, dotted)")
    axes.axvline(1.0, color="0.5", linestyle=":", linewidth=1)
    axes.set_title(
        f"Each assumption broken in turn, d = {D}. Red: the attack as it is, blue: negative control or remedy;\n"
        f"small dots: trials, large: their root mean square, pale at m = {WIDTHS[0]:,}, full at m = {WIDTHS[1]:,}; "
        "bars: PREDICTED\n(for red: what theory promises where the assumption holds)".replace(
            ",", "\u2009"
        ).replace("\u2009 ", ", "),
        fontsize=9,
    )
    return figure


STUDY = Study(
    name="assumptions",
    title="each assumption of the attack broken in turn, and what a server can do about it",
    claims=("Q7",),
    conditions=tuple(case.condition for case in CASES),
    quantities=QUANTITIES,
    trial=trial,
    summary=summary,
    draw=draw,
    trials=20,
    seed=77,
)
