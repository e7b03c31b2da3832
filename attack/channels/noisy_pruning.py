"""Gaussian noise on every entry, then pruning of the smallest."""

from __future__ import annotations

import torch

from attack.channels.gradient_pruning import pruned
from attack.client import Client
from bounds import NoisyPruning


def channel(defense: NoisyPruning, client: Client, groups: tuple[int, ...], seed: int) -> torch.Tensor:
    """``g + sigma N``, N of the stream "noise", without the ``floor(ratio n)`` of its n entries of smallest size."""
    return pruned(client.gradient() + defense.sigma * client.entries.normal(seed, "noise"), defense.ratio)
