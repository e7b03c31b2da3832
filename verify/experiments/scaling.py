"""How the error grows with the dimension, the number of features and their closeness."""

from __future__ import annotations

from verify.experiments.grid import ORTHONORMAL, RANDOM, RESIDUALIZED, STANDARD, experiment
from verify.judge.predicted import PredictedCheck
from verify.judge.rate import RateCheck
from verify.measure.experiment import Experiment, Reduced
from verify.measure.features import Features

SCALING: tuple[Experiment, ...] = (
    experiment(
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
    experiment(
        "one-feature",
        "A single feature",
        ("C1",),
        (*STANDARD, RateCheck("m")),
        features=RANDOM,
        d=100,
        m=(20_000, 80_000, 320_000),
        B=1,
        trials=100,
        # One feature's error is of first order from small widths on: two of them tell the exponent.
        reduced=Reduced(80_000, 32, attacks=(RESIDUALIZED,), checks=(RateCheck("m"),), in_all=True),
    ),
    experiment(
        "eight-features",
        "Eight random features",
        ("C1", "C3"),
        STANDARD,
        features=RANDOM,
        d=100,
        m=(80_000, 640_000),
        B=8,
        trials=40,
        reduced=Reduced(80_000, 32, attacks=(RESIDUALIZED,), checks=(PredictedCheck(),)),
    ),
    *(
        experiment(
            f"cosine-{cosine:.2f}",
            f"Two features of cosine {cosine:g}",
            ("C1",),
            (PredictedCheck(tolerance=0.1),),
            features=Features("cosine", seed=14, cosine=cosine),
            d=50,
            m=(160_000, 640_000),
            moments=("residualized",),
            trials=150 if cosine > 0.9 else 40,
            # closer features scatter more
            reduced=Reduced(160_000, 24) if cosine == 0.5 else None,
        )
        for cosine in (0.5, 0.8, 0.95)
    ),
)
