"""Pruning of the smallest entries."""

from __future__ import annotations

import torch

from attack.client import Client
from bounds import GradientPruning


def channel(defense: GradientPruning, client: Client, groups: tuple[int, ...], seed: int) -> torch.Tensor:
    """The ``floor(ratio n)`` of n entries that are smallest in absolute value set to zero."""
    return pruned(client.gradient(), defense.ratio)


def pruned(gradient: torch.Tensor, ratio: float) -> torch.Tensor:
    """``gradient`` with the fraction ``ratio`` of its entries set to zero, in place."""
    entries = gradient.view(-1)
    removed = int(ratio * entries.numel())
    if removed:
        entries[torch.topk(entries.abs(), removed, largest=False, sorted=False).indices] = 0
    return gradient
