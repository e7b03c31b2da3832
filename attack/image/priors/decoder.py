"""The deep decoder (Heckel, Hand 2019, arXiv 1810.03982): of few weights, so that it cannot make noise."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from attack.image.priors.generated import halved
from bounds import checks


class DeepDecoder(nn.Module):
    """B of them side by side, for pictures of ``shape`` (C, H, W): ``depth`` layers of a 1 x 1 convolution of ``channels``,
    bilinear upsampling to twice the sides, ReLU and a norm of each channel over its map, one more that upsamples nothing,
    and one to colours. inputs: the noise that it takes, ``channels`` coarse maps for each picture. depth: None for as many
    as leave a map of 4 to 7 pixels a side, and one at least. channels: None for as many as leave the weights of a picture,
    ``(depth + 1) channels (channels + 2) + C (channels + 1)``, no more than its C H W pixels.

    Raises ``ValueError`` or ``TypeError`` on bad input.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        batch_size: int,
        *,
        channels: int | None = None,
        depth: int | None = None,
    ) -> None:
        super().__init__()
        checks.integer("batch_size", batch_size, 1)
        self.sides = tuple(reversed(halved(shape[1:], depth)))
        if channels is None:
            channels = _under(shape, len(self.sides))
        width = batch_size * checks.integer("channels", channels, 1)
        self.inputs = (width, *self.sides[0])
        with torch.device("meta"):
            self.mixed = nn.ModuleList(
                nn.Conv2d(width, width, 1, bias=False, groups=batch_size) for _ in self.sides
            )
            self.normed = nn.ModuleList(nn.GroupNorm(width, width) for _ in self.sides)
            self.out = nn.Conv2d(width, batch_size * shape[0], 1, groups=batch_size)

    def forward(self, noise: torch.Tensor) -> torch.Tensor:
        x = noise
        for mixed, normed, (before, after) in zip(
            self.mixed, self.normed, pairwise((*self.sides, self.sides[-1])), strict=True
        ):
            x = mixed(x)
            if before != after:
                x = functional.interpolate(x, after, mode="bilinear")
            x = normed(torch.relu(x))
        logits: torch.Tensor = self.out(x)
        return logits


def _under(shape: tuple[int, int, int], layers: int) -> int:
    """The most channels c with ``layers c (c + 2) + C (c + 1)`` no more than C H W, and at least 1."""
    colours, pixels = shape[0], math.prod(shape)
    half = 1 + colours / (2 * layers)
    return max(1, int(math.sqrt(half**2 + (pixels - colours) / layers) - half))
