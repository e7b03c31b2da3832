"""The sum of several clients' gradients."""

from __future__ import annotations

import torch

from attack.networks.two_layer import TwoLayerNet
from bounds import SecureAggregation
from bounds.wide_limits import assigned


def channel(
    defense: SecureAggregation,
    net: TwoLayerNet,
    X: torch.Tensor,
    y: torch.Tensor,
    groups: tuple[int, ...],
    seed: int,
) -> torch.Tensor:
    """Each client's gradient of its own part by itself, then the sum. Raises ``ValueError`` for more groups than clients."""
    owner = assigned(groups, defense.clients, "clients")
    owners = torch.tensor(owner, device=X.device)
    parts = [net.output_gradient(X[owners == c], y[owners == c])[0] for c in sorted(set(owner))]
    return torch.stack(parts).sum(dim=0)
