"""Expectations under the standard Gaussian in one and two dimensions, accurate across kinks.

Gauss-Hermite rules converge slowly for kinked integrands such as ReLU's. Here the line is cut at the kinks and each piece
carries composite Gauss-Legendre panels, so the rule is spectrally accurate for piecewise smooth integrands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from bounds.arrays import Array

#: The Gaussian density at 12 is 2e-32: with the polynomial factors used here (degree at most 10) the rest is below 1e-19.
TAIL = 12.0


_NODES = 20


_PANEL = 2.0


def _grid(scale: float = 1.0) -> Array:
    """Edges of the panels, finer where functions vary ``scale`` times as fast as an activation at unit norm."""
    count = math.ceil(2 * TAIL / _PANEL * max(1.0, scale / 3))
    return np.linspace(-TAIL, TAIL, count + 1)


def _density(x: Array) -> Array:
    return np.asarray(np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi))


@lru_cache(maxsize=1)
def _legendre() -> tuple[Array, Array]:
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return nodes, weights


def gaussian_rule(breaks: Sequence[float] = (), scale: float = 1.0) -> tuple[Array, Array]:
    """Nodes and weights (both 1-D) with ``sum(w * f(x)) = E f(Z)``, Z ~ N(0, 1), for f smooth between ``breaks``.

    ``scale``: how fast f varies, in units of an activation at unit norm (for ``sigma(n Z)``: n).
    """
    inside = [b for b in breaks if -TAIL < b < TAIL]
    edges = np.unique(np.concatenate([_grid(scale), np.asarray(inside, dtype=float)]))
    nodes, weights = _legendre()
    half = np.diff(edges) / 2
    centre = (edges[:-1] + edges[1:]) / 2
    x = (centre[:, None] + half[:, None] * nodes).ravel()
    w = (half[:, None] * weights).ravel()
    return x, w * _density(x)


def hermite(order: int, x: Array) -> Array:
    """Probabilists' Hermite polynomials He_0 .. He_order at ``x``: shape ``(order + 1, *x.shape)``."""
    values = np.empty((order + 1, *x.shape))
    values[0] = 1.0
    if order >= 1:
        values[1] = x
    for k in range(1, order):
        values[k + 1] = x * values[k] - k * values[k - 1]
    return values


def plane_moments(
    f: Callable[[Array], Array],
    g: Callable[[Array], Array],
    cosine: float,
    order: int,
    f_kinks: Sequence[float],
    g_kinks: Sequence[float],
    scale: float = 1.0,
) -> Array:
    """``N[p, q, a, b] = E[f_p(s) g_q(t) He_a(z1) He_b(z2)]`` for a + b <= order, ``s = z1``, ``t = cosine z1 + sine z2``.

    ``z1, z2`` are independent standard normals: orthonormal coordinates of the plane of two features with the given
    cosine. ``f`` and ``g`` map an array to a stack of functions of it (first axis p or q); ``f_kinks`` and ``g_kinks`` are
    where they are not smooth, ``scale`` as in ``gaussian_rule``. Entries with a + b > order are zero.

    For nearly parallel features the inner integral, as a function of z1, has layers of width ``sine`` around the kinks
    of g: the outer panels are graded towards them.
    """
    sine = float(np.sqrt(max(0.0, 1.0 - cosine**2)))
    if sine < 1e-12:
        sign = float(np.sign(cosine))
        x, w = gaussian_rule([*f_kinks, *(sign * k for k in g_kinks)], scale)
        line = np.einsum("pn,qn,an,n->pqa", f(x), g(sign * x), hermite(order, x), w)
        return np.concatenate([line[..., None], np.zeros((*line.shape, order))], axis=-1)
    layers = [k / cosine for k in g_kinks] if abs(cosine) > 1e-6 else []
    graded = [c + side * sine * 2.0**j for c in layers for side in (-1, 1) for j in range(-2, 8)]
    z1, outer_weights = gaussian_rule([*f_kinks, *layers, *graded], scale)
    # Inner rule: panels on the grid plus one break per kink of g, at a place that moves with z1.
    grid = _grid(scale)
    moving = [np.clip((k - cosine * z1) / sine, -TAIL, TAIL) for k in g_kinks]
    edges = np.sort(np.column_stack([np.broadcast_to(grid, (z1.size, grid.size)), *moving]), axis=1)
    nodes, weights = _legendre()
    inner: Array = np.zeros(())
    for left, right in zip(edges.T[:-1], edges.T[1:], strict=True):
        half = (right - left) / 2
        z2 = ((left + right) / 2)[:, None] + half[:, None] * nodes
        density = half[:, None] * weights * _density(z2)
        values = g((cosine * z1[:, None] + sine * z2).ravel()).reshape(-1, *z2.shape) * density
        inner = inner + np.einsum("bij,qij->qbi", hermite(order, z2), values, optimize=True)
    moments = np.einsum("pi,ai,qbi->pqab", f(z1) * outer_weights, hermite(order, z1), inner, optimize=True)
    a, b = np.indices(moments.shape[-2:])
    return np.where(a + b <= order, moments, 0.0)
