"""Fisher information of one entry that is seen about the terms of the clean entry (bounds/proofs/lower.md).

With noise of standard deviation sigma every law of ``bounds.density`` is regular: what is seen is a function of ``t + sigma
N`` (and of masks), so no information exceeds ``1/sigma^2`` (given the mask), and each is exact here. Without noise an entry
is a function of the clean one, or of it and of draws that do not smooth it: there is no information in Fisher's sense (a
jump tells infinitely much), and nothing is claimed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import scipy

from bounds import checks
from bounds.arrays import Array
from bounds.density import Clamped, Density, Dithered, Erased, Masked, Plain, Rounded, Signs, Thresholded
from bounds.errors import UnsupportedBound

#: Standard deviations of the noise below this are none to floating point: information has their square in it.
_LEAST_NOISE = 1e-80

#: Cells of a rounding are counted up to so many standard deviations of the noise away.
_REACH = 9.0

#: Beyond so many of them on either side the rounding is finer than the noise by 200, and takes 2e-6 of its information.
_MOST = 2_000

#: Points of the noise, in standard deviations, that the information of a mixture is summed over.
_NOISE = np.linspace(-8.0, 8.0, 129)


def information(density: Density, parts: Array, *, threshold: float = 0.0) -> Array:
    """``E[s s^T]`` (n, B, B), s the derivative of ``density.log_density`` by the terms ``parts`` (n, B) of clean entries.

    threshold: below which ``Thresholded`` removes an entry, a number that is known: not the quantile of what is seen, which
    couples entries. Raises ``UnsupportedBound`` without noise and for a density that has no entry in the table.
    """
    terms = checks.array("parts", parts, (None, None))
    formula = _FORMULAS.get(type(density))
    if formula is None:
        raise UnsupportedBound(f"not proved: no information is known of {type(density).__name__}")
    require_noise(density)
    if isinstance(density, Masked):
        return _masked(density, terms)
    each = formula(density, terms.sum(axis=1), checks.real("threshold", threshold, 0.0, infinite=True))
    return np.asarray(np.broadcast_to(each[:, None, None], (*terms.shape, terms.shape[1])))


def require_noise(density: Density) -> None:
    """``UnsupportedBound`` for a density without noise, or of entries that are as stated up to moved weights only."""
    if density.sigma == 0:
        raise UnsupportedBound(
            "not proved: without noise an entry has no regular information (its law jumps, or is no density), so that "
            "information bounds nothing"
        )
    if density.sigma < _LEAST_NOISE:
        raise UnsupportedBound(
            f"not computed: noise of standard deviation {density.sigma:.3g}, below {_LEAST_NOISE:g}, is none to floats"
        )
    if density.moves > 0:
        raise UnsupportedBound("not proved where weights move while the client computes")


def _plain(density: Density, t: Array, threshold: float) -> Array:
    return np.full(t.shape, density.sigma**-2)


def _erased(density: Erased, t: Array, threshold: float) -> Array:
    return np.full(t.shape, (1 - density.p) / density.sigma**2)


def _phi(a: Array) -> Array:
    return np.asarray(np.exp(-(a**2) / 2) / np.sqrt(2 * np.pi))


def _windows(lower: Array, upper: Array, sigma: float) -> Array:
    """``P (d log P/dt)^2`` of windows from ``lower - t`` to ``upper - t``: (probability's slope)^2 over the probability."""
    a, b = lower / sigma, upper / sigma
    a, b = np.where(a > 0, -b, a), np.where(a > 0, -a, b)  # on the side where both tails are small
    mass = scipy.special.ndtr(b) - scipy.special.ndtr(a)
    slope = (_phi(a) - _phi(b)) / sigma
    return np.asarray(np.divide(slope**2, mass, out=np.zeros_like(mass), where=mass > 1e-300))


def _inside(lower: Array, upper: Array, sigma: float) -> Array:
    """``sigma^-2 E[N^2; lower < t + sigma N < upper]``, of entries that are seen as they are there; arguments less t."""
    a, b = lower / sigma, upper / sigma

    def below(u: Array) -> Array:  # E[N^2; N < u]
        finite = np.where(np.isfinite(u), u, 0.0)
        return np.asarray(scipy.special.ndtr(u) - finite * _phi(u))

    return (below(b) - below(a)) / sigma**2


def _thresholded(density: Thresholded, t: Array, threshold: float) -> Array:
    """``sigma^-2 (1 - P Var(N | pruned))``, P the probability of being pruned."""
    if threshold == 0:
        return _plain(density, t, threshold)
    lower, upper, far = -threshold - t, threshold - t, np.full(t.shape, np.inf)
    kept = _inside(-far, lower, density.sigma) + _inside(upper, far, density.sigma)
    return kept + _windows(lower, upper, density.sigma)


def _cells(density: Rounded | Dithered, t: Array) -> tuple[Array, Array]:
    """The multiples of the step (n, k) within reach of t, less t, and whether they are too many to be told apart."""
    step = density.step
    if step * _MOST <= _REACH * density.sigma:
        return np.zeros((len(t), 1)), np.array(True)
    count = int(np.ceil(_REACH * density.sigma / step)) + 2
    nearest = np.round(t / step)[:, None] + np.arange(-min(count, _MOST), min(count, _MOST) + 1)
    return step * nearest - t[:, None], np.array(count > _MOST)


def _rounded(density: Rounded, t: Array, threshold: float) -> Array:
    off, fine = _cells(density, t)
    if fine:
        return _plain(density, t, threshold)
    half = density.step / 2
    return np.asarray(_windows(off - half, off + half, density.sigma).sum(axis=1))


def _dithered(density: Dithered, t: Array, threshold: float) -> Array:
    off, fine = _cells(density, t)
    if fine:
        return _plain(density, t, threshold)
    a = off / density.sigma
    width = density.step / density.sigma
    ndtr = scipy.special.ndtr
    # the slope of a hat: up over the cell below, down over the one above
    slope = (2 * ndtr(a) - ndtr(a - width) - ndtr(a + width)) / density.step

    def ramp(u: Array) -> Array:  # E max(0, u + N)
        return np.asarray(u * ndtr(u) + _phi(u))

    mass = (ramp(width - np.abs(a)) - 2 * ramp(-np.abs(a)) + ramp(-width - np.abs(a))) / width
    told = np.divide(slope**2, mass, out=np.zeros_like(mass), where=mass > 1e-12)
    return np.asarray(told.sum(axis=1))


def _signs(density: Signs, t: Array, threshold: float) -> Array:
    far = np.full(t.shape, np.inf)
    return _windows(-far, -t, density.sigma) + _windows(-t, far, density.sigma)


def _clamped(density: Clamped, t: Array, threshold: float) -> Array:
    edge, far = density.limit * (1 - 1e-6), np.full(t.shape, np.inf)
    ends = _windows(-far, -edge - t, density.sigma) + _windows(edge - t, far, density.sigma)
    return _inside(-edge - t, edge - t, density.sigma) + ends


def _masked(density: Masked, parts: Array) -> Array:
    """Of the mixture over 2^B patterns, summed over points of the noise around every component."""
    B, sigma = parts.shape[1], density.sigma
    patterns = np.array(list(itertools.product((0.0, 1.0), repeat=B)))
    kept = patterns.sum(axis=1)
    weight = (1 - density.p) ** kept * density.p ** (B - kept)
    slopes = patterns / (1 - density.p)
    means = parts @ slopes.T  # (n, 2^B)
    share = _phi(_NOISE) / _phi(_NOISE).sum()
    total = np.zeros((len(parts), B, B))
    for component, probability in enumerate(weight):
        if probability == 0:
            continue
        off = (means[:, None, component] + sigma * _NOISE)[:, :, None] - means[:, None, :]  # (n, noise, 2^B)
        log = np.log(np.maximum(weight, 1e-300)) - (off / sigma) ** 2 / 2
        posterior = scipy.special.softmax(log, axis=2)
        score = (posterior * off / sigma**2) @ slopes
        total += probability * np.einsum("k,nki,nkl->nil", share, score, score)
    return total


_FORMULAS: Mapping[type[Density], Callable[[Any, Array, float], Array]] = {
    Plain: _plain,
    Erased: _erased,
    Thresholded: _thresholded,
    Rounded: _rounded,
    Dithered: _dithered,
    Signs: _signs,
    Clamped: _clamped,
    Masked: _plain,
}
