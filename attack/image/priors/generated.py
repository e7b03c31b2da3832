"""Pictures that untrained networks make of fixed noise; the weights of these are the variables of a search.

Each picture has a network of its own: one for all of a batch is no faster, and was worse by 7 to 15 dB in the mean where
pictures were fitted directly. All are one module, with one group of its convolutions for each picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.func import functional_call

from attack.image.pictures import Limits
from attack.networks.image.network import ImageNetwork
from attack.streams import normal
from bounds import checks

#: The shortest side that a picture may have, and the coarsest map without a word on depth, if its sides are twice that.
SHORTEST = 4


@dataclass(frozen=True, eq=False)
class Generated:
    """B pictures as a module makes them: from noise of shape (1, *inputs) to logits of pixels (1, B C, H, W), by nothing but
    its parameters, whose values it need not have (it may be on torch's device "meta").

    A search starts from weights of variance 2 over their number of inputs, norms that change nothing, biases of zero; the
    variables are one for each parameter, in the module's order, and any number. seed: of the noise, which is the same for
    every start, as pictures are a function of the variables alone.
    """

    network: ImageNetwork
    batch_size: int
    module: nn.Module
    inputs: tuple[int, int, int]
    seed: int = 0
    noise: torch.Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        checks.integer("batch_size", self.batch_size, 1)
        object.__setattr__(self, "noise", self._normal((1, *self.inputs), self.seed, "generators"))

    def start(self, seed: int, index: int) -> tuple[torch.Tensor, ...]:
        named = enumerate(self.module.named_parameters())
        return tuple(self._started(name, p.shape, seed, index, place) for place, (name, p) in named)

    def images(self, variables: Sequence[torch.Tensor]) -> torch.Tensor:
        names = (name for name, _ in self.module.named_parameters())
        state = dict(zip(names, variables[: len(self.limits())], strict=True))
        logits: torch.Tensor = functional_call(self.module, state, (self.noise,))
        return torch.sigmoid(logits).view(self.batch_size, *self.network.shape)

    def limits(self) -> tuple[Limits, ...]:
        return (None,) * len(list(self.module.parameters()))

    def _started(self, name: str, shape: torch.Size, seed: int, *keys: int) -> torch.Tensor:
        if len(shape) > 1:
            return math.sqrt(2 / math.prod(shape[1:])) * self._normal(shape, seed, "pictures", *keys)
        value = 1.0 if name.endswith("weight") else 0.0
        return torch.full(shape, value, device=self.network.device, dtype=self.network.dtype)

    def _normal(self, shape: tuple[int, ...], seed: int, purpose: str, *keys: int) -> torch.Tensor:
        return normal(shape, seed, purpose, *keys, device=self.network.device, dtype=self.network.dtype)


def halved(sides: tuple[int, int], depth: int | None) -> tuple[tuple[int, int], ...]:
    """(H, W) and what is left of it after each of ``depth`` halvings, rounded up; None: as many as leave ``SHORTEST``,
    and one at least.

    Raises ``ValueError`` for sides below that, and for so many that less than 2 would be left.
    """
    if min(sides) < SHORTEST:
        raise ValueError(f"shape must have sides of at least {SHORTEST} for a generator; got {sides}")
    most = math.ceil(math.log2(min(sides))) - 1
    if depth is None:
        depth = max(1, int(math.log2(min(sides) / SHORTEST)))
    checks.integer("depth", depth, 0, most, f"that leaves sides of 2 of {sides}")
    return tuple((-(-sides[0] // 2**k), -(-sides[1] // 2**k)) for k in range(depth + 1))
