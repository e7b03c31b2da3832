"""The tensor attack: moments -> span -> core -> decomposition -> signs, residuals, labels."""

from __future__ import annotations

from dataclasses import replace

import torch

from attack.networks.activation import apply_activation
from attack.networks.two_layer import TwoLayerNet
from attack.observation import Observation
from attack.reconstruction import Diagnostics, Reconstruction, ReconstructionError
from attack.stream import Part, Weights, total
from attack.tensor.contraction import contracted_projection
from attack.tensor.decompose import Decomposition
from attack.tensor.expected import few_neurons
from attack.tensor.fit import fit_moments, signed_directions, signs_by_fit
from attack.tensor.moments import (
    CoreMoments,
    Projection,
    Response,
    apply_second_moment,
    core_moments,
    first_moment,
    first_moment_start,
    noise_edge,
)
from attack.tensor.preprocessing import preprocessed
from attack.tensor.span import dominant_span
from attack.units import gradient_unit, shift
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
    public norms the assignment of norms to features assumes labels in {-1, +1}. The same ``seed`` gives the same result on
    the same device, in the same type and with the same number of threads.

    Raises ``ValueError`` on bad input or an activation this attack does not cover, ``ReconstructionError`` when the
    observation carries no usable trace of B features (a vanishing residual, or too few neurons).
    """
    checks.instance("observation", observation, Observation)
    checks.instance("net", net, TwoLayerNet)
    attack = TensorAttack() if attack is None else attack
    checks.instance("attack", attack, TensorAttack)
    B = observation.expected_batch(net, batch_size)
    orders = moment_orders(net.activation)
    unit = gradient_unit(observation.gradient)
    gradient = shift(observation.gradient, -unit).to(device=net.device, dtype=net.dtype)

    if attack.same_neuron == "split":
        seen, slope = _split_projection(net, gradient, B, attack, seed)
    else:
        mean, slope = first_moment(net, gradient)
        response = _response(gradient, mean, slope, attack)
        shown = response
        if attack.preprocessing != "none":
            shown = _preprocessed(observation, net, attack, orders)
        seen = _projection(net, (shown, response), mean, slope, B, attack, seed)
    _require_gap(seen, B)
    fitted, norms, norm_warnings = fit_moments(
        net, observation.norms, seen.low.cpu().numpy(), seen.core.cpu().numpy(), attack, seed
    )
    directions, sign_warnings = signed_directions(net, fitted, seen.V.T @ slope, norms, orders)
    features = torch.as_tensor(norms[:, None] * directions, device=net.device, dtype=torch.float64) @ seen.V.T
    sign_free = False
    if orders[0] == 1:
        signs, sign_free = signs_by_fit(net, gradient, features)
        features = signs[:, None] * features
    residuals, forward = _refit_residuals(net, gradient, features)
    residuals = shift(residuals, unit)
    warnings = norm_warnings + sign_warnings + _warnings(net, seen, fitted)
    found = Reconstruction(
        features, residuals, forward - residuals, _diagnostics(seen, fitted, warnings, sign_free)
    )
    doubt = "" if warnings else few_neurons(observation, net, attack, found, CLEAR_GAP)
    return replace(found, diagnostics=_diagnostics(seen, fitted, (doubt,), sign_free)) if doubt else found


def _response(
    gradient: torch.Tensor, mean: torch.Tensor, slope: torch.Tensor, attack: TensorAttack
) -> Response:
    """The gradient, less its mean and its linear part where the attack takes these out; in the weights' type for the
    streamed passes."""
    if attack.residualized:
        return Response(gradient, mean.to(gradient.dtype), slope)
    return Response(gradient, 0 * mean, torch.zeros_like(slope))


def _preprocessed(
    observation: Observation, net: TwoLayerNet, attack: TensorAttack, orders: tuple[int, int]
) -> Response:
    """The weights of the moment that gives the span. ``ValueError`` for odd activations, which have another."""
    if orders[0] == 1:
        raise ValueError(
            f"preprocessing must be 'none' for an activation with mu_2 = 0; got {attack.preprocessing!r} with "
            f"{net.activation.name!r}"
        )
    entries = preprocessed(observation, net, residualized=attack.residualized)
    return _response(entries, *first_moment(net, entries), attack)


def _projection(
    net: TwoLayerNet,
    responses: tuple[Response, Response],
    mean: torch.Tensor,
    slope: torch.Tensor,
    B: int,
    attack: TensorAttack,
    seed: int,
) -> Projection:
    """Span, low moment and core in it, by the moments that the activation has. ``responses``: the weights that give the
    span, and those of the fit; ``mean``, ``slope``: of the gradient."""
    shown, response = responses
    low, order = moment_orders(net.activation)
    if low == 1:
        return contracted_projection(net, response, mean, slope, B, attack, seed)
    return _second_moment_projection((net, shown), (net, response), slope, B, order, attack, seed)


def _split_projection(
    net: TwoLayerNet, gradient: torch.Tensor, B: int, attack: TensorAttack, seed: int
) -> tuple[Projection, torch.Tensor]:
    """Mean, linear part and span from the first half of the neurons, the fit's moments from the second; and the linear
    part."""
    low, order = moment_orders(net.activation)
    if low == 1 or net.m < 2:
        what = "mu_2 = 0" if low == 1 else "m = 1"
        raise ValueError(f"same_neuron must not be 'split' for an activation or a width with {what}")
    half = net.m // 2
    span_from, moments_from = Part(net, 0, half), Part(net, half, net.m)
    mean, slope = first_moment(span_from, gradient[:half])
    first, second = (_response(part, mean, slope, attack) for part in (gradient[:half], gradient[half:]))
    found = _second_moment_projection(
        (span_from, first), (moments_from, second), slope, B, order, attack, seed
    )
    return found, slope


def _require_gap(seen: Projection, B: int) -> None:
    """``ReconstructionError`` unless the weakest direction stands above the noise."""
    if not seen.gap >= MIN_GAP:
        reason = (
            f"ill-posed: the weakest of {B} directions is {seen.gap:.2f} times the edge of the noise ({seen.edge:.3g}): "
            f"a vanishing residual, nearly parallel features, or too few neurons"
        )
        raise ReconstructionError(
            reason, Diagnostics("failed", (reason,), seen.gap, seen.values, seen.edge, seen.passes)
        )


def _diagnostics(
    seen: Projection, fitted: Decomposition, warnings: tuple[str, ...], sign_free: bool
) -> Diagnostics:
    return Diagnostics(
        status="suspect" if warnings else "ok",
        warnings=warnings,
        gap=seen.gap,
        eigenvalues=seen.values,
        noise_edge=seen.edge,
        passes=seen.passes + 1,
        misfit=fitted.misfit,
        agreeing=fitted.agreeing,
        starts=fitted.starts,
        complex_starts=fitted.complex_starts,
        sign_free=sign_free,
    )


def _second_moment_projection(
    span_from: tuple[Weights, Response],
    moments_from: tuple[Weights, Response],
    slope: torch.Tensor,
    B: int,
    order: int,
    attack: TensorAttack,
    seed: int,
) -> Projection:
    """Span, second moment and core in it; the weights that give the span may be others, of other neurons."""
    net, shown = span_from
    start = first_moment_start(net, slope, B, seed)
    span = dominant_span(lambda V: apply_second_moment(*span_from, V), start, B)
    leave_one_out = attack.same_neuron == "leave_one_out"

    def moments_in(second: torch.Tensor | None) -> CoreMoments:
        return core_moments(
            *moments_from,
            span.V,
            span.eigenvalues,
            order,
            attack.residualized,
            leave_one_out,
            shown=shown if moments_from[0] is net else None,
            second=second,
        )

    moments = moments_in(None)
    if (
        attack.preprocessing != "none"
    ):  # the response's own second moment is not diagonal there: another pass, with that
        moments = moments_in(moments.second)
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
    guesses = features.to(net.dtype)

    def kernel(rows: slice, W: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        hidden = apply_activation(net.activation, guesses @ W.T).double()
        return hidden @ hidden.T, hidden @ gradient[rows].double(), hidden.sum(dim=1)

    gram, right, outputs = total(net, kernel)
    # Not torch.linalg.lstsq, whose last bits depend on where its workspace lies in memory.
    return torch.linalg.pinv(gram, hermitian=True) @ right, outputs / net.m


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
