"""The tensor attack on the gradient of the first layer, ``dL/dW``: another observation than the output weights' gradient.

Its rows ``G_j = (1/m) sum_i r_i sigma'(w_j.x_i) x_i`` are combinations of the features, so the features' span is the row
space of G: exact without noise, whatever d is. In the coordinates of the span the rows weight the Hermite polynomials of the
neurons, ``E[sigma'(w.x_i) He_{k-1}(w)] x_i = c_k u_i^(x)(k-1) (x) u_i`` (Stein's identity): the moments are those that the
gradient of the output weights gives, and the same fit reads features off them (Wang, Lee, Lei 2023, Appendix B).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from attack.network import TwoLayerNet, apply_activation, apply_derivative
from attack.observation import checked_gradient, public_norms
from attack.streams import normal
from attack.tensor_attack import (
    CLEAR_GAP,
    Diagnostics,
    Reconstruction,
    ReconstructionError,
    fit_moments,
    signed_directions,
)
from bounds import Defense, GradientNoise, NoDefense, TensorAttack, checks
from bounds.tensor_attack import MIN_GAP, moment_orders

#: The defenses whose effect on this gradient is implemented.
SUPPORTED = (NoDefense, GradientNoise)


@dataclass(frozen=True, eq=False)
class FirstLayerObservation:
    """One observed gradient with respect to the first layer's weights.

    gradient: (m, d), the entries the server sees, with rows ``G_j = (1/m) sum_i r_i sigma'(w_j.x_i) x_i``: entries of
    size 1/m, and so is the noise that matters; batch_size: the number B of features in it; norms: their public norms,
    sorted; defense: the specification, which is public (``GradientNoise(sigma)``: sigma on every entry as seen).

    Raises ``ValueError`` or ``TypeError`` on wrong shapes or non-finite values.
    """

    gradient: torch.Tensor
    batch_size: int
    norms: tuple[float, ...]
    defense: Defense

    def __post_init__(self) -> None:
        checks.instance("defense", self.defense, Defense, "GradientNoise(sigma=1.0)")
        object.__setattr__(self, "gradient", checked_gradient(self.gradient, ("m", "d")))
        object.__setattr__(self, "batch_size", checks.integer("batch_size", self.batch_size, 1))
        object.__setattr__(self, "norms", public_norms(self.norms, self.batch_size))


def observe_first_layer(
    defense: Defense, net: TwoLayerNet, X: Any, y: Any, seed: int = 1, groups: Sequence[int] | None = None
) -> FirstLayerObservation:
    """What the server sees of ``dL/dW`` for the features ``X`` (B, d) with labels ``y`` (B,) under ``defense``.

    ``GradientNoise(sigma)`` adds noise of standard deviation sigma to every one of the m d entries as they are seen, that
    is to numbers of size 1/m: the same sigma means far more here than on the gradient of the output weights. ``groups``
    (B,) is checked and plays no part for the defenses here. Raises ``ValueError`` or ``TypeError`` on bad input, for other
    defenses, and for an activation without a derivative.
    """
    checks.instance("defense", defense, Defense, "GradientNoise(sigma=1.0)")
    checks.instance("net", net, TwoLayerNet)
    checks.integer("seed", seed, 0)
    if not isinstance(defense, SUPPORTED):
        names = ", ".join(family.__name__ for family in SUPPORTED)
        raise ValueError(f"defense must be one of {names} for dL/dW; got {defense!r}: not supported yet")
    X = net.features(X)
    checks.groups(() if groups is None else groups, X.shape[0])
    gradient = net.first_layer_gradient(X, y)
    if isinstance(defense, GradientNoise):
        # a sub-key of its own: the same seed must not give this gradient the noise of the other one
        noise = normal((net.m, net.d), seed, "noise", 1, device=net.device, dtype=net.dtype)
        gradient = gradient + defense.sigma * noise
    norms = tuple(torch.linalg.vector_norm(X.double(), dim=1).tolist())
    return FirstLayerObservation(gradient, X.shape[0], norms, defense)


@dataclass(frozen=True, eq=False)
class RowSpace:
    """The B leading right singular vectors V (d, B) of G, float64, with their singular values (B,); ``edge``: the next
    one, or the rounding error of the largest where that is larger; ``gap``: how far the weakest stands out
    (``row_space``)."""

    V: torch.Tensor
    values: torch.Tensor
    edge: float
    gap: float


def row_space(gradient: torch.Tensor, B: int) -> RowSpace:
    """The row space of a gradient (m, d) as seen (through QR: d is small beside m).

    Noise raises every squared singular value by the same amount, the mean of those beyond B. ``gap`` is the weakest of the
    B squares less that, over the edge of what is left of the noise: the largest square beyond B less their mean, what pure
    noise would show (``mean (2 sqrt((d - B)/m) + 3 sqrt(2/m))``, as for the second moment), or rounding.
    """
    m, d = gradient.shape
    rounding = torch.finfo(gradient.dtype).eps * math.sqrt(max(m, d))
    triangle = torch.linalg.qr(gradient.double(), mode="r")[1]
    _, values, right = torch.linalg.svd(triangle, full_matrices=False)
    known = torch.cat([values, values.new_zeros(max(0, B + 1 - len(values)))])
    floor = float((known[B:] ** 2).mean())
    least = rounding * float(known[0])
    spread = max(
        float(known[B]) ** 2 - floor,
        floor * (2 * math.sqrt(max(d - B, 0) / m) + 3 * math.sqrt(2 / m)),
        least**2,
    )
    gap = (float(known[B - 1]) ** 2 - floor) / spread if spread > 0 else 0.0
    V = right[:B].T
    # SVD leaves the signs of singular vectors to the library: make the largest entry positive
    signs = torch.sign(V.gather(0, V.abs().argmax(dim=0, keepdim=True)))
    return RowSpace(V * signs, known[:B], max(float(known[B]), least), gap)


def moment_space(net: TwoLayerNet, gradient: torch.Tensor, B: int) -> RowSpace:
    """As ``row_space``, of the symmetrised second moment ``sum_j sym(G_j w_j^T)`` (d, d): its eigenvectors for the B largest
    absolute eigenvalues. Symmetrising mixes the weights' noise into a space that the rows know exactly, so this is there
    for comparison: it is how the output weights' gradient has to be read."""
    moment = torch.zeros(net.d, net.d, device=net.device, dtype=torch.float64)
    for rows, W in net.blocks():
        moment += gradient[rows].double().T @ W.double()
    values, vectors = torch.linalg.eigh((moment + moment.T) / 2)
    by_size = torch.argsort(values.abs(), descending=True)
    sizes = values[by_size].abs()
    edge = max(float(sizes[B]) if len(sizes) > B else 0.0, torch.finfo(gradient.dtype).eps * float(sizes[0]))
    gap = float(sizes[B - 1]) / edge if edge > 0 else 0.0
    return RowSpace(vectors[:, by_size[:B]], sizes[:B], edge, gap)


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Rows and neurons in the span: ``rows`` (m, B), ``c_j = m V^T G_j``, and ``neurons`` (m, B), ``y_j = V^T w_j``."""

    rows: torch.Tensor
    neurons: torch.Tensor


def coordinates(net: TwoLayerNet, gradient: torch.Tensor, V: torch.Tensor) -> Coordinates:
    """Both in float64, in one pass over the weights."""
    neurons = torch.empty(net.m, V.shape[1], device=net.device, dtype=torch.float64)
    for rows, W in net.blocks():
        neurons[rows] = W.double() @ V
    return Coordinates(net.m * (gradient.double() @ V), neurons)


def hermite_moments(found: Coordinates, order: int, residualized: bool) -> tuple[torch.Tensor, ...]:
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
    B = expected_batch(observation, net, batch_size)
    checks.choice("span", span, ("rows", "moment"))
    low, order = moment_orders(net.activation)
    if span == "moment" and low == 1:
        raise ValueError(f"span must be rows where mu_2 = 0; got moment for {net.activation.name!r}")
    apply_derivative(net.activation, torch.zeros(1))
    gradient = observation.gradient.to(device=net.device)

    space = row_space(gradient, B) if span == "rows" else moment_space(net, gradient, B)
    require_rank(space, space.gap, MIN_GAP)
    found = coordinates(net, gradient, space.V)
    moments = hermite_moments(found, order, attack.residualized)
    lower = moments[low - 1].cpu().numpy()
    fitted, norms, norm_warnings = fit_moments(
        net, observation.norms, lower, moments[-1].cpu().numpy(), attack, seed
    )
    gap = min(space.gap, _moment_gap(found, fitted.alpha, low, attack.residualized))
    if not gap >= MIN_GAP:
        raise _failure(
            f"ill-posed: the weakest of {B} components of the moments is {gap:.2f} times their noise: "
            f"a vanishing residual, nearly parallel features, or too few neurons",
            space,
            gap,
        )
    directions, sign_warnings = signed_directions(net, fitted, moments[0], norms, (low, order))
    inside = torch.as_tensor(norms[:, None] * directions, device=net.device, dtype=torch.float64)
    features = inside @ space.V.T
    residuals_t, forward = _refit_residuals(net, gradient, features)
    doubtful = (
        (gap < CLEAR_GAP, f"small gap: weakest component only {gap:.2f} times the noise"),
        (fitted.agreeing < max(1, fitted.starts // 2), f"{fitted.agreeing} of {fitted.starts} starts agree"),
    )
    warnings = norm_warnings + sign_warnings + tuple(text for failed, text in doubtful if failed)
    diagnostics = Diagnostics(
        "suspect" if warnings else "ok",
        warnings,
        gap,
        tuple(space.values.tolist()),
        space.edge,
        2,
        fitted.misfit,
        fitted.agreeing,
        fitted.starts,
        fitted.complex_starts,
        sign_free=low == 1,  # sigma' is even
    )
    return Reconstruction(features, residuals_t, forward - residuals_t, diagnostics)


def expected_batch(observation: FirstLayerObservation, net: TwoLayerNet, batch_size: int | None) -> int:
    """B, once it and the gradient's shape are found to fit each other and the network; ``ValueError`` if not."""
    B = observation.batch_size if batch_size is None else checks.integer("batch_size", batch_size, 1)
    if observation.batch_size != B:
        raise ValueError(f"batch_size must be the observation's, {observation.batch_size}; got {B}")
    if tuple(observation.gradient.shape) != (net.m, net.d):
        raise ValueError(
            f"the gradient must have shape (m, d) = ({net.m}, {net.d}); got {tuple(observation.gradient.shape)}"
        )
    if min(net.d, net.m - 1) < B:
        raise ValueError(f"batch_size must be at most d = {net.d} and below m = {net.m}; got {B}")
    return B


def require_rank(space: RowSpace, gap: float, factor: float) -> None:
    """``ReconstructionError`` unless ``gap``, how far the B singular values stand out, is at least ``factor``."""
    if not gap >= factor:
        raise _failure(
            f"the gradient is not of rank {len(space.values)}: its weakest singular value stands {gap:.2f} times over the "
            f"next one or rounding ({space.edge:.3g}): a vanishing residual, dependent features, or too much noise",
            space,
            gap,
        )


def _failure(reason: str, space: RowSpace, gap: float) -> ReconstructionError:
    values = tuple(space.values.tolist())
    return ReconstructionError(reason, Diagnostics("failed", (reason,), gap, values, space.edge, 2))


def _moment_gap(found: Coordinates, alpha: Any, low: int, residualized: bool) -> float:
    """Weakest component of the low moment over three standard errors of an entry of it, ``3 rms(h) sqrt(2/m)``."""
    h = found.rows - found.rows.mean(dim=0) if residualized and low > 1 else found.rows
    m, B = h.shape
    noise = 3 * math.sqrt(2 * float((h * h).sum()) / m / (m * B))
    return float(abs(alpha).min()) / noise if noise > 0 else 0.0


def _refit_residuals(
    net: TwoLayerNet, gradient: torch.Tensor, features: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Least squares of the rows G_j on ``sigma'(w_j.xhat_i) xhat_i / m``, and f(xhat_i), in one pass."""
    B = features.shape[0]
    gram, right, total = (
        torch.zeros(shape, device=net.device, dtype=torch.float64) for shape in ((B, B), (B,), (B,))
    )
    guesses = features.to(net.dtype)
    for rows, W in net.blocks():
        inner = guesses @ W.T
        slopes = apply_derivative(net.activation, inner).double()
        gram += slopes @ slopes.T
        right += (slopes * (features @ gradient[rows].double().T)).sum(dim=1)
        total += apply_activation(net.activation, inner).double().sum(dim=1)
    residuals = torch.linalg.pinv(gram * (features @ features.T), hermitian=True) @ (net.m * right)
    return residuals, total / net.m
