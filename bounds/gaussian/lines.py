"""Points for the posterior of B Gaussian numbers z of which one sum ``t(z)`` is seen with little noise.

One number narrows one direction. So the points lie on lines along a direction in which t runs: along a line they are
close, and the likelihood is blurred to what their distance resolves; across the lines everything is smooth, and few serve.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from bounds.arrays import Array
from bounds.gaussian.normals import normals

#: The largest B that points are made for.
LARGEST_B = 6

#: How far out the points lie, in standard deviations: along a line, and across.
_REACH, _ACROSS = 5.0, 4.0

#: Lines per direction across, where that is a grid; Sobol points in more directions (a power of 2).
_GRID, _SOBOL = {0: 1, 1: 14, 2: 10}, 2**7

#: The least blur of the likelihood, in units of the difference of t between neighbours on a line: sums over points at that
#: distance of a Gaussian that wide are integrals up to 1.4 per cent of ripple.
RESOLVED = 0.5

#: Below this part of the root mean square of what is seen, differences are rounding: no likelihood is sharper.
SHARPEST = 1e-12

#: Directions of a covariance that are this much smaller than the largest are kept at this size.
_FLAT = 1e-14


@dataclass(frozen=True, eq=False)
class Lines:
    """points (N, B) and weights (N,) of the standard normal distribution, N = lines x along: the first coordinate runs along
    a line, line after line. Read-only."""

    points: Array
    weights: Array
    along: int


@lru_cache(maxsize=8)
def lines(B: int, along: int) -> Lines:
    """``along`` points on each line, in B dimensions up to ``LARGEST_B``. Raises ``ValueError`` beyond."""
    if not 1 <= B <= LARGEST_B:
        raise ValueError(f"B must be 1 to {LARGEST_B}; got {B}")
    line = np.linspace(-_REACH, _REACH, along)
    density = np.exp(-(line**2) / 2)
    line = _standard(line[:, None], density)[:, 0]
    across, share = _across(B - 1)
    across = _standard(across, share)
    points = np.concatenate([np.tile(line, len(across))[:, None], np.repeat(across, along, axis=0)], axis=1)
    weights = np.outer(share, density).ravel()
    weights /= weights.sum()
    for values in (points, weights):
        values.setflags(write=False)
    return Lines(points, weights, along)


def _across(D: int) -> tuple[Array, Array]:
    if D in _GRID:
        axis = np.linspace(-_ACROSS, _ACROSS, _GRID[D]) if D else np.zeros(1)
        points = (
            np.stack(np.meshgrid(*[axis] * D, indexing="ij"), axis=-1).reshape(-1, D)
            if D
            else np.zeros((1, 0))
        )
        points = points[np.sum(points**2, axis=1) <= _ACROSS**2 * (1 + 1e-9)]
        return points, np.exp(-np.sum(points**2, axis=1) / 2)
    return normals(D, _SOBOL), np.ones(_SOBOL)


def _standard(points: Array, weights: Array) -> Array:
    """The points moved to mean 0 and covariance 1: what an entry narrows is told by the difference from these, and may be
    small."""
    share = weights / weights.sum()
    centred = points - share @ points
    root = np.linalg.cholesky((share[:, None] * centred).T @ centred)
    return np.asarray(np.linalg.solve(root, centred.T).T)


def frame(V: Array, residuals: Array) -> Array:
    """``M`` (B, B) with ``M M^T = V``, whose first column, the direction of the lines, moves every term of
    ``sum_i r_i sigma(z_i)`` to the same side where sigma grows, each by the same part of its standard deviation."""
    values, vectors = np.linalg.eigh(V)
    root = vectors * np.sqrt(np.maximum(values, _FLAT * max(values[-1], 0.0)))
    run = np.where(residuals < 0, -1.0, 1.0) * np.sqrt(np.diag(V))
    first = np.linalg.solve(root, run)
    first /= math.sqrt(first @ first)
    # the reflection that takes the first unit vector to ``first``
    normal = first - np.eye(len(V))[0]
    size = normal @ normal
    reflection = np.eye(len(V)) - (2 / size * np.outer(normal, normal) if size > 1e-24 else 0.0)
    return np.asarray(root @ reflection)
