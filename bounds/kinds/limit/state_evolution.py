"""State evolution: what message passing reaches as d and m grow at ``alpha = m/d``, in B x B matrices.

The columns of X are i.i.d. N(0, G/d) there. With Q the overlap of posterior mean and truth, ``V = G - Q``, omega ~ N(0, Q),
z | omega ~ N(omega, V) and y drawn from the density of what is seen of ``sum_i r_i sigma(z_i)``:

    g_out(y, omega, V) = V^-1 (E[z | y, omega, V] - omega),   Qhat = alpha E[g_out g_out^T],   Q = G - (G^-1 + Qhat)^-1.

From Q near 0 this is message passing, and the best of all estimators where the free entropy has its maximum at that fixed
point: Barbier, Krzakala, Macris, Miolane, Zdeborova (PNAS 2019, arXiv 1708.03395) for B = 1, Aubin et al. (NeurIPS 2018,
arXiv 1806.05451) for committee machines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import scipy

from bounds import checks
from bounds.arrays import Array
from bounds.density import Clamped, Density, Dithered, Erased, Masked, Plain, Rounded, Signs, Thresholded
from bounds.errors import UnsupportedBound
from bounds.gaussian.activations import Activation
from bounds.gaussian.lines import LARGEST_B, RESOLVED, SHARPEST, frame, lines

#: Entries that an expectation is over, and points on a line, unless given.
DRAWS, ALONG = 2**11, 30

#: Points of posteriors that are computed at a time.
_AT_A_TIME = 2**20


@dataclass(frozen=True, eq=False)
class StateEvolution:
    """overlap Q (B, B) at the end, ``information`` Qhat (B, B), ``error`` = sqrt(mean_i (G - Q)_ii), the R of the limit,
    steps made, and whether the error had come to rest."""

    overlap: Array
    information: Array
    error: float
    steps: int
    converged: bool


def state_evolution(
    alpha: float,
    gram: Array,
    residuals: Array,
    activation: Activation,
    density: Density,
    *,
    overlap: Array | None = None,
    steps: int = 200,
    tolerance: float = 1e-3,
    draws: int = DRAWS,
    along: int = ALONG,
) -> StateEvolution:
    """Iterate the two maps for ``alpha`` neurons per dimension, Gram matrix ``gram`` (B, B) and ``residuals`` (B,), from the
    overlap (B, B), by default 1e-6 of the Gram matrix, until the error changes by less than the part ``tolerance`` of it.

    draws: quasi-random entries (a power of 2) that the expectation is over: the same in every step. along: points on a line
    of ``bounds.gaussian.lines``. Raises ``ValueError`` for B above ``LARGEST_B``, a Gram matrix that is not positive
    definite, an overlap outside 0 < Q < G; ``UnsupportedBound`` for a density of another kind.
    """
    checks.real("alpha", alpha, 0.0)
    G = checks.array("gram", gram, (None, None))
    r = checks.array("residuals", residuals, (len(G),))
    B = len(r)
    if B > LARGEST_B:
        raise ValueError(f"B must be at most {LARGEST_B}; got {B}")
    Q: Array = 1e-6 * G if overlap is None else checks.array("overlap", overlap, (B, B))
    for name, matrix in (("gram", G), ("overlap", Q), ("gram - overlap", G - Q)):
        if np.linalg.eigvalsh(matrix)[0] <= 0:
            raise ValueError(f"{name} must be positive definite; got {matrix.tolist()}")
    inverse = np.linalg.inv(G)
    normal = normals(3 * B + 1, draws)
    V: Array = G - Q
    error = float(np.sqrt(np.trace(V) / B))
    information = np.zeros_like(G)
    for step in range(1, steps + 1):
        information = alpha * mean_information(G, V, r, activation, density, normal, along)
        before, V = V, np.asarray(np.linalg.inv(inverse + information), dtype=np.float64)
        error = float(np.sqrt(np.trace(V) / B))
        # the overlap too: it may grow from almost nothing by a factor in each step, which the error does not show
        still = np.linalg.norm(V - before) <= tolerance * np.linalg.norm(G - V)
        if still and abs(error - float(np.sqrt(np.trace(before) / B))) <= tolerance * error:
            return StateEvolution(G - V, information, error, step, True)
    return StateEvolution(G - V, information, error, steps, False)


def mean_information(
    gram: Array,
    V: Array,
    residuals: Array,
    activation: Activation,
    density: Density,
    normal: Array,
    along: int,
) -> Array:
    """``E[g_out g_out^T]`` (B, B) at ``V``, over entries made of ``normal`` (n, 3 B + 1): omega, z, and what the density
    draws."""
    B = len(residuals)
    omega = normal[:, :B] @ _root(gram - V).T
    z = omega + normal[:, B : 2 * B] @ _root(V).T
    seen = drawn(density, residuals * activation(z), normal[:, 2 * B :])
    g = gains(seen, omega, V, residuals, activation, density, along)
    return np.asarray(g.T @ g / len(g))


def gains(
    seen: Array,
    omega: Array,
    V: Array,
    residuals: Array,
    activation: Activation,
    density: Density,
    along: int = ALONG,
) -> Array:
    """``g_out = V^-1 (E[z | y, omega, V] - omega)`` (n, B) of entries ``seen`` (n,), z ~ N(omega (n, B), V)."""
    n, B = omega.shape
    nodes = lines(B, along)
    M = frame(V, residuals)
    least = SHARPEST * max(float(np.sqrt(np.mean(seen**2))), np.finfo(float).tiny)
    log = np.empty((n, len(nodes.points)))
    # line by line and never entry by entry, as a threshold is read off all that is seen
    step = along * max(1, _AT_A_TIME // (n * along))
    for start in range(0, len(nodes.points), step):
        part = slice(start, start + step)
        parts = residuals * activation(omega[:, None] + nodes.points[part] @ M.T)
        sharp = np.maximum(RESOLVED * spacing(parts, along), least)
        blur = np.sqrt(np.maximum(sharp**2 - density.sigma**2, 0.0)).ravel()
        each = np.repeat(seen, parts.shape[1])
        log[:, part] = density.log_density(each, parts.reshape(-1, B), blur).reshape(n, -1)
    log += np.log(nodes.weights)
    p = np.exp(log - log.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return np.asarray(p @ nodes.points @ np.linalg.inv(M))


def spacing(parts: Array, along: int) -> Array:
    """How far the sum (n, N) of parts (n, N, B) is from that at its farther neighbour on the line."""
    t = parts.sum(axis=2).reshape(len(parts), -1, along)
    steps = np.pad(np.abs(np.diff(t, axis=2)), ((0, 0), (0, 0), (1, 1)))
    return np.asarray(np.maximum(steps[:, :, 1:], steps[:, :, :-1]).reshape(len(parts), -1))


def drawn(density: Density, parts: Array, normal: Array) -> Array:
    """What is seen (n,) of the terms ``parts`` (n, B), by ``normal`` (n, B + 1). ``UnsupportedBound`` for a density that has
    no entry in the table."""
    draw = _DRAWN.get(type(density))
    if draw is None:
        raise UnsupportedBound(f"not computed: how {type(density).__name__} draws what is seen")
    return draw(density, parts, normal)


def _noisy(density: Density, parts: Array, normal: Array) -> Array:
    return np.asarray(parts.sum(axis=1) + density.sigma * normal[:, 0])


def _erased(density: Erased, parts: Array, normal: Array) -> Array:
    kept = scipy.special.ndtr(normal[:, 1]) >= density.p
    return np.where(kept, _noisy(density, parts, normal) / (1 - density.p), 0.0)


def _masked(density: Masked, parts: Array, normal: Array) -> Array:
    kept = scipy.special.ndtr(normal[:, 1:]) >= density.p
    return _noisy(density, parts * kept / (1 - density.p), normal)


def _thresholded(density: Thresholded, parts: Array, normal: Array) -> Array:
    whole = _noisy(density, parts, normal)
    smallest = np.argsort(np.abs(whole), kind="stable")[: int(density.ratio * len(whole))]
    whole[smallest] = 0.0
    return whole


def _rounded(density: Rounded, parts: Array, normal: Array) -> Array:
    return np.asarray(density.step * np.round(_noisy(density, parts, normal) / density.step))


def _dithered(density: Dithered, parts: Array, normal: Array) -> Array:
    units = _noisy(density, parts, normal) / density.step
    return np.asarray(density.step * np.floor(units + scipy.special.ndtr(normal[:, 1])))


def _signs(density: Signs, parts: Array, normal: Array) -> Array:
    return np.asarray(np.sign(_noisy(density, parts, normal)))


def _clamped(density: Clamped, parts: Array, normal: Array) -> Array:
    return np.clip(_noisy(density, parts, normal), -density.limit, density.limit)


_DRAWN: Mapping[type[Density], Callable[..., Array]] = {
    Plain: _noisy,
    Erased: _erased,
    Masked: _masked,
    Thresholded: _thresholded,
    Rounded: _rounded,
    Dithered: _dithered,
    Signs: _signs,
    Clamped: _clamped,
}


def _root(covariance: Array) -> Array:
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))


def normals(dimension: int, draws: int) -> Array:
    """Quasi-random standard normals (draws, dimension), the same every time."""
    uniform = scipy.stats.qmc.Sobol(dimension, scramble=True, seed=0).random(draws)
    return np.asarray(scipy.special.ndtri(np.clip(uniform, 1e-12, 1 - 1e-12)))
