"""The tensor attack: moments -> span -> core -> decomposition -> signs, residuals, labels."""

from __future__ import annotations

import torch

from attack.networks.activation import apply_activation
from attack.networks.two_layer import TwoLayerNet
from attack.observation import Observation
from attack.reconstruction import Diagnostics, Reconstruction, ReconstructionError
from attack.tensor.contraction import contracted_projection
from attack.tensor.decompose import Decomposition
from attack.tensor.fit import _signs_by_fit, fit_moments, signed_directions
from attack.tensor.moments import (
    Projection,
    Response,
    apply_second_moment,
    core_moments,
    first_moment,
    first_moment_start,
    noise_edge,
)
from attack.tensor.span import dominant_span
from bounds import TensorAttack, checks
from bounds.estimator import MIN_GAP, moment_orders

#: Below this factor the result is returned with a warning.
CLEAR_GAP = 1.5


#: With fewer neurons than this many times d the edge of the noise is not known: the semicircle holds for m much above d.
FEW_NEURONS = 4


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
