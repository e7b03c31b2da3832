"""Bounds on attackers whose reconstruction is unbiased: Fisher information loss, Hammersley-Chapman-Robbins, Renyi DP.

They bound nobody else: a reconstruction that is pulled towards zero errs less where noise is large, and they exceed the
error of guessing zero there. With B > 1 features the attacker is told the other features and its reconstruction must be
unbiased after the matching of R.
"""

from __future__ import annotations

import math

import numpy as np

from bounds import checks
from bounds.arrays import Array
from bounds.errors import UnsupportedBound
from bounds.gaussian.activations import Activation
from bounds.gaussian.slope import derivative
from bounds.kinds.published.entries import ANGLES, entries
from bounds.kinds.published.sensitivity import FAILURE, worst_distance
from bounds.setting import Setting

#: Neurons at a time.
_BLOCK = 4096


def fisher_information_loss(trace: float, dimension: int, sigma: Array) -> Array:
    """``E|x^ - x|^2 >= dimension^2 sigma^2 / trace``, that is ``MSE/d >= 1/eta^2`` with
    ``eta^2 = trace / (d sigma^2)``; trace = tr(J^T J), J the derivative of the noiseless observation, noise of
    standard deviation ``sigma`` on each of its entries.

    Hannun, Guo, van der Maaten 2021 (Fisher information loss); Guo, Karrer, Chaudhuri, van der Maaten 2022 (arXiv
    2201.12383), their bound from Fisher information leakage: unbiased attackers, all other examples known. It is
    Cramer-Rao with the mean of the information's eigenvalues, so equal to it where they are.
    """
    checks.integer("dimension", dimension, 0)
    return np.asarray(dimension**2 * np.square(sigma) / trace)


def information_trace(
    weights: Array, feature: Array, label: float, activation: Activation, known_norm: bool = True
) -> float:
    """tr(J^T J) of ``h(x) = (f(x) - y) sigma(W x)`` on one network, exactly: no random probes.

    weights (m, d), feature (d,). ``known_norm``: along the sphere only, d - 1 directions; otherwise all d. Takes O(m
    d) time and O(d) memory beside blocks of weights.
    """
    x = checks.array("feature", feature, (None,))
    W = np.asarray(weights, dtype=float)
    m = len(W)
    t = np.concatenate([W[k : k + _BLOCK] @ x for k in range(0, m, _BLOCK)])
    s, p = activation.function(t), derivative(activation)(t)
    residual, squares = float(np.mean(s)) - checks.real("label", label), np.sum(W * W, axis=1)
    slope, tilted = p @ W / m, (s * p) @ W  # the residual's own derivative; sum_j s_j p_j w_j
    if known_norm:
        unit = x / np.linalg.norm(x)
        squares = squares - (W @ unit) ** 2
        slope = slope - (slope @ unit) * unit
    return float(residual**2 * (p**2 @ squares) + 2 * residual * slope @ tilted + slope @ slope * (s @ s))


def hammersley_chapman_robbins(moved: float, distance: Array, sigma: Array) -> Array:
    """``Var(u.x^) >= moved^2 / (exp(distance^2/sigma^2) - 1)`` for an unbiased x^, where some x' with u.(x' - x) =
    ``moved`` has its noiseless observation at ``distance``: the Renyi divergence of order 2 of two Gaussians is
    distance^2/sigma^2.

    Hammersley 1950, Chapman and Robbins 1951; on reconstruction Guo et al. 2022 and arXiv 2404.02866 (noise on what
    is shared).
    """
    with np.errstate(over="ignore", divide="ignore"):
        return np.asarray(moved**2 / np.expm1(np.square(distance / np.asarray(sigma, dtype=float))))


def fisher_bound(setting: Setting, sigmas: Array, max_norm: float = math.inf) -> Array:
    """R^2 by the Fisher information loss with public norms: ``mean_i (d - 1)^2 sigma^2 / E tr_i``, the mean over
    networks bounded by Jensen's inequality, the expected trace along the sphere exact at every width
    (``Entry.slope``). Raises ``UnsupportedBound`` with clipping, under which the trace is another."""
    _unclipped(max_norm)
    d, m = setting.d, setting.m
    found = [fisher_information_loss((d - 1) * m * e.slope, d - 1, sigmas) for e in entries(setting)]
    return np.asarray(np.mean(found, axis=0)) if d > 1 else np.zeros(len(sigmas))


def hcr_bound(setting: Setting, sigmas: Array, max_norm: float = math.inf) -> Array:
    """R^2 by Hammersley-Chapman-Robbins with public norms: features moved along the sphere by the best of
    ``ANGLES``, in each of d - 1 directions; angle 0 is the Fisher information's. Mean over networks by Jensen's
    inequality (1/(e^D - 1) is convex). Raises ``UnsupportedBound`` with clipping."""
    _unclipped(max_norm)
    found = []
    for entry in entries(setting):
        moved = [
            (setting.d - 1)
            * hammersley_chapman_robbins(entry.norm * np.sin(angle), np.sqrt(setting.m * chord), sigmas)
            for angle, chord in zip(ANGLES, entry.chords, strict=True)
        ]
        found.append(np.max(moved, axis=0))
    return np.maximum(np.mean(found, axis=0), fisher_bound(setting, sigmas))


def renyi_bound(setting: Setting, sigmas: Array, max_norm: float = math.inf) -> Array:
    """R^2 by Renyi differential privacy: ``sum_k (diam_k/2)^2 / (e^eps - 1)``, eps the worst Renyi divergence of
    order 2 over two features of the same norm and label.

    Guo et al. 2022 (arXiv 2201.12383), their bound from (2, eps)-Renyi DP: unbiased attackers; for pixels in [0, 1]
    it reads MSE/d >= 1/4 / (e^eps - 1). On the sphere every x has for every coordinate another point at |x| or more
    along it. The distance is twice ``worst_distance``, or twice ``max_norm`` where samples are clipped to less;
    networks on which it fails (a share of 1e-6) count as error 0.
    """
    found = []
    for entry in entries(setting):
        distance = 2 * min(max_norm, worst_distance(entry, setting.activation, setting.d, setting.m))
        found.append(setting.d * hammersley_chapman_robbins(entry.norm, np.array(distance), sigmas))
    return np.asarray((1 - FAILURE) * np.mean(found, axis=0))


def _unclipped(max_norm: float) -> None:
    if not math.isinf(max_norm):
        raise UnsupportedBound("not proved with clipping: it turns the contribution's derivative")
