"""DP-SGD: clipping, then noise in proportion to the clipping norm."""

from __future__ import annotations

import torch

from attack.channels.gradient_clipping import clipped
from attack.networks.two_layer import TwoLayerNet
from attack.streams import normal
from bounds import DPSGD


def channel(
    defense: DPSGD, net: TwoLayerNet, X: torch.Tensor, y: torch.Tensor, groups: tuple[int, ...], seed: int
) -> torch.Tensor:
    """The clipped gradient plus ``noise_multiplier * max_norm`` times the stream "noise"."""
    gradient = clipped(net, X, y, defense.max_norm, defense.per_sample)
    if defense.noise_multiplier == 0:
        return gradient
    noise = normal((net.m,), seed, "noise", device=net.device, dtype=net.dtype)
    return gradient + defense.noise_multiplier * defense.max_norm * noise
