"""Rounding to the nearest multiple of a step."""

from __future__ import annotations

import torch

from attack.networks.two_layer import TwoLayerNet
from bounds import DeterministicRounding
from bounds.defenses.stochastic_rounding import FINEST


def channel(
    defense: DeterministicRounding,
    net: TwoLayerNet,
    X: torch.Tensor,
    y: torch.Tensor,
    groups: tuple[int, ...],
    seed: int,
) -> torch.Tensor:
    """``step round(g/step)``, halves to the even multiple."""
    gradient = net.output_gradient(X, y)[0]
    return defense.step * torch.round(gradient / defense.step) if defense.step > FINEST else gradient
