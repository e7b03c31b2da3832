"""Pruning of the smallest entries."""

from __future__ import annotations

import torch

from attack.client import Client
from bounds import GradientPruning


def channel(defense: GradientPruning, client: Client, groups: tuple[int, ...], seed: int) -> torch.Tensor:
    """The ``floor(ratio n)`` of n entries that are smallest in absolute value set to zero."""
    gradient = client.gradient()
    entries = gradient.view(-1)
    removed = int(defense.ratio * entries.numel())
    if removed:
        entries[torch.topk(entries.abs(), removed, largest=False, sorted=False).indices] = 0
    return gradient
