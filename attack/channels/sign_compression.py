"""Sign compression."""

from __future__ import annotations

import torch

from attack.networks.two_layer import TwoLayerNet
from bounds import SignCompression


def channel(
    defense: SignCompression,
    net: TwoLayerNet,
    X: torch.Tensor,
    y: torch.Tensor,
    groups: tuple[int, ...],
    seed: int,
) -> torch.Tensor:
    """``sign(g)``."""
    return torch.sign(net.output_gradient(X, y)[0])
