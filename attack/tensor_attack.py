"""The tensor attack: moments -> span -> core -> decomposition -> signs, residuals, labels."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from attack.decompose import Decomposition, decompose
from attack.moments import CoreMoments, Response, apply_second_moment, core_moments, first_moment
from attack.network import TwoLayerNet, apply_activation
from attack.observation import Observation
from attack.span import Span, dominant_span
from attack.streams import normal, numpy_generator
from bounds import TensorAttack, checks
from bounds.activations import ZERO
from bounds.tensor_attack import EQUAL_NORMS, MIN_GAP, core_order

#: Below this factor the result is returned with a warning.
CLEAR_GAP = 1.5
#: With unequal norms, a label further than this from +-1 makes their assignment doubtful.
LABEL_DOUBT = 0.25


@dataclass(frozen=True)
class Diagnostics:
    """How sure the attack may be of itself.

    status: "ok", "suspect" (see warnings) or "failed". gap: weakest eigenvalue of the span over the edge of the noise.
    misfit: objective of the fit over the squared norm of its data. agreeing: starts that ended at the same solution.
    passes: passes over the weights.
    """

    status: str
    warnings: tuple[str, ...]
    gap: float
    eigenvalues: tuple[float, ...]
    noise_edge: float
    passes: int
    misfit: float | None = None
    agreeing: int | None = None
    starts: int | None = None
    complex_starts: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a record."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}


class ReconstructionError(RuntimeError):
    """The attack has no result to return; ``diagnostics`` say what it saw."""

    def __init__(self, reason: str, diagnostics: Diagnostics) -> None:
        super().__init__(reason)
        self.diagnostics = diagnostics


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """features (B, d), residuals (B,), labels (B,), in no particular order, and diagnostics.

    Float64, on the network's device.
    """

    features: torch.Tensor
    residuals: torch.Tensor
    labels: torch.Tensor
    diagnostics: Diagnostics


def tensor_attack(
    observation: Observation,
    net: TwoLayerNet,
    batch_size: int | None = None,
    attack: TensorAttack | None = None,
    seed: int = 2,
) -> Reconstruction:
    """Reconstruct the features from one observed gradient with respect to the output weights.

    batch_size: the number B of features, which the server knows; must equal the observation's when given. With unequal
    public norms the assignment of norms to features assumes labels in {-1, +1}.

    Raises ``ValueError`` on bad input or an activation this attack does not cover, ``ReconstructionError`` when the
    observation carries no usable trace of B features (a vanishing residual, or too few neurons).
    """
    checks.instance("observation", observation, Observation)
    checks.instance("net", net, TwoLayerNet)
    attack = TensorAttack() if attack is None else attack
    checks.instance("attack", attack, TensorAttack)
    B = observation.batch_size if batch_size is None else checks.integer("batch_size", batch_size, 1)
    if observation.batch_size != B:
        raise ValueError(f"batch_size must be the observation's, {observation.batch_size}; got {B}")
    if observation.gradient.shape[0] != net.m:
        raise ValueError(f"the gradient must have m = {net.m} entries; got {observation.gradient.shape[0]}")
    if net.d < B:
        raise ValueError(f"batch_size must be at most d = {net.d}; got {B}")
    order = core_order(net.activation)
    gradient = observation.gradient.to(device=net.device, dtype=net.dtype)

    mean, slope = first_moment(net, gradient)
    zero = torch.zeros_like(slope)
    # The mean and linear part that the response loses; kept in the weights' dtype for the streamed passes.
    response = (
        Response(gradient, mean.to(net.dtype), slope)
        if attack.residualized
        else Response(gradient, 0 * mean, zero)
    )
    span = _span(net, response, slope, B, seed)
    core = core_moments(
        net,
        response,
        span.V,
        span.eigenvalues,
        order,
        attack.residualized,
        attack.same_neuron == "leave_one_out",
    )
    gap, edge = _gap(net, span, core, B)
    passes = span.passes + 2
    eigenvalues = tuple(span.eigenvalues.tolist())
    if not gap >= MIN_GAP:
        reason = (
            f"ill-posed: the weakest of {B} eigenvalues is {gap:.2f} times the edge of the noise ({edge:.3g}): "
            f"a vanishing residual, nearly parallel features, or too few neurons"
        )
        raise ReconstructionError(reason, Diagnostics("failed", (reason,), gap, eigenvalues, edge, passes))

    fitted, norms, norm_warnings = fit_moments(
        net, observation.norms, core.second.cpu().numpy(), core.core.cpu().numpy(), attack, seed
    )
    strengths = coefficients(net, 2, norms)
    residuals = fitted.alpha / strengths
    directions, sign_warnings = signed_directions(net, fitted, span.V.T @ slope, residuals, norms, order)
    features = torch.as_tensor(norms[:, None] * directions, device=net.device, dtype=torch.float64) @ span.V.T
    residuals_t, forward = _refit_residuals(net, gradient, features)
    warnings = norm_warnings + sign_warnings + _warnings(span, gap, fitted)
    diagnostics = Diagnostics(
        "suspect" if warnings else "ok",
        warnings,
        gap,
        eigenvalues,
        edge,
        passes + 1,
        fitted.misfit,
        fitted.agreeing,
        fitted.starts,
        fitted.complex_starts,
    )
    return Reconstruction(features, residuals_t, forward - residuals_t, diagnostics)


def _span(net: TwoLayerNet, response: Response, slope: torch.Tensor, B: int, seed: int) -> Span:
    """Start: the first moment, which lies in the span but for noise, and random directions."""
    width = min(net.d, B + 2)
    start = normal((net.d, width), seed, "starts", 0, device="cpu", dtype=torch.float64).to(net.device)
    start[:, 0] = slope + 1e-12 * start[:, 0]
    return dominant_span(lambda V: apply_second_moment(net, response, V), start, B)


def _gap(net: TwoLayerNet, span: Span, core: CoreMoments, B: int) -> tuple[float, float]:
    """Weakest eigenvalue over the edge of the noise: the larger of the next eigenvalue found and what a pure-noise second
    moment would show, ``rms(h) (2 sqrt((d - B)/m) + 3 sqrt(2/m))`` (semicircle edge, three standard errors of an entry)."""
    theory = math.sqrt(core.power) * (2 * math.sqrt((net.d - B) / net.m) + 3 * math.sqrt(2 / net.m))
    edge = max(theory, span.next_value)
    weakest = float(span.eigenvalues.abs().min())
    return (weakest / edge if edge > 0 else 0.0), edge


def coefficients(net: TwoLayerNet, order: int, norms: np.ndarray) -> np.ndarray:
    return np.array([net.activation.coefficient(order, float(n)) for n in norms])


def fit_moments(
    net: TwoLayerNet,
    public: tuple[float, ...],
    low: np.ndarray,
    core: np.ndarray,
    attack: TensorAttack,
    seed: int,
) -> tuple[Decomposition, np.ndarray, tuple[str, ...]]:
    """The decomposition of the low moment and the core, the norm of each of its components (out of the public ones), and
    warnings."""
    norms = np.array(public)
    weight = attack.weight(core.ndim, low.ndim)

    def run(norms: np.ndarray, guess: np.ndarray | None = None) -> Decomposition:
        ratio = coefficients(net, core.ndim, norms) / coefficients(net, low.ndim, norms)
        generator = numpy_generator(seed, "starts", 1)
        return decompose(low, core, ratio, weight, attack.starts, generator, guess)

    if np.ptp(norms) <= EQUAL_NORMS * norms.max():
        return run(norms), norms, ()
    # Unequal norms: fit with a common ratio, give each component the norm that brings its label nearest to +-1, fit again.
    first = run(np.full_like(norms, norms.mean()))
    labels = coefficients(net, 0, norms) - first.alpha[:, None] / coefficients(net, low.ndim, norms)
    distance = np.abs(np.abs(labels) - 1)
    rows, columns = linear_sum_assignment(distance)
    assigned = norms[columns]
    again = run(assigned, first.directions)
    # The second fit has one start; how far its starts agree is known from the first.
    fitted = dataclasses.replace(
        again, agreeing=first.agreeing, starts=first.starts, complex_starts=first.complex_starts
    )
    worst = float(distance[rows, columns].max())
    warnings = (
        (f"norms assigned by labels that are up to {worst:.2f} away from +-1",) if worst > LABEL_DOUBT else ()
    )
    return fitted, assigned, warnings


def signed_directions(
    net: TwoLayerNet,
    fitted: Decomposition,
    first: torch.Tensor,
    residuals: np.ndarray,
    norms: np.ndarray,
    order: int,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Directions with the sign that the first moment ``sum_i r_i c_1 u_i`` gives (an odd core has fixed it already)."""
    if order % 2:
        return fitted.directions, ()
    linear = coefficients(net, 1, norms)
    if np.min(np.abs(linear)) <= ZERO:
        return fitted.directions, ("signs are not identified: mu_1 = 0",)
    weights = np.linalg.lstsq(fitted.directions.T, first.cpu().numpy(), rcond=None)[0]
    signs = np.where(weights * residuals * linear < 0, -1.0, 1.0)
    return fitted.directions * signs[:, None], ()


def _refit_residuals(
    net: TwoLayerNet, gradient: torch.Tensor, features: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Least squares of g on sigma(W xhat_i), and f(xhat_i), in one pass."""
    B = features.shape[0]
    gram = torch.zeros(B, B, device=net.device, dtype=torch.float64)
    right = torch.zeros(B, device=net.device, dtype=torch.float64)
    total = torch.zeros(B, device=net.device, dtype=torch.float64)
    guesses = features.to(net.dtype)
    for rows, W in net.blocks():
        hidden = apply_activation(net.activation, guesses @ W.T).double()
        gram += hidden @ hidden.T
        right += hidden @ gradient[rows].double()
        total += hidden.sum(dim=1)
    # Not torch.linalg.lstsq, whose last bits depend on where its workspace lies in memory.
    return torch.linalg.pinv(gram, hermitian=True) @ right, total / net.m


def _warnings(span: Span, gap: float, fitted: Decomposition) -> tuple[str, ...]:
    checks_made = (
        (not span.converged, f"span not converged in {span.passes} passes"),
        (gap < CLEAR_GAP, f"small gap: weakest eigenvalue only {gap:.2f} times the edge of the noise"),
        (fitted.agreeing < max(1, fitted.starts // 2), f"{fitted.agreeing} of {fitted.starts} starts agree"),
    )
    return tuple(text for failed, text in checks_made if failed)
