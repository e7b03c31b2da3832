"""Additive Gaussian noise on every entry that the server sees."""

from __future__ import annotations

import torch

from attack.networks.two_layer import TwoLayerNet
from attack.streams import normal
from bounds import GradientNoise


def channel(
    defense: GradientNoise,
    net: TwoLayerNet,
    X: torch.Tensor,
    y: torch.Tensor,
    groups: tuple[int, ...],
    seed: int,
) -> torch.Tensor:
    """``g + sigma N`` with N of the stream "noise"."""
    gradient = net.output_gradient(X, y)[0]
    return gradient + defense.sigma * normal((net.m,), seed, "noise", device=net.device, dtype=net.dtype)
