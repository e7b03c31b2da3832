"""Entries with Gaussian noise of which the smallest are taken away: where the threshold lies, and what is left."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy

from bounds.arrays import Array

#: Noise is within so many standard deviations, but for a part of 1e-19.
_REACH = 9.0

#: Entries of nearly equal size are taken together where a threshold is looked for, in so many groups: the fraction below it
#: is off by no more than one of them.
_GROUPS = 2**13


class Kept(NamedTuple):
    """Of ``y = g + sigma N`` at every clean entry g, (n,): ``E[y; kept]``, ``E[y^2; kept]`` and the probability that it is
    removed."""

    mean: Array
    second: Array
    removed: Array


def quantile(clean: Array, weights: Array, ratio: float, sigma: float) -> float:
    """The size below which the fraction ``ratio`` of ``clean + sigma N`` lies: clean entries (n,), weights (n,) of sum 1.
    Without noise -1 where nothing is removed, and 0 where entries that are zero are as many."""
    if ratio == 0:
        return 0.0 if sigma > 0 else -1.0
    order = np.argsort(np.abs(clean))
    sizes, shares = np.abs(clean[order]), weights[order]
    bare = float(sizes[min(int(np.searchsorted(np.cumsum(shares), ratio)), len(order) - 1)])
    if sigma == 0:
        return bare
    starts = np.arange(0, len(order), -(-len(order) // _GROUPS))
    mass = np.add.reduceat(shares, starts)
    middle = np.divide(np.add.reduceat(shares * sizes, starts), mass, out=sizes[starts], where=mass > 0)

    def over(threshold: float) -> float:
        return float(mass @ removed(middle, threshold, sigma)) - ratio

    low, high = max(0.0, bare - _REACH * sigma), bare + _REACH * sigma
    if over(low) >= 0 or over(high) <= 0:  # an atom, to rounding
        return bare
    return float(scipy.optimize.brentq(over, low, high, xtol=1e-12 * high, rtol=1e-12))


def _in_noise(distance: Array, sigma: float) -> Array:
    """In units of sigma, cut where a Gaussian has nothing left."""
    with np.errstate(over="ignore"):
        return np.clip(distance / sigma, -_REACH, _REACH)


def removed(clean: Array, threshold: float, sigma: float) -> Array:
    """``P(|clean + sigma N| <= threshold)``, (n,)."""
    if sigma == 0:
        return np.asarray(np.abs(clean) <= threshold, dtype=float)
    size = np.abs(clean)
    below, above = (_in_noise(end - size, sigma) for end in (-threshold, threshold))
    return np.asarray(scipy.special.ndtr(above) - scipy.special.ndtr(below))


def kept(clean: Array, threshold: float, sigma: float) -> Kept:
    """Moments of what is larger than ``threshold`` in size."""
    gone = removed(clean, threshold, sigma)
    if sigma == 0:
        left = clean * (1 - gone)
        return Kept(left, left**2, gone)
    a, b = (_in_noise(end - clean, sigma) for end in (-threshold, threshold))
    at_a, at_b = (np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi) for t in (a, b))
    # E[N; inside] and E[N^2; inside]
    first, square = at_a - at_b, gone + a * at_a - b * at_b
    mean = clean * (1 - gone) - sigma * first
    second = clean**2 * (1 - gone) - 2 * clean * sigma * first + sigma**2 * (1 - square)
    return Kept(mean, np.maximum(second, 0.0), gone)
