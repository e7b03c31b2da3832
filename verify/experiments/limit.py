"""The limit of all attacks against the two that should come near it, at few neurons for each dimension."""

from __future__ import annotations

from dataclasses import replace

from bounds import DeterministicRounding, Dropout, GradientNoise, LikelihoodAttack, MessagePassing
from verify.experiments.grid import ORTHONORMAL, grid
from verify.judge.limit import LimitCheck, ReachedCheck
from verify.measure.experiment import Experiment, Reduced

#: A dimension at which errors scatter by 1/sqrt(2 B d), 2 to 4 per cent, and known norms change them by less than .2.
DIMENSION = 400

#: Neurons per dimension.
ALPHAS = (3, 10, 20, 100)

_WIDTHS = tuple(DIMENSION * alpha for alpha in ALPHAS)

_NOISY = tuple(GradientNoise(sigma) for sigma in (0.1, 0.5, 1.0))

#: What message passing reaches is asked where every entry is drawn from the law that it believes.
LIMITS: tuple[Experiment, ...] = tuple(
    Experiment(
        f"limit-{B}",
        f"The limit of all attacks, {words}",
        tuple(
            replace(p, attack=attack)
            for attack in (MessagePassing(), LikelihoodAttack())
            for p in grid(
                f"limit-{B}",
                ORTHONORMAL,
                d=DIMENSION,
                m=_WIDTHS,
                B=B,
                defenses=defenses,
                moments=("residualized",),
            )
        ),
        (LimitCheck(), ReachedCheck()),
        ("C9",),
        trials=20,
        # the interval of eight trials is 4 per cent to either side
        reduced=Reduced(4_000, 8, (GradientNoise(0.5),), attacks=(MessagePassing(),), narrowest=4_000)
        if B == 2
        else None,
    )
    for B, words, defenses in (
        (1, "one feature", _NOISY),
        (2, "two features", (*_NOISY, Dropout(p=0.5), DeterministicRounding(step=1.0))),
    )
)
