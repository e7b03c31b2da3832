"""The comparison at equal utility, and its quick form."""

from __future__ import annotations

from dataclasses import replace

from attack.image.integrated import Integrated
from attack.image.matching import ImageMatching
from bounds import (
    DPSGD,
    Clamping,
    DeterministicRounding,
    Dropout,
    GradientClipping,
    GradientNoise,
    GradientPruning,
    LocalAggregation,
    SecureAggregation,
    SignCompression,
    StochasticRounding,
)
from verify.images.run import with_options
from verify.utility.comparison import Comparison, Contender
from verify.utility.family import Family
from verify.utility.federation import Federation

#: In root mean squares of the entries of the gradient that a client would send.
SIZES = "rms"

FAMILIES: tuple[Family, ...] = (
    Family("noise", tuple(GradientNoise(s) for s in (0.3, 1.0, 3.0, 10.0)), relative=True, unit=SIZES),
    Family("DP-SGD, C = 1", tuple(DPSGD(1.0, z, per_sample=True) for z in (0.003, 0.01, 0.03, 0.1))),
    Family("pruning", tuple(GradientPruning(r) for r in (0.8, 0.95, 0.98, 0.99)), "left"),
    Family("dropout", tuple(Dropout(p, per_sample=True) for p in (0.5, 0.9, 0.95, 0.98)), "left"),
    Family(
        "rounding to the nearest",
        tuple(DeterministicRounding(s) for s in (0.3, 1.0, 3.0, 10.0)),
        relative=True,
        unit=SIZES,
    ),
    Family(
        "random rounding",
        tuple(StochasticRounding(s) for s in (1.0, 10.0, 30.0, 100.0)),
        relative=True,
        unit=SIZES,
    ),
    Family("clamping", (Clamping(1.0), Clamping(0.01)), "falling", relative=True, unit=SIZES),
    Family("signs", (SignCompression(),)),
    Family(
        "clipping of samples",
        tuple(GradientClipping(c, per_sample=True) for c in (1.0, 0.01)),
        "falling",
    ),
    Family("local steps", tuple(LocalAggregation(k, 2.56) for k in (2, 5))),
    Family("secure aggregation", tuple(SecureAggregation(c) for c in (2, 4))),
)

#: Total variation as it is best without a defense, and as it is best under much noise.
_PLAIN, _SMOOTH = 1e-5, 1e-2

_LBFGS = ImageMatching(iterations=100, tv=1e-4, objective="squared", optimiser="lbfgs", starts=2)

#: The weak attack takes what it sees for the gradient, from one start, tuned without a defense, as published attacks do. The
#: strong ones know the defense and, but for the smooth one, have two starts; one of the integrated attack has features.
CONTENDERS: tuple[Contender, ...] = (
    Contender("cosine, as seen", ImageMatching(iterations=100, tv=_PLAIN, informed=False), strong=False),
    Contender("cosine", ImageMatching(iterations=100, tv=_PLAIN, starts=2)),
    Contender("cosine, smooth", ImageMatching(iterations=100, tv=_SMOOTH)),
    Contender("integrated", Integrated(matching=_LBFGS)),
    Contender("L-BFGS", _LBFGS),
)

#: Adam's rate is the best of .005, .01, .02 and .04 without a defense, in two trainings that are not among those compared.
EQUAL_UTILITY = Comparison(
    "utility", FAMILIES, Federation(clients=4, B=4, rounds=100, rate=2e-2), CONTENDERS, learned=30
)


def _quick() -> Comparison:
    """Three families at three strengths, one training of 40 rounds, one trial of 40 iterations, small sizes of theory."""
    kept = {"noise": (0, 2, 3), "pruning": (0, 1, 3), "dropout": (0, 1, 3)}
    families = tuple(
        replace(f, members=tuple(f.members[k] for k in kept[f.name])) for f in FAMILIES if f.name in kept
    )
    weak, strong = (next(c for c in CONTENDERS if c.name == name) for name in ("cosine, as seen", "L-BFGS"))
    return replace(
        EQUAL_UTILITY,
        name="utility-quick",
        families=families,
        federation=replace(EQUAL_UTILITY.federation, rounds=40),
        contenders=(
            replace(weak, attack=with_options(weak.attack, iterations=40)),
            replace(strong, attack=with_options(strong.attack, iterations=40, starts=1)),
        ),
        losses=(5.0,),
        trainings=1,
        trials=1,
        learned=None,
        d=12,
        m=1_000,
        theory_trials=1,
    )


QUICK = _quick()

COMPARISONS: tuple[Comparison, ...] = (EQUAL_UTILITY, QUICK)
