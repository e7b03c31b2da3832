"""Fourth moments of differences of first order, over the square of their second ones: one and two features.

Proof: bounds/proofs/certificate.md, step 3. Such a difference is ``A(z) + sum_i sigma'(z_i) (u.t_i)``, z_i = w.xhat_i in
the span and u standard normal outside it: A is in the span of B^2 functions, and given z the rest is normal.
"""

from __future__ import annotations

import math

import numpy as np

from bounds.arrays import Array
from bounds.errors import UnsupportedBound
from bounds.gaussian.activations import Activation

#: Features up to which expectations are taken by quadrature in their plane.
LARGEST_PLANE = 2

#: Nodes of an arc between two kinks, and of a radius up to the length beyond which the density is below rounding.
_ARC, _RADIUS, _LENGTH = 48, 120, 13.0


def kurtosis(activation: Activation, norm: float, directions: Array) -> float:
    """``E q^4 / (E q^2)^2``, at most; directions (B, B): the features' in their span, B at most ``LARGEST_PLANE``."""
    if activation.derivative is None or any(activation.kinks):
        raise UnsupportedBound(
            f"not proved for {activation.name!r}: no derivative, or a kink that is not at 0"
        )
    z, weights = _plane(directions)
    value = activation.function(norm * z @ directions.T)
    slope = norm * activation.derivative(norm * z @ directions.T)
    functions = [value]
    if len(directions) == 2:
        across = directions @ np.array([[0.0, -1.0], [1.0, 0.0]])
        functions.append(slope * (z @ across.T))
    inside = _largest_fourth(np.concatenate(functions, axis=1), weights)
    outside = _largest_fourth(slope, weights)
    # with a^2 <= inside^(1/2) p and b^2 <= outside^(1/2) (1 - p) of E q^2 = 1: at most a^4 + 6 a^2 b^2 + 3 b^4
    a, b = math.sqrt(inside), math.sqrt(outside)
    share = np.linspace(0.0, 1.0, 1001)
    values = (a * share) ** 2 + 6 * a * b * share * (1 - share) + 3 * (b * (1 - share)) ** 2
    slack = 0.5 * (share[1] - share[0]) * (2 * a**2 + 6 * a * b + 6 * b**2)
    return float(np.max(values)) + float(slack)


def _largest_fourth(functions: Array, weights: Array) -> float:
    """``max E f^4`` over f of the functions' span (points, k) with ``E f^2 = 1``, at most: a form in the products f f."""
    orthogonal = functions @ np.linalg.inv(np.linalg.cholesky(functions.T @ (weights[:, None] * functions))).T
    k = orthogonal.shape[1]
    left, right = np.triu_indices(k)
    # products of two that are not the same occur twice in f^2, and once here: their root-two multiple
    products = orthogonal[:, left] * orthogonal[:, right] * np.where(left == right, 1.0, math.sqrt(2))
    return float(np.linalg.eigvalsh(products.T @ (weights[:, None] * products))[-1])


def _plane(directions: Array) -> tuple[Array, Array]:
    """Points (n, B) and weights (n,) of a standard normal vector, split where a feature's preactivation is 0."""
    nodes, weights = np.polynomial.legendre.leggauss(_RADIUS)
    radius, radial = _LENGTH * (nodes + 1) / 2, _LENGTH * weights / 2
    density = np.exp(-(radius**2) / 2)
    if len(directions) == 1:
        line, mass = radius[:, None], radial * density / math.sqrt(2 * math.pi)
        return np.concatenate([-line, line]), np.concatenate([mass, mass])
    kinks = np.arctan2(directions[:, 1], directions[:, 0]) + math.pi / 2
    edges = np.sort(np.concatenate([kinks, kinks + math.pi]) % (2 * math.pi))
    edges = np.append(edges, edges[0] + 2 * math.pi)
    nodes, weights = np.polynomial.legendre.leggauss(_ARC)
    middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    angle, arc = (middle[:, None] + half[:, None] * nodes).ravel(), (half[:, None] * weights).ravel()
    points = np.stack([np.outer(radius, np.cos(angle)), np.outer(radius, np.sin(angle))], axis=-1)
    mass = np.outer(radial * radius * density, arc) / (2 * math.pi)
    return points.reshape(-1, 2), mass.ravel()
