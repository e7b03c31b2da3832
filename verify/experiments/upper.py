"""Proved upper bounds against the measured error."""

from __future__ import annotations

from bounds import GradientNoise, NoDefense
from verify.experiments.grid import ORTHONORMAL, RANDOM, RESIDUALIZED, experiment
from verify.judge.upper import UpperCheck
from verify.measure.experiment import Experiment, Reduced

# The exact test lets "holds" be said of delta = .05 from 90 trials without a violation on.
UPPER: tuple[Experiment, ...] = (
    experiment(
        "upper-one-feature",
        "Proved upper bound, one feature",
        ("C1", "C9"),
        (UpperCheck(0.05), UpperCheck(0.3)),
        features=ORTHONORMAL,
        d=20,
        m=160_000,
        B=1,
        defenses=(NoDefense(), GradientNoise(0.5)),
        labels=(3.0,),
        moments=("residualized",),
        trials=2000,
        reduced=Reduced(80_000, 92, (NoDefense(),), in_all=True),
    ),
    experiment(
        "upper-one-feature-plain",
        "Proved upper bound, one feature, plain moments",
        ("C1",),
        (UpperCheck(0.05), UpperCheck(0.3)),
        features=ORTHONORMAL,
        d=20,
        m=320_000,
        B=1,
        labels=(3.0,),
        moments=("plain",),
        trials=2000,
    ),
    experiment(
        "upper-span",
        "Proved upper bound of the distance from the span, two features",
        ("C1",),
        (UpperCheck(0.05, "span"), UpperCheck(0.3, "span")),
        features=RANDOM,
        d=20,
        m=160_000,
        labels=(3.0, -3.0),
        trials=2000,
        reduced=Reduced(160_000, 92, attacks=(RESIDUALIZED,)),
    ),
    experiment(
        "upper-two-features",
        "Proved upper bound of the error, two features",
        ("C1",),
        (UpperCheck(0.05),),
        features=ORTHONORMAL,
        d=8,
        m=2_000_000,
        labels=(3.0, -2.0),
        moments=("residualized",),
        trials=2000,
    ),
    *(
        experiment(
            f"upper-growing-{size}",
            f"Proved upper bound and measured {what}",
            ("C1",),
            (UpperCheck(0.05, part),),
            features=ORTHONORMAL,
            d=100,
            m=(160_000, 320_000, 1_000_000),
            B=size,
            moments=("residualized",),
            trials=40,
        )
        for size, part, what in (
            (1, "error", "error, one feature"),
            (2, "span", "distance from the span, two features"),
        )
    ),
)
