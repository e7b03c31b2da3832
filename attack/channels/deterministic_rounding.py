"""Rounding to the nearest multiple of a step."""

from __future__ import annotations

import torch

from attack.client import Client
from bounds import DeterministicRounding
from bounds.defenses.stochastic_rounding import FINEST


def channel(
    defense: DeterministicRounding, client: Client, groups: tuple[int, ...], seed: int
) -> torch.Tensor:
    """``step round(g/step)``, halves to the even multiple."""
    gradient = client.gradient()
    return defense.step * torch.round(gradient / defense.step) if defense.step > FINEST else gradient
