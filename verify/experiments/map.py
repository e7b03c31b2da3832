"""The map: where each attack recovers the features, and how well, over neurons for each unknown, batch size, activation,
noise and strength of the defense. One experiment, and one figure, for each plane; the tensor attack beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from bounds import (
    AttackSpec,
    Clamping,
    Defense,
    DeterministicRounding,
    Dropout,
    GradientNoise,
    GradientPruning,
    LikelihoodAttack,
    MessagePassing,
    NoDefense,
    SignCompression,
    StochasticRounding,
    TensorAttack,
)
from verify.experiments.grid import RANDOM
from verify.judge.predicted import SpectralCheck
from verify.measure.check import Check
from verify.measure.experiment import Experiment, Reduced
from verify.measure.plane import ABSCISSAE, Plane
from verify.measure.point import Point

#: At every point: 10 of 10 leave a share above .58, 0 of 10 one below .42 (99 %).
TRIALS = 10


@dataclass(frozen=True)
class Cells:
    """Settings of a plane: every combination of sizes (d, B), activations, defenses and values of its abscissa."""

    sizes: tuple[tuple[int, int], ...]
    at: tuple[float, ...]
    activations: tuple[str, ...] = ("relu",)
    defenses: tuple[Defense, ...] = (NoDefense(),)


def points(name: str, across: str, attack: AttackSpec, cells: Iterable[Cells]) -> tuple[Point, ...]:
    """The points of these cells: each at the width at which its abscissa, which grows with that, is nearest to the value."""
    found = []
    for cell in cells:
        for d, B in cell.sizes:
            for activation in cell.activations:
                for defense in cell.defenses:
                    one = Point(name, RANDOM, d, 100 * d * B, B, (), activation, defense, attack)
                    unit = one.m / ABSCISSAE[across].of(one)  # neurons for each unit of the abscissa
                    found += [replace(one, m=max(B + 1, round(at * unit))) for at in cell.at]
    return tuple(dict.fromkeys(found))


def _few(narrowest: int, *defenses: Defense) -> Reduced:
    """Two trials at a few points beyond the boundary: a start that fails is followed by all the others."""
    return Reduced(width=20_000, trials=2, defenses=defenses, batches=(2,), narrowest=narrowest)


def plane(
    name: str,
    title: str,
    claims: tuple[str, ...],
    drawn: Plane,
    attacks: Mapping[AttackSpec, Sequence[Cells]],
    quick: Reduced,
    trials: int = TRIALS,
) -> tuple[Experiment, ...]:
    """One experiment for each attack, all in the figure of the first. ``quick``: what their quick versions keep. Of the
    tensor attack the spectral law is judged, which says at which widths it has a result and how good that is."""
    made: list[Experiment] = []
    for attack, cells in attacks.items():
        own = f"{name}-{attack.name.replace('_', '-')}" if made else name
        beside = made[0].name if made else ""
        found = points(own, drawn.across, attack, cells)
        rules: tuple[Check, ...] = (SpectralCheck(),) if isinstance(attack, TensorAttack) else ()
        made.append(
            Experiment(own, title, found, rules, claims, trials, reduced=quick, beside=beside, plane=drawn)
        )
    return tuple(made)


LIKELIHOOD, PASSING, TENSOR = LikelihoodAttack(), MessagePassing(), TensorAttack()

TWO = ((50, 2),)

BOTH = ("relu", "gelu")

PRUNED = tuple(GradientPruning(ratio) for ratio in (0.5, 0.9, 0.97))

#: One mask for the batch, and one for each sample.
SHARED, SINGLE = (tuple(Dropout(p, per_sample=each) for p in (0.5, 0.9)) for each in (False, True))

BENT = (
    StochasticRounding(1.0),
    DeterministicRounding(0.5),
    DeterministicRounding(5.0),
    SignCompression(),
    Clamping(0.5),
)

NOISY = tuple(GradientNoise(sigma) for sigma in (0.05, 0.2, 1.0))

#: A plane's first attack is the one that gives it its name.
PLANES: tuple[Experiment, ...] = (
    *plane(
        "map-undefended",
        "The map without a defense",
        ("C1",),
        Plane("neurons per unknown", ("d", "B")),
        {
            LIKELIHOOD: (
                Cells(((100, 1), (50, 2)), (1.25, 1.5, 2, 3, 5)),
                Cells(((100, 2),), (1.5, 2, 3, 5)),
                Cells(((50, 4),), (2, 3, 5)),
                Cells(((50, 8),), (2, 3, 5)),
                Cells(((100, 1), (50, 2)), (1.1, 1.25, 1.5, 2, 5), ("gelu",)),
                Cells(((100, 2), (50, 4), (50, 8)), (1.25, 2, 5), ("gelu",)),
            ),
            TENSOR: (
                Cells(
                    ((100, 1), (50, 2), (100, 2), (50, 4), (50, 8)),
                    (2, 6, 20, 60, 200, 600),
                    ("relu", "gelu"),
                ),
            ),
        },
        quick=_few(400),
    ),
    *plane(
        "map-pruning",
        "The map of pruning",
        ("C13",),
        Plane("kept per unknown", ("defense",)),
        {
            LIKELIHOOD: (
                Cells(TWO, (1, 1.25, 1.5, 2, 3, 8), defenses=PRUNED[:1]),
                Cells(TWO, (1.5, 2, 3, 5, 8), defenses=PRUNED[1:]),
            ),
            TENSOR: (Cells(TWO, (3, 10, 30, 100), defenses=PRUNED),),
        },
        quick=_few(2_000, PRUNED[1]),
        trials=5,
    ),
    *plane(
        "map-dropout",
        "The map of dropout, with one mask for the batch and one for each sample",
        ("C12",),
        Plane("kept per unknown", ("defense",)),
        {
            LIKELIHOOD: (
                Cells(TWO, (1, 1.25, 1.5, 2, 3, 5, 8), defenses=SHARED),
                Cells(TWO, (1, 2, 4, 8), defenses=SINGLE),
            ),
            TENSOR: (Cells(TWO, (3, 10, 30, 100), defenses=(*SHARED, *SINGLE)),),
        },
        quick=_few(600, SHARED[0], SINGLE[0]),
        trials=5,
    ),
    *plane(
        "map-rounding",
        "The map of rounding, signs and clamping",
        (),
        Plane("neurons per dimension", ("defense",)),
        {
            LIKELIHOOD: (Cells(TWO, (10, 30, 100), defenses=BENT),),
            PASSING: (Cells(TWO, (10, 30), defenses=BENT[:-1]),),
            TENSOR: (Cells(TWO, (30, 100, 300, 1000, 3000), defenses=BENT),),
        },
        quick=_few(1_500, *BENT[1:]),
        trials=5,
    ),
    *plane(
        "map-noise",
        "The map of additive noise",
        ("C9",),
        Plane("neurons per dimension", ("defense",), success=False),
        {
            LIKELIHOOD: (Cells(((50, 2), (50, 4)), (10, 30, 100, 300), defenses=NOISY),),
            PASSING: (Cells(TWO, (10, 30), defenses=NOISY),),
            TENSOR: (Cells(((50, 2), (50, 4)), (30, 100, 300, 1000, 3000), defenses=NOISY),),
        },
        quick=_few(1_500, *NOISY),
        trials=5,
    ),
)

#: Names of what has figures of its own, quick versions too.
PLANE_NAMES = frozenset(form.name for experiment in PLANES for form in experiment.forms)
