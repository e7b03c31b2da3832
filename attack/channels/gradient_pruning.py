"""Pruning of the smallest entries."""

from __future__ import annotations

import torch

from attack.networks.two_layer import TwoLayerNet
from bounds import GradientPruning


def channel(
    defense: GradientPruning,
    net: TwoLayerNet,
    X: torch.Tensor,
    y: torch.Tensor,
    groups: tuple[int, ...],
    seed: int,
) -> torch.Tensor:
    """The ``floor(ratio m)`` entries smallest in absolute value set to zero."""
    gradient = net.output_gradient(X, y)[0].clone()
    removed = int(defense.ratio * net.m)
    if removed:
        gradient[torch.topk(gradient.abs(), removed, largest=False, sorted=False).indices] = 0
    return gradient
