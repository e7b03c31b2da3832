"""The client of a two-layer network: one batch, its forward pass, and the gradient of either layer in closed form.

``f(x) = (1/m) sum_j sigma(w_j.x)`` has ``dL/da_j = sum_i r_i sigma(w_j.x_i)`` and the rows
``dL/dw_j = (1/m) sum_i r_i sigma'(w_j.x_i) x_i``. Kept are a few arrays (B, m); rows of dL/dW are made block by block, a
sample's gradient by itself never.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

import torch

from attack.client import Entries, Mask
from attack.networks.activation import apply_activation, apply_derivative
from attack.stream import gathered, total

if TYPE_CHECKING:
    from attack.networks.two_layer import TwoLayerNet


@dataclass(frozen=True, eq=False)
class _Step:
    """A local step: which samples it uses, their hidden units (b, m) and residuals (b,), the derivatives' inputs, and the
    output weights (m,) that it starts from."""

    batch: Batch
    used: torch.Tensor
    inner: torch.Tensor
    output: torch.Tensor

    @cached_property
    def hidden(self) -> torch.Tensor:
        return self.batch.left(apply_activation(self.batch.net.activation, self.inner), self.used)

    @cached_property
    def residuals(self) -> torch.Tensor:
        outputs = self.hidden.double() @ self.output.double()
        return (outputs - self.batch.y[self.used]).to(self.output.dtype)

    @cached_property
    def gradient(self) -> torch.Tensor:
        """dL/da: (m,)."""
        return self.residuals @ self.hidden

    @cached_property
    def weights(self) -> torch.Tensor:
        """What multiplies x_i in dL/dw_j: (b, m)."""
        slopes = apply_derivative(self.batch.net.activation, self.inner)
        return self.batch.left(self.residuals[:, None] * slopes * self.output, self.used)


@dataclass(frozen=True, eq=False)
class Batch:
    """Features X (B, d) and labels y (B,) float64 in a network, with the units that dropout leaves."""

    net: TwoLayerNet
    X: torch.Tensor
    y: torch.Tensor
    mask: Mask | None = None

    @cached_property
    def hidden(self) -> torch.Tensor:
        """The hidden units (B, m), in one pass."""
        hidden = self.net.hidden(self.X)
        return hidden if self.mask is None else self.mask.on(hidden)

    @cached_property
    def residuals(self) -> torch.Tensor:
        """``f(x_i) - y_i``: (B,) float64."""
        return self.hidden.double().mean(dim=1) - self.y

    def scaled(self, factors: torch.Tensor | None) -> torch.Tensor:
        """The residuals times the samples' factors, in the network's type."""
        return (self.residuals if factors is None else self.residuals * factors).to(self.net.dtype)

    def slopes(self, rows: slice, W: torch.Tensor) -> torch.Tensor:
        """``sigma'(w_j.x_i)`` for these rows, where dropout leaves the unit: (rows, B)."""
        slopes = apply_derivative(self.net.activation, W @ self.X.T)
        return slopes if self.mask is None else self.mask.on(slopes.T, rows).T

    def left(self, units: torch.Tensor, used: torch.Tensor) -> torch.Tensor:
        """What dropout leaves of units (b, m) of the samples ``used``."""
        return units if self.mask is None else self.mask.of(used).on(units)

    def masked(self, kept: torch.Tensor, probability: float) -> Batch:
        return Batch(self.net, self.X, self.y, Mask.after(self.mask, kept, probability))

    def part(self, chosen: torch.Tensor) -> Batch:
        mask = None if self.mask is None else self.mask.of(chosen)
        return Batch(self.net, self.X[chosen], self.y[chosen], mask)

    def steps(self, batches: Sequence[torch.Tensor], rate: float) -> Iterator[_Step]:
        """The local steps, real ones on both layers: the output weights a, and W, whose displacement is kept through its
        inner products with the features alone, as every gradient with respect to w_j lies in their span."""
        inner = gathered(self.net, lambda rows, W: self.X @ W.T, axis=1)
        gram = self.X @ self.X.T
        output = torch.full((self.net.m,), 1 / self.net.m, device=self.net.device, dtype=self.net.dtype)
        for index, used in enumerate(batches):
            step = _Step(self, used, inner[used], output)
            yield step
            if rate and index < len(batches) - 1:
                inner -= rate * gram[:, used] @ step.weights
                output = output - rate * step.gradient


@dataclass(frozen=True, eq=False)
class _LayerClient:
    """What the clients of both layers share."""

    batch: Batch

    @property
    def samples(self) -> int:
        return len(self.batch.X)

    @property
    def norms(self) -> tuple[float, ...]:
        return tuple(torch.linalg.vector_norm(self.batch.X.double(), dim=1).tolist())

    @property
    def units(self) -> int:
        return self.batch.net.m

    def masked(self, kept: torch.Tensor, probability: float) -> Self:
        return dataclasses.replace(self, batch=self.batch.masked(kept, probability))

    def part(self, chosen: torch.Tensor) -> Self:
        return dataclasses.replace(self, batch=self.batch.part(chosen))


class OutputClient(_LayerClient):
    """The client whose gradient is that of the output weights: (m,)."""

    @property
    def entries(self) -> Entries:
        net = self.batch.net
        return Entries((net.m,), net.device, net.dtype)

    def gradient(self, factors: torch.Tensor | None = None) -> torch.Tensor:
        return self.batch.scaled(factors) @ self.batch.hidden

    def sample_norms(self) -> torch.Tensor:
        batch = self.batch
        return batch.residuals.abs() * torch.linalg.vector_norm(batch.hidden.double(), dim=1)

    def local_sum(self, batches: Sequence[torch.Tensor], rate: float) -> torch.Tensor:
        found = torch.zeros(self.units, device=self.batch.net.device, dtype=self.batch.net.dtype)
        for step in self.batch.steps(batches, rate):
            found += step.gradient
        return found


class FirstLayerClient(_LayerClient):
    """The client whose gradient is that of the first layer: (m, d)."""

    @property
    def entries(self) -> Entries:
        net = self.batch.net
        return Entries((net.m, net.d), net.device, net.dtype, (1,))

    def gradient(self, factors: torch.Tensor | None = None) -> torch.Tensor:
        batch, residuals = self.batch, self.batch.scaled(factors)
        return gathered(
            batch.net, lambda rows, W: (batch.slopes(rows, W) * residuals) @ batch.X / batch.net.m
        )

    def sample_norms(self) -> torch.Tensor:
        batch = self.batch
        squares = total(batch.net, lambda rows, W: batch.slopes(rows, W).double().square().sum(dim=0))
        lengths = torch.linalg.vector_norm(batch.X.double(), dim=1)
        return batch.residuals.abs() * squares.sqrt() * lengths / batch.net.m

    def local_sum(self, batches: Sequence[torch.Tensor], rate: float) -> torch.Tensor:
        net = self.batch.net
        weights = torch.zeros(self.samples, self.units, device=net.device, dtype=net.dtype)
        for step in self.batch.steps(batches, rate):
            weights[step.used] += step.weights
        return weights.T @ self.batch.X
