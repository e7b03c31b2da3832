"""Mean information of a direction outside the features' span, over Gaussian weights (bounds/proofs/lower.md).

The clean entry ``t_j = sum_i r_i sigma(w_j.x_i)`` moves along such a direction by ``r_i sigma'(w_j.x_i) u_j`` for feature i,
u_j the weights there, and by ``sigma(w_j.x_i)`` times the derivative of r_i, the same for all neurons.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bounds.arrays import Array
from bounds.density import Density, Erased, Masked, Plain
from bounds.gaussian.activations import Activation
from bounds.gaussian.nodes import gaussian_nodes
from bounds.gaussian.quadrature import plane_moments
from bounds.gaussian.slope import derivative
from bounds.kinds.lower.information import information, require_noise
from bounds.kinds.pairs import planes

#: Nodes whose entries are computed at a time.
_AT_A_TIME = 2**14


def directions_of(gram: Array) -> tuple[Array, Array]:
    """Norms (B,) and unit directions (B, B) in a basis of the span, of features with a Gram matrix (B, B)."""
    norms = np.sqrt(np.diag(gram))
    values, vectors = np.linalg.eigh(gram / np.outer(norms, norms))
    return norms, np.asarray(vectors * np.sqrt(np.clip(values, 0.0, None)))


def pair_means(gram: Array, activation: Activation) -> Array:
    """``E f_p(w.x_i) f_q(w.x_l)`` (3, 3, B, B) for f = sigma', sigma sigma', sigma."""
    slope = derivative(activation)
    norms, directions = directions_of(gram)
    means = np.empty((3, 3, *gram.shape))

    def functions(norm: float) -> Callable[[Array], Array]:
        def stack(t: Array) -> Array:
            value, moved = activation.function(norm * t), slope(norm * t)
            return np.stack([moved, value * moved, value])

        return stack

    for i, k, cosine, _ in planes(directions):
        f_kinks, g_kinks = ([kink / norms[index] for kink in activation.kinks] for index in (i, k))
        scale = float(max(norms[i], norms[k]))
        both = plane_moments(functions(norms[i]), functions(norms[k]), cosine, 0, f_kinks, g_kinks, scale)
        means[:, :, i, k] = both[:, :, 0, 0]
        means[:, :, k, i] = both[:, :, 0, 0].T
    return means


def moving_residuals(residuals: Array, means: Array, centres: Array, m: int) -> Array:
    """``E sum_j J_j J_j^T / m`` (B, B) for a direction outside the span and unit noise, where ``r_i = r_i* + mean_j
    (sigma_ij - centre_i)`` depends on all of W and on the features; exact. means: ``pair_means``; centres (B,): E sigma."""
    slopes, mixed, both = means[0, 0], means[1, 0], means[1, 1]  # mixed[i, l]: E sigma_i sigma'_i sigma'_l
    r, c = residuals, centres
    covariance = means[2, 2] - np.outer(c, c)
    own = mixed - c[:, None] * slopes  # E (sigma_i - c_i) sigma'_i sigma'_l
    pair = both - c * mixed - c[:, None] * mixed.T + np.outer(c, c) * slopes
    squares = np.outer(r, r) * slopes + (own * r + (own * r).T) / m + pair / m**2
    squares = squares + (m - 1) / m**2 * covariance * slopes
    cross = (
        r[:, None] * mixed.T + (both - c[:, None] * mixed.T) / m
    ) / m  # E r_i sigma'_i sigma_l sigma'_l / m
    moved = (both + (m - 1) * means[2, 2] * slopes) / m**2
    return np.asarray(squares + cross + cross.T + moved)


def fixed_residuals(
    density: Density, residuals: Array, gram: Array, activation: Activation, *, threshold: float = 0.0
) -> Array:
    """``E [r_i sigma'_i I_il sigma'_l r_l]`` (B, B) for residuals that are numbers, I the information of an entry about its
    terms. Of ``Masked`` the server is given the mask, which tells more; in closed form where I is constant, else by
    ``bounds.gaussian.nodes``, for B <= 6.

    Raises ``UnsupportedBound`` without noise, for a density without a known information, an activation without a derivative.
    """
    require_noise(density)
    weights = np.outer(residuals, residuals)
    constant = _constant(density)
    if constant is not None:
        each, crossed = constant
        slopes = pair_means(gram, activation)[0, 0]
        return np.asarray(weights * slopes * (crossed + (each - crossed) * np.eye(len(gram))))
    norms, directions = directions_of(gram)
    z, share = gaussian_nodes(len(gram))
    inside = z @ (norms[:, None] * directions).T
    moved = residuals * derivative(activation)(inside)
    parts = residuals * activation.function(inside)
    total = np.zeros_like(weights)
    for start in range(0, len(z), _AT_A_TIME):
        rows = slice(start, start + _AT_A_TIME)
        told = information(density, parts[rows], threshold=threshold)
        total += np.einsum("n,ni,nil,nl->il", share[rows], moved[rows], told, moved[rows])
    return total


def _constant(density: Density) -> tuple[float, float] | None:
    """Information of a term about itself and of two terms about both, where it does not depend on the terms."""
    if isinstance(density, Masked):
        return 1 / (density.sigma**2 * (1 - density.p)), 1 / density.sigma**2
    if isinstance(density, Erased):
        return ((1 - density.p) / density.sigma**2,) * 2
    if isinstance(density, Plain):
        return (density.sigma**-2,) * 2
    return None
