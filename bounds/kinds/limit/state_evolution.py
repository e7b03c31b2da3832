"""State evolution: what message passing reaches as d and m grow at ``alpha = m/d``, in B x B matrices.

The columns of X are i.i.d. N(0, G/d) there. With Q the overlap of posterior mean and truth, ``V = G - Q``, omega ~ N(0, Q),
z | omega ~ N(omega, V) and y drawn from the density of what is seen of ``sum_i r_i sigma(z_i)``:

    g_out(y, omega, V) = V^-1 (E[z | y, omega, V] - omega),   Qhat = alpha E[g_out g_out^T],   Q = G - (G^-1 + Qhat)^-1.

From Q near 0 this is message passing, and the best of all estimators where the free entropy has its maximum at that fixed
point: Barbier, Krzakala, Macris, Miolane, Zdeborova (PNAS 2019, arXiv 1708.03395) for B = 1, Aubin et al. (NeurIPS 2018,
arXiv 1806.05451) for committee machines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy

from bounds import checks
from bounds.arrays import Array
from bounds.density import (
    Density,
    Masked,
    Rounded,
    Signs,
)
from bounds.errors import UnsupportedBound
from bounds.gaussian.activations import Activation
from bounds.gaussian.lines import LARGEST_B, RESOLVED, SHARPEST, frame, lines
from bounds.kinds.limit import signs
from bounds.kinds.limit.entries import Entries, drawn, known, root, sampled
from bounds.kinds.limit.signs import by_halves, zeros

#: Entries that an expectation is over, and points on a line, unless given.
DRAWS, ALONG = 2**11, 30

#: Points of posteriors that are computed at a time: what fits the cache.
_AT_A_TIME = 2**16

#: Spread, in units of the features' size or of a step, below which an edge looks the same at any: its square is what that
#: neglects.
EDGE = 0.1

#: Without noise the error may fall by the same factor in every step: it counts as 0 once that is so below this part of the
#: features' size.
EXACT = 1e-3


#: The maps are monotone: an error that rises and falls so many times, by no more than this part, is at rest up to the kinks
#: that finitely many entries make.
SWINGS, LARGEST_SWING = 3, 0.01

#: Of a geometric series of changes of which two are known, the largest ratio that is believed.
_SLOWEST = 0.95


@dataclass(frozen=True, eq=False)
class StateEvolution:
    """overlap Q (B, B) at the end, ``information`` Qhat (B, B), ``error`` = sqrt(mean_i (G - Q)_ii), the R of the limit,
    steps made, and whether the error had come to rest, or falls without end (then it is 0, and Q is G)."""

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
    seed: int = 0,
) -> StateEvolution:
    """Iterate the two maps for ``alpha`` neurons per dimension, Gram matrix ``gram`` (B, B) and ``residuals`` (B,), from the
    overlap (B, B), by default 1e-6 of the Gram matrix, until the error changes by less than the part ``tolerance`` of it.

    draws: quasi-random entries (a power of 2) that the expectation is over, scrambled by ``seed``: the same in every step.
    along: points on a line of ``bounds.gaussian.lines``. Raises ``ValueError`` for B above ``LARGEST_B``, a Gram matrix that
    is not positive definite, an overlap outside 0 < Q < G; ``UnsupportedBound`` for a density of another kind.
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
    entries = sampled(G, r, activation, density, draws, seed)
    V: Array = G - Q
    size, information = _rms(G), np.zeros_like(G)
    error, swings, moved = _rms(V), 0, 0.0
    for step in range(1, steps + 1):
        information = alpha * mean_information(G, V, r, activation, density, entries, along)
        before, V = V, np.asarray(np.linalg.inv(inverse + information), dtype=np.float64)
        if (
            swings >= SWINGS
        ):  # about a kink, each time to its other side: the point of rest is between the two
            V = (V + before) / 2
        error, was = _rms(V), error
        change, moved = moved, math.log(error / was)
        swings += change * moved < 0
        # the overlap too: it may grow from almost nothing by a factor in each step, which the error does not show
        still = np.linalg.norm(V - before) <= tolerance * np.linalg.norm(G - V)
        if (still and abs(moved) <= tolerance) or (swings >= SWINGS and abs(moved) <= LARGEST_SWING):
            rested = V * math.exp(2 * _rest(change, moved))
            V = rested if np.linalg.eigvalsh(G - rested)[0] > 0 else V
            return StateEvolution(G - V, information, _rms(V), step, True)
        steady = moved < 0 and abs(moved - change) <= 0.05 * abs(moved)
        if density.sigma == 0 and error <= EXACT * size and steady:
            return StateEvolution(G, information, 0.0, step, True)
    return StateEvolution(G - V, information, error, steps, False)


def _rest(change: float, moved: float) -> float:
    """What is left of a geometric series of changes after these two."""
    ratio = min(max(moved / change, 0.0), _SLOWEST) if change else 0.0
    return moved * ratio / (1 - ratio)


def mean_information(
    gram: Array,
    V: Array,
    residuals: Array,
    activation: Activation,
    density: Density,
    entries: Entries,
    along: int,
) -> Array:
    """``E[g_out g_out^T]`` (B, B) at ``V``, also as ``V^-1 - V^-1 E[Cov(z | y, omega)] V^-1``, which is the same where
    entries are drawn from the density that is believed: of both what scatters least.

    So where the density is sharper than points on a line resolve, the entries are blurred as well: what is computed then is
    of a little more noise than there is, the less the more points there are.
    """
    near = _near_edges(gram, V, residuals, density)
    if near < 1:
        return mean_information(gram, V / near**2, residuals, activation, density, entries, along) / near
    seen = known(residuals)
    B = int(seen.sum())
    found = np.zeros_like(gram)
    told = np.ix_(seen, seen)
    normal = entries.normal
    G, U, r = gram[told], V[told], residuals[seen]
    drift = U @ np.linalg.inv(G)  # omega | z ~ N((1 - drift) z, (1 - drift) U)
    apart = U - drift @ U
    z = normal[:, :B] @ root(G).T
    omega = z - z @ drift.T + normal[:, B : 2 * B] @ root((apart + apart.T) / 2).T
    if by_halves(density, activation):
        uniform = scipy.special.ndtr(normal[:, 2 * B])
        values = signs.drawn(z, r, activation, _cell(frame(U, r), along), uniform)
    else:
        noisy = _blurred(density, z, U, r, activation, along)
        values = drawn(noisy, r * activation(z), normal[:, 2 * B :])
        density = noisy if isinstance(noisy, Masked) else density
    p, points, M = posterior(values, omega, U, r, activation, density, along)
    back = np.linalg.inv(M)
    found[told] = _positive(back.T @ _mean(*_parts(p, points), entries.weights) @ back)
    return found


def _parts(p: Array, points: Array) -> tuple[Array, Array]:
    """``mean mean^T`` and ``1 - covariance`` (n, B, B) of posteriors p (n, N) on points (N, B), which have the same
    expectation: that of the means' covariance is 1 less that of the covariances."""
    n, B = len(p), points.shape[1]
    pairs = (points[:, :, None] * points[:, None]).reshape(len(points), B * B)
    first, second = p @ points, (p @ pairs).reshape(n, B, B)
    outer = first[:, :, None] * first[:, None]
    return outer, np.eye(B) - second + outer


def _mean(one: Array, other: Array, weights: Array) -> Array:
    """The expectation (B, B) of ``one`` and ``other`` (n, B, B), of every element from the mixture that scatters least: far
    from what is seen the second does not depend on the noise, near kinks the first scatters less."""
    means = (np.tensordot(weights, each, 1) for each in (one, other))
    first, second = means
    apart = other - one - (second - first)
    spread = np.tensordot(weights, apart**2, 1)
    along = np.tensordot(weights, apart * (one - first), 1)
    share = np.clip(-along / np.maximum(spread, np.finfo(float).tiny), 0.0, 1.0)
    return np.asarray(first + share * (second - first))


def _near_edges(gram: Array, V: Array, residuals: Array, density: Density) -> float:
    """Of rounding and signs only entries near an edge tell anything once V is small: as many as their spread is wide, so
    that the information falls as ``V^(-1/2)``, and few of those that are computed. The share by which the spread is below
    the one from which this is used; 1 where it is not."""
    if not isinstance(density, Rounded | Signs) or density.sigma > 0:
        return 1.0
    unit = _rms(gram)
    if isinstance(density, Rounded):
        unit = min(unit, density.step / float(np.max(np.abs(residuals))))
    share = _rms(V) / (EDGE * unit)
    return share if share < 1 and np.linalg.eigvalsh(gram - V / share**2)[0] > 0 else 1.0


def _blurred(
    density: Density, z: Array, V: Array, residuals: Array, activation: Activation, along: int
) -> Density:
    """The density with the noise at each z (n, B) that the points on a line through it resolve. Where terms are masked one
    by one it is the same everywhere: else the noise of an entry that has lost its terms would tell of them."""
    step = _cell(frame(V, residuals), along)
    before, here, after = ((residuals * activation(z + k * step)).sum(axis=1) for k in (-1, 0, 1))
    width = RESOLVED * np.maximum(np.abs(after - here), np.abs(here - before))
    width = np.where(np.any(activation(z) != 0, axis=1), width, 0.0)
    if isinstance(density, Masked):
        return replace(density, sigma=max(density.sigma, float(width.max()) / (1 - density.p)))
    each: Any = np.maximum(density.sigma, width)  # a number for every entry, which a law of entries takes too
    return replace(density, sigma=each)


def _cell(M: Array, along: int) -> Array:
    """From a point on a line to the next (B,)."""
    nodes = lines(len(M), along).points
    return np.asarray((nodes[1, 0] - nodes[0, 0]) * M[:, 0])


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
    p, points, M = posterior(seen, omega, V, residuals, activation, density, along)
    return np.asarray(p @ points @ np.linalg.inv(M))


def posterior(
    seen: Array,
    omega: Array,
    V: Array,
    residuals: Array,
    activation: Activation,
    density: Density,
    along: int,
) -> tuple[Array, Array, Array]:
    """Probabilities (n, N) of the points xi (N, B) at which ``z = omega + M xi``, the points, and M (B, B)."""
    n, B = omega.shape
    nodes = lines(B, along)
    M = frame(V, residuals)
    size = max(float(np.sqrt(np.mean(seen**2))), float(np.abs(residuals) @ np.sqrt(np.diag(V))))
    least = SHARPEST * max(size, np.finfo(float).tiny)
    halves, cell, ends = by_halves(density, activation), _cell(M, along), (0.0, 0.0)
    if halves:
        ends = zeros(activation)
    log = np.empty((n, len(nodes.points)))
    # line by line and never entry by entry, as a threshold is read off all that is seen
    step = along * max(1, _AT_A_TIME // (n * along))
    for start in range(0, len(nodes.points), step):
        part = slice(start, start + step)
        z = omega[:, None] + nodes.points[part] @ M.T
        parts = residuals * activation(z)
        if halves:
            on_lines = (n, -1, along)
            found = signs.log_probability(
                seen, z.reshape(*on_lines, B), parts.sum(axis=2).reshape(on_lines), cell, ends
            )
            log[:, part] = found.reshape(n, -1)
            continue
        active = np.any(parts != 0, axis=2)
        sharp = np.maximum(RESOLVED * np.where(active, spacing(parts, along), 0.0), least)
        blur = np.sqrt(np.maximum(sharp**2 - density.sigma**2, 0.0)).ravel()
        each = np.repeat(seen, parts.shape[1])
        log[:, part] = density.log_density(each, parts.reshape(-1, B), blur).reshape(n, -1)
    log += np.log(nodes.weights)
    top = log.max(axis=1, keepdims=True)
    if not np.all(np.isfinite(top)):
        raise UnsupportedBound("not computed: an entry is seen that no point of its posterior explains")
    p = np.exp(log - top)
    p /= p.sum(axis=1, keepdims=True)
    return p, nodes.points, M


def spacing(parts: Array, along: int) -> Array:
    """How far the sum (n, N) of parts (n, N, B) is from that at its farther neighbour on the line."""
    t = (parts @ np.ones(parts.shape[2])).reshape(len(parts), -1, along)
    steps = np.pad(np.abs(np.diff(t, axis=2)), ((0, 0), (0, 0), (1, 1)))
    return np.asarray(np.maximum(steps[:, :, 1:], steps[:, :, :-1]).reshape(len(parts), -1))


def _positive(matrix: Array) -> Array:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.asarray((vectors * np.maximum(values, 0.0)) @ vectors.T)


def _rms(covariance: Array) -> float:
    return math.sqrt(np.trace(covariance) / len(covariance))
