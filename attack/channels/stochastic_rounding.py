"""Stochastic rounding to a multiple of a step."""

from __future__ import annotations

import torch

from attack.client import Client
from bounds import StochasticRounding
from bounds.defenses.stochastic_rounding import FINEST


def channel(defense: StochasticRounding, client: Client, groups: tuple[int, ...], seed: int) -> torch.Tensor:
    """Down or up to a multiple of ``step``, with the probability that keeps the mean; from the stream "rounding"."""
    gradient = client.gradient()
    if defense.step <= FINEST:
        return gradient
    draws = client.entries.uniform(seed, "rounding")
    return defense.step * torch.floor(gradient / defense.step + draws)
