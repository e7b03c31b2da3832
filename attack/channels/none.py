"""No defense."""

from __future__ import annotations

import torch

from attack.networks.two_layer import TwoLayerNet
from bounds import NoDefense


def channel(
    defense: NoDefense, net: TwoLayerNet, X: torch.Tensor, y: torch.Tensor, groups: tuple[int, ...], seed: int
) -> torch.Tensor:
    """The gradient of the whole batch."""
    return net.output_gradient(X, y)[0]
