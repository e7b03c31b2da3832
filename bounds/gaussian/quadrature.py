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
from bounds.errors import UnsupportedBound

#: The Gaussian density at 12 is 2e-32: with the polynomial factors used here (degree at most 10) the rest is below 1e-19.
TAIL = 12.0


PANEL_NODES = 20


_PANEL = 2.0


#: Up to this scale the panels are uniform and need no look at the function.
_UNIFORM = 3.0


#: A panel is halved while the last Legendre coefficients of a function on it exceed this part of its size there: the rule is
#: exact to twice the degree, so what it misses is of the order of the square.
_TAIL_COEFFICIENT = 1e-9


#: Panels that a function may need: more take too long in the plane (their number squared), or on the line.
IN_THE_PLANE, ON_THE_LINE = 400, 20_000


def panel_edges(scale: float = 1.0) -> Array:
    """Edges of the panels, finer where functions vary ``scale`` times as fast as an activation at unit norm."""
    count = math.ceil(2 * TAIL / _PANEL * max(1.0, scale / _UNIFORM))
    return np.linspace(-TAIL, TAIL, count + 1)


def edges(
    function: Callable[[Array], Array], scale: float, breaks: Sequence[float] = (), most: int = ON_THE_LINE
) -> Array:
    """Edges of panels on each of which ``function`` is a polynomial to rounding, whatever ``scale`` is.

    ``function`` maps an array to one of the same shape, or to a stack of them; it is smooth between ``breaks`` and varies at
    most ``scale`` times as fast as an activation at unit norm. Up to scale 3 the panels are uniform. Beyond, the condition
    is that an activation has its features near zero, so that ``sigma(n t)`` has them within some 1/n: panels double in width
    from there, and are halved where the function asks for it, down to the width that it may need anywhere. A feature far
    from zero that no node of these panels meets is not seen.

    Raises ``UnsupportedBound`` where more than ``most`` panels are needed: the function varies fast everywhere.
    """
    inside = [b for b in breaks if -TAIL < b < TAIL]
    if scale <= _UNIFORM:
        return np.unique(np.concatenate([panel_edges(), np.asarray(inside, dtype=float)]))
    finest = _PANEL * _UNIFORM / scale
    graded = finest * 2.0 ** np.arange(math.ceil(math.log2(TAIL / finest)))
    found = np.unique(np.concatenate([panel_edges(), -graded, graded, inside]))
    transform = _legendre_tail()
    while True:
        half, centre = np.diff(found) / 2, (found[:-1] + found[1:]) / 2
        x = centre[:, None] + half[:, None] * _legendre()[0]
        values = function(x.ravel()).reshape(-1, *x.shape)
        rough = np.abs(values @ transform).max(axis=-1) > _TAIL_COEFFICIENT * np.abs(values).max(axis=-1)
        halved = rough.any(axis=0) & (2 * half > 1.01 * finest)
        if len(found) + np.count_nonzero(halved) > most + 1:
            raise UnsupportedBound(
                f"not computed: the activation varies too fast at norm {scale:.3g}: more than {most} panels"
            )
        if not halved.any():
            return found
        found = np.sort(np.concatenate([found, centre[halved]]))


@lru_cache(maxsize=1)
def _legendre_tail() -> Array:
    """The map from values at the nodes of a panel to its last four Legendre coefficients: (nodes, 4)."""
    nodes, weights = _legendre()
    degrees = np.arange(PANEL_NODES - 4, PANEL_NODES)
    return (
        np.polynomial.legendre.legvander(nodes, PANEL_NODES - 1)[:, degrees]
        * weights[:, None]
        * (degrees + 0.5)
    )


def _density(x: Array) -> Array:
    return np.asarray(np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi))


@lru_cache(maxsize=1)
def _legendre() -> tuple[Array, Array]:
    nodes, weights = np.polynomial.legendre.leggauss(PANEL_NODES)
    return nodes, weights


def gaussian_rule(
    breaks: Sequence[float] = (),
    scale: float = 1.0,
    function: Callable[[Array], Array] | None = None,
) -> tuple[Array, Array]:
    """Nodes and weights (both 1-D) with ``sum(w * f(x)) = E f(Z)``, Z ~ N(0, 1), for f smooth between ``breaks``.

    ``scale``: how fast f varies, in units of an activation at unit norm (for ``sigma(n Z)``: n). The panels are uniform, and
    their number grows with it; where ``function`` is given they are chosen for it (see ``edges``).
    """
    if function is not None:
        return _rule(edges(function, scale, breaks))
    inside = [b for b in breaks if -TAIL < b < TAIL]
    return _rule(np.unique(np.concatenate([panel_edges(scale), np.asarray(inside, dtype=float)])))


def _rule(edges: Array) -> tuple[Array, Array]:
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
    of g: the outer panels are graded towards them. The number of panels does not grow with ``scale`` but for its logarithm.
    Raises ``UnsupportedBound`` for functions that vary too fast everywhere.
    """
    sine = float(np.sqrt(max(0.0, 1.0 - cosine**2)))
    if sine < 1e-12:
        sign = float(np.sign(cosine))
        x, w = _rule(_union(edges(f, scale, f_kinks), sign * edges(g, scale, g_kinks)))
        line = np.einsum("pn,qn,an,n->pqa", f(x), g(sign * x), hermite(order, x), w)
        return np.concatenate([line[..., None], np.zeros((*line.shape, order))], axis=-1)
    fast = scale > _UNIFORM
    f_edges, g_edges = (
        edges(h, scale, kinks, IN_THE_PLANE) if fast else panel_edges()
        for h, kinks in ((f, f_kinks), (g, g_kinks))
    )
    layers = [k / cosine for k in g_kinks] if abs(cosine) > 1e-6 else []
    graded = [c + side * sine * 2.0**j for c in layers for side in (-1, 1) for j in range(-2, 8)]
    places: list[Array | Sequence[float]] = [f_edges, f_kinks, layers, graded]
    if fast and abs(cosine) > 1e-6:
        places.append(g_edges / cosine)  # where g varies for small sine
    z1, outer_weights = _rule(_union(*places))
    # Inner rule: panels on the grid plus one break per kink of g, and per panel of g where it has its own, at places that
    # move with z1.
    grid = panel_edges()
    own = [*g_kinks, *(g_edges if fast else ())]
    moving = [np.clip((k - cosine * z1) / sine, -TAIL, TAIL) for k in own]
    inner_edges = np.sort(np.column_stack([np.broadcast_to(grid, (z1.size, grid.size)), *moving]), axis=1)
    nodes, weights = _legendre()
    inner: Array = np.zeros(())
    for left, right in zip(inner_edges.T[:-1], inner_edges.T[1:], strict=True):
        half = (right - left) / 2
        z2 = ((left + right) / 2)[:, None] + half[:, None] * nodes
        density = half[:, None] * weights * _density(z2)
        values = g((cosine * z1[:, None] + sine * z2).ravel()).reshape(-1, *z2.shape) * density
        inner = inner + np.einsum("bij,qij->qbi", hermite(order, z2), values, optimize=True)
    moments = np.einsum("pi,ai,qbi->pqab", f(z1) * outer_weights, hermite(order, z1), inner, optimize=True)
    a, b = np.indices(moments.shape[-2:])
    return np.where(a + b <= order, moments, 0.0)


def _union(*places: Array | Sequence[float]) -> Array:
    """All of these edges within reach, once each, with the uniform ones."""
    found = np.concatenate([panel_edges(), *(np.asarray(p, dtype=float) for p in places)])
    return np.unique(found[np.abs(found) <= TAIL])
