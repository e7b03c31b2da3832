"""Bring your own gradient: the attack on arrays from any framework or a file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from attack.networks.activation import apply_activation
from attack.own.coordinates import Coordinates
from attack.own.entries import entry_findings
from attack.own.findings import errors
from attack.own.frame import Frame
from attack.own.gradient import SharedGradient
from attack.own.known import Known, activation_of
from attack.own.precision import Precision
from attack.own.problem import output_problem, row_problem
from attack.own.rows import explained_rows, outside, reconstruct_rows
from attack.reconstruction import Reconstruction
from attack.tensor.attack import tensor_attack
from attack.units import shift
from bounds import Activation, TensorAttack

#: Rows in one pass.
_BLOCK = 16_384


@dataclass(frozen=True)
class RowNoise:
    """Root mean square of the entries of dL/dW outside the features' span: of the gradient as it was given, and as posed
    (``standard``), where entries have the size of 1/m."""

    given: float
    standard: float


@dataclass(frozen=True, eq=False)
class GradientAttack:
    """The reconstruction in the original coordinates, the same as it was posed, and how far the gradient is explained by it.

    features (B, d), residuals (B,), labels (B,): float64, residuals r = f(x) - y whatever the loss. A label is f(xhat) - r
    with the network's own output weights and bias. method: which function gave the result, "tensor_attack" for dL/da,
    "sparse_recovery" (exact) or "first_layer_attack" for dL/dW. standard: what it returned, in ``frame``: with biases and
    dL/dW its features have the norms or signs that the biases give, its labels do not. power: mean of g^2 as posed, or of a
    squared entry of the rows; unexplained: share of it that least squares on sigma(W xhat + b), or on sigma'(w.xhat) xhat,
    leaves; neurons: how many were used. noise: for dL/dW; None for dL/da. inexact: why dL/dW was not solved exactly, None
    where it was; precision: of the entries that were solved exactly, and rounding the R, as posed, that it leaves open.
    """

    features: torch.Tensor
    residuals: torch.Tensor
    labels: torch.Tensor
    method: str
    standard: Reconstruction
    frame: Frame
    power: float
    unexplained: float
    neurons: int
    noise: RowNoise | None = None
    inexact: str | None = None
    precision: Precision | None = None
    rounding: float = 0.0

    @property
    def coordinates(self) -> Coordinates:
        """Those in which weights and biases, as they were given, are standard Gaussian."""
        return self.frame.coordinates


def attack_gradient(
    shared: SharedGradient,
    batch_size: int,
    activation: str | Activation | None = None,
    norms: Sequence[float] | None = None,
    scale: float | None = None,
    attack: TensorAttack | None = None,
    loss: str | None = None,
    seed: int = 2,
) -> GradientAttack:
    """The attack on a shared gradient, in coordinates where its weights and biases are standard Gaussian.

    dL/da: ``tensor_attack``. dL/dW: ``sparse_recovery``, which is exact to the precision of the entries, where it applies
    (ReLU and leaky ReLU, no noise), else ``first_layer_attack``; rows are divided by their output weights, and dropped where
    these vanish.

    activation: None for the one that came with the gradient, else ReLU; norms (B,): public norms of the features, 1 where
    None; scale: standard deviation of the weights, measured where None; loss: one of ``bounds.losses.LOSSES``, None for
    half-mse-sum. Does not repeat ``check_gradient``. The result does not depend on the unit of the gradient or, for ReLU
    and leaky ReLU, of the weights. Raises ``ValueError`` on arrays that do not fit, dL/dW without dL/db where biases vary,
    an activation that the attack does not cover; ``ReconstructionError`` where there is no result.
    """
    known = Known.of(batch_size, activation_of(shared, activation), norms, scale=scale, loss=loss)
    wrong = errors(entry_findings(shared, known))
    if wrong:
        raise ValueError("; ".join(e.text for e in wrong))
    solve = _from_outputs if shared.gradient.ndim == 1 else _from_rows
    return solve(shared, known, attack, seed)


def _from_outputs(
    shared: SharedGradient, known: Known, attack: TensorAttack | None, seed: int
) -> GradientAttack:
    frame = Frame.of(shared, known)
    problem = output_problem(shared, known, frame)
    found = tensor_attack(problem.observation, problem.net, known.B, attack, seed)
    B, m = known.B, shared.m
    X = frame.features(found)
    gram, right = torch.zeros(B, B, dtype=torch.float64), torch.zeros(B, dtype=torch.float64)
    forward = torch.zeros(B, dtype=torch.float64)
    g = problem.observation.gradient.double()
    for rows, hidden in _hidden(shared, known, frame, X):
        gram += hidden @ hidden.T
        right += hidden @ g[rows]
        forward += (hidden * _output_weights(shared, frame, rows)).sum(dim=1)
    total = float(g @ g)
    fitted = float(right @ (torch.linalg.pinv(gram, hermitian=True) @ right))
    return GradientAttack(
        *_given(shared, frame, found, forward=forward),
        "tensor_attack",
        found,
        frame,
        power=total / m,
        unexplained=max(0.0, 1 - fitted / total),
        neurons=m,
    )


def _from_rows(
    shared: SharedGradient, known: Known, attack: TensorAttack | None, seed: int
) -> GradientAttack:
    """Exact recovery where the activation and the precision allow it and every row is explained, else the tensor attack."""
    frame = Frame.of(shared, known)
    problem = row_problem(shared, known, frame)
    result = reconstruct_rows(problem, frame, attack, seed)
    found = result.reconstruction
    X = frame.features(found)
    forward = torch.zeros(known.B, dtype=torch.float64)
    for rows, hidden in _hidden(shared, known, frame, X):
        forward += (hidden * _output_weights(shared, frame, rows)).sum(dim=1)
    gradient = problem.observation.gradient
    share = explained_rows(problem.net, gradient, found.features)
    unit = frame.units.gradient
    noise = math.ldexp(outside(shift(shared.gradient, -unit)[problem.kept], X), unit)
    return GradientAttack(
        *_given(shared, frame, found, forward=forward),
        result.method,
        found,
        frame,
        power=share.power,
        unexplained=share.unexplained,
        neurons=problem.net.m,
        noise=RowNoise(noise, outside(gradient, found.features)),
        inexact=result.inexact,
        precision=None if result.inexact else problem.precision,
        rounding=result.rounding,
    )


def _given(
    shared: SharedGradient, frame: Frame, found: Reconstruction, *, forward: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features, residuals and labels in the units of the arrays; forward (B,): f(xhat) in those of the frame."""
    residuals = shift(found.residuals, frame.units.residuals)
    labels = shift(forward, frame.units.outputs) - residuals
    if shared.output_bias is not None:
        labels = labels + shared.output_bias.double()
    return shift(frame.features(found), frame.units.norms), residuals, labels


def _hidden(
    shared: SharedGradient, known: Known, frame: Frame, features: torch.Tensor
) -> Iterator[tuple[slice, torch.Tensor]]:
    """One pass over W: rows and ``sigma(W xhat + b)`` (B, rows), float64, in the frame's units."""
    units = frame.units
    guesses = features.to(shared.weight.dtype)
    for start in range(0, shared.m, _BLOCK):
        rows = slice(start, start + _BLOCK)
        inside = guesses @ shift(shared.weight[rows], -units.weights).T
        if shared.bias is not None:
            inside = inside + shift(shared.bias[rows], -units.weights - units.norms)
        yield rows, apply_activation(known.activation, inside).double()


def _output_weights(shared: SharedGradient, frame: Frame, rows: slice) -> torch.Tensor | float:
    unit = -frame.units.output_weight
    if shared.output_weight is None:
        return math.ldexp(1 / shared.m, unit)
    return shift(shared.output_weight[rows].double(), unit)
