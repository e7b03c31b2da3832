"""The deep image prior (Ulyanov, Vedaldi, Lempitsky 2018, arXiv 1711.10925): a U-Net, which learns noise after pictures."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from attack.image.priors.generated import halved
from bounds import checks

#: Channels that skip a level, as published, and the slope of the activation below zero.
_SKIP, _LEAK = 4, 0.2


class UNet(nn.Module):
    """B of them side by side, for pictures of ``shape`` (C, H, W), smaller than the published one: at each of ``depth``
    levels one convolution of 3 x 3 and stride 2 down, ``_SKIP`` channels across, bilinear upsampling and one convolution of
    3 x 3 up; each is normed over its map, channel by channel. inputs: the noise that it takes, ``channels`` maps for each
    picture. depth: None for as many levels as leave a map of 4 to 7 pixels a side, and one at least.

    Raises ``ValueError`` or ``TypeError`` on bad input.
    """

    def __init__(
        self, shape: tuple[int, int, int], batch_size: int, *, channels: int = 8, depth: int | None = None
    ) -> None:
        super().__init__()
        self.batch_size = checks.integer("batch_size", batch_size, 1)
        checks.integer("channels", channels, 1)
        sides = halved(shape[1:], depth)
        self.inputs = (batch_size * channels, *sides[0])
        with torch.device("meta"):
            levels = range(len(sides) - 1)
            self.across = nn.ModuleList(_block(batch_size, channels, _SKIP, kernel=1) for _ in levels)
            self.down = nn.ModuleList(_block(batch_size, channels, channels, stride=2) for _ in levels)
            self.up = nn.ModuleList(_block(batch_size, channels + _SKIP, channels) for _ in levels)
            self.out = nn.Conv2d(batch_size * channels, batch_size * shape[0], 1, groups=batch_size)

    def forward(self, noise: torch.Tensor) -> torch.Tensor:
        x, beside = noise, []
        for across, down in zip(self.across, self.down, strict=True):
            beside.append(across(x))
            x = down(x)
        for up, skipped in zip(self.up, reversed(beside), strict=True):
            x = functional.interpolate(x, skipped.shape[2:], mode="bilinear")
            x = up(self._joined(skipped, x))
        logits: torch.Tensor = self.out(x)
        return logits

    def _joined(self, *maps: torch.Tensor) -> torch.Tensor:
        """The channels of each picture together."""
        return torch.cat([x.unflatten(1, (self.batch_size, -1)) for x in maps], dim=2).flatten(1, 2)


def _block(batch_size: int, inward: int, outward: int, *, kernel: int = 3, stride: int = 1) -> nn.Module:
    channels = batch_size * outward
    return nn.Sequential(
        nn.Conv2d(
            batch_size * inward, channels, kernel, stride,
            padding=kernel // 2, bias=False, groups=batch_size,
        ),
        nn.GroupNorm(channels, channels),
        nn.LeakyReLU(_LEAK),
    )  # fmt: skip
