"""Sign compression."""

from __future__ import annotations

import torch

from attack.client import Client
from bounds import SignCompression


def channel(defense: SignCompression, client: Client, groups: tuple[int, ...], seed: int) -> torch.Tensor:
    """``sign(g)``."""
    return torch.sign(client.gradient())
