"""The entries that an expectation is over: drawn from the density, those of a rare sort from more draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import scipy

from bounds.arrays import Array
from bounds.density import (
    Clamped,
    Density,
    Dithered,
    Erased,
    Masked,
    Plain,
    Rounded,
    Signs,
    Thresholded,
    Windows,
)
from bounds.errors import UnsupportedBound
from bounds.gaussian.activations import Activation
from bounds.gaussian.normals import normals

#: Entries of the rarer sort (0, or not) are at least this share of those that are computed, of a pool at most so many times
#: as large.
_SHARE, _POOL = 0.25, 64

#: Features with a residual below this part of the largest leave no trace.
VANISHES = 1e-9


@dataclass(frozen=True, eq=False)
class Entries:
    """Entries that an expectation is over: normal (n, 3 B + 1), of which z, omega and what the density draws are made, and
    their weights (n,)."""

    normal: Array
    weights: Array


def sampled(
    gram: Array, residuals: Array, activation: Activation, density: Density, draws: int, seed: int = 0
) -> Entries:
    """About ``draws`` quasi-random entries. Where those that are 0, or those that are not, are rare, they are taken from
    more draws, and weigh less."""
    told = known(residuals)
    B = int(told.sum())
    frame, r = root(gram[np.ix_(told, told)]), residuals[told]
    rate = 1
    while True:
        normal = normals(3 * B + 1, rate * draws, seed)
        zero = drawn(density, r * activation(normal[:, :B] @ frame.T), normal[:, 2 * B :]) == 0
        share = min(zero.mean(), 1 - zero.mean())
        if rate * share >= _SHARE or share == 0 or rate == _POOL:
            break
        rate *= 2
    often = zero if zero.mean() > 0.5 else ~zero
    often_at = np.flatnonzero(often)
    kept = often_at[
        : -(-len(often_at) // rate)
    ]  # the first of a sequence are spread evenly, every other one is not
    chosen = np.sort(np.concatenate([np.flatnonzero(~often), kept]))
    weights = np.where(often, float(often.mean()) / max(len(kept), 1), 1 / len(often))[chosen]
    return Entries(normal[chosen], weights / weights.sum())


def known(residuals: Array) -> Array:
    """Which features leave a trace (B,)."""
    return np.asarray(np.abs(residuals) > VANISHES * np.max(np.abs(residuals)))


def drawn(density: Density, parts: Array, normal: Array) -> Array:
    """What is seen (n,) of the terms ``parts`` (n, B), by ``normal`` (n, B + 1). ``UnsupportedBound`` for a density that has
    no entry in the table."""
    draw = _DRAWN.get(type(density))
    if draw is None:
        raise UnsupportedBound(f"not computed: how {type(density).__name__} draws what is seen")
    return draw(density, parts, normal)


@dataclass(frozen=True)
class Censored(Density):
    """Kept as it is, or known to lie below ``threshold`` in size: what pruning is where the threshold is that of infinitely
    many entries."""

    threshold: float = 0.0

    def windows(self, seen: Array) -> Windows:
        gone = seen == 0
        return Windows(np.where(gone, -self.threshold, seen), np.where(gone, self.threshold, seen))


def _noisy(density: Density, parts: Array, normal: Array) -> Array:
    return np.asarray(parts.sum(axis=1) + density.sigma * normal[:, 0])


def _erased(density: Erased, parts: Array, normal: Array) -> Array:
    kept = scipy.special.ndtr(normal[:, 1]) >= density.p
    return np.where(kept, _noisy(density, parts, normal) / (1 - density.p), 0.0)


def _masked(density: Masked, parts: Array, normal: Array) -> Array:
    kept = scipy.special.ndtr(normal[:, 1:]) >= density.p
    return _noisy(density, parts * kept / (1 - density.p), normal)


def _thresholded(density: Thresholded, parts: Array, normal: Array) -> Array:
    whole = _noisy(density, parts, normal)
    smallest = np.argsort(np.abs(whole), kind="stable")[: int(density.ratio * len(whole))]
    whole[smallest] = 0.0
    return whole


def _censored(density: Censored, parts: Array, normal: Array) -> Array:
    whole = _noisy(density, parts, normal)
    return np.where(np.abs(whole) < density.threshold, 0.0, whole)


def _rounded(density: Rounded, parts: Array, normal: Array) -> Array:
    return np.asarray(density.step * np.round(_noisy(density, parts, normal) / density.step))


def _dithered(density: Dithered, parts: Array, normal: Array) -> Array:
    units = _noisy(density, parts, normal) / density.step
    return np.asarray(density.step * np.floor(units + scipy.special.ndtr(normal[:, 1])))


def _signs(density: Signs, parts: Array, normal: Array) -> Array:
    return np.asarray(np.sign(_noisy(density, parts, normal)))


def _clamped(density: Clamped, parts: Array, normal: Array) -> Array:
    return np.clip(_noisy(density, parts, normal), -density.limit, density.limit)


_DRAWN: Mapping[type[Density], Callable[..., Array]] = {
    Plain: _noisy,
    Erased: _erased,
    Masked: _masked,
    Thresholded: _thresholded,
    Censored: _censored,
    Rounded: _rounded,
    Dithered: _dithered,
    Signs: _signs,
    Clamped: _clamped,
}


def root(covariance: Array) -> Array:
    """``M`` with ``M M^T`` the covariance."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))
