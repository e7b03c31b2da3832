"""What the server may conclude about a clean entry from what it sees: the density of a seen entry given the clean one.

The clean entry is ``t_j = sum_i c_ij`` with ``c_ij = r_i sigma(w_j.x_i)``, r being what the defense makes of the residuals
(clipping, local steps). Most defenses say of an entry that ``t_j + sigma N`` lies in a *window* that what is seen
determines: a point (noise, kept entries), an interval (rounding, pruned entries), a half line (signs, clamped entries), or
everything (an entry of a dropped unit). ``attack.likelihood`` maximises the same likelihood on tensors, in formulas of its
own; a test holds the two together, and both against the channel.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy

from bounds.arrays import Array


class Windows(NamedTuple):
    """lower, upper (n,): where ``t_j + sigma N`` lies; equal where it is known."""

    lower: Array
    upper: Array


@dataclass(frozen=True)
class Density:
    """Base: the density of what is seen of a clean entry, with Gaussian noise of standard deviation ``sigma`` on it. A
    subclass says the window by ``windows``. moves: size, over 1/m^2, of the changes of preactivations for each unit of the
    gradient's entries, where the weights move while the client computes (local steps): the clean entry is as stated up to
    that."""

    sigma: float = 0.0
    moves: float = 0.0

    def windows(self, seen: Array) -> Windows:
        """What entries ``seen`` (n,) tell; of the whole observation, as a threshold may be read off it."""
        raise NotImplementedError(f"{type(self).__name__} does not say what an entry tells")

    def log_density(self, seen: Array, parts: Array, blur: float | Array = 0.0) -> Array:
        """Logarithm (n,) of the probability of the window (of the density, where it is a point) given ``parts`` (n, B), the
        terms of the clean entries. ``blur``: standard deviation of more Gaussian noise on the clean entry, one or (n,),
        without which a law that draws nothing has no density."""
        lower, upper = self.windows(seen)
        clean = parts.sum(axis=1)
        return log_window(lower - clean, upper - clean, np.hypot(self.sigma, blur))


@dataclass(frozen=True)
class Plain(Density):
    """The entry itself, up to Gaussian noise."""

    def windows(self, seen: Array) -> Windows:
        return Windows(seen, seen)


@dataclass(frozen=True)
class Erased(Density):
    """Dropped for the whole batch with probability ``p``, which an entry of zero tells, else rescaled by ``1/(1 - p)``.

    A clean entry may be 0 itself (ReLU, where no feature is active); that zeros are then a little more likely is not used.
    """

    p: float = 0.0

    def windows(self, seen: Array) -> Windows:
        kept = (1 - self.p) * seen
        gone = (seen == 0) & (self.p > 0)
        return Windows(np.where(gone, -np.inf, kept), np.where(gone, np.inf, kept))


@dataclass(frozen=True)
class Thresholded(Density):
    """Kept as it is, or below the smallest entry that is kept; the fraction ``ratio`` is removed."""

    ratio: float = 0.0

    def windows(self, seen: Array) -> Windows:
        if int(self.ratio * len(seen)) == 0:
            return Windows(seen, seen)
        gone = seen == 0
        threshold = float(np.min(np.abs(seen[~gone]), initial=np.inf))
        return Windows(np.where(gone, -threshold, seen), np.where(gone, threshold, seen))


@dataclass(frozen=True)
class Rounded(Density):
    """Rounded to the nearest multiple of ``step``."""

    step: float = 0.0

    def windows(self, seen: Array) -> Windows:
        return Windows(seen - self.step / 2, seen + self.step / 2)


@dataclass(frozen=True)
class Dithered(Density):
    """Rounded at random to a multiple of ``step`` next to it, without bias: the nearest one to the entry plus uniform noise
    on (-step/2, step/2)."""

    step: float = 0.0

    def windows(self, seen: Array) -> Windows:
        return Windows(seen - self.step, seen + self.step)

    def log_density(self, seen: Array, parts: Array, blur: float | Array = 0.0) -> Array:
        off = np.abs(seen - parts.sum(axis=1)) / self.step
        scale = np.hypot(self.sigma, blur) / self.step
        with np.errstate(divide="ignore"):
            if np.all(scale == 0):
                return np.asarray(np.log(np.maximum(1 - off, 0)))
            return np.asarray(np.log(_hat(off, scale)))


@dataclass(frozen=True)
class Signs(Density):
    """The sign alone; 0 of an entry that is 0."""

    def windows(self, seen: Array) -> Windows:
        return Windows(
            np.where(seen > 0, 0.0, np.where(seen < 0, -np.inf, 0.0)), np.where(seen > 0, np.inf, 0.0)
        )


@dataclass(frozen=True)
class Clamped(Density):
    """Cut to ``[-limit, limit]``; an entry that single precision rounds to just below counts as cut."""

    limit: float = np.inf

    def windows(self, seen: Array) -> Windows:
        edge = self.limit * (1 - 1e-6)
        lower = np.where(seen <= -edge, -np.inf, seen)
        return Windows(lower, np.where(seen >= edge, np.inf, seen))


@dataclass(frozen=True)
class Masked(Density):
    """Every term ``c_ij`` dropped by itself with probability ``p``, else rescaled by ``1/(1 - p)``: a mixture over the
    ``2^B`` subsets of terms."""

    p: float = 0.0

    def windows(self, seen: Array) -> Windows:
        raise NotImplementedError("terms are masked one by one: an entry tells of no window for their sum")

    def log_density(self, seen: Array, parts: Array, blur: float | Array = 0.0) -> Array:
        scale = np.hypot(self.sigma, blur)
        terms = []
        for pattern in itertools.product((0.0, 1.0), repeat=parts.shape[1]):
            kept = int(sum(pattern))
            weight = kept * np.log1p(-self.p) + (len(pattern) - kept) * np.log(self.p)
            off = seen - parts @ np.array(pattern) / (1 - self.p)
            terms.append(weight + log_window(off, off, scale))
        return np.asarray(scipy.special.logsumexp(terms, axis=0))


def log_window(lower: Array, upper: Array, scale: float | Array) -> Array:
    """``log P(lower <= scale N <= upper)``, N standard normal; the logarithm of the density at ``lower`` where both are
    equal (0 and -inf where ``scale`` is 0 as well, everywhere). ``scale``: one, or (n,)."""
    point = lower == upper
    out = np.empty(np.shape(lower))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if np.any(scale == 0) and not np.all(scale == 0):
            raise ValueError("blur must be 0 for all entries or for none")
        if np.all(scale == 0):
            return np.where((lower <= 0) & (upper >= 0), 0.0, -np.inf)
        a, b = lower / scale, upper / scale
        out[point] = -0.5 * a[point] ** 2 - np.log(
            np.broadcast_to(scale, out.shape)[point] * np.sqrt(2 * np.pi)
        )
        a, b = a[~point], b[~point]
        # on the side where both tails are small, so that their difference keeps its digits
        a, b = np.where(a > 0, -b, a), np.where(a > 0, -a, b)
        high, low = scipy.special.log_ndtr(b), scipy.special.log_ndtr(a)
        out[~point] = high + np.log1p(-np.exp(low - high))
    return out


def _hat(off: Array, scale: float | Array) -> Array:
    """``E max(0, 1 - |off + scale N|)``, by ramps on the side where they are as small as it is."""

    def ramp(u: Array) -> Array:  # E max(0, u + scale N)
        t = u / scale
        return np.asarray(
            u * np.exp(scipy.special.log_ndtr(t)) + scale * np.exp(-t * t / 2) / np.sqrt(2 * np.pi)
        )

    return np.maximum(ramp(1 - off) - 2 * ramp(-off) + ramp(-1 - off), 0.0)
