"""Clipping of the gradient, as a whole or sample by sample."""

from __future__ import annotations

import torch

from attack.client import Client
from bounds import GradientClipping


def channel(defense: GradientClipping, client: Client, groups: tuple[int, ...], seed: int) -> torch.Tensor:
    """``g min(1, C/|g|)``, or the sum of every sample's gradient clipped like that."""
    return clipped(client, defense.max_norm, defense.per_sample)


def clipped(client: Client, max_norm: float, per_sample: bool) -> torch.Tensor:
    """The clipped gradient, summed over the batch; norms are taken over all entries."""
    if per_sample:  # a factor of 1 for a norm of 0, and for no clipping
        return client.gradient(torch.clamp(max_norm / client.sample_norms(), max=1.0))
    gradient = client.gradient()
    norm = float(torch.linalg.vector_norm(gradient.double()))
    return gradient * (max_norm / norm) if norm > max_norm else gradient
