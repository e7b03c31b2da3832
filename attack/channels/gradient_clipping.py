"""Clipping of the gradient, as a whole or sample by sample."""

from __future__ import annotations

import torch

from attack.networks.two_layer import TwoLayerNet
from bounds import GradientClipping


def channel(
    defense: GradientClipping,
    net: TwoLayerNet,
    X: torch.Tensor,
    y: torch.Tensor,
    groups: tuple[int, ...],
    seed: int,
) -> torch.Tensor:
    """``g min(1, C/|g|)``, or the sum of every sample's gradient clipped like that."""
    return clipped(net, X, y, defense.max_norm, defense.per_sample)


def clipped(
    net: TwoLayerNet, X: torch.Tensor, y: torch.Tensor, max_norm: float, per_sample: bool
) -> torch.Tensor:
    """The clipped gradient with respect to the output weights, summed over the batch: (m,)."""
    if not per_sample:
        gradient = net.output_gradient(X, y)[0]
        norm = float(torch.linalg.vector_norm(gradient.double()))
        return gradient * (max_norm / norm) if norm > max_norm else gradient
    hidden = net.hidden(X)
    residuals = hidden.double().mean(dim=1) - y
    norms = residuals.abs() * torch.linalg.vector_norm(hidden.double(), dim=1)
    factors = torch.clamp(max_norm / norms, max=1.0)  # 1 for a norm of 0, and for no clipping
    return (residuals * factors).to(net.dtype) @ hidden
