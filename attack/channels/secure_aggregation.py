"""The sum of several clients' gradients."""

from __future__ import annotations

import torch

from attack.client import Client
from bounds import SecureAggregation
from bounds.wide_limits import assigned


def channel(defense: SecureAggregation, client: Client, groups: tuple[int, ...], seed: int) -> torch.Tensor:
    """Each client's gradient of its own part by itself, then the sum. Raises ``ValueError`` for more groups than clients."""
    owner = torch.tensor(assigned(groups, defense.clients, "clients"), device=client.entries.device)
    owners = sorted(set(owner.tolist()))
    return torch.stack([client.part(torch.nonzero(owner == c).flatten()).gradient() for c in owners]).sum(
        dim=0
    )
