"""How experiments are written down: the product of what varies, as points."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from bounds import Defense, NoDefense, TensorAttack
from verify.judge.predicted import ImprovementCheck, PredictedCheck
from verify.measure.check import Check
from verify.measure.experiment import Experiment
from verify.measure.features import Features
from verify.measure.point import Point

BOTH = ("residualized", "plain")


STANDARD = (PredictedCheck(), ImprovementCheck())

#: The attack that most experiments are about, and whose error scatters least.
RESIDUALIZED = TensorAttack()


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


def doubling(first: int, count: int) -> tuple[int, ...]:
    return tuple(first * 2**i for i in range(count))


def experiment(
    name: str, title: str, claims: tuple[str, ...], rules: Sequence[Check], **rest: Any
) -> Experiment:
    """An experiment on the grid of the remaining arguments, but for those that are the experiment's own."""
    own = {k: rest.pop(k) for k in ("trials", "seed", "reduced") if k in rest}
    return Experiment(name, title, grid(name, **rest), tuple(rules), claims, **own)
