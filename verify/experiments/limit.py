"""What no attack goes below, against the two that should come near it: the limit, at few neurons for each dimension, and
LOWER, which holds at every d and m."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from bounds import (
    DPSGD,
    AttackSpec,
    Defense,
    DeterministicRounding,
    Dropout,
    GradientNoise,
    LikelihoodAttack,
    MessagePassing,
    NoisyPruning,
)
from verify.experiments.grid import ORTHONORMAL, RANDOM, grid
from verify.judge.limit import LimitCheck, ReachedCheck
from verify.judge.lower import LowerCheck
from verify.judge.predicted import PredictedCheck
from verify.measure.check import Check
from verify.measure.experiment import Experiment, Reduced

#: A dimension at which errors scatter by 1/sqrt(2 B d), 2 to 4 per cent, and known norms change them by less than .2.
DIMENSION = 400

#: The interval of six trials is 2 to 5 per cent to either side.
TRIALS = 6

#: Neurons per dimension, by the number of features: posteriors of two take minutes at the largest.
ALPHAS: Mapping[int, tuple[int, ...]] = MappingProxyType({1: (3, 10, 20, 100, 400), 2: (3, 10, 20, 100)})

_NOISY: tuple[Defense, ...] = tuple(GradientNoise(sigma) for sigma in (0.1, 0.5, 1.0))

#: What pruning takes where noise gives it a limit, at few neurons and at many.
_PRUNED: tuple[Defense, ...] = tuple(NoisyPruning(0.1, ratio) for ratio in (0.5, 0.9, 0.97))
_PRUNED_ALPHAS = (20, 100)


def _against(
    B: int,
    attack: AttackSpec,
    rules: tuple[Check, ...],
    defenses: tuple[Defense, ...],
    *,
    of: str = "",
    alphas: tuple[int, ...] = (),
) -> Experiment:
    name = "-".join(["limit", str(B), *([of] if of else []), attack.name.replace("_", "-")])
    points = grid(
        name,
        ORTHONORMAL,
        d=DIMENSION,
        m=tuple(DIMENSION * alpha for alpha in alphas or ALPHAS[B]),
        B=B,
        defenses=defenses,
        moments=("residualized",),
    )
    return Experiment(
        name,
        f"The limit of all attacks, {'one feature' if B == 1 else 'two features'}{f', {of} after noise' if of else ''}",
        tuple(replace(p, attack=attack) for p in points),
        rules,
        ("C9", "C13") if of else ("C9",),
        trials=TRIALS,
    )


LIMITS: tuple[Experiment, ...] = (
    *(
        made
        for B, defenses in ((1, _NOISY), (2, (*_NOISY, Dropout(p=0.5), DeterministicRounding(step=1.0))))
        for made in (
            _against(B, MessagePassing(), (LimitCheck(), ReachedCheck()), defenses),
            _against(B, LikelihoodAttack(), (LimitCheck(),), defenses),
        )
    ),
    *(
        _against(2, attack, (LimitCheck(), LowerCheck()), _PRUNED, of="pruned", alphas=_PRUNED_ALPHAS)
        for attack in (MessagePassing(), LikelihoodAttack())
    ),
)

#: In a small dimension, where trials are cheap and LOWER is farthest from the limit: 500 of each defense.
LOWERS: tuple[Experiment, ...] = tuple(
    Experiment(
        f"lower-{name}",
        f"What no attack goes below: {name}",
        tuple(
            replace(p, attack=LikelihoodAttack())
            for p in grid(
                f"lower-{name}",
                RANDOM,
                d=20,
                m=(1_000, 4_000),
                B=2,
                defenses=defenses,
                moments=("residualized",),
            )
        ),
        (LowerCheck(), *predicted),
        (claim,),
        trials=125,
        reduced=Reduced(4_000, 60, defenses[:1], narrowest=4_000),
    )
    for name, claim, defenses, predicted in (
        ("noise", "C9", (GradientNoise(0.5), GradientNoise(2.0)), (PredictedCheck(0.1),)),
        (
            "dp-sgd",
            "C10",
            (DPSGD(1.0, 0.01, per_sample=True), DPSGD(1.0, 0.01, per_sample=False)),
            (PredictedCheck(0.1),),
        ),
        ("noisy-pruning", "C13", (NoisyPruning(0.5, 0.5), NoisyPruning(0.5, 0.9)), ()),
    )
)
