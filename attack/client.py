"""What a client computes: one batch through one network, up to the gradient that the server asks for.

A channel acts on this and never learns which network it is, so every defense is there for every network: the two-layer
network's output weights and first layer, the last two layers of a deep one, the parameters of anything that autograd knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from attack.streams import normal, uniform

#: The layers whose gradient a server may ask for: the weights of the output, and those of the last hidden layer (the first
#: layer, where there are two).
LAYERS = ("output", "hidden")


@dataclass(frozen=True)
class Entries:
    """The entries that the server sees: their shape, device and type, and ``key``, the sub-key of their random streams, so
    that the noise on one layer's gradient is not that on another's."""

    shape: tuple[int, ...]
    device: torch.device
    dtype: torch.dtype
    key: tuple[int, ...] = ()

    def normal(self, seed: int, purpose: str) -> torch.Tensor:
        """A standard normal for each entry, of that stream."""
        return normal(self.shape, seed, purpose, *self.key, device=self.device, dtype=self.dtype)

    def uniform(self, seed: int, purpose: str) -> torch.Tensor:
        """A uniform number in [0, 1) for each entry, of that stream."""
        return uniform(self.shape, seed, purpose, *self.key, device=self.device, dtype=self.dtype)


class Client(Protocol):
    """One client with its samples. The loss is ``1/2 sum_i (f(x_i) - y_i)^2``, a sum over samples, so that a gradient is the
    sum of theirs. A client is a value: what it was given does not change, and its variants are clients of their own."""

    @property
    def samples(self) -> int:
        """B, the number of samples."""
        ...

    @property
    def norms(self) -> tuple[float, ...]:
        """The Euclidean norms of the samples' features."""
        ...

    @property
    def units(self) -> int:
        """m, the number of hidden units below the output: those that dropout may drop."""
        ...

    @property
    def entries(self) -> Entries:
        """The gradient's entries."""
        ...

    def gradient(self, factors: torch.Tensor | None = None) -> torch.Tensor:
        """The sum of the samples' gradients, each times its factor (B,), 1 where None. Shape ``entries.shape``; a new
        tensor, which the caller may change."""
        ...

    def sample_norms(self) -> torch.Tensor:
        """The Euclidean norm of every sample's gradient over all entries: (B,) float64."""
        ...

    def masked(self, kept: torch.Tensor, probability: float) -> Client:
        """The client whose hidden units are multiplied by ``kept / probability``, forward and backward, on top of what they
        were multiplied by already; kept (B, m), or (1, m) for one mask on the whole batch."""
        ...

    def part(self, chosen: torch.Tensor) -> Client:
        """A client with these samples alone; chosen: their indices."""
        ...

    def local_sum(self, batches: Sequence[torch.Tensor], rate: float) -> torch.Tensor:
        """Gradient descent on every layer, one step of that rate for each batch (indices of samples) in order: the sum of
        the gradients at the weights of each step, the last one's included. Shape ``entries.shape``."""
        ...


class Network(Protocol):
    """A network whose client can be observed."""

    def client(self, X: Any, y: Any, layer: str = "output") -> Client:
        """The client with features ``X`` (B, d) and labels ``y`` (B,) whose gradient of ``layer`` is asked for.

        Raises ``ValueError`` or ``TypeError`` on bad input, a layer that is not one of ``LAYERS``, or an activation without
        the derivative that the gradient needs.
        """
        ...


@dataclass(frozen=True, eq=False)
class Mask:
    """Dropout of hidden units: they are multiplied by ``kept / probability``, kept (B or 1, m) of zeros and ones."""

    kept: torch.Tensor
    probability: float

    @staticmethod
    def after(before: Mask | None, kept: torch.Tensor, probability: float) -> Mask:
        """One more dropout on top of those ``before``."""
        if before is None:
            return Mask(kept, probability)
        return Mask(before.kept * kept, before.probability * probability)

    def of(self, chosen: torch.Tensor) -> Mask:
        """The masks of these samples."""
        return self if len(self.kept) == 1 else Mask(self.kept[chosen], self.probability)

    def on(self, units: torch.Tensor, rows: slice = slice(None)) -> torch.Tensor:
        """The units (B, rows) that are left."""
        return units * self.kept[:, rows] / self.probability
