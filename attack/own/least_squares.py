"""Least squares of a shared gradient on the model itself, every feature free: what the gradient tells of the norms, and how
well.

The moments of a gradient say little of a norm; the activation's shape does, and so do biases. From the features that an
attack has found, Levenberg and Marquardt's method minimises the squares of ``g_j - sum_i r_i sigma(w_j.x_i + b_j)``, or of
the rows ``G_j - a_j sum_i r_i sigma'(w_j.x_i + b_j) x_i`` in the coordinates of their span, with dL/db as one more column.
Weights may have any distribution. Without noise the features are exact wherever the gradient determines them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch

from attack.networks.activation import apply_activation, apply_derivative
from attack.own.frame import Frame
from attack.own.gradient import SharedGradient
from attack.own.known import Known
from attack.rows.space import row_space
from attack.units import shift
from bounds import Activation

#: Steps at most, and the damping beyond which none makes the squares smaller.
STEPS, STUCK = 100, 1e4

#: Multiplications in one pass: where all neurons would take more, the first ones serve, down to ``LEAST`` values for each
#: unknown.
WORK, LEAST = 5e9, 4

#: Combinations of unknowns that change the gradient by less than this fraction of what each of them does are not determined.
SINGULAR = 1e-13

#: Squares below this share of the gradient's power are rounding in double precision.
_ROUNDING = 1e-30

#: Entries of a Jacobian that are held at a time; half the step of central differences.
_ENTRIES, _STEP = 4_000_000, 1e-5


@dataclass(frozen=True, eq=False)
class LeastSquares:
    """features (B, d) and residuals (B,), float64, in the units of the frame, residuals of the gradient as it is given.

    norm_errors (B,): standard errors of the features' norms. unexplained: share of the power that is left; error: R of the
    features where what is left is independent of the neurons, infinite where the gradient does not determine them.
    outside: for dL/dW, the share that noise of the size found outside the features' span would leave, else None.
    """

    features: torch.Tensor
    residuals: torch.Tensor
    norm_errors: torch.Tensor
    unexplained: float
    error: float
    outside: float | None = None

    @property
    def norms(self) -> torch.Tensor:
        """Norms (B,) in the frame's units."""
        return torch.linalg.vector_norm(self.features, dim=1)

    @property
    def determined(self) -> bool:
        """Whether the gradient determines the features."""
        return math.isfinite(self.error)


def least_squares(
    shared: SharedGradient, known: Known, frame: Frame, start: torch.Tensor
) -> LeastSquares | None:
    """From features (B, d) in the frame's units; None where there are more unknowns than time or values allow."""
    fit = _outputs_fit if shared.gradient.ndim == 1 else _rows_fit
    return fit(shared, known, frame, start)


def _outputs_fit(
    shared: SharedGradient, known: Known, frame: Frame, start: torch.Tensor
) -> LeastSquares | None:
    B, d = start.shape
    arrays = _Arrays.of(shared, frame)
    count = _affordable(shared.m, unknowns=B * (d + 1), columns=1)
    if not count:
        return None
    found = _minimise(_Outputs(arrays.first(count), known.activation), start.double())
    whole = _Outputs(arrays, known.activation)
    return LeastSquares(
        found.features,
        found.residuals,
        found.norm_errors,
        whole.left(found.features, found.residuals) / whole.power,
        math.sqrt(float(found.variances.sum()) / B),
    )


def _rows_fit(shared: SharedGradient, known: Known, frame: Frame, start: torch.Tensor) -> LeastSquares | None:
    B, d = start.shape
    arrays = _Arrays.of(shared, frame)
    count = _affordable(shared.m, unknowns=B * (B + 1), columns=B)
    if not count:
        return None
    V = row_space(arrays.gradient, B).V
    found = _minimise(_Rows(arrays.first(count), known.activation, V), start.double() @ V)
    whole = _Rows(arrays, known.activation, V)
    # Outside the span every coordinate of r_i x_i is one more unknown, on which the gradient depends linearly.
    across = arrays.gradient - arrays.gradient @ V @ V.T
    noise = float(across.square().sum()) / max(1, (d - B) * shared.m)
    design = whole.slopes(found.features)
    spread = torch.linalg.pinv(design.T @ design, hermitian=True).diagonal() / found.residuals.square()
    variance = float(found.variances.sum()) + (d - B) * noise * float(spread.sum())
    return LeastSquares(
        found.features @ V.T,
        found.residuals,
        found.norm_errors,
        whole.left(found.features, found.residuals) / whole.power,
        math.sqrt(variance / B),
        outside=noise * whole.data.numel() / whole.power,
    )


def _affordable(m: int, *, unknowns: int, columns: int) -> int:
    """How many neurons are fitted; 0 where these are too few."""
    count = min(m, int(WORK / (columns * unknowns**2)))
    return count if columns * count >= LEAST * unknowns else 0


@dataclass(frozen=True, eq=False)
class _Arrays:
    """Those of a shared gradient in the frame's units, float64."""

    weight: torch.Tensor
    gradient: torch.Tensor
    bias: torch.Tensor | None
    bias_gradient: torch.Tensor | None
    output_weight: torch.Tensor

    @staticmethod
    def of(shared: SharedGradient, frame: Frame) -> _Arrays:
        units = frame.units

        def posed(values: torch.Tensor | None, unit: int) -> torch.Tensor | None:
            return None if values is None else shift(values.double(), -unit)

        own = posed(shared.output_weight, units.output_weight)
        if own is None:
            own = torch.full((shared.m,), math.ldexp(1 / shared.m, -units.output_weight), dtype=torch.float64)
        return _Arrays(
            shift(shared.weight.double(), -units.weights),
            shift(shared.gradient.double(), -units.gradient),
            posed(shared.bias, units.weights + units.norms),
            posed(shared.bias_gradient, units.gradient - units.norms),
            own,
        )

    def first(self, count: int) -> _Arrays:
        """Those of the first neurons."""
        named = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return _Arrays(**{name: None if value is None else value[:count] for name, value in named.items()})

    @property
    def count(self) -> int:
        return len(self.weight)

    def inside(self, rows: slice, features: torch.Tensor) -> torch.Tensor:
        """Preactivations (n, B)."""
        inside = self.weight[rows] @ features.T
        return inside if self.bias is None else inside + self.bias[rows, None]


class _Model(Protocol):
    """What features (B, q) and residuals (B,) leave of the data, with its Jacobian (n, B q + B) or None, block by block."""

    power: float

    def residuals(self, features: torch.Tensor) -> torch.Tensor:
        """Those that leave least."""
        ...

    def left(self, features: torch.Tensor, residuals: torch.Tensor) -> float:
        """Sum of the squares."""
        ...

    def blocks(
        self, features: torch.Tensor, residuals: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """What is left (n,) and the Jacobian (n, B q + B) of what is modelled."""
        ...


@dataclass(frozen=True, eq=False)
class _Outputs:
    """dL/da."""

    arrays: _Arrays
    activation: Activation

    @cached_property
    def power(self) -> float:
        return float(self.arrays.gradient.square().sum())

    def residuals(self, features: torch.Tensor) -> torch.Tensor:
        hidden = apply_activation(self.activation, self.arrays.inside(slice(None), features))
        return _regressed(hidden, self.arrays.gradient)

    def left(self, features: torch.Tensor, residuals: torch.Tensor) -> float:
        hidden = apply_activation(self.activation, self.arrays.inside(slice(None), features))
        return float((self.arrays.gradient - hidden @ residuals).square().sum())

    def blocks(
        self, features: torch.Tensor, residuals: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for rows in _blocks(self.arrays.count, features.numel() + len(residuals)):
            Z = self.arrays.inside(rows, features)
            hidden = apply_activation(self.activation, Z)
            slopes = residuals * _derivative(self.activation, Z)
            moved = (slopes[:, :, None] * self.arrays.weight[rows, None, :]).flatten(1)
            yield self.arrays.gradient[rows] - hidden @ residuals, torch.cat([moved, hidden], dim=1)


@dataclass(frozen=True, eq=False)
class _Rows:
    """dL/dW and dL/db in the coordinates of a span V (d, B)."""

    arrays: _Arrays
    activation: Activation
    V: torch.Tensor

    @cached_property
    def data(self) -> torch.Tensor:
        """(count, B), and one more column for dL/db."""
        rows, last = self.arrays.gradient @ self.V, self.arrays.bias_gradient
        return rows if last is None else torch.cat([rows, last[:, None]], dim=1)

    @cached_property
    def neurons(self) -> torch.Tensor:
        return self.arrays.weight @ self.V

    @cached_property
    def power(self) -> float:
        return float(self.data.square().sum())

    def inside(self, features: torch.Tensor) -> torch.Tensor:
        inside = self.neurons @ features.T
        return inside if self.arrays.bias is None else inside + self.arrays.bias[:, None]

    def slopes(self, features: torch.Tensor) -> torch.Tensor:
        """``a_j sigma'(w_j.x_i + b_j)`` (count, B)."""
        return self.arrays.output_weight[:, None] * _derivative(self.activation, self.inside(features))

    def columns(self, features: torch.Tensor) -> torch.Tensor:
        """What each entry of a slope is multiplied with: features (B, B), and a one for dL/db."""
        if self.arrays.bias_gradient is None:
            return features
        return torch.cat([features, features.new_ones(len(features), 1)], dim=1)

    def residuals(self, features: torch.Tensor) -> torch.Tensor:
        design = self.slopes(features)[:, None, :] * self.columns(features).T
        return _regressed(design.flatten(0, 1), self.data.flatten())

    def left(self, features: torch.Tensor, residuals: torch.Tensor) -> float:
        made = (self.slopes(features) * residuals) @ self.columns(features)
        return float((self.data - made).square().sum())

    def blocks(
        self, features: torch.Tensor, residuals: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        B = len(residuals)
        columns, Z = self.columns(features), self.inside(features)
        slopes = self.slopes(features)
        bends = self.arrays.output_weight[:, None] * _second_derivative(self.activation, Z) * residuals
        left = self.data - (slopes * residuals) @ columns
        own = torch.zeros_like(columns[None, :, :, None] * features[None, :, None, :])
        own[:, :, range(B), range(B)] = 1.0
        for rows in _blocks(self.arrays.count, columns.shape[1] * (B * B + B)):
            turned = bends[rows, :, None, None] * columns[:, :, None] * self.neurons[rows, None, None, :]
            moved = turned + (residuals * slopes[rows])[:, :, None, None] * own
            jacobian = [moved.transpose(1, 2).flatten(2), slopes[rows, None, :] * columns.T]
            yield left[rows].flatten(), torch.cat(jacobian, dim=2).flatten(0, 1)


@dataclass(frozen=True, eq=False)
class _Solved:
    """left: sum of squares; variances (B,) of the features' errors, infinite where they are not determined."""

    features: torch.Tensor
    residuals: torch.Tensor
    left: float
    variances: torch.Tensor
    norm_errors: torch.Tensor


def _minimise(model: _Model, start: torch.Tensor) -> _Solved:
    """Steps of Levenberg and Marquardt, each unknown in units of what it changes."""
    features, residuals = start, model.residuals(start)
    left, damping = model.left(features, residuals), 1e-3
    size = features.numel()
    for _ in range(STEPS):
        if left <= _ROUNDING * model.power:
            break
        gram, right = _normal_equations(model, features, residuals)
        units = gram.diagonal().sqrt().clamp_min(torch.finfo(gram.dtype).tiny)
        gram, right = gram / units[:, None] / units, right / units
        before = left
        while damping <= STUCK:
            damped = gram + damping * torch.eye(len(right), dtype=gram.dtype)
            step = torch.linalg.lstsq(damped, right[:, None]).solution[:, 0] / units
            there = features + step[:size].reshape(features.shape)
            moved = there, model.residuals(there)
            trial = model.left(*moved)
            if trial < left:
                (features, residuals), left, damping = moved, trial, damping / 10
                break
            damping *= 10
        if damping > STUCK or left > (1 - 1e-6) * before:
            break
    return _Solved(features, residuals, left, *_errors(model, features, residuals))


def _normal_equations(
    model: _Model, features: torch.Tensor, residuals: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    unknowns = features.numel() + len(residuals)
    gram, right = (
        torch.zeros(unknowns, unknowns, dtype=torch.float64),
        torch.zeros(unknowns, dtype=torch.float64),
    )
    for left, jacobian in model.blocks(features, residuals):
        gram += jacobian.T @ jacobian
        right += jacobian.T @ left
    return gram, right


def _errors(
    model: _Model, features: torch.Tensor, residuals: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Variances of the features' errors and standard errors of their norms, (B,) each: what is left is taken for independent
    of the neurons, of a size of its own at each of them (White 1980), as rounding has it."""
    B, q = features.shape
    gram, _ = _normal_equations(model, features, residuals)
    units = gram.diagonal().sqrt().clamp_min(torch.finfo(gram.dtype).tiny)
    values, vectors = torch.linalg.eigh(gram / units[:, None] / units)
    if float(values[0]) < SINGULAR * float(values[-1]):
        unknown = torch.full((B,), math.inf, dtype=torch.float64)
        return unknown, unknown
    inverse = (vectors / values) @ vectors.T / units[:, None] / units
    scores = torch.zeros_like(gram)
    for left, jacobian in model.blocks(features, residuals):
        weighted = jacobian * left[:, None]
        scores += weighted.T @ weighted
    covariance = (inverse @ scores @ inverse)[: B * q, : B * q].reshape(B, q, B, q)
    own = covariance[range(B), :, range(B), :]
    directions = features / torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return own.diagonal(dim1=1, dim2=2).sum(dim=1), torch.einsum(
        "ia,iab,ib->i", directions, own, directions
    ).clamp_min(0).sqrt()


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


def _derivative(activation: Activation, t: torch.Tensor) -> torch.Tensor:
    if activation.derivative is not None:
        return apply_derivative(activation, t)
    return (apply_activation(activation, t + _STEP) - apply_activation(activation, t - _STEP)) / (2 * _STEP)


def _second_derivative(activation: Activation, t: torch.Tensor) -> torch.Tensor:
    """By central differences; zero at kinks, where the derivative jumps."""
    bend = (_derivative(activation, t + _STEP) - _derivative(activation, t - _STEP)) / (2 * _STEP)
    for kink in activation.kinks:
        bend = torch.where((t - kink).abs() <= 2 * _STEP, 0.0, bend)
    return bend
