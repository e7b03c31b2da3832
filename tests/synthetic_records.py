"""Records as a run would leave them, with errors drawn around what theory predicts. No attack is run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from bounds import NoDefense, TensorAttack
from verify.judge.base import bounds_at
from verify.judge.predicted import PredictedCheck
from verify.measure.conditions import present
from verify.measure.experiment import Experiment
from verify.measure.features import Features
from verify.measure.outcome import Outcome
from verify.measure.point import Point
from verify.measure.record import Record

#: Those of every made-up record: the ones here, so that going on from them is no change.
CONDITIONS = present()


def make_point(experiment: str = "demo", moments: str = "residualized", **changes: object) -> Point:
    values = {"features": Features("orthonormal", seed=3), "d": 50, "m": 20_000, "B": 2} | changes
    return Point(experiment, attack=TensorAttack(moments=moments), **{"defense": NoDefense(), **values})  # type: ignore[arg-type]


def make_experiment(points: Sequence[Point] | None = None, **changes: object) -> Experiment:
    chosen = tuple(points or [make_point(m=m) for m in (20_000, 40_000)])
    values = {"name": chosen[0].experiment, "title": "A demonstration", "points": chosen, "trials": 3}
    return Experiment(**{"rules": (PredictedCheck(),), **values, **changes})  # type: ignore[arg-type]


def make_record(point: Point, trial: int = 0, rmse: float | None = 0.1, seed: int = 0) -> Record:
    """A record of error ``rmse``; None makes a failed trial."""
    return Record(
        point=point,
        trial=trial,
        seed=seed,
        outcomes={name: make_outcome(rmse) for name in point.names},
        conditions=CONDITIONS,
        seconds=0.5,
    )


def make_outcome(rmse: float | None = 0.1) -> Outcome:
    """An outcome of error ``rmse``; None makes a failure."""
    if rmse is None:
        return Outcome("no gap between signal and noise", diagnostics={"status": "failed"})
    return Outcome(
        rmse=rmse,
        rmse_orthogonal=0.8 * rmse,
        rmse_inplane=0.6 * rmse,
        rmse_span=0.7 * rmse,
        label_accuracy=1.0,
        residual_error=0.01,
        diagnostics={"status": "ok"},
    )


def fake_run(point: Point, trial: int, seed: int, device: str = "auto", threads: int | None = None) -> Record:
    """Stands in for ``run_trial``: the error is a function of the arguments alone."""
    error = float(np.random.default_rng([seed, trial, point.m]).uniform(0.1, 0.2))
    return make_record(point, trial, error, seed)


def simulated_errors(rms: float, n: int, scatter: float, rng: np.random.Generator) -> np.ndarray:
    """n errors whose root mean square is ``rms`` in expectation and whose relative scatter is ``scatter``:
    R^2 is Gamma."""
    shape = 1 / (4 * scatter**2)  # the relative scatter of R^2 is twice that of R
    return rms * np.sqrt(rng.gamma(shape, 1 / shape, n))


def simulated_records(
    points: Iterable[Point],
    n: int,
    factor: float = 1.0,
    failures: int = 0,
    scatter: float = 0.1,
    seed: int = 0,
) -> list[Record]:
    """n trials at each point, the last ``failures`` of them failed, with rms ``factor`` times the predicted
    one."""
    rng = np.random.default_rng(seed)
    records = []
    for point in points:
        predicted = bounds_at(point).predicted
        assert predicted is not None
        errors = simulated_errors(factor * predicted, n, scatter, rng)
        records += [
            make_record(point, t, None if t >= n - failures else float(e)) for t, e in enumerate(errors)
        ]
    return records
