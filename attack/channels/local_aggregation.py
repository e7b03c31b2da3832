"""Several local gradient steps, observed through the sum of their gradients."""

from __future__ import annotations

import torch

from attack.client import Client
from bounds import LocalAggregation
from bounds.wide_limits import assigned


def channel(defense: LocalAggregation, client: Client, groups: tuple[int, ...], seed: int) -> torch.Tensor:
    """The sum over the steps of the gradient at the weights of each step: real steps of rate ``lr_times_m/m`` on every
    layer."""
    if defense.steps == 1:
        return client.gradient()
    place = client.entries.device
    if defense.batches == "same":
        batches = [torch.arange(client.samples, device=place)] * defense.steps
    else:
        when = torch.tensor(assigned(groups, defense.steps, "steps"), device=place)
        batches = [torch.nonzero(when == step).flatten() for step in sorted(set(when.tolist()))]
    return client.local_sum(batches, defense.lr_times_m / client.units)
