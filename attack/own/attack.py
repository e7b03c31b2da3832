"""Bring your own gradient: arrays from any framework or a file, what about them does not fit the model, and the attack."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from attack.networks.activation import apply_activation
from attack.own.coordinates import Coordinates
from attack.own.entries import _shapes
from attack.own.gradient import SharedGradient, _errors, _norms
from attack.own.problem import _problem
from attack.own.rows import RowAttack, attack_rows
from attack.reconstruction import Reconstruction
from attack.tensor.attack import tensor_attack
from bounds import Activation, TensorAttack, checks, resolve_activation

# --- the attack -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class GradientAttack:
    """The reconstruction in the original coordinates, the same in standard ones, and how far g is explained by it.

    features (B, d), residuals (B,), labels (B,): float64, residuals those of the loss summed over the batch. A label is
    f(xhat) - r with the network's own output weights. standard: what the attack returned in ``coordinates``.
    power: mean of g^2; unexplained: share of it that least squares of g on sigma(W xhat + b) leaves; neurons: how many
    were used. rows: for dL/dW, the attack on its rows, of which power and unexplained then speak; None for dL/da.
    """

    features: torch.Tensor
    residuals: torch.Tensor
    labels: torch.Tensor
    standard: Reconstruction
    coordinates: Coordinates
    power: float
    unexplained: float
    neurons: int
    rows: RowAttack | None = None

    @property
    def method(self) -> str:
        """Which function gave the result: "tensor_attack", "sparse_recovery" or "first_layer_attack"."""
        return "tensor_attack" if self.rows is None else self.rows.method


def attack_gradient(
    shared: SharedGradient,
    batch_size: int,
    activation: str | Activation = "relu",
    norms: Sequence[float] | None = None,
    scale: float | None = None,
    attack: TensorAttack | None = None,
    loss: str = "sum",
    seed: int = 2,
) -> GradientAttack:
    """The attack on a shared gradient, in coordinates where its weights and biases are standard Gaussian.

    dL/da: ``tensor_attack``. dL/dW: ``sparse_recovery``, which is exact, where it applies (float64, ReLU and leaky ReLU, no
    noise), else ``first_layer_attack``; rows are divided by their output weights, and dropped where these vanish.

    norms (B,): public norms of the features, 1 where None; scale: standard deviation of the weights, measured where None;
    loss: "sum" or "mean" over the batch. Does not repeat ``check_gradient``. Raises ``ValueError`` on arrays that do not
    fit, dL/dW without dL/db where biases vary, an activation that the attack does not cover; ``ReconstructionError`` where
    there is no result.
    """
    B = checks.integer("batch_size", batch_size, 1)
    checks.choice("loss", loss, ("sum", "mean"))
    function = resolve_activation(activation)
    errors = _errors(_shapes(shared, B))
    if errors:
        raise ValueError("; ".join(e.text for e in errors))
    public = _norms(norms, B)
    if shared.gradient.ndim == 2:
        return _from_rows(
            shared, function, attack_rows(shared, B, function, public, scale, attack, loss, seed)
        )
    net, observation, there = _problem(shared, B, function, public, scale)
    if loss == "mean":
        observation = dataclasses.replace(observation, gradient=B * observation.gradient)
    found = tensor_attack(observation, net, B, attack, seed)
    back = there.undo(found)
    power, unexplained, forward = _explained(shared, function, back, observation.gradient)
    return GradientAttack(
        back.features, back.residuals, forward - back.residuals, found, there, power, unexplained, net.m
    )


def _from_rows(shared: SharedGradient, activation: Activation, rows: RowAttack) -> GradientAttack:
    """The same result, with features in the original coordinates and labels of the network's own output weights."""
    back = rows.coordinates.undo(rows.standard)
    forward = torch.zeros(len(back.features), dtype=torch.float64)
    for block, hidden in _hidden(shared, activation, back.features):
        forward += (hidden * _output_weights(shared, block)).sum(dim=1)
    return GradientAttack(
        back.features,
        back.residuals,
        forward - back.residuals,
        rows.standard,
        rows.coordinates,
        rows.power,
        rows.unexplained,
        rows.neurons,
        rows,
    )


def _explained(
    shared: SharedGradient, activation: Activation, found: Reconstruction, gradient: torch.Tensor
) -> tuple[float, float, torch.Tensor]:
    """Mean of g^2, the share that least squares on sigma(W xhat + b) leaves, and f(xhat) (B,). One pass over W."""
    B = found.features.shape[0]
    gram, right = torch.zeros(B, B, dtype=torch.float64), torch.zeros(B, dtype=torch.float64)
    forward = torch.zeros(B, dtype=torch.float64)
    g = gradient.double()
    for rows, hidden in _hidden(shared, activation, found.features):
        gram += hidden @ hidden.T
        right += hidden @ g[rows]
        forward += (hidden * _output_weights(shared, rows)).sum(dim=1)
    total = float(g @ g)
    fitted = float(right @ (torch.linalg.pinv(gram, hermitian=True) @ right))
    return total / shared.m, max(0.0, 1 - fitted / total), forward


def _hidden(
    shared: SharedGradient, activation: Activation, features: torch.Tensor
) -> Iterator[tuple[slice, torch.Tensor]]:
    """One pass over W: rows and ``sigma(W xhat + b)`` (B, rows), float64."""
    guesses = features.to(shared.weight.dtype)
    for start in range(0, shared.m, 16_384):
        rows = slice(start, start + 16_384)
        inside = guesses @ shared.weight[rows].T
        if shared.bias is not None:
            inside = inside + shared.bias[rows]
        yield rows, apply_activation(activation, inside).double()


def _output_weights(shared: SharedGradient, rows: slice) -> torch.Tensor | float:
    return 1 / shared.m if shared.output_weight is None else shared.output_weight[rows].double()
