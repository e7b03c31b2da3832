"""Attacks on one network whose gradient carries Gaussian noise: a trial of the studies of such noise."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from bounds import AttackSpec, Defense, GradientNoise, LikelihoodAttack, Setting, TensorAttack
from bounds.setting import alternating
from verify.judge.statistics import Measured
from verify.measure.failure import attempt
from verify.measure.features import Features
from verify.studies.study import Cell, Failure, Outcome, mixed

if TYPE_CHECKING:
    import torch

    from attack import TwoLayerNet

#: Few starts: noise decides, and one that hides the features leaves every start the same misfit.
ATTACKS: Mapping[str, AttackSpec] = MappingProxyType(
    {"likelihood": LikelihoodAttack(starts=3), "tensor": TensorAttack()}
)


FEATURES = Features("orthonormal", seed=61)


def setting(d: int, m: int, B: int) -> Setting:
    """What theory is told of it: ReLU, orthonormal features, labels +1, -1, ..."""
    return Setting.orthonormal(d=d, m=m, B=B, activation="relu")


def attacked(name: str, d: int, m: int, B: int, *, sigma: float, seed: int) -> Outcome:
    """``error``, R of the attack of that name, on a network of these sizes with noise of standard deviation ``sigma`` on
    every entry of dL/da. Network and noise, but for its size, are those of this seed whatever attack and sigma."""
    X, net = problem(d, m, B, seed)
    return measured(name, GradientNoise(sigma=sigma), X, net, seed)[0]


def problem(d: int, m: int, B: int, seed: int) -> tuple[torch.Tensor, TwoLayerNet]:
    """The features (B, d), and the network of this seed."""
    import torch

    from attack import TwoLayerNet

    X = torch.from_numpy(np.ascontiguousarray(FEATURES.sample(d, B)))
    return X, TwoLayerNet.sample(d, m, "relu", mixed(seed, d, m, B))


def measured(
    name: str, defense: Defense, X: torch.Tensor, net: TwoLayerNet, seed: int
) -> tuple[Outcome, torch.Tensor]:
    """``error``, R of the attack of that name under a defense, and the gradient that it saw."""
    from attack import matched_rmse, observe, reconstruct

    B = len(X)
    seen = observe(defense, net, X, alternating(B), seed)
    found = attempt(lambda: reconstruct(seen, net, attack=ATTACKS[name], batch_size=B, seed=seed))
    if isinstance(found, Failure):
        return Failure(found.reason), seen.gradient
    return {"error": matched_rmse(X, found.features)}, seen.gradient


def completed(cell: Cell) -> Measured:
    """R of the attack that guesses zero where it has no result, which scores 1: what a bound on the mean over all networks
    speaks of. Trials that happen to give a result are no sample of it."""
    return Measured.of([*cell.values("error"), *[1.0] * len(cell.failures)], len(cell.failures))
