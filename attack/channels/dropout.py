"""Dropout of hidden units in the client's forward and backward pass."""

from __future__ import annotations

import torch

from attack.client import Client
from attack.streams import uniform
from bounds import Dropout


def channel(defense: Dropout, client: Client, groups: tuple[int, ...], seed: int) -> torch.Tensor:
    """The gradient of the masked network: hidden units times ``b/(1 - p)``, the mask b from the stream "masks", drawn for
    every sample or once for the batch; residuals are those of the masked forward pass."""
    if defense.p == 0:
        return client.gradient()
    device, dtype = client.entries.device, client.entries.dtype
    masks = [
        uniform((client.units,), seed, "masks", i, device=device, dtype=dtype) >= defense.p
        for i in range(client.samples if defense.per_sample else 1)
    ]
    return client.masked(torch.stack(masks).to(dtype), 1 - defense.p).gradient()
