"""What the server sees of the first layer's gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from attack.networks.two_layer import TwoLayerNet
from attack.observation import checked_gradient, public_norms
from attack.streams import normal
from bounds import Defense, GradientNoise, NoDefense, checks

#: The defenses whose effect on this gradient is implemented.
SUPPORTED = (NoDefense, GradientNoise)


@dataclass(frozen=True, eq=False)
class FirstLayerObservation:
    """One observed gradient with respect to the first layer's weights.

    gradient: (m, d), the entries the server sees, with rows ``G_j = (1/m) sum_i r_i sigma'(w_j.x_i) x_i``: entries of
    size 1/m, and so is the noise that matters; batch_size: the number B of features in it; norms: their public norms,
    sorted; defense: the specification, which is public (``GradientNoise(sigma)``: sigma on every entry as seen).

    Raises ``ValueError`` or ``TypeError`` on wrong shapes or non-finite values.
    """

    gradient: torch.Tensor
    batch_size: int
    norms: tuple[float, ...]
    defense: Defense

    def __post_init__(self) -> None:
        checks.instance("defense", self.defense, Defense, "GradientNoise(sigma=1.0)")
        object.__setattr__(self, "gradient", checked_gradient(self.gradient, ("m", "d")))
        object.__setattr__(self, "batch_size", checks.integer("batch_size", self.batch_size, 1))
        object.__setattr__(self, "norms", public_norms(self.norms, self.batch_size))


def observe_first_layer(
    defense: Defense, net: TwoLayerNet, X: Any, y: Any, seed: int = 1, groups: Sequence[int] | None = None
) -> FirstLayerObservation:
    """What the server sees of ``dL/dW`` for the features ``X`` (B, d) with labels ``y`` (B,) under ``defense``.

    ``GradientNoise(sigma)`` adds noise of standard deviation sigma to every one of the m d entries as they are seen, that
    is to numbers of size 1/m: the same sigma means far more here than on the gradient of the output weights. ``groups``
    (B,) is checked and plays no part for the defenses here. Raises ``ValueError`` or ``TypeError`` on bad input, for other
    defenses, and for an activation without a derivative.
    """
    checks.instance("defense", defense, Defense, "GradientNoise(sigma=1.0)")
    checks.instance("net", net, TwoLayerNet)
    checks.integer("seed", seed, 0)
    if not isinstance(defense, SUPPORTED):
        names = ", ".join(family.__name__ for family in SUPPORTED)
        raise ValueError(f"defense must be one of {names} for dL/dW; got {defense!r}: not supported yet")
    X = net.features(X)
    checks.groups(() if groups is None else groups, X.shape[0])
    gradient = net.first_layer_gradient(X, y)
    if isinstance(defense, GradientNoise):
        # a sub-key of its own: the same seed must not give this gradient the noise of the other one
        noise = normal((net.m, net.d), seed, "noise", 1, device=net.device, dtype=net.dtype)
        gradient = gradient + defense.sigma * noise
    norms = tuple(torch.linalg.vector_norm(X.double(), dim=1).tolist())
    return FirstLayerObservation(gradient, X.shape[0], norms, defense)


def expected_batch(observation: FirstLayerObservation, net: TwoLayerNet, batch_size: int | None) -> int:
    """B, once it and the gradient's shape are found to fit each other and the network; ``ValueError`` if not."""
    B = observation.batch_size if batch_size is None else checks.integer("batch_size", batch_size, 1)
    if observation.batch_size != B:
        raise ValueError(f"batch_size must be the observation's, {observation.batch_size}; got {B}")
    if tuple(observation.gradient.shape) != (net.m, net.d):
        raise ValueError(
            f"the gradient must have shape (m, d) = ({net.m}, {net.d}); got {tuple(observation.gradient.shape)}"
        )
    if min(net.d, net.m - 1) < B:
        raise ValueError(f"batch_size must be at most d = {net.d} and below m = {net.m}; got {B}")
    return B
