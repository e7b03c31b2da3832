"""Additive Gaussian noise on every entry that the server sees."""

from __future__ import annotations

import torch

from attack.client import Client
from bounds import GradientNoise


def channel(defense: GradientNoise, client: Client, groups: tuple[int, ...], seed: int) -> torch.Tensor:
    """``g + sigma N`` with N of the stream "noise"."""
    return client.gradient() + defense.sigma * client.entries.normal(seed, "noise")
