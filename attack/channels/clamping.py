"""Elementwise clamping."""

from __future__ import annotations

import torch

from attack.client import Client
from bounds import Clamping


def channel(defense: Clamping, client: Client, groups: tuple[int, ...], seed: int) -> torch.Tensor:
    """Entries cut to ``[-limit, limit]``."""
    return client.gradient().clamp(-defense.limit, defense.limit)
