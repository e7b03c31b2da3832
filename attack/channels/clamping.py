"""Elementwise clamping."""

from __future__ import annotations

import torch

from attack.networks.two_layer import TwoLayerNet
from bounds import Clamping


def channel(
    defense: Clamping, net: TwoLayerNet, X: torch.Tensor, y: torch.Tensor, groups: tuple[int, ...], seed: int
) -> torch.Tensor:
    """Entries cut to ``[-limit, limit]``."""
    return net.output_gradient(X, y)[0].clamp(-defense.limit, defense.limit)
