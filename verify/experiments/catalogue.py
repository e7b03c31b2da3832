"""The experiments. They are written down here, seeds and checks included, before they are run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from bounds import (
    DEFENSES,
    DPSGD,
    Clamping,
    Defense,
    DeterministicRounding,
    Dropout,
    GradientClipping,
    GradientNoise,
    GradientPruning,
    LocalAggregation,
    NoDefense,
    SecureAggregation,
    SignCompression,
    StochasticRounding,
    TensorAttack,
)
from verify.judge.check import Check
from verify.judge.predicted import ImprovementCheck, PredictedCheck
from verify.judge.rate import RateCheck
from verify.judge.upper import UpperCheck
from verify.measure.experiment import Experiment
from verify.measure.features import Features
from verify.measure.point import Point

BOTH = ("residualized", "plain")


STANDARD = (PredictedCheck(), ImprovementCheck())


ORTHONORMAL = Features("orthonormal", seed=11)


RANDOM = Features("random", seed=12)


def grid(
    name: str,
    features: Features,
    *,
    d: int | Sequence[int],
    m: int | Sequence[int],
    B: int | Sequence[int] = 2,
    activation: str = "relu",
    defenses: Sequence[Defense] = (NoDefense(),),
    moments: Sequence[str] = BOTH,
    labels: tuple[float, ...] = (),
) -> tuple[Point, ...]:
    """The product of the given values, as points of experiment ``name``."""
    return tuple(
        Point(name, features, dim, width, batch, labels, activation, defense, TensorAttack(moments=moment))
        for defense in defenses
        for batch in _several(B)
        for dim in _several(d)
        for width in _several(m)
        for moment in moments
    )


def _several(value: int | Sequence[int]) -> Iterable[int]:
    return (value,) if isinstance(value, int) else value


def _doubling(first: int, count: int) -> tuple[int, ...]:
    return tuple(first * 2**i for i in range(count))


def _experiment(
    name: str, title: str, claims: tuple[str, ...], rules: Sequence[Check], **rest: Any
) -> Experiment:
    """An experiment on the grid of the remaining arguments, but for those that are the experiment's own."""
    own = {k: rest.pop(k) for k in ("trials", "seed", "quick_width", "quick_trials") if k in rest}
    return Experiment(name, title, grid(name, **rest), tuple(rules), claims, **own)


#: The width at which defenses are compared.
SIDE_BY_SIDE_WIDTH = 320_000


def _strengths() -> Iterable[tuple[str, str, tuple[str, ...], Sequence[tuple[Defense, int]]]]:
    """Name, title, claims, and the members of each defense with their batch sizes: two features, or two for each client or
    local batch."""
    forms = (True, False)
    yield "batch", "Batch size, no defense", ("C1",), [(NoDefense(), B) for B in (1, 2, 3, 4, 6, 8)]
    yield "noise", "Additive noise", ("C9",), [(GradientNoise(s), 2) for s in (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)]
    clipped = [(GradientClipping(c, per_sample=f), 2) for f in forms for c in (100.0, 200.0, 400.0, 800.0)]
    yield "clipping", "Clipping", ("C10",), clipped
    multipliers = (0.0005, 0.001, 0.002, 0.004, 0.008)
    noisy = [(DPSGD(1.0, z, per_sample=f), 2) for f in forms for z in multipliers]
    yield "dp-sgd", "DP-SGD, clipping norm 1", ("C10",), noisy
    yield (
        "dropout",
        "Dropout",
        ("C12",),
        [(Dropout(p, f), 2) for f in forms for p in (0.1, 0.3, 0.5, 0.7, 0.9)],
    )
    ratios = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
    yield "pruning", "Gradient pruning", ("C13",), [(GradientPruning(ratio), 2) for ratio in ratios]
    same = [(LocalAggregation(k, rate), 2) for rate in (0.1, 1.0) for k in (1, 2, 5, 10, 20)]
    different = [(LocalAggregation(k, 0.1, "different"), 2 * k) for k in (1, 2, 3, 4)]
    yield "local-aggregation", "Local aggregation", ("C8",), [*same, *different]
    yield "clients", "Secure aggregation", ("C11",), [(SecureAggregation(n), 2 * n) for n in (1, 2, 3, 4)]


# A trial's error scatters by 7 to 13 % where the orthogonal part dominates (d = 100) and by up to 60 % where the in-plane
# part does (plain moments of real pictures, softplus): 120 trials give a 99 % interval of 2 to 3 % in the former case, and
# may leave the latter "inconclusive; consistent", which is then what is reported.
_ALL = (
    _experiment(
        "relu-orthonormal",
        "ReLU, two orthonormal features",
        ("C1", "C3"),
        (*STANDARD, RateCheck("m")),
        features=ORTHONORMAL,
        d=100,
        m=_doubling(20_000, 5),
        trials=150,
        quick_width=40_000,
    ),
    _experiment(
        "relu-random",
        "ReLU, four random features",
        ("C1", "C3"),
        STANDARD,
        features=RANDOM,
        d=100,
        m=(80_000, 320_000),
        B=4,
        trials=65,
        quick_width=40_000,
    ),
    _experiment(
        "gelu-random",
        "GELU, three random features",
        ("C1", "C3"),
        STANDARD,
        features=RANDOM,
        d=200,
        m=(80_000, 320_000),
        B=3,
        activation="gelu",
        trials=36,
    ),
    _experiment(
        "leaky-relu",
        "Leaky ReLU, two random features",
        ("C1", "C3", "C4"),
        STANDARD,
        features=RANDOM,
        d=100,
        m=(80_000, 320_000),
        activation="leaky_relu",
        trials=78,
    ),
    _experiment(
        "softplus",
        "Softplus, two random features",
        ("C1", "C3"),
        (PredictedCheck(),),
        features=RANDOM,
        d=50,
        m=(160_000, 640_000),
        activation="softplus",
        moments=("residualized",),
        trials=800,
    ),
    _experiment(
        "softplus-plain",
        "Softplus, plain moments: the fourth coefficient is small, first order converges slowly",
        ("C1",),
        (PredictedCheck(tolerance=0.2),),
        features=RANDOM,
        d=20,
        m=(250_000, 1_000_000, 4_000_000),
        activation="softplus",
        moments=("plain",),
        trials=30,
        quick_width=100_000,
    ),
    _experiment(
        "elu",
        "ELU, three random features, core of order three",
        ("C1", "C3"),
        STANDARD,
        features=RANDOM,
        d=50,
        m=(80_000, 320_000),
        B=3,
        activation="elu",
        trials=120,
    ),
    _experiment(
        "z2z3",
        "z^2 + z^3, core of order three (labels keep the residuals away from zero)",
        ("C1",),
        STANDARD,
        features=RANDOM,
        d=50,
        m=(80_000, 640_000),
        activation="z2z3",
        labels=(-1.0, 3.0),
        trials=120,
    ),
    _experiment(
        "tanh",
        "tanh, two random features, up to their signs: span from contractions of the third moment",
        ("C3", "C4"),
        (*STANDARD, RateCheck("m")),
        features=RANDOM,
        d=50,
        m=_doubling(40_000, 4),
        activation="tanh",
        trials=120,
        quick_width=40_000,
    ),
    _experiment(
        "sigmoid",
        "Sigmoid, two random features, signs by the gradient's mean",
        ("C3", "C4"),
        (PredictedCheck(),),
        features=RANDOM,
        d=50,
        m=(160_000, 640_000),
        activation="sigmoid",
        moments=("residualized",),
        trials=120,
        quick_width=80_000,
    ),
    _experiment(
        "digits",
        "Handwritten digits, mean removed",
        ("C1", "C3", "C7"),
        STANDARD,
        features=Features("digits", seed=13),
        d=64,
        m=(100_000, 1_000_000),
        B=(2, 4),
        trials=450,
        quick_width=50_000,
    ),
    _experiment(
        "digits-raw",
        "Handwritten digits as they are: nearly parallel features",
        ("C1", "C7"),
        (PredictedCheck(tolerance=0.1),),
        features=Features("digits", seed=13, center=False),
        d=64,
        m=(1_000_000,),
        B=(2, 4),
        moments=("residualized",),
        trials=36,
        quick_width=100_000,
    ),
    _experiment(
        "patches",
        "Patches of photographs (32 x 32 x 3), mean removed: how first order is approached",
        ("C1", "C7"),
        (),  # widths that fit in memory leave the predicted error above what first order can be held to
        features=Features("patches", seed=13, max_cosine=0.5),
        d=3072,
        m=(20_000, 80_000),
        B=(2, 4, 8),
        moments=("residualized",),
        trials=3,
        quick_width=20_000,
        quick_trials=1,
    ),
    _experiment(
        "noise",
        "Additive noise on the gradient",
        ("C9",),
        STANDARD,
        features=RANDOM,
        d=50,
        m=(80_000, 640_000),
        defenses=(GradientNoise(0.5), GradientNoise(2.0)),
        trials=250,
    ),
    _experiment(
        "noise-exponent",
        "Exponent of the noise",
        ("C9",),
        (RateCheck("sigma"),),
        features=ORTHONORMAL,
        d=20,
        m=2_000_000,
        defenses=tuple(GradientNoise(s) for s in (4.0, 8.0, 16.0)),
        moments=("residualized",),
        trials=150,
        quick_width=200_000,
    ),
    _experiment(
        "dropout",
        "Dropout, one mask for the batch and one for each sample",
        ("C12",),
        (PredictedCheck(0.05),),
        features=RANDOM,
        d=50,
        m=(80_000, 640_000),
        defenses=Dropout.grid(),
        trials=120,
        quick_width=80_000,
        quick_trials=5,
    ),
    _experiment(
        "clipping",
        "Clipping of the gradient as a whole and of every sample's own",
        ("C10",),
        (PredictedCheck(0.05),),
        features=RANDOM,
        d=50,
        m=(80_000, 640_000),
        defenses=(GradientClipping(30.0), GradientClipping(200.0, per_sample=True)),
        trials=120,
        quick_width=80_000,
    ),
    _experiment(
        "dp-sgd",
        "DP-SGD: a fixed noise multiplier, whatever the width",
        ("C10",),
        (PredictedCheck(0.05, largest_m_only=False),),
        features=RANDOM,
        d=50,
        m=(80_000, 320_000, 1_280_000),
        defenses=(DPSGD(1.0, 0.003), DPSGD(1.0, 0.003, per_sample=False)),
        moments=("residualized",),
        trials=60,
        quick_width=80_000,
    ),
    _experiment(
        "dp-sgd-strength",
        "DP-SGD: noise of .3, 1 and 3 relative to the unclipped gradient",
        ("C10",),
        (PredictedCheck(0.05),),
        features=RANDOM,
        d=50,
        m=640_000,
        # the gradient's norm is about 755 here
        defenses=tuple(DPSGD(1.0, z, per_sample=False) for z in (0.0004, 0.00133, 0.004)),
        trials=60,
        quick_width=640_000,
        quick_trials=2,
    ),
    _experiment(
        "rounding",
        "Stochastic rounding to multiples of 1 and 4",
        (),
        (PredictedCheck(0.05),),
        features=RANDOM,
        d=50,
        m=(80_000, 640_000),
        defenses=StochasticRounding.grid(),
        moments=("residualized",),
        trials=60,
        quick_width=80_000,
    ),
    _experiment(
        "biased",
        "Channels that are functions of the entry alone: an error that no width removes",
        (),
        (PredictedCheck(0.05),),
        features=RANDOM,
        d=50,
        m=(80_000, 640_000),
        defenses=(*DeterministicRounding.grid(), SignCompression(), *Clamping.grid()),
        moments=("residualized",),
        trials=40,
        quick_width=80_000,
        quick_trials=5,
    ),
    _experiment(
        "pruning-batch",
        "Gradient pruning of one, three and four features",
        ("C13",),
        (PredictedCheck(0.1),),
        features=RANDOM,
        d=50,
        m=(80_000, 640_000),
        B=(1, 3, 4),
        defenses=(NoDefense(), *GradientPruning.grid()),
        moments=("residualized",),
        trials=30,
        quick_width=80_000,
        quick_trials=5,
    ),
    _experiment(
        "dropout-against-pruning",
        "The same fraction of entries removed: at random, or the smallest; m growing 64-fold",
        ("C12", "C13"),
        (PredictedCheck(0.1), RateCheck("m")),
        features=RANDOM,
        d=50,
        m=_doubling(20_000, 7)[::2],
        defenses=(*(Dropout(p, per_sample=False) for p in (0.5, 0.7, 0.9)), *GradientPruning.grid()),
        moments=("residualized",),
        trials=100,
        quick_width=80_000,
    ),
    _experiment(
        "local-aggregation",
        "Local aggregation: the same batch for K = 1, 5, 20 steps",
        ("C8",),
        (PredictedCheck(0.05),),
        features=RANDOM,
        d=50,
        m=(80_000, 320_000),
        defenses=tuple(LocalAggregation(k, 0.1) for k in (1, 5, 20)),
        moments=("residualized",),
        trials=120,
        quick_width=80_000,
    ),
    _experiment(
        "batches",
        "Six features: in one batch, over three local steps, from three clients",
        ("C8", "C11"),
        (PredictedCheck(0.05),),
        features=RANDOM,
        d=50,
        m=(160_000, 640_000),
        B=6,
        defenses=(NoDefense(), LocalAggregation(3, 0.1, "different"), SecureAggregation(3)),
        moments=("residualized",),
        trials=40,
        quick_width=160_000,
        quick_trials=5,
    ),
    _experiment(
        "undefended",
        "No defense: what the defenses below are measured against",
        ("C8", "C11", "C13"),
        (PredictedCheck(0.05), RateCheck("m")),
        features=RANDOM,
        d=50,
        m=_doubling(20_000, 7)[::2],
        moments=("residualized",),
        trials=60,
        quick_width=80_000,
    ),
    *(
        Experiment(
            f"strength-{name}",
            f"{title}, strength by strength",
            tuple(
                Point(f"strength-{name}", RANDOM, d=50, m=SIDE_BY_SIDE_WIDTH, B=batch, defense=defense)
                for defense, batch in cells
            ),
            (PredictedCheck(0.1),),
            claims,
            trials=40,
            quick_width=40_000,
            quick_trials=5,
        )
        for name, title, claims, cells in _strengths()
    ),
    _experiment(
        "dimension",
        "Exponent of the dimension",
        ("C1",),
        (RateCheck("d"),),
        features=ORTHONORMAL,
        d=(50, 100, 200, 400, 800),
        m=160_000,
        moments=("residualized",),
        trials=12,
    ),
    _experiment(
        "one-feature",
        "A single feature",
        ("C1",),
        (*STANDARD, RateCheck("m")),
        features=RANDOM,
        d=100,
        m=(20_000, 80_000, 320_000),
        B=1,
        trials=100,
    ),
    _experiment(
        "eight-features",
        "Eight random features",
        ("C1", "C3"),
        STANDARD,
        features=RANDOM,
        d=100,
        m=(80_000, 640_000),
        B=8,
        trials=40,
        quick_width=80_000,
        quick_trials=5,
    ),
    *(
        _experiment(
            f"cosine-{cosine:.2f}",
            f"Two features of cosine {cosine:g}",
            ("C1",),
            (PredictedCheck(tolerance=0.1),),
            features=Features("cosine", seed=14, cosine=cosine),
            d=50,
            m=(160_000, 640_000),
            moments=("residualized",),
            trials=150 if cosine > 0.9 else 40,
            quick_width=160_000,
        )
        for cosine in (0.5, 0.8, 0.95)
    ),
    _experiment(
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
        quick_width=160_000,
    ),
    _experiment(
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
        quick_width=320_000,
    ),
    _experiment(
        "upper-span",
        "Proved upper bound of the distance from the span, two features",
        ("C1",),
        (UpperCheck(0.05, "span"), UpperCheck(0.3, "span")),
        features=RANDOM,
        d=20,
        m=160_000,
        labels=(3.0, -3.0),
        trials=2000,
        quick_width=160_000,
    ),
    _experiment(
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
        quick_width=2_000_000,
        quick_trials=5,
    ),
    *(
        _experiment(
            f"upper-growing-{size}",
            f"Proved upper bound and measured {what} as the width grows",
            ("C1",),
            (UpperCheck(0.05, part),),
            features=ORTHONORMAL,
            d=100,
            m=(160_000, 320_000, 1_000_000),
            B=size,
            moments=("residualized",),
            trials=40,
            quick_width=160_000,
            quick_trials=2,
        )
        for size, part, what in ((1, "error", "error"), (2, "span", "distance from the span"))
    ),
)


def default_experiment(family: type[Defense]) -> Experiment:
    """What is measured of a defense that no experiment above is about: every value of its default grids, two widths."""
    return _experiment(
        family.name.replace("_", "-"),
        f"{family.name.replace('_', ' ').capitalize()}, two random features",
        (),
        STANDARD,
        features=RANDOM,
        d=50,
        m=(80_000, 320_000),
        defenses=family.grid(),
        trials=60,
    )


def catalogue(families: Sequence[type[Defense]]) -> Mapping[str, Experiment]:
    """Every experiment by name: those above, and a default one for each defense that they leave out."""
    covered = {type(p.defense) for e in _ALL for p in e.points}
    extra = [default_experiment(family) for family in families if family not in covered]
    return MappingProxyType({e.name: e for e in (*_ALL, *extra)})


#: Every experiment by name.
EXPERIMENTS: Mapping[str, Experiment] = catalogue(DEFENSES)
