"""The attack's problem in coordinates where weights and biases are standard Gaussian."""

from __future__ import annotations

from collections.abc import Sequence

from attack.networks.two_layer import TwoLayerNet
from attack.observation import Observation
from attack.own.coordinates import Coordinates
from attack.own.gradient import SharedGradient
from bounds import Activation, NoDefense


def _problem(
    shared: SharedGradient, B: int, activation: Activation, norms: Sequence[float], scale: float | None
) -> tuple[TwoLayerNet, Observation, Coordinates]:
    there = Coordinates.measured(shared.weight, shared.bias, scale)
    net = there.network(TwoLayerNet.from_weights(shared.weight, activation), shared.bias)
    seen = Observation(shared.gradient, B, tuple(norms), NoDefense())
    return net, there.observation(seen), there
