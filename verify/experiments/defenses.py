"""What defenses do: against width, against strength, and side by side."""

from __future__ import annotations

from collections.abc import Sequence

from bounds import (
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
    NoisyPruning,
    SecureAggregation,
    SignCompression,
    StochasticRounding,
)
from verify.experiments.grid import ORTHONORMAL, RANDOM, RESIDUALIZED, STANDARD, doubling, experiment
from verify.judge.floor import FloorCheck
from verify.judge.predicted import PredictedCheck
from verify.judge.rate import RateCheck
from verify.measure.check import Check
from verify.measure.experiment import Experiment, Reduced
from verify.measure.point import Point

#: The width at which defenses are compared.
SIDE_BY_SIDE_WIDTH = 320_000


#: With a mask, a clipping of its own for every sample, or one for the batch.
FORMS = (True, False)


#: The members of each defense, with their batch sizes: two features, or two for each client or local batch.
_CLIPPED = tuple((GradientClipping(c, per_sample=f), 2) for f in FORMS for c in (100.0, 200.0, 400.0, 800.0))
_NOISY = tuple((DPSGD(1.0, z, per_sample=f), 2) for f in FORMS for z in (0.0005, 0.001, 0.002, 0.004, 0.008))
_DROPPED = tuple((Dropout(p, f), 2) for f in FORMS for p in (0.1, 0.3, 0.5, 0.7, 0.9))
_PRUNED = tuple((GradientPruning(ratio), 2) for ratio in (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95))
_LOCAL = (
    *((LocalAggregation(k, rate), 2) for rate in (0.1, 1.0) for k in (1, 2, 5, 10, 20)),
    *((LocalAggregation(k, 0.1, "different"), 2 * k) for k in (1, 2, 3, 4)),
)


def _strength(
    name: str,
    title: str,
    claims: tuple[str, ...],
    cells: Sequence[tuple[Defense, int]],
    reduced: Reduced | None,
    rules: Sequence[Check] = (PredictedCheck(0.1),),
) -> Experiment:
    """A defense, strength by strength, at the common width."""
    name = f"strength-{name}"
    points = tuple(
        Point(name, RANDOM, d=50, m=SIDE_BY_SIDE_WIDTH, B=batch, defense=defense) for defense, batch in cells
    )
    return Experiment(name, title, points, tuple(rules), claims, trials=40, reduced=reduced)


def _kept(*defenses: Defense, width: int = 40_000, trials: int = 20) -> Reduced:
    """Two strengths, at a width and with trials that decide a check of 10 %."""
    return Reduced(width, trials, defenses, in_all=True)


_STRENGTHS = (
    _strength(
        "batch",
        "No defense, by batch size",
        ("C1",),
        tuple((NoDefense(), B) for B in (1, 2, 3, 4, 6, 8)),
        Reduced(80_000, 20, batches=(3, 6), checks=(PredictedCheck(0.1),)),
        (PredictedCheck(0.1), RateCheck("B", upper=True)),
    ),
    _strength(
        "noise",
        "Additive noise, by strength",
        ("C9",),
        tuple((GradientNoise(s), 2) for s in (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)),
        _kept(GradientNoise(0.5), GradientNoise(1.0), trials=16),
    ),
    _strength(
        "clipping",
        "Clipping alone, by strength",
        ("C10",),
        _CLIPPED,
        _kept(
            GradientClipping(100.0, per_sample=True), GradientClipping(200.0, per_sample=True), width=80_000
        ),  # below that width, 200 clips nothing
    ),
    _strength(
        "dp-sgd",
        "DP-SGD, by strength of the noise",
        ("C10",),
        _NOISY,
        _kept(DPSGD(1.0, 0.001, per_sample=True), DPSGD(1.0, 0.002, per_sample=True), trials=15),
    ),
    _strength(
        "dropout",
        "Dropout, by strength",
        ("C12",),
        _DROPPED,
        _kept(Dropout(0.1, True), Dropout(0.3, True), width=80_000, trials=30),
    ),
    _strength(
        "pruning",
        "Gradient pruning, by strength",
        ("C13",),
        _PRUNED,
        _kept(GradientPruning(0.7), GradientPruning(0.8), width=80_000, trials=16),  # where a limit shows
        (PredictedCheck(0.1), FloorCheck(0.1)),
    ),
    _strength(
        "local-aggregation",
        "Local aggregation, by number of steps",
        ("C8",),
        _LOCAL,
        _kept(LocalAggregation(5, 0.1), LocalAggregation(20, 0.1), trials=18),
    ),
    _strength(
        "clients",
        "Secure aggregation, by number of clients",
        ("C11",),
        tuple((SecureAggregation(n), 2 * n) for n in (1, 2, 3, 4)),
        _kept(SecureAggregation(2), SecureAggregation(3), trials=12),
    ),
)


ON_DEFENSES: tuple[Experiment, ...] = (
    experiment(
        "noise",
        "Additive noise on the gradient",
        ("C9",),
        STANDARD,
        features=RANDOM,
        d=50,
        m=(80_000, 640_000),
        defenses=(GradientNoise(0.5), GradientNoise(2.0)),
        trials=250,
        reduced=Reduced(
            80_000, 190, (GradientNoise(0.5),), attacks=(RESIDUALIZED,), checks=(PredictedCheck(),)
        ),
    ),
    experiment(
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
    ),
    experiment(
        "dropout",
        "Dropout, with one mask for the batch or one for each sample",
        ("C12",),
        (PredictedCheck(0.05),),
        features=RANDOM,
        d=50,
        m=(80_000, 640_000),
        defenses=Dropout.grid(),
        trials=120,
        reduced=Reduced(80_000, 105, (Dropout(0.5, per_sample=True),), attacks=(RESIDUALIZED,)),
    ),
    experiment(
        "clipping",
        "Clipping alone",
        ("C10",),
        (PredictedCheck(0.05),),
        features=RANDOM,
        d=50,
        m=(80_000, 640_000),
        defenses=(GradientClipping(30.0), GradientClipping(200.0, per_sample=True)),
        trials=120,
        reduced=Reduced(80_000, 75, attacks=(RESIDUALIZED,)),
    ),
    experiment(
        "dp-sgd",
        "DP-SGD with a fixed noise multiplier",
        ("C10",),
        (PredictedCheck(0.05, largest_m_only=False),),
        features=RANDOM,
        d=50,
        m=(80_000, 320_000, 1_280_000),
        defenses=(DPSGD(1.0, 0.003), DPSGD(1.0, 0.003, per_sample=False)),
        moments=("residualized",),
        trials=60,
        reduced=Reduced(80_000, 60),
    ),
    experiment(
        "dp-sgd-strength",
        "DP-SGD, noise of about the unclipped gradient's size",
        ("C10",),
        (PredictedCheck(0.05),),
        features=RANDOM,
        d=50,
        m=640_000,
        # the gradient's norm is about 755 here
        defenses=tuple(DPSGD(1.0, z, per_sample=False) for z in (0.0004, 0.00133, 0.004)),
        trials=60,
    ),
    experiment(
        "rounding",
        "Stochastic rounding",
        (),
        (PredictedCheck(0.05),),
        features=RANDOM,
        d=50,
        m=(80_000, 640_000),
        defenses=StochasticRounding.grid(),
        moments=("residualized",),
        trials=60,
        reduced=Reduced(80_000, 60, (StochasticRounding(1.0),), in_all=True),
    ),
    experiment(
        "biased",
        "Channels that are functions of the entry alone: an error of the tensor attack that no width removes",
        (),
        (PredictedCheck(0.05), FloorCheck()),
        features=RANDOM,
        d=50,
        m=(80_000, 640_000),
        defenses=(*DeterministicRounding.grid(), SignCompression(), *Clamping.grid()),
        moments=("residualized",),
        trials=40,
        reduced=Reduced(
            320_000,
            8,
            (DeterministicRounding(3.0), SignCompression(), Clamping(0.5)),
            narrowest=320_000,  # where the limit shows
            in_all=True,
        ),
    ),
    experiment(
        "noisy-pruning",
        "Noise, then pruning",
        ("C9", "C13"),
        (PredictedCheck(0.1),),
        features=RANDOM,
        d=50,
        m=320_000,
        defenses=tuple(NoisyPruning(sigma, ratio) for sigma in (0.1, 0.5) for ratio in (0.5, 0.7, 0.9)),
        moments=("residualized",),
        trials=20,
        reduced=Reduced(80_000, 16, (NoisyPruning(0.5, 0.7),), in_all=True),
    ),
    experiment(
        "pruning-batch",
        "Gradient pruning and the number of features",
        ("C13",),
        (PredictedCheck(0.1),),
        features=RANDOM,
        d=50,
        m=(80_000, 640_000),
        B=(1, 3, 4),
        defenses=(NoDefense(), *GradientPruning.grid()),
        moments=("residualized",),
        trials=30,
        reduced=Reduced(80_000, 20, (GradientPruning(0.7),), batches=(1, 3)),
    ),
    experiment(
        "dropout-against-pruning",
        "The same fraction of entries removed: at random, or the smallest",
        ("C12", "C13"),
        (PredictedCheck(0.1), RateCheck("m")),
        features=RANDOM,
        d=50,
        m=doubling(20_000, 7)[::2],
        defenses=(*(Dropout(p, per_sample=False) for p in (0.5, 0.7, 0.9)), *GradientPruning.grid()),
        moments=("residualized",),
        trials=100,
        reduced=Reduced(
            80_000,
            40,
            (Dropout(0.7, per_sample=False), GradientPruning(0.7), GradientPruning(0.9)),
            checks=(PredictedCheck(0.1),),
            narrowest=80_000,
        ),
    ),
    experiment(
        "local-aggregation",
        "Local aggregation with the same batch at every step",
        ("C8",),
        (PredictedCheck(0.05),),
        features=RANDOM,
        d=50,
        m=(80_000, 320_000),
        defenses=tuple(LocalAggregation(k, 0.1) for k in (1, 5, 20)),
        moments=("residualized",),
        trials=120,
        reduced=Reduced(80_000, 90, tuple(LocalAggregation(k, 0.1) for k in (5, 20))),
    ),
    experiment(
        "batches",
        "Six features: in one batch, over local steps, from several clients",
        ("C8", "C11"),
        (PredictedCheck(0.05),),
        features=RANDOM,
        d=50,
        m=(160_000, 640_000),
        B=6,
        defenses=(NoDefense(), LocalAggregation(3, 0.1, "different"), SecureAggregation(3)),
        moments=("residualized",),
        trials=40,
        reduced=Reduced(160_000, 26, (LocalAggregation(3, 0.1, "different"), SecureAggregation(3))),
    ),
    experiment(
        "undefended",
        "No defense: what the defenses are measured against",
        ("C8", "C11", "C13"),
        (PredictedCheck(0.05), RateCheck("m")),
        features=RANDOM,
        d=50,
        m=doubling(20_000, 7)[::2],
        moments=("residualized",),
        trials=60,
        # An exponent from these two widths would be decided by the second order at the smaller one.
        reduced=Reduced(80_000, 60, checks=(PredictedCheck(0.05),), in_all=True),
    ),
    *_STRENGTHS,
)
