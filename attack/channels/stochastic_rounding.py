"""Stochastic rounding to a multiple of a step."""

from __future__ import annotations

import torch

from attack.networks.two_layer import TwoLayerNet
from attack.streams import uniform
from bounds import StochasticRounding
from bounds.defenses.stochastic_rounding import FINEST


def channel(
    defense: StochasticRounding,
    net: TwoLayerNet,
    X: torch.Tensor,
    y: torch.Tensor,
    groups: tuple[int, ...],
    seed: int,
) -> torch.Tensor:
    """Down or up to a multiple of ``step``, with the probability that keeps the mean; from the stream "rounding"."""
    gradient = net.output_gradient(X, y)[0]
    if defense.step <= FINEST:
        return gradient
    draws = uniform((net.m,), seed, "rounding", device=net.device, dtype=net.dtype)
    return defense.step * torch.floor(gradient / defense.step + draws)
