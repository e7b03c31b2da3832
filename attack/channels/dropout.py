"""Dropout of hidden units in the client's forward and backward pass."""

from __future__ import annotations

import torch

from attack.networks.two_layer import TwoLayerNet
from attack.streams import uniform
from bounds import Dropout


def channel(
    defense: Dropout, net: TwoLayerNet, X: torch.Tensor, y: torch.Tensor, groups: tuple[int, ...], seed: int
) -> torch.Tensor:
    """The gradient of the masked network: hidden units times ``b/(1 - p)``, the mask b from the stream "masks", drawn for
    every sample or once for the batch; residuals are those of the masked forward pass."""
    if defense.p == 0:
        return net.output_gradient(X, y)[0]
    count = X.shape[0] if defense.per_sample else 1
    masks = torch.empty(count, net.m, device=net.device, dtype=net.dtype)
    for i in range(count):
        masks[i] = uniform((net.m,), seed, "masks", i, device=net.device, dtype=net.dtype) >= defense.p
    hidden = net.hidden(X) * masks / (1 - defense.p)
    residuals = hidden.double().mean(dim=1) - y
    return residuals.to(net.dtype) @ hidden
