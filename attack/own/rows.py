"""A shared gradient of the first layer, dL/dW: what does not fit the model, and the attack in standard coordinates.

With output weights a_j the rows are ``G_j = a_j sum_i r_i sigma'(w_j.x_i + b_j) x_i``, and dL/db_j is the same sum without
x_i. With ``w = s w'``, ``b = mean + t b'`` and ``x' = (s x, t)`` (see ``Coordinates``) the network of the theory, with
output weights 1/m, has the rows ``G'_j = (1/m) sum_i r_i sigma'(w_j.x_i + b_j) x'_i = (s G_j, t dL/db_j) / (m a_j)``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from attack.networks.activation import apply_derivative
from attack.networks.two_layer import TwoLayerNet
from attack.own.coordinates import Coordinates
from attack.reconstruction import Reconstruction, ReconstructionError
from attack.rows.observation import FirstLayerObservation
from attack.rows.sparse_recovery import slopes, sparse_recovery
from attack.rows.tensor import first_layer_attack
from bounds import Activation, NoDefense, TensorAttack

if TYPE_CHECKING:
    from attack.own.gradient import SharedGradient
from attack.own.row_problem import RANK_TOLERANCE, carrying, scaled_rows

#: Rows in one pass, and points of the average over Gaussian preactivations.
_BLOCK, _POINTS = 16_384, 4001


# --- the attack -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class RowAttack:
    """What was found from the rows, in ``coordinates``, and how far they are explained.

    standard: its features have the norms or signs that the biases give (``_by_bias``), its labels do not.
    method: "sparse_recovery" (exact) or "first_layer_attack"; neurons: rows that were used; power: mean square of a row's
    entry; unexplained: share of the rows' power that least squares on sigma'(w.xhat) xhat leaves; standard_noise: root mean
    square of the entries outside the features' span; noise: the same of the gradient as it was given.
    """

    standard: Reconstruction
    coordinates: Coordinates
    method: str
    neurons: int
    power: float
    unexplained: float
    standard_noise: float
    noise: float


def attack_rows(
    shared: SharedGradient,
    B: int,
    activation: Activation,
    norms: Sequence[float],
    scale: float | None,
    attack: TensorAttack | None,
    loss: str,
    seed: int,
) -> RowAttack:
    """Exact recovery where the activation and the precision allow it and every row is explained, else the tensor attack.

    Arguments as of ``attack_gradient``. Raises ``ValueError`` where dL/db is missing, too few neurons have an output weight,
    or the activation is not covered; ``ReconstructionError`` where there is no result.
    """
    net, observation, there = _problem(shared, B, activation, norms, scale, loss)
    found, method = _reconstruct(net, observation, attack, seed)
    if there.bias_scale:
        found = _by_bias(found, there.bias_scale, method == "sparse_recovery")
    gradient = observation.gradient
    power, unexplained = _explained(net, gradient, found.features)
    back = there.undo(found).features
    kept = shared.gradient[carrying(shared)]
    return RowAttack(
        found,
        there,
        method,
        net.m,
        power,
        unexplained,
        _outside(gradient, found.features),
        _outside(kept, back),
    )


def _problem(
    shared: SharedGradient,
    B: int,
    activation: Activation,
    norms: Sequence[float],
    scale: float | None,
    loss: str,
) -> tuple[TwoLayerNet, FirstLayerObservation, Coordinates]:
    keep = carrying(shared)
    left = int(keep.sum())
    if left <= B:
        raise ValueError(f"output_weight must have more than B = {B} entries other than zero; got {left}")
    there = Coordinates.measured(shared.weight, shared.bias, scale)
    rows = scaled_rows(shared, there)[keep]
    bias = None if shared.bias is None else shared.bias[keep]
    net = there.network(TwoLayerNet.from_weights(shared.weight[keep], activation), bias)
    summed = B if loss == "mean" else 1
    if shared.output_weight is None:
        rows = rows * (summed * shared.m / left)
    else:
        rows = rows * (summed / (left * shared.output_weight[keep].to(rows)))[:, None]
    return net, FirstLayerObservation(rows, B, there.observed_norms(norms), NoDefense()), there


def _reconstruct(
    net: TwoLayerNet, observation: FirstLayerObservation, attack: TensorAttack | None, seed: int
) -> tuple[Reconstruction, str]:
    if observation.gradient.dtype == torch.float64 and _piecewise_linear(net.activation):
        try:
            return sparse_recovery(observation, net, seed=seed), "sparse_recovery"
        except ReconstructionError:
            pass  # noise, or too many features: the tensor attack may still serve
    return first_layer_attack(observation, net, attack=attack, seed=seed), "first_layer_attack"


def _by_bias(found: Reconstruction, known: float, exact: bool) -> Reconstruction:
    """With biases the last coordinate of every feature is known. Its size gives the norm where recovery is exact (public
    norms then play no part), its sign the sign that an odd activation leaves open."""
    last = found.features[:, -1]
    norms = torch.linalg.vector_norm(found.features, dim=1)
    diagnostics = found.diagnostics
    if exact and bool((last > RANK_TOLERANCE * norms).all()):
        factors = known / last
        diagnostics = dataclasses.replace(diagnostics, status="ok", warnings=())
    elif diagnostics.sign_free and bool((last.abs() > known / 2).all()):
        factors = torch.sign(last)
        diagnostics = dataclasses.replace(diagnostics, sign_free=False)
    else:
        return found
    return dataclasses.replace(
        found,
        features=factors[:, None] * found.features,
        residuals=found.residuals / factors,
        diagnostics=diagnostics,
    )


def _piecewise_linear(activation: Activation) -> bool:
    try:
        slopes(activation)
    except ValueError:
        return False
    return True


def _explained(net: TwoLayerNet, gradient: torch.Tensor, features: torch.Tensor) -> tuple[float, float]:
    """Mean square of a row's entry, and the share of the rows' power that least squares leaves. One pass.

    The power that is left is summed over the entries themselves: a difference of powers would hide what is below rounding.
    """
    B = features.shape[0]
    gram, right = torch.zeros(B, B, dtype=torch.float64), torch.zeros(B, dtype=torch.float64)
    active = torch.empty(B, net.m, dtype=torch.float64)
    for rows, W in net.blocks():
        active[:, rows] = apply_derivative(net.activation, features.to(net.dtype) @ W.T).double()
        gram += active[:, rows] @ active[:, rows].T
        right += (active[:, rows] * (features @ gradient[rows].double().T)).sum(dim=1)
    strengths = torch.linalg.pinv(gram * (features @ features.T), hermitian=True) @ right
    total = left = 0.0
    for start in range(0, net.m, _BLOCK):
        block = slice(start, start + _BLOCK)
        g = gradient[block].double()
        total += float(g.square().sum())
        left += float((g - active[:, block].T @ (strengths[:, None] * features)).square().sum())
    return total / gradient.numel(), left / total


def _outside(gradient: torch.Tensor, features: torch.Tensor) -> float:
    """Root mean square of the gradient's entries in directions orthogonal to the features; 0 where there are none."""
    B, d = features.shape
    if d == B:
        return 0.0
    V = torch.linalg.qr(features.T)[0]
    power = 0.0
    for g in gradient.split(_BLOCK):
        rows = g.double()
        power += float((rows - rows @ V @ V.T).square().sum())
    return math.sqrt(power / (len(gradient) * (d - B)))
