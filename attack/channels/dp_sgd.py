"""DP-SGD: clipping, then noise in proportion to the clipping norm."""

from __future__ import annotations

import torch

from attack.channels.gradient_clipping import clipped
from attack.client import Client
from bounds import DPSGD


def channel(defense: DPSGD, client: Client, groups: tuple[int, ...], seed: int) -> torch.Tensor:
    """The clipped gradient plus ``noise_multiplier * max_norm`` times the stream "noise"."""
    gradient = clipped(client, defense.max_norm, defense.per_sample)
    if defense.noise_multiplier == 0:
        return gradient
    return gradient + defense.noise_multiplier * defense.max_norm * client.entries.normal(seed, "noise")
