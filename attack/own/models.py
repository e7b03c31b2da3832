"""A shared gradient as a function of features and residuals: what these leave of it, and how that changes with them.

dL/da has the entries ``sum_i r_i sigma(w_j.x_i + b_j)``; dL/dW, in the coordinates of its span V, the rows
``a_j sum_i r_i sigma'(w_j.x_i + b_j) V^T x_i``, and dL/db is the same without x_i.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from attack.networks.activation import slopes_of
from attack.own.frame import Frame
from attack.own.gradient import SharedGradient
from attack.own.leftover import explained_by_cells
from attack.units import shift
from bounds import Activation

#: Entries of a Jacobian, or of the weights, that are held at a time; half the step of central differences.
_ENTRIES, _STEP = 4_000_000, 1e-5

#: Standard errors of a preactivation within which a kink leaves a neuron's side open.
_SIDES = 5.0

#: Neurons, the first ones, on which the structure of what is left is looked for.
ENOUGH = 10_000


@dataclass(frozen=True, eq=False)
class Arrays:
    """Those of a shared gradient in the frame's units, float64 but for the weights."""

    weight: torch.Tensor
    gradient: torch.Tensor
    bias: torch.Tensor | None
    bias_gradient: torch.Tensor | None
    output_weight: torch.Tensor

    @staticmethod
    def of(shared: SharedGradient, frame: Frame) -> Arrays:
        units = frame.units

        def posed(values: torch.Tensor | None, unit: int) -> torch.Tensor | None:
            return None if values is None else shift(values.double(), -unit)

        own = posed(shared.output_weight, units.output_weight)
        if own is None:
            own = torch.full((shared.m,), math.ldexp(1 / shared.m, -units.output_weight), dtype=torch.float64)
        return Arrays(
            shift(shared.weight, -units.weights),
            shift(shared.gradient.double(), -units.gradient),
            posed(shared.bias, units.weights + units.norms),
            posed(shared.bias_gradient, units.gradient - units.norms),
            own,
        )

    def first(self, count: int) -> Arrays:
        """Those of the first neurons."""
        bias, last = self.bias, self.bias_gradient
        return Arrays(
            self.weight[:count],
            self.gradient[:count],
            None if bias is None else bias[:count],
            None if last is None else last[:count],
            self.output_weight[:count],
        )

    @property
    def count(self) -> int:
        return len(self.weight)

    def inside(self, rows: slice, features: torch.Tensor) -> torch.Tensor:
        """Preactivations (n, B) of some neurons."""
        inside = self.weight[rows].double() @ features.T
        return inside if self.bias is None else inside + self.bias[rows, None]

    def everywhere(self, features: torch.Tensor) -> torch.Tensor:
        """Preactivations (m, B)."""
        return torch.cat([self.inside(rows, features) for rows in _blocks(self.count, self.weight.shape[1])])


@dataclass(frozen=True, eq=False)
class Rows:
    """dL/dW and dL/db in the coordinates of a span V (d, B)."""

    arrays: Arrays
    activation: Activation
    V: torch.Tensor

    @cached_property
    def data(self) -> torch.Tensor:
        """(count, B), and one more column for dL/db."""
        rows, last = self.arrays.gradient @ self.V, self.arrays.bias_gradient
        return rows if last is None else torch.cat([rows, last[:, None]], dim=1)

    @cached_property
    def neurons(self) -> torch.Tensor:
        return torch.cat(
            [self.arrays.weight[rows].double() @ self.V for rows in _blocks(self.arrays.count, len(self.V))]
        )

    @cached_property
    def power(self) -> float:
        return float(self.data.square().sum())

    def inside(self, features: torch.Tensor) -> torch.Tensor:
        inside = self.neurons @ features.T
        return inside if self.arrays.bias is None else inside + self.arrays.bias[:, None]

    def slopes(self, features: torch.Tensor) -> torch.Tensor:
        """``a_j sigma'(w_j.x_i + b_j)`` (count, B)."""
        return self.arrays.output_weight[:, None] * slopes_of(self.activation, self.inside(features))

    def columns(self, features: torch.Tensor) -> torch.Tensor:
        """What each entry of a slope is multiplied with: features (B, B), and a one for dL/db."""
        if self.arrays.bias_gradient is None:
            return features
        return torch.cat([features, features.new_ones(len(features), 1)], dim=1)

    def residuals(self, features: torch.Tensor) -> torch.Tensor:
        design = self.slopes(features)[:, None, :] * self.columns(features).T
        return _regressed(design.flatten(0, 1), self.data.flatten())

    def at(self, features: torch.Tensor) -> RowPlace:
        """With the residuals that leave least."""
        return RowPlace(self, features, self.residuals(features))

    def left(self, features: torch.Tensor, residuals: torch.Tensor) -> float:
        """Sum of the squares."""
        return float(self._remainder(features, residuals).square().sum())

    def share(self, features: torch.Tensor, residuals: torch.Tensor, error: float) -> float:
        """Of the neurons whose sides of the kinks the features tell: one on the wrong side leaves all of its row. Of all
        where these are fewer than half of them."""
        Z, rows = self.inside(features), self._remainder(features, residuals).square().sum(dim=1)
        near = _SIDES * error * torch.linalg.vector_norm(self.neurons, dim=1)[:, None]
        clear = torch.ones(len(Z), dtype=torch.bool)
        for kink in self.activation.kinks:
            clear &= ((Z - kink).abs() > near).all(dim=1)
        if 2 * int(clear.sum()) < len(clear):
            return float(rows.sum()) / self.power
        return float(rows[clear].sum() / self.data[clear].square().sum())

    def structure(self, features: torch.Tensor, residuals: torch.Tensor) -> float:
        some = Rows(self.arrays.first(ENOUGH), self.activation, self.V)
        left = some._remainder(features, residuals)
        return explained_by_cells(left, some.inside(features), some.arrays.output_weight)

    def _remainder(self, features: torch.Tensor, residuals: torch.Tensor) -> torch.Tensor:
        return self.data - (self.slopes(features) * residuals) @ self.columns(features)

    def blocks(
        self, features: torch.Tensor, residuals: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        B = len(residuals)
        columns, Z = self.columns(features), self.inside(features)
        slopes = self.slopes(features)
        bends = self.arrays.output_weight[:, None] * _second_derivative(self.activation, Z) * residuals
        left = self._remainder(features, residuals)
        own = torch.zeros_like(columns[None, :, :, None] * features[None, :, None, :])
        own[:, :, range(B), range(B)] = 1.0
        for rows in _blocks(self.arrays.count, columns.shape[1] * (B * B + B)):
            turned = bends[rows, :, None, None] * columns[:, :, None] * self.neurons[rows, None, None, :]
            moved = turned + (residuals * slopes[rows])[:, :, None, None] * own
            jacobian = [moved.transpose(1, 2).flatten(2), slopes[rows, None, :] * columns.T]
            yield left[rows].flatten(), torch.cat(jacobian, dim=2).flatten(0, 1)


@dataclass(frozen=True, eq=False)
class RowPlace:
    """Features (B, q) and residuals (B,) of rows, as ``attack.likelihood.solve`` takes them."""

    model: Rows
    features: torch.Tensor
    residuals: torch.Tensor

    @property
    def radii(self) -> None:
        """Norms are free."""
        return

    def moved(self, features: torch.Tensor) -> RowPlace:
        """With other features, and the residuals that leave least."""
        return self.model.at(features)

    @cached_property
    def loss(self) -> float:
        """Half the sum of the squares that are left."""
        return 0.5 * self.model.left(self.features, self.residuals)

    @cached_property
    def normal(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The normal equations of features and residuals: matrix and right side."""
        unknowns = self.features.numel() + len(self.residuals)
        gram = torch.zeros(unknowns, unknowns, dtype=torch.float64)
        right = torch.zeros(unknowns, dtype=torch.float64)
        for left, jacobian in self.model.blocks(self.features, self.residuals):
            gram += jacobian.T @ jacobian
            right += jacobian.T @ left
        return gram, right

    @cached_property
    def _made_up(self) -> torch.Tensor:
        """What a change of the residuals makes up for one of the features."""
        size, gram = self.features.numel(), self.normal[0]
        return gram[:size, size:] @ torch.linalg.pinv(gram[size:, size:], hermitian=True)

    @property
    def descent(self) -> torch.Tensor:
        size, right = self.features.numel(), self.normal[1]
        return (right[:size] - self._made_up @ right[size:]).reshape(self.features.shape)

    @property
    def matrix(self) -> torch.Tensor:
        size, gram = self.features.numel(), self.normal[0]
        return gram[:size, :size] - self._made_up @ gram[size:, :size]


def _regressed(design: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Least squares by normal equations, refined twice: what rounding leaves once is regressed again."""
    inverse = torch.linalg.pinv(design.T @ design, hermitian=True)
    found = inverse @ (design.T @ values)
    for _ in range(2):
        found = found + inverse @ (design.T @ (values - design @ found))
    return found


def _blocks(count: int, width: int) -> Iterator[slice]:
    size = max(1, _ENTRIES // width)
    return (slice(start, start + size) for start in range(0, count, size))


def _second_derivative(activation: Activation, t: torch.Tensor) -> torch.Tensor:
    """By central differences; zero at kinks, where the derivative jumps."""
    bend = (slopes_of(activation, t + _STEP) - slopes_of(activation, t - _STEP)) / (2 * _STEP)
    for kink in activation.kinks:
        bend = torch.where((t - kink).abs() <= 2 * _STEP, 0.0, bend)
    return bend
