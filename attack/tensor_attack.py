"""The tensor attack: moments -> span -> core -> decomposition -> signs, residuals, labels."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from attack.contraction import contracted_projection
from attack.decompose import Decomposition, decompose
from attack.moments import (
    Projection,
    Response,
    apply_second_moment,
    core_moments,
    first_moment,
    first_moment_start,
    noise_edge,
)
from attack.network import TwoLayerNet, apply_activation
from attack.observation import Observation
from attack.span import dominant_span
from attack.streams import numpy_generator
from bounds import TensorAttack, checks
from bounds.activations import ZERO
from bounds.tensor_attack import EQUAL_NORMS, MIN_GAP, moment_orders

#: Below this factor the result is returned with a warning.
CLEAR_GAP = 1.5
#: With unequal norms, a label further than this from +-1 makes their assignment doubtful.
LABEL_DOUBT = 0.25
#: With fewer neurons than this many times d the edge of the noise is not known: the semicircle holds for m much above d.
FEW_NEURONS = 4
#: Signs count as known if the second best choice of them leaves this many times the squared residual of the best one.
CLEAR_SIGNS = 2.0
#: Residuals below this fraction of the gradient's power are rounding: no choice is better than another there.
ROUNDING = 1e-9
#: Signs are searched among all 2^B choices up to this B, and reported as unknown beyond.
MANY_SIGNS = 10


@dataclass(frozen=True)
class Diagnostics:
    """How sure the attack may be of itself.

    status: "ok", "suspect" (see warnings) or "failed". gap: weakest eigenvalue of the span over the edge of the noise.
    misfit: objective of the fit over the squared norm of its data. agreeing: starts that ended at the same solution.
    passes: passes over the weights. sign_free: each feature is known up to its sign only, its residual with it, and its
    label not at all (odd activations: (x, r) and (-x, -r) give the same gradient).
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
    sign_free: bool = False

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

    Float64, on the network's device. residuals are those that the gradient as it was sent is made of, and labels are f(x)
    less these: a defense that rescales residuals (clipping, several local steps) or bends entries (pruning, rounding to
    the nearest, clamping) moves both, and directions tell nothing of that.
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
    orders = moment_orders(net.activation)
    gradient = observation.gradient.to(device=net.device, dtype=net.dtype)

    mean, slope = first_moment(net, gradient)
    zero = torch.zeros_like(slope)
    # The mean and linear part that the response loses; kept in the weights' dtype for the streamed passes.
    response = (
        Response(gradient, mean.to(net.dtype), slope)
        if attack.residualized
        else Response(gradient, 0 * mean, zero)
    )
    seen = (
        contracted_projection(net, response, mean, slope, B, attack, seed)
        if orders[0] == 1
        else _second_moment_projection(net, response, slope, B, orders[1], attack, seed)
    )
    if not seen.gap >= MIN_GAP:
        reason = (
            f"ill-posed: the weakest of {B} directions is {seen.gap:.2f} times the edge of the noise ({seen.edge:.3g}): "
            f"a vanishing residual, nearly parallel features, or too few neurons"
        )
        raise ReconstructionError(
            reason, Diagnostics("failed", (reason,), seen.gap, seen.values, seen.edge, seen.passes)
        )

    fitted, norms, norm_warnings = fit_moments(
        net, observation.norms, seen.low.cpu().numpy(), seen.core.cpu().numpy(), attack, seed
    )
    directions, sign_warnings = signed_directions(net, fitted, seen.V.T @ slope, norms, orders)
    features = torch.as_tensor(norms[:, None] * directions, device=net.device, dtype=torch.float64) @ seen.V.T
    if orders[0] == 1:
        signs, sign_free = _signs_by_fit(net, gradient, features)
        features = signs[:, None] * features
    else:
        sign_free = False
    residuals, forward = _refit_residuals(net, gradient, features)
    warnings = norm_warnings + sign_warnings + _warnings(net, seen, fitted)
    diagnostics = Diagnostics(
        "suspect" if warnings else "ok",
        warnings,
        seen.gap,
        seen.values,
        seen.edge,
        seen.passes + 1,
        fitted.misfit,
        fitted.agreeing,
        fitted.starts,
        fitted.complex_starts,
        sign_free,
    )
    return Reconstruction(features, residuals, forward - residuals, diagnostics)


def _second_moment_projection(
    net: TwoLayerNet,
    response: Response,
    slope: torch.Tensor,
    B: int,
    order: int,
    attack: TensorAttack,
    seed: int,
) -> Projection:
    """Span, second moment and core in it."""
    start = first_moment_start(net, slope, B, seed)
    span = dominant_span(lambda V: apply_second_moment(net, response, V), start, B)
    leave_one_out = attack.same_neuron == "leave_one_out"
    moments = core_moments(net, response, span.V, span.eigenvalues, order, attack.residualized, leave_one_out)
    edge = max(noise_edge(moments.power, net.d - B, net.m), span.next_value)
    gap = float(span.eigenvalues.abs().min()) / edge if edge > 0 else 0.0
    values = tuple(span.eigenvalues.tolist())
    return Projection(
        span.V, moments.second, moments.core, values, gap, edge, span.passes + 2, span.converged
    )


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
    residuals = first.alpha[:, None] / coefficients(net, low.ndim, norms)
    if low.ndim % 2:  # known up to a sign
        residuals = np.stack([residuals, -residuals])
    distance = np.abs(np.abs(coefficients(net, 0, norms) - residuals) - 1)
    distance = distance.min(axis=0) if low.ndim % 2 else distance
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
    net: TwoLayerNet, fitted: Decomposition, first: torch.Tensor, norms: np.ndarray, orders: tuple[int, int]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Directions with the sign that the first moment ``sum_i r_i c_1 u_i`` gives (an odd core has fixed it already, or, with
    an odd low moment, leaves the sign of a residual together with its feature's)."""
    low, order = orders
    if order % 2:
        return fitted.directions, ()
    linear = coefficients(net, 1, norms)
    if np.min(np.abs(linear)) <= ZERO:
        return fitted.directions, ("signs are not identified: mu_1 = 0",)
    residuals = fitted.alpha / coefficients(net, low, norms)
    weights = np.linalg.lstsq(fitted.directions.T, first.cpu().numpy(), rcond=None)[0]
    signs = np.where(weights * residuals * linear < 0, -1.0, 1.0)
    return fitted.directions * signs[:, None], ()


def _signs_by_fit(
    net: TwoLayerNet, gradient: torch.Tensor, features: torch.Tensor
) -> tuple[torch.Tensor, bool]:
    """Signs (B,) of the features, and whether they stay unknown (all +1 then).

    Moments of odd order know (x, r) and (-x, -r) only together. Which of the 2^B choices is right is told by the residual
    that least squares of g on ``sigma(s_i W xhat_i)`` leaves: an exact tie for an odd activation, a constant's worth of
    difference for one that is odd up to a constant (sigmoid), and a difference of its own for any other. The best choice
    is taken if the second leaves ``CLEAR_SIGNS`` times as much. Noise adds the same to both, so it makes signs unknown, not
    wrong. One pass over W and 2^B systems of size B; beyond B = ``MANY_SIGNS`` signs are not searched.
    """
    B = features.shape[0]
    ones = torch.ones(B, device=features.device, dtype=torch.float64)
    if B > MANY_SIGNS:
        return ones, True
    gram = torch.zeros(2 * B + 1, 2 * B + 1, device=net.device, dtype=torch.float64)
    guesses = features.to(net.dtype)
    for rows, W in net.blocks():
        inside = guesses @ W.T
        hidden = apply_activation(net.activation, torch.cat([inside, -inside])).double()
        columns = torch.cat([hidden, gradient[rows].double()[None]])
        gram += columns @ columns.T
    seen = gram.cpu().numpy()
    flipped = np.array(list(itertools.product((0, 1), repeat=B)))
    index = np.arange(B) + B * flipped
    right = seen[index, -1]
    fitted = np.linalg.pinv(seen[index[:, :, None], index[:, None, :]], hermitian=True) @ right[:, :, None]
    power = float(seen[-1, -1])
    left = np.maximum(power - np.sum(right * fitted[:, :, 0], axis=1), 0.0) + ROUNDING * power
    best, second = np.argsort(left, kind="stable")[:2]
    if not left[second] > CLEAR_SIGNS * left[best]:
        return ones, True
    return torch.from_numpy(1.0 - 2.0 * flipped[best]).to(features.device), False


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


def _warnings(net: TwoLayerNet, seen: Projection, fitted: Decomposition) -> tuple[str, ...]:
    checks_made = (
        (
            net.m < FEW_NEURONS * net.d,
            f"m = {net.m} neurons are fewer than {FEW_NEURONS} d = {FEW_NEURONS * net.d}: noise exceeds its edge there",
        ),
        (not seen.converged, f"span not converged in {seen.passes} passes"),
        (
            seen.gap < CLEAR_GAP,
            f"small gap: weakest direction only {seen.gap:.2f} times the edge of the noise",
        ),
        (fitted.agreeing < max(1, fitted.starts // 2), f"{fitted.agreeing} of {fitted.starts} starts agree"),
    )
    return tuple(text for failed, text in checks_made if failed)
