"""How pictures are written as the variables of a search: pixels here; any other way is a class with the same methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import torch

from attack.networks.image.network import ImageNetwork
from attack.streams import normal, uniform

#: Smallest and largest value of a variable, each a number for every entry or one that is broadcast; None: any.
Limits = tuple[torch.Tensor, torch.Tensor] | None

#: Standard deviation of what tells grey pictures apart at the start: those of one label would stay the same for ever.
_APART = 0.01


class Picture(Protocol):
    """A parametrisation of B pictures."""

    def start(self, seed: int, index: int) -> tuple[torch.Tensor, ...]:
        """The variables where the start of that number begins; new tensors."""
        ...

    def images(self, variables: Sequence[torch.Tensor]) -> torch.Tensor:
        """Pixels (B, C, H, W), nominally in [0, 1], differentiable by the variables."""
        ...

    def limits(self) -> tuple[Limits, ...]:
        """Of each variable."""
        ...


@dataclass(frozen=True, eq=False)
class Pixels:
    """One variable: the normalised pixels (B, C, H, W), which is what published step sizes are for. start: a key of
    ``STARTS``; boxed: whether pixels stay in [0, 1]."""

    network: ImageNetwork
    batch_size: int
    kind: str = "normal"
    boxed: bool = True

    def start(self, seed: int, index: int) -> tuple[torch.Tensor, ...]:
        return (STARTS[self.kind](self, seed, index),)

    def images(self, variables: Sequence[torch.Tensor]) -> torch.Tensor:
        return self.network.pixels(variables[0])

    def limits(self) -> tuple[Limits, ...]:
        if not self.boxed:
            return (None,)
        ends = torch.tensor([0.0, 1.0], device=self.network.device, dtype=self.network.dtype)
        low, high = (self.network.normalised(end.view(1, 1, 1, 1)) for end in ends)
        return ((low, high),)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.batch_size, *self.network.shape)

    def drawn(self, seed: int, index: int) -> torch.Tensor:
        """Standard normals of this start."""
        return normal(
            self.shape, seed, "pictures", index, device=self.network.device, dtype=self.network.dtype
        )


def _normal(pixels: Pixels, seed: int, index: int) -> torch.Tensor:
    return pixels.drawn(seed, index)


def _uniform(pixels: Pixels, seed: int, index: int) -> torch.Tensor:
    net = pixels.network
    drawn = uniform(pixels.shape, seed, "pictures", index, device=net.device, dtype=net.dtype)
    return net.normalised(drawn)


def _grey(pixels: Pixels, seed: int, index: int) -> torch.Tensor:
    return pixels.network.normalised(0.5 + _APART * pixels.drawn(seed, index))


#: Where a search begins: standard normal in normalised units, uniform pixels in [0, 1], or grey ones.
STARTS: Mapping[str, Callable[[Pixels, int, int], torch.Tensor]] = MappingProxyType(
    {"normal": _normal, "uniform": _uniform, "grey": _grey}
)
