"""The rows of a shared gradient of the first layer: the attack on them as posed, and how far they are explained."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch

from attack.networks.activation import apply_derivative
from attack.networks.two_layer import TwoLayerNet
from attack.own.frame import Frame
from attack.own.known import recoverable
from attack.own.problem import RowProblem
from attack.reconstruction import Reconstruction, ReconstructionError
from attack.rows.sparse_recovery import recover
from attack.rows.tensor import first_layer_attack
from attack.stream import gathered, total
from bounds import RowAttack, TensorAttack

#: Rows in one pass.
_BLOCK = 16_384

#: Singular values of the rows below this fraction of the largest count as zero: rounding in single precision leaves less.
RANK_TOLERANCE = 1e-6

#: Samples of rows for exact recovery, over 2^(B-1), and at most. B neurons lie on one side of a feature with a probability
#: of at least 2^(1-B), whatever the weights and biases: this many miss one with probability e^-512.
_SAMPLES, _MOST_SAMPLES = 512, 200_000


@dataclass(frozen=True, eq=False)
class RowResult:
    """The reconstruction as posed, and the name of the function that gave it; inexact: why it was not exact recovery, None
    where it was; of exact recovery, rounding: R as posed to which rounding of the gradient's entries leaves it open,
    unexplained: share of the rows' power that it leaves, and search: what found the patterns, and in how many tries."""

    reconstruction: Reconstruction
    method: str
    inexact: str | None = None
    rounding: float = 0.0
    unexplained: float = 0.0
    search: str | None = None


def reconstruct_rows(problem: RowProblem, frame: Frame, attack: TensorAttack | None, seed: int) -> RowResult:
    """Exact recovery where the activation allows it and every row is explained, to the precision of the entries; else the
    tensor attack. What the biases tell is used.

    Raises ``ValueError`` where the activation is not covered; ``ReconstructionError`` where there is no result.
    """
    result = _attacked(problem, attack, seed)
    known = frame.posed.bias_scale
    return _by_bias(result, known) if known else result


def _attacked(problem: RowProblem, attack: TensorAttack | None, seed: int) -> RowResult:
    net, observation, precision = problem.net, problem.observation, problem.precision
    if not recoverable(net.activation):
        why = f"exact recovery is for ReLU and leaky ReLU; the activation is {net.activation.name}"
    else:
        samples = min(_MOST_SAMPLES, _SAMPLES * 2 ** (observation.batch_size - 1))
        try:
            found = recover(
                observation,
                net,
                seed=seed,
                attack=RowAttack(max_samples=samples),
                rounding=precision.rounding,
            )
            return RowResult(
                found.reconstruction,
                "sparse_recovery",
                rounding=found.error,
                unexplained=found.unexplained,
                search=found.search,
            )
        except ReconstructionError as error:  # noise, or too many features: the tensor attack may still serve
            why = f"exact recovery, tried in double on entries of precision {precision.name}, has no result: {error}"
    return RowResult(
        first_layer_attack(observation, net, attack=attack, seed=seed), "first_layer_attack", why
    )


def _by_bias(result: RowResult, known: float) -> RowResult:
    """With biases the last coordinate of every feature is known. Its size gives the norm where recovery is exact (public
    norms then play no part), its sign the sign that an odd activation leaves open."""
    found, rounding = result.reconstruction, result.rounding
    last = found.features[:, -1]
    norms = torch.linalg.vector_norm(found.features, dim=1)
    diagnostics = found.diagnostics
    if result.method == "sparse_recovery" and bool((last > RANK_TOLERANCE * norms).all()):
        # The error was for features of the assumed norms; that of the last coordinate now scales all of them.
        rounding *= known * float((1 / last).max()) * (1 + float((norms / last).max()))
        factors = known / last
        diagnostics = dataclasses.replace(diagnostics, status="ok", warnings=())
    elif diagnostics.sign_free and bool((last.abs() > known / 2).all()):
        factors = torch.sign(last)
        diagnostics = dataclasses.replace(diagnostics, sign_free=False)
    else:
        return result
    scaled = dataclasses.replace(
        found,
        features=factors[:, None] * found.features,
        residuals=found.residuals / factors,
        diagnostics=diagnostics,
    )
    return dataclasses.replace(result, reconstruction=scaled, rounding=rounding)


@dataclass(frozen=True)
class Share:
    """power: mean square of a row's entry; unexplained: share of the rows' power that a fit leaves; error: R that noise of
    this size makes where the features' slopes are known."""

    power: float
    unexplained: float
    error: float


def explained_rows(net: TwoLayerNet, gradient: torch.Tensor, features: torch.Tensor) -> Share:
    """How far least squares of the rows (m, d) on ``sigma'(w.xhat) xhat`` explains them.

    The power that is left is summed over the entries themselves: a difference of powers would hide what is below rounding.
    """
    guesses = features.to(net.dtype)
    active = gathered(net, lambda rows, W: apply_derivative(net.activation, guesses @ W.T).double(), axis=1)

    def normal_equations(rows: slice, W: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a = active[:, rows]
        return a @ a.T, (a * (features @ gradient[rows].double().T)).sum(dim=1)

    gram, right = total(net, normal_equations)
    strengths = torch.linalg.pinv(gram * (features @ features.T), hermitian=True) @ right
    power = left = 0.0
    for start in range(0, net.m, _BLOCK):
        block = slice(start, start + _BLOCK)
        g = gradient[block].double()
        power += float(g.square().sum())
        left += float((g - active[:, block].T @ (strengths[:, None] * features)).square().sum())
    # Each coordinate of r_i x_i is then an unknown of its own, on which the rows depend linearly.
    spread = torch.linalg.pinv(gram, hermitian=True).diagonal() / strengths.square()
    error = math.sqrt(left / net.m * float(spread.mean()))
    return Share(power / gradient.numel(), left / power, error)


def outside(gradient: torch.Tensor, features: torch.Tensor) -> float:
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


def second_order(gradient: torch.Tensor, features: torch.Tensor) -> float:
    """R that the squares of the rows' noise make: ``sum_j e_j (e_j.x)`` beside the rows' own second moment, at least that of
    the features' weakest direction. Of independent noise of one size on many rows it is far below what is linear in the
    noise; not where few rows hold most of it, as those divided by small output weights do."""
    B, d = features.shape
    if d == B:
        return 0.0
    V = torch.linalg.qr(features.T)[0]
    fourth = 0.0
    moment = torch.zeros(B, B, dtype=torch.float64)
    for g in gradient.split(_BLOCK):
        rows = g.double()
        inside = rows @ V
        moment += inside.T @ inside
        fourth += float((rows - inside @ V.T).square().sum(dim=1).square().sum())
    weakest = float(torch.linalg.eigvalsh(moment)[0])
    size = math.sqrt(float(features.square().sum(dim=1).mean()))
    return size * math.sqrt(fourth) / weakest if weakest > 0 else math.inf
