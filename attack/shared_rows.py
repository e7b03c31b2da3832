"""A shared gradient of the first layer, dL/dW: what does not fit the model, and the attack in standard coordinates.

With output weights a_j the rows are ``G_j = a_j sum_i r_i sigma'(w_j.x_i + b_j) x_i``, and dL/db_j is the same sum without
x_i. With ``w = s w'``, ``b = mean + t b'`` and ``x' = (s x, t)`` (attack/weights.py) the network of the theory, with output
weights 1/m, has the rows ``G'_j = (1/m) sum_i r_i sigma'(w_j.x_i + b_j) x'_i = (s G_j, t dL/db_j) / (m a_j)``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.special import ndtri

from attack.findings import Finding, judged
from attack.first_layer import FirstLayerObservation, first_layer_attack
from attack.network import TwoLayerNet, apply_derivative
from attack.sparse_recovery import slopes, sparse_recovery
from attack.tensor_attack import Reconstruction, ReconstructionError
from attack.weights import STANDARD_ERRORS, Coordinates
from bounds import Activation, NoDefense, TensorAttack

if TYPE_CHECKING:
    from attack.gradient_file import SharedGradient

#: Singular values of the rows below this fraction of the largest count as zero: rounding in single precision leaves less.
RANK_TOLERANCE = 1e-6
#: Output weights below this fraction of their root mean square carry nothing but rounding: their rows are left out.
NEGLIGIBLE = 1e-3
#: Rows in one pass, and points of the average over Gaussian preactivations.
_BLOCK, _POINTS = 16_384, 4001


def carrying(shared: SharedGradient) -> torch.Tensor:
    """Which neurons have an output weight by which their row can be divided: booleans (m,)."""
    if shared.output_weight is None:
        return torch.ones(shared.m, dtype=torch.bool)
    size = shared.output_weight.double().abs()
    return size > NEGLIGIBLE * float(size.square().mean().sqrt())


def scaled_rows(shared: SharedGradient, there: Coordinates) -> torch.Tensor:
    """``(s G_j, t dL/db_j)``, (m, d) or, with biases of positive spread, (m, d + 1).

    Raises ``ValueError`` where the biases are one more coordinate and there is no dL/db.
    """
    rows = shared.gradient if there.scale == 1.0 else there.scale * shared.gradient
    if not there.bias_scale:
        return rows
    if shared.bias_gradient is None:
        raise ValueError(_no_bias_gradient(there))
    return torch.cat([rows, there.bias_scale * shared.bias_gradient.to(rows)[:, None]], dim=1)


def _no_bias_gradient(there: Coordinates) -> str:
    return (
        f"bias_gradient, dL/db of shape (m,), must be given with dL/dW: biases of standard deviation "
        f"{there.bias_scale:.3g} are one more coordinate of the features; got None"
    )


# --- what does not fit ------------------------------------------------------------------------------------------------


def row_findings(
    shared: SharedGradient, B: int, activation: Activation, norms: Sequence[float], scale: float | None
) -> tuple[Finding, ...]:
    """Findings about the rows (m, d) and, where the biases vary, dL/db. Only errors where the attack cannot start."""
    there = Coordinates.measured(shared.weight, shared.bias, scale)
    keep = carrying(shared)
    left = int(keep.sum())
    if left <= B:
        text = f"{left} neurons have an output weight other than zero; more than B = {B} are needed"
        return (Finding("output weights", "error", text, float(left), float(B)),)
    if there.bias_scale and shared.bias_gradient is None:
        return (Finding("bias_gradient", "error", _no_bias_gradient(there)),)
    rows = scaled_rows(shared, there)
    if not bool(rows[keep].any()):
        return (Finding("zero rows", "error", "the gradient is zero: no feature can have made it", 1.0, 0.0),)
    found = (
        _zero_rows(rows[keep], activation, there.observed_norms(norms), there.bias_mean),
        _rank(rows[keep], B),
    )
    return found if left == shared.m else (_dropped(shared, rows, keep), *found)


def _dropped(shared: SharedGradient, rows: torch.Tensor, keep: torch.Tensor) -> Finding:
    """Rows that are left out, and whether they are as small as their output weights."""
    left = shared.m - int(keep.sum())
    size, rest = (float(rows[which].double().square().mean().sqrt()) for which in (keep, ~keep))
    text = (
        f"{left} output weights are zero or below {NEGLIGIBLE:g} of their root mean square: these rows are left out; "
        f"they are {rest / size:.2g} times as large as the others"
    )
    return judged("output weights", rest / size, 10 * NEGLIGIBLE, text)


def _zero_rows(rows: torch.Tensor, activation: Activation, norms: Sequence[float], shift: float) -> Finding:
    """Rows without an entry, against the share of neurons at which sigma' vanishes for the feature where that is least."""
    zeros = float((~rows.any(dim=1)).double().mean())
    flat = 0.0
    if activation.derivative is not None:
        z = ndtri((np.arange(_POINTS) + 0.5) / _POINTS)
        flat = min(float(np.mean(np.asarray(activation.derivative(n * z + shift)) == 0)) for n in norms)
    threshold = flat + STANDARD_ERRORS * math.sqrt(max(flat * (1 - flat), 1 / len(rows)) / len(rows))
    text = (
        f"{zeros:.1%} of the rows are exactly zero; expected at most {flat:.1%}: beyond, pruning or dropout"
    )
    return judged("zero rows", zeros, threshold, text)


def _rank(rows: torch.Tensor, B: int) -> Finding:
    """Rank without noise; with noise, how many squared singular values stand above its edge."""
    values = torch.linalg.svdvals(torch.linalg.qr(rows.double(), mode="r")[1])
    rank, columns = int((values > RANK_TOLERANCE * values[0]).sum()), rows.shape[1]
    if rank < columns or rank == B:
        text = f"dL/dW has numerical rank {rank} without noise: estimated B = {rank}, told {B}"
        return Finding("rank", "ok" if rank == B else "warning", text, float(rank), float(B))
    above = _above_noise(values.square(), rows.shape[0])
    text = f"dL/dW has full rank {rank}, so that noise is in it: {above} singular values stand above: estimated B = {above}"
    return Finding("rank", "ok" if above == B else "warning", f"{text}, told {B}", float(above), float(B))


def _above_noise(squares: torch.Tensor, m: int) -> int:
    """How many of the squared singular values, largest first, stand above the edge ``mean (1 + 2 sqrt(k/m) + k/m)`` that
    noise of the size of the others would show, and three standard errors of an entry."""
    n = len(squares)
    for k in range(n - 1):
        ratio = (n - k) / m
        edge = float(squares[k:].mean()) * (1 + 2 * math.sqrt(ratio) + ratio + 3 * math.sqrt(2 / m))
        if float(squares[k]) <= edge:
            return k
    return n - 1


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
