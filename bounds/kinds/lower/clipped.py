"""Information of a gradient that is clipped before it is perturbed (bounds/proofs/lower.md, section 5).

Norms and residuals are functions of the weights with a Lipschitz constant, so they are near their means but for Gaussian
tails (Gaussian concentration); what they do there is bounded. Holds for activations with a bounded derivative.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bounds.arrays import Array
from bounds.errors import UnsupportedBound
from bounds.gaussian.activations import Activation
from bounds.gaussian.slope import steepest

#: Deviations, in Lipschitz constants, at which the tails are cut into layers.
_LAYERS = np.linspace(0.0, 14.0, 113)


@dataclass(frozen=True, eq=False)
class Entries:
    """m clean entries: residuals r* (B,), Gram matrix (B, B), E sigma (B,), E sigma'_i sigma'_l and E sigma_i sigma_l, both
    (B, B); ``lipschitz``, of the activation."""

    m: int
    residuals: Array
    gram: Array
    centres: Array
    slopes: Array
    kernel: Array
    lipschitz: float

    @property
    def fourth(self) -> Array:
        """A bound on ``(E r_i^4)^(1/4)`` (B,): in this norm a function is within twice its constant of its mean."""
        return np.asarray(np.abs(self.residuals) + 2 * self.spread / math.sqrt(self.m))

    @property
    def spread(self) -> Array:
        """Lipschitz constants (B,) of ``|sigma(W x_i)|``."""
        return np.asarray(self.lipschitz * np.sqrt(np.diag(self.gram)))

    @property
    def sizes(self) -> Array:
        """Bounds on ``(E |sigma(W x_i)|^4)^(1/4)`` (B,)."""
        return np.asarray(np.sqrt(self.m * np.diag(self.kernel)) + 2 * self.spread)


def lipschitz(activation: Activation) -> float:
    """sup |sigma'|; ``UnsupportedBound`` where it grows with the argument."""
    largest = steepest(activation)
    if math.isinf(largest):
        raise UnsupportedBound(f"not proved for clipping: the slope of {activation.name!r} is not bounded")
    return largest


def clipped_whole(entries: Entries, information: Array, max_norm: float) -> Array:
    """What is left (B, B) of the mean ``information``, for unit noise, once the vector of the entries is clipped."""
    e, m, B = entries, entries.m, len(entries.residuals)
    spread = e.lipschitz * math.sqrt(float(np.linalg.eigvalsh(e.gram)[-1]))
    own = spread * float(np.linalg.norm(e.residuals))
    power = m * float(e.residuals @ e.kernel @ e.residuals)
    hidden = math.sqrt(m * float(np.trace(e.kernel)))
    moved = math.sqrt(max(0.0, float(np.trace(e.kernel) - e.centres @ e.centres)))
    least = math.sqrt(max(0.0, power - own**2)) - own * _LAYERS
    least = least - (hidden + spread * _LAYERS) * (moved + spread * _LAYERS) / math.sqrt(m)
    left = np.minimum(1.0, (max_norm / np.maximum(least, 1e-100)) ** 2)
    tails = np.sqrt(np.minimum(1.0, 3 * np.exp(-(_LAYERS**2) / 2)))
    rises = np.diff(np.append(left, 1.0))
    # beyond a layer: no more than its square's mean and the layer's probability allow
    rare = (rises * tails)[::-1].cumsum()[::-1]
    largest = B * np.diag(m * e.lipschitz**2 * (e.fourth + e.sizes / m) ** 2)
    choices = [left[k] * information + rare[k] * largest for k in range(len(_LAYERS))]
    return min(choices, key=lambda matrix: float(np.trace(matrix)))


def clipped_samples(entries: Entries, max_norm: float) -> tuple[Array, Array]:
    """Main part (B, B) of the information for unit noise, with every sample clipped by itself, and a bound (B,) on the
    squares of the rest: the whole is at most ``(1 + eta) main + (1 + 1/eta) B diag(rest)`` for every eta > 0."""
    e = entries
    mean = np.sqrt(e.m * np.diag(e.kernel))
    kept = np.sign(e.residuals) * np.minimum(np.abs(e.residuals), max_norm / mean)
    rest = [_rest(e, i, max_norm, float(kept[i])) for i in range(len(kept))]
    return e.m * np.outer(kept, kept) * e.slopes, np.array(rest)


def _rest(e: Entries, i: int, max_norm: float, kept: float) -> float:
    r, m, spread = abs(float(e.residuals[i])), e.m, float(e.spread[i])
    mean = math.sqrt(m * float(e.kernel[i, i]))
    low = math.sqrt(max(0.0, mean**2 - spread**2))
    layers = _LAYERS[spread * _LAYERS <= 0.9 * low]
    if len(layers) == 0:
        raise UnsupportedBound("not proved for clipping: the width is too small for norms to concentrate")
    small, large = low - spread * layers, mean + spread * layers
    drift = spread * layers / math.sqrt(m)
    never_whole = r - drift >= max_norm / small  # clipped throughout the layer
    never_cut = r + drift <= max_norm / large
    by_residual = np.where(never_whole, 0.0, drift)
    by_norm = np.where(never_cut, 0.0, max_norm * np.maximum(1 / small - 1 / mean, 1 / mean - 1 / large))
    inside = m * (by_residual + by_norm) ** 2
    inside = inside + np.maximum(
        np.where(never_whole, 0.0, large**2 / m), np.where(never_cut, 0.0, (max_norm / small) ** 2)
    )
    tails = np.minimum(1.0, 4 * np.exp(-(layers**2) / 2))
    within = float(inside[0] + np.sum(np.diff(inside) * tails[:-1]))
    fourth, size = float(e.fourth[i]), float(e.sizes[i])
    outside = 2 * m * (fourth**2 + kept**2) + size**2 / m + fourth**2
    return 2 * e.lipschitz**2 * (within + math.sqrt(float(tails[-1])) * outside)
