"""Points and weights of the standard normal distribution in B dimensions."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from bounds.arrays import Array
from bounds.errors import UnsupportedBound
from bounds.gaussian.normals import normals
from bounds.gaussian.quadrature import hermite
from bounds.gaussian.symmetric import symmetric_indices

#: Grid: how far out in standard deviations, and points per axis for B = 1, 2.
_REACH, _POINTS = 8.5, {1: 20_001, 2: 501}


#: Sobol points beyond (a power of 2), and how much wider than the standard normal distribution they are drawn: the moments
#: weigh far points as |z|^5, and wide points halve the error or better (3 or 4 features, pruned: .2 to .6 % of the floor).
_SOBOL, _WIDE = 2**18, 1.3


@lru_cache(maxsize=1)
def gaussian_nodes(B: int) -> tuple[Array, Array]:
    """Points (N, B) and weights of the standard normal distribution in B dimensions; read-only."""
    if B in _POINTS:
        z, w = _lattice(B)
    elif B <= 6:
        z = _WIDE * normals(B, _SOBOL)
        w = np.exp(-np.sum(z * z, axis=1) * (1 - _WIDE**-2) / 2)
        w /= w.sum()
    else:
        raise UnsupportedBound(
            f"not proved: expectations in B = {B} > 6 dimensions are not computed for this channel"
        )
    for values in (z, w):
        values.setflags(write=False)
    return z, w


def _lattice(B: int) -> tuple[Array, Array]:
    # Shifted by an irrational part of a step, so that kinks at zero do not lie on the grid.
    line = np.linspace(-_REACH, _REACH, _POINTS[B])
    line = line + (line[1] - line[0]) * (math.sqrt(2) - 1)
    weight = np.exp(-(line**2) / 2)
    weight = weight / weight.sum()
    z = np.stack(np.meshgrid(*[line] * B, indexing="ij"), axis=-1).reshape(-1, B)
    w = weight
    for _ in range(B - 1):
        w = np.multiply.outer(w, weight)
    w = w.ravel()
    kept = np.sum(z * z, axis=1) < _REACH**2
    return z[kept], w[kept] / w[kept].sum()


@lru_cache(maxsize=2)
def hermite_entries(size: int, order: int) -> Array:
    """The weighted entries of ``He_order`` at the nodes and multi-indices: (n, N), read-only."""
    z, (index, weight) = gaussian_nodes(size)[0], symmetric_indices(size, order)
    values = np.stack([hermite(order, z[:, b]) for b in range(size)])  # (B, order + 1, n)
    counts = np.stack([np.sum(index == k, axis=1) for k in range(size)], axis=1)
    out = np.broadcast_to(weight, (len(z), len(index))).copy()
    for b in range(size):
        out *= values[b][counts[:, b]].T
    out.setflags(write=False)
    return out
