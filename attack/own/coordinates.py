"""Weights of another scale, and biases: coordinates in which they are the standard Gaussians that the theory assumes.

``w.x + b = (w/s).(s x) + ((b - mean)/t) t + mean``: with ``w ~ N(0, s^2 I)`` and ``b ~ N(mean, t^2)`` the network is one
with standard Gaussian weights ``(w/s, (b - mean)/t)`` in d + 1 dimensions, features ``(s x, t)`` and activation
``sigma(. + mean)``. A server that knows its weights' distribution can attack there and go back.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from attack.networks.two_layer import TwoLayerNet
from attack.observation import Observation
from attack.own.units import exponent, root_mean_square
from attack.reconstruction import Reconstruction
from attack.units import shift
from bounds import Activation, Setting, checks

#: A measured scale or mean is taken for one that differs from 1 or 0 beyond this many standard errors.
STANDARD_ERRORS = 5.0

#: A bias, or how far it varies, counts as zero below this fraction of what it is beside.
NEGLIGIBLE_BIAS = 1e-9


@dataclass(frozen=True)
class Coordinates:
    """Coordinates in which the weights are standard Gaussian.

    scale: standard deviation s > 0 of an entry of W; bias_mean, bias_scale: mean and standard deviation (>= 0) of an entry
    of the bias; bias_scale = 0 adds no coordinate. Raises ``ValueError`` or ``TypeError`` out of range.
    """

    scale: float = 1.0
    bias_mean: float = 0.0
    bias_scale: float = 0.0

    def __post_init__(self) -> None:
        if checks.real("scale", self.scale, 0.0) == 0.0:
            raise ValueError("scale must be positive; got 0")
        checks.real("bias_mean", self.bias_mean)
        checks.real("bias_scale", self.bias_scale, 0.0)

    @staticmethod
    def measured(
        weights: torch.Tensor,
        bias: torch.Tensor | None = None,
        scale: float | None = None,
        *,
        norm: float = 1.0,
    ) -> Coordinates:
        """From the weights (m, d) and the bias (m,): root mean square of the entries (unless ``scale`` is given), mean and
        standard deviation of the bias. What differs from the standard by less than 5 standard errors is taken as standard,
        and a bias below 1e-9 of what the weights make of a feature of that ``norm`` for none.
        """
        if scale is None:
            measured = root_mean_square(weights)
            scale = 1.0 if abs(measured - 1) * math.sqrt(2 * weights.numel()) < STANDARD_ERRORS else measured
        if bias is None:
            return Coordinates(scale)
        unit = exponent(root_mean_square(bias))
        inside = shift(bias.double(), -unit)
        mean, spread = float(inside.mean()), float(inside.std(correction=0))
        if abs(mean) * math.sqrt(bias.numel()) < STANDARD_ERRORS * spread:
            mean = 0.0
        if spread < NEGLIGIBLE_BIAS * abs(mean):  # one constant, but for rounding
            spread = 0.0
        least = NEGLIGIBLE_BIAS * scale * norm
        mean, spread = (
            0.0 if abs(v) < least else v for v in (math.ldexp(mean, unit), math.ldexp(spread, unit))
        )
        return Coordinates(scale, mean, spread)

    @property
    def standard(self) -> bool:
        """Whether nothing changes."""
        return self == Coordinates()

    def network(self, net: TwoLayerNet, bias: torch.Tensor | None = None) -> TwoLayerNet:
        """The network in these coordinates: weights (m, d) or, with a bias (m,) of positive spread, (m, d + 1).

        Raises ``ValueError`` when W is not held (regenerated weights are standard already), or when the coordinates speak
        of a bias and there is none.
        """
        if self.standard:
            return net
        if net.weights is None:
            raise ValueError(
                "net must hold its weights to be rescaled; got one that regenerates standard Gaussian ones"
            )
        weights = net.weights / self.scale
        if self.bias_scale:
            if bias is None or tuple(bias.shape) != (net.m,):
                got = None if bias is None else tuple(bias.shape)
                raise ValueError(f"bias must have shape (m,) = ({net.m},); got {got}")
            column = (bias.to(weights) - self.bias_mean) / self.bias_scale
            weights = torch.cat([weights, column[:, None]], dim=1)
        return TwoLayerNet.from_weights(weights, shifted(net.activation, self.bias_mean))

    def observation(self, observation: Observation) -> Observation:
        """The same gradient, with the norms ``sqrt(s^2 n^2 + t^2)`` that the features have in these coordinates."""
        if self.standard:
            return observation
        return dataclasses.replace(observation, norms=self.observed_norms(observation.norms))

    def observed_norms(self, norms: Sequence[float]) -> tuple[float, ...]:
        """Norms (B,) as they are in these coordinates: ``sqrt(s^2 n^2 + t^2)``."""
        return tuple(math.hypot(self.scale * n, self.bias_scale) for n in norms)

    def features(self, X: Any) -> np.ndarray:
        """Features (B, d) as they are in these coordinates: ``(s x, t)``, shape (B, d) or (B, d + 1)."""
        scaled = self.scale * checks.array("X", X, (None, None))
        if not self.bias_scale:
            return scaled
        return np.column_stack([scaled, np.full(len(scaled), self.bias_scale)])

    def setting(self, X: Any, y: Any, m: int, activation: Activation) -> Setting:
        """The setting that theory speaks about: these features, this activation with its shift, standard weights.

        PREDICTED there, divided by ``scale``, is the error of the features that ``undo`` gives back.
        """
        return Setting.from_features(self.features(X), y, m, shifted(activation, self.bias_mean))

    def undo(self, found: Reconstruction) -> Reconstruction:
        """The reconstruction with features (B, d) in the original coordinates; residuals and labels are the same."""
        if self.standard:
            return found
        features = found.features[:, :-1] if self.bias_scale else found.features
        return dataclasses.replace(found, features=features / self.scale)


def rescaled(
    net: TwoLayerNet, observation: Observation, scale: float
) -> tuple[TwoLayerNet, Observation, Coordinates]:
    """A problem with ``w_j ~ N(0, scale^2 I)`` as one with standard weights: network, observation, and the coordinates
    whose ``undo`` takes the reconstruction back. ``scale = 1`` gives the very same objects."""
    coordinates = Coordinates(scale)
    return coordinates.network(net), coordinates.observation(observation), coordinates


@lru_cache(maxsize=64)
def shifted(activation: Activation, shift: float) -> Activation:
    """``sigma(. + shift)``: what a constant bias makes of the activation; the activation itself for shift 0."""
    if shift == 0.0:
        return activation
    function, derivative = activation.function, activation.derivative
    return Activation(
        f"{activation.name}(z {shift:+.6g})",
        lambda t: function(t + shift),
        None if derivative is None else lambda t: derivative(t + shift),
        kinks=tuple(k - shift for k in activation.kinks),
    )
