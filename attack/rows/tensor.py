"""The tensor attack on the gradient of the first layer, ``dL/dW``: another observation than the output weights' gradient.

Its rows ``G_j = (1/m) sum_i r_i sigma'(w_j.x_i) x_i`` are combinations of the features, so the features' span is the row
space of G: exact without noise, whatever d is. In the coordinates of the span the rows weight the Hermite polynomials of the
neurons, ``E[sigma'(w.x_i) He_{k-1}(w)] x_i = c_k u_i^(x)(k-1) (x) u_i`` (Stein's identity): the moments are those that the
gradient of the output weights gives, and the same fit reads features off them (Wang, Lee, Lei 2023, Appendix B).
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch

from attack.networks.activation import apply_activation, apply_derivative, require_derivative
from attack.networks.two_layer import TwoLayerNet
from attack.reconstruction import Diagnostics, Reconstruction
from attack.rows.observation import FirstLayerObservation
from attack.rows.space import InSpan, RowSpace, failure, in_span, moment_space, require_rank, row_space
from attack.stream import total
from attack.tensor.attack import CLEAR_GAP
from attack.tensor.decompose import Decomposition
from attack.tensor.fit import fit_moments, signed_directions
from attack.units import gradient_unit, shift
from bounds import TensorAttack, checks
from bounds.estimator import MIN_GAP, moment_orders


def hermite_moments(found: InSpan, order: int, residualized: bool) -> tuple[torch.Tensor, ...]:
    """``M_k = mean_j sym(h_j (x) He_{k-1}(y_j))`` for k = 1 .. order (at most 4), each (B,)*k: estimates of
    ``sum_i r_i c_k u_i^(x)k``.

    h_j is c_j, less, where residualized, its Hermite components below k - 1 as the lower moments give them: that changes
    no expectation, and less of c_j is left to scatter.
    """
    h, y = found.rows, found.neurons
    m, B = h.shape
    identity = torch.eye(B, device=h.device, dtype=h.dtype)
    # y^(x)(k-1) for k = 1 .. 4, flattened; that of k = 4 is never built, (h (x) y)^T (y (x) y) serves
    ones, pairs = torch.ones(m, 1, device=h.device, dtype=h.dtype), _outer_rows(y, y)
    powers = (ones, y, pairs)
    moments: list[torch.Tensor] = []
    for k in range(1, order + 1):
        left, right = (h, powers[k - 1]) if k < 4 else (_outer_rows(h, y), pairs)
        moment = (left.T @ right / m).reshape((B,) * k)
        if k >= 3:  # He_{k-1} = y^(k-1) - C(k-1, 2) sym(I (x) y^(k-3))
            lower = (h.T @ powers[k - 3] / m).reshape((B,) * (k - 2))
            traces = torch.tensordot(lower, identity, dims=0)
            moment = moment - math.comb(k - 1, 2) * _symmetric(traces)
        moments.append(_symmetric(moment))
        if residualized and k < order:
            h = h - _hermite_component(moments[-1], y, pairs)
    return tuple(moments)


def _hermite_component(moment: torch.Tensor, y: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """``M_k[He_{k-1}(y_j)] / (k-1)!`` (m, B), the part of order k - 1 of the rows, for k up to 3."""
    B = y.shape[1]
    if moment.ndim == 1:
        return moment.expand(y.shape[0], B)
    if moment.ndim == 2:
        return y @ moment
    return (pairs @ moment.reshape(B, B * B).T - torch.einsum("abb->a", moment)) / 2


def _outer_rows(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return (left[:, :, None] * right[:, None, :]).reshape(left.shape[0], -1)


def _symmetric(tensor: torch.Tensor) -> torch.Tensor:
    """The mean over all orders of the axes."""
    orders = list(itertools.permutations(range(tensor.ndim)))
    return sum((tensor.permute(p) for p in orders), torch.zeros_like(tensor)) / len(orders)


def first_layer_attack(
    observation: FirstLayerObservation,
    net: TwoLayerNet,
    batch_size: int | None = None,
    attack: TensorAttack | None = None,
    seed: int = 2,
    span: str = "rows",
) -> Reconstruction:
    """Reconstruct the features from one observed gradient with respect to the first layer's weights.

    batch_size: the number B of features, which the server knows; must equal the observation's when given. Of ``attack``,
    ``moments``, ``core_weight`` and ``starts`` count; the span is exact but for noise, so that ``same_neuron`` and
    ``contraction`` have nothing to decide. Odd activations (tanh, sigmoid): features up to a common sign of feature and
    residual, which leaves this gradient as it is. ``span``: "rows" (the row space of G, exact without noise) or "moment"
    (eigenvectors of the symmetrised second moment, for comparison; needs mu_2 != 0). With unequal norms their assignment
    assumes labels in {-1, +1}.
    Diagnostics: ``gap`` is the weaker of two, that of the span (``row_space``) and the weakest component of the low moment
    over its noise; ``eigenvalues`` are the B singular values, ``noise_edge`` the next one.

    Raises ``ValueError`` or ``TypeError`` on bad input or an activation this attack does not cover, ``ReconstructionError``
    when G has a rank below B (a vanishing residual, dependent features) or carries no usable trace of B features.
    """
    checks.instance("observation", observation, FirstLayerObservation)
    checks.instance("net", net, TwoLayerNet)
    attack = TensorAttack() if attack is None else attack
    checks.instance("attack", attack, TensorAttack)
    checks.integer("seed", seed, 0)
    B = observation.expected_batch(net, batch_size)
    checks.choice("span", span, ("rows", "moment"))
    low, order = moment_orders(net.activation)
    if span == "moment" and low == 1:
        raise ValueError(f"span must be rows where mu_2 = 0; got moment for {net.activation.name!r}")
    require_derivative(net.activation)
    unit = gradient_unit(observation.gradient)
    gradient = shift(observation.gradient, -unit).to(device=net.device)

    space = row_space(gradient, B) if span == "rows" else moment_space(net, gradient, B)
    require_rank(space, space.gap, MIN_GAP)
    inside = in_span(net, gradient, space.V)
    moments = hermite_moments(inside, order, attack.residualized)
    fitted, norms, norm_warnings = fit_moments(
        net, observation.norms, moments[low - 1].cpu().numpy(), moments[-1].cpu().numpy(), attack, seed
    )
    gap = min(space.gap, _moment_gap(inside, fitted.alpha, low, attack.residualized))
    _require_gap(space, gap)
    directions, sign_warnings = signed_directions(net, fitted, moments[0], norms, (low, order))
    features = (
        torch.as_tensor(norms[:, None] * directions, device=net.device, dtype=torch.float64) @ space.V.T
    )
    residuals, forward = _refit_residuals(net, gradient, features)
    residuals = shift(residuals, unit)
    warnings = norm_warnings + sign_warnings + _warnings(gap, fitted)
    diagnostics = Diagnostics(
        status="suspect" if warnings else "ok",
        warnings=warnings,
        gap=gap,
        eigenvalues=tuple(space.values.tolist()),
        noise_edge=space.edge,
        passes=2,
        misfit=fitted.misfit,
        agreeing=fitted.agreeing,
        starts=fitted.starts,
        complex_starts=fitted.complex_starts,
        sign_free=low == 1,  # sigma' is even
    )
    return Reconstruction(features, residuals, forward - residuals, diagnostics)


#: The entrance by which ``attack.reconstruct`` finds this attack for a ``FirstLayerObservation``.
reconstruct = first_layer_attack


def _require_gap(space: RowSpace, gap: float) -> None:
    """``ReconstructionError`` unless every component of the moments stands above their noise."""
    if not gap >= MIN_GAP:
        raise failure(
            f"ill-posed: the weakest of {len(space.values)} components of the moments is {gap:.2f} times their noise: "
            f"a vanishing residual, nearly parallel features, or too few neurons",
            space,
            gap,
        )


def _warnings(gap: float, fitted: Decomposition) -> tuple[str, ...]:
    doubtful = (
        (gap < CLEAR_GAP, f"small gap: weakest component only {gap:.2f} times the noise"),
        (fitted.agreeing < max(1, fitted.starts // 2), f"{fitted.agreeing} of {fitted.starts} starts agree"),
    )
    return tuple(text for failed, text in doubtful if failed)


def _moment_gap(found: InSpan, alpha: Any, low: int, residualized: bool) -> float:
    """Weakest component of the low moment over three standard errors of an entry of it, ``3 rms(h) sqrt(2/m)``."""
    h = found.rows - found.rows.mean(dim=0) if residualized and low > 1 else found.rows
    m, B = h.shape
    noise = 3 * math.sqrt(2 * float((h * h).sum()) / m / (m * B))
    return float(abs(alpha).min()) / noise if noise > 0 else 0.0


def _refit_residuals(
    net: TwoLayerNet, gradient: torch.Tensor, features: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Least squares of the rows G_j on ``sigma'(w_j.xhat_i) xhat_i / m``, and f(xhat_i), in one pass."""
    guesses = features.to(net.dtype)

    def kernel(rows: slice, W: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        inner = guesses @ W.T
        slopes = apply_derivative(net.activation, inner).double()
        right = (slopes * (features @ gradient[rows].double().T)).sum(dim=1)
        return slopes @ slopes.T, right, apply_activation(net.activation, inner).double().sum(dim=1)

    gram, right, outputs = total(net, kernel)
    residuals = torch.linalg.pinv(gram * (features @ features.T), hermitian=True) @ (net.m * right)
    return residuals, outputs / net.m
