"""A setting of one's own as an experiment, with the checks that are natural to it.

From Python::

    experiment = own_experiment(GradientNoise(sigma=0.7), d=60, B=3, m=(20_000, 80_000), activation="gelu")
    records = sweep(experiment, "out")
    results = compare(records, experiment)
    figure = plot(records, experiment=experiment)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import numpy as np
import sympy as sp

from bounds import Activation, AttackSpec, Defense, Kind, NoDefense, TensorAttack, checks
from bounds.gaussian.activations import activation_text
from verify.judge import JUDGES
from verify.judge.base import bound_at
from verify.judge.predicted import PredictedCheck
from verify.judge.rate import RateCheck
from verify.measure.check import Check
from verify.measure.experiment import Experiment
from verify.measure.features import Features
from verify.measure.point import Point, point_key
from verify.measure.record import Record, distinct
from verify.measure.series import series

#: Of the ratio to PREDICTED, and of the exponent in m. A few dozen trials tell a deviation of this size; the catalogue's
#: experiments, with hundreds, ask for more.
TOLERANCE = 0.1

TRIALS = 30

#: What can be of several values, the one first that a figure has as its axis before the others.
SIZES = ("m", "B", "d")


def own_experiment(
    defense: Defense | None = None,
    *,
    m: int | Iterable[int] = (20_000, 80_000),
    d: int | Iterable[int] | None = None,
    B: int | Iterable[int] | None = None,
    activation: str | Activation | sp.Expr = "relu",
    features: Features | None = None,
    X: Any = None,
    labels: Sequence[float] = (),
    attack: AttackSpec | None = None,
    also: Sequence[AttackSpec] = (),
    trials: int = TRIALS,
    seed: int = 0,
    tolerance: float = TOLERANCE,
) -> Experiment:
    """One setting at one or several sizes as an experiment for ``sweep``, ``compare`` and ``plot``: of widths ``m``,
    dimensions ``d`` and batches ``B`` every combination.

    Defaults: no defense, d = 100, B = 2, independent random unit features, labels +1, -1, ..., ``TensorAttack()``. X: your
    own features (B, d), rows of unit norm. activation: a name or an expression, as in ``Point``. Its name tells its
    content: another setting or seed gives another name, and with it another file of records; more trials do not.
    tolerance: see ``natural_checks``. labels: of one ``B`` alone. also: further attacks on the
    same observations. Raises ``ValueError`` or ``TypeError`` on values out of
    range, features that do not exist in d dimensions among them, before anything is measured.
    """
    widths = _sizes("m", m)
    defense = NoDefense() if defense is None else defense
    checks.instance("defense", defense, Defense, "GradientNoise(sigma=1.0)")
    features, dimensions, batches = _data(features, X, d, B)
    said = checks.several("labels", labels)
    if said and len(batches) > 1:
        raise ValueError(f"labels must not be given where B is several ({_listed(batches)}); got {said}")

    def points(name: str) -> tuple[Point, ...]:
        return tuple(
            Point(
                name,
                features,
                dimension,
                width,
                batch,
                said,
                activation_text(activation),
                defense,
                TensorAttack() if attack is None else attack,
                also=tuple(also),
            )
            for dimension, batch, width in product(dimensions, batches, widths)
        )

    unnamed = points("")
    for point in unnamed[:: len(widths)]:
        point.setting()  # draws the features: they may not exist
    content = point_key({"points": [p.to_dict() for p in unnamed], "seed": checks.integer("seed", seed, 0)})
    return _experiment(
        points(f"own-{defense.name.replace('_', '-')}-{content[:8]}"),
        trials=trials,
        seed=seed,
        tolerance=tolerance,
    )


def _sizes(name: str, value: int | Iterable[int]) -> tuple[int, ...]:
    """One size or several as integers, none of them twice."""
    single = isinstance(value, str | bytes) or not isinstance(value, Iterable)
    given = (value,) if single else checks.several(name, value)
    found = tuple(dict.fromkeys(checks.integer(name, size, 1) for size in given))
    if not found:
        raise ValueError(f"{name} must hold at least one size; got none")
    return found


def _listed(sizes: Iterable[int]) -> str:
    return ", ".join(map(str, sizes))


def _data(
    features: Features | None, X: Any, d: int | Iterable[int] | None, B: int | Iterable[int] | None
) -> tuple[Features, tuple[int, ...], tuple[int, ...]]:
    """The features with every d and B, which given ones have of their own."""
    if X is None:
        drawn = Features("random") if features is None else features
        return drawn, _sizes("d", 100 if d is None else d), _sizes("B", 2 if B is None else B)
    if features is not None:
        raise ValueError("features and X must not be given together; got both")
    given = Features.given(X)
    shape = tuple(int(n) for n in X.shape) if hasattr(X, "shape") else np.shape(X)
    for name, said, there in (("B", B, shape[0]), ("d", d, shape[1])):
        if said is not None and (sizes := _sizes(name, said)) != (there,):
            raise ValueError(f"{name} must be that of X, {there}; got {_listed(sizes)}")
    return given, (shape[1],), (shape[0],)


def experiment_of(records: Iterable[Record]) -> Experiment:
    """The experiment that records of one name belong to, as far as they tell: their points, with natural checks.

    ``ValueError`` for records of several experiments, or for none."""
    trials = Counter(record.point for record in distinct(records))
    names = {p.experiment for p in trials}
    if len(names) != 1:
        raise ValueError(f"records must be of one experiment; got {', '.join(sorted(names)) or 'none'}")
    return _experiment(tuple(trials), trials=max(trials.values()))


def _experiment(
    points: tuple[Point, ...], *, trials: int, seed: int = 0, tolerance: float = TOLERANCE
) -> Experiment:
    # Defenses alone: a figure says of the setting beneath its title.
    names = dict.fromkeys(p.describe()["defense"].partition(" (")[0] for p in points)
    title = " and ".join(names)
    return Experiment(
        points[0].experiment,
        f"{title[:1].upper()}{title[1:]}, a setting of your own",
        points,
        natural_checks(points, tolerance),
        trials=trials,
        seed=seed,
    )


def natural_checks(points: Sequence[Point], tolerance: float = TOLERANCE) -> tuple[Check, ...]:
    """What can be asked of these points: PREDICTED at every one, within ``tolerance`` of 1; RATE in every size of which
    there are several, its exponent within ``tolerance`` (in B at most so far above, see ``verify.judge.rate``); of every
    other kind, what is asked of it by default. All but the first where they are stated."""
    checks.inside("tolerance", tolerance)
    asked: list[Check] = [PredictedCheck(tolerance, largest_m_only=False)]
    for kind, judge in JUDGES.items():
        if kind is Kind.PREDICTED or not _stated(points, kind):
            continue
        if kind is Kind.RATE:
            asked += [
                RateCheck(size, tolerance, upper=size == "B") for size in SIZES if _several(points, size)
            ]
        else:
            asked.append(judge.default)
    return tuple(asked)


def _several(points: Iterable[Point], size: str) -> bool:
    return any(len(s) > 1 for s in series(points, size))


def _stated(points: Iterable[Point], kind: Kind) -> bool:
    """Whether that kind is stated at any of these points, for any of the attacks there."""
    return any(bound_at(p, kind).value is not None for point in points for p in point.single.values())
