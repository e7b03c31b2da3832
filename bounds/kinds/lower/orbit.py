"""The theorem: van Trees' inequality on the orbit of the features under rotations, for errors after matching.

Features are rotated by a Haar rotation that the attack does not know, whatever else it knows (Gram matrix, labels, network).
With A the mean information of a direction outside the features' span (B, B), over the number d - B of them, every ordered
estimate has ``E sum_i |x_i - xhat_i|^2 >= tr (G^-1 + A)^-1``. The best of all matchings is no ordered estimate; a soft one,
drawn with weights ``exp(-beta |xhat_pi - X|^2)``, loses little and tells little (bounds/proofs/lower.md).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy

from bounds.arrays import Array
from bounds.errors import UnsupportedBound
from bounds.kinds.supported import dependent

#: Sharpness of the soft matching, over 1/|x|^2: the best between the first and the second, or so many times the power 2/3 of
#: dimensions over the error (beside which the best one stays) if that is more, is sought; each is valid.
_SHARPNESS = (0.1, 1e3, 100.0)

#: Permutations are told apart by how many features they move, in at most about so many classes.
_CLASSES = 16

#: Intervals of the matched error, on each of which what matching gains is bounded by its value at the right end.
_ERRORS = 120

#: Halvings of an interval.
_HALVINGS = 45


@dataclass(frozen=True)
class OrbitBound:
    """``square``: bound on the mean over features of E|x_i - xhat_i|^2, matched; ``ordered``: the same of estimates that
    know the order; ``sharpness``: the beta that gives the former (0 for one feature)."""

    square: float
    ordered: float
    sharpness: float


def orbit_bound(direction: Array, gram: Array, d: int, *, signs: bool = False) -> OrbitBound:
    """The theorem for features with Gram matrix ``gram`` (B, B) in d > B dimensions, of whose rotations the entries (all of
    them) have the information ``direction`` (B, B) for each direction outside the span. signs: matched up to signs too.

    Raises ``UnsupportedBound`` for d <= B and for features that are linearly dependent.
    """
    B = len(gram)
    if d <= B:
        raise UnsupportedBound(f"not proved for d = {d} <= B = {B}: nothing is outside the features' span")
    if dependent(gram):
        raise UnsupportedBound("not proved: the features are linearly dependent")
    levels: Array = np.linalg.eigvalsh(np.linalg.inv(gram) + direction / (d - B)).astype(np.float64)
    ordered = float(np.sum(1 / levels))
    classes = _classes(B, signs)
    if not classes:
        return OrbitBound(ordered / B, ordered / B, 0.0)
    apart, unit = _least_distance(gram, signs), float(np.mean(np.diag(gram)))
    power = float(np.trace(gram))

    def bound(beta: float) -> float:
        gain = _gain(classes, apart, beta, B)
        return _matched(levels, power, gain, 4 * beta**2 / (d - B) ** 2)

    least, most, times = _SHARPNESS
    most = max(most, times * (d * power / ordered) ** (2 / 3))
    limits = np.log(np.array([least, most]) / unit)
    found = scipy.optimize.minimize_scalar(
        lambda x: -bound(math.exp(x)), bounds=limits, method="bounded", options={"xatol": 0.02}
    )
    sharpness = math.exp(float(found.x))
    return OrbitBound(bound(sharpness) / B, ordered / B, sharpness)


def _matched(levels: Array, power: float, gain: Callable[[float], float], told: float) -> float:
    """The least E min_pi |T_pi - X|^2 that both inequalities of the proof allow. ``told``: information on A for each unit of
    the soft matching's covariance."""
    ordered = filled(levels, 0.0)
    soft = _root(lambda x: x - filled(levels, told * x), ordered)
    first = _root(lambda x: x + gain(x) - soft, soft)
    second = _root(lambda x: x + gain(x) - filled(levels, told * (power - x)), power)
    return max(first, second)


def _root(function: Callable[[float], float], high: float) -> float:
    """The left end of an interval around the point in [0, ``high``] from which on ``function`` is not negative."""
    low = 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if function(middle) >= 0 else (middle, high)
    return low


def filled(levels: Array, extra: float) -> float:
    """The least of ``tr (A + C)^-1`` over positive semidefinite C of trace ``extra``, A with eigenvalues ``levels``: the
    lowest ones are filled up to one level."""
    rising = np.sort(levels)
    count = np.arange(1, len(rising) + 1)
    surface = (extra + np.cumsum(rising)) / count
    wet = int(np.flatnonzero(surface >= rising)[-1]) + 1
    return float(wet / surface[wet - 1] + np.sum(1 / rising[wet:]))


def _least_distance(gram: Array, signs: bool) -> float:
    """The least distance of two features, or of a feature and its negative or another's where signs are matched too."""
    squares, B = np.diag(gram), len(gram)
    inner = np.abs(gram) if signs else gram
    between = (squares[:, None] + squares - 2 * inner)[~np.eye(B, dtype=bool)]
    return math.sqrt(max(0.0, min([*between.tolist(), *([4 * float(squares.min())] if signs else [])])))


def _classes(B: int, signs: bool) -> tuple[tuple[int, float], ...]:
    """``(k, log of the number)`` of permutations, with signs or without, that move k of B features or more, up to the next
    k; no smaller than the number."""
    starts = np.arange(1 if signs else 2, B + 1)
    if len(starts) > _CLASSES:
        starts = np.unique(np.round(np.geomspace(starts[0], B, _CLASSES)).astype(int))
    found = []
    for first, following in itertools.pairwise([*starts.tolist(), B + 1]):
        k = np.arange(first, following)
        # of k! (2^k k! with signs) at most this part moves all k
        part = np.where(k == 1, 1 / 2, 5 / 8) if signs else np.full(len(k), 1 / 2)
        ways = scipy.special.gammaln(B + 1) - scipy.special.gammaln(B - k + 1) + np.log(part)
        found.append((first, float(np.logaddexp.reduce(ways + (k * math.log(2) if signs else 0.0)))))
    return tuple(found)


def _gain(
    classes: tuple[tuple[int, float], ...], apart: float, beta: float, B: int
) -> Callable[[float], float]:
    """A concave function of the mean error that what the best matching gains on the soft one is below in the mean."""
    errors = np.linspace(0.0, B * apart**2 / 4, _ERRORS + 1)
    size = np.array([k for k, _ in classes], dtype=float)[:, None]
    log_count = np.array([n for _, n in classes])[:, None]
    reach = np.sqrt(size) * apart
    gaps = (
        beta * reach * np.maximum(reach - 2 * np.sqrt(errors[1:]), 0.0)
    )  # at the right ends, where they are least
    gains = np.append(_worst(log_count, gaps), _worst(log_count, np.zeros_like(size))) / beta
    x, y = _hull(errors, gains)
    return lambda error: float(np.interp(error, x, y))


def _worst(log_count: Array, gaps: Array) -> Array:
    """The largest ``sum_pi x_pi exp(-x_pi) / (1 + sum_pi exp(-x_pi))`` for x_pi >= ``gaps`` (classes, n), exp(log_count) of
    each class."""
    # where all gaps are far, what they themselves give is no less, and as small as what is sought
    far = np.sum(gaps * np.exp(log_count - gaps), axis=0)
    high = np.where(np.min(gaps, axis=0) >= 1 + far, far, 1.0 + float(np.logaddexp.reduce(log_count)[0]))
    low = np.zeros_like(high)
    for _ in range(_HALVINGS):
        v = (low + high) / 2
        x = np.maximum(gaps, 1 + v)
        more = np.sum((x - v) * np.exp(log_count - x), axis=0) > v
        low, high = np.where(more, v, low), np.where(more, high, v)
    return np.asarray(high)


def _hull(x: Array, y: Array) -> tuple[Array, Array]:
    """Corners of the least concave function above the points, constant from the last one on."""
    kept: list[tuple[float, float]] = []
    for px, py in zip(x.tolist(), y.tolist(), strict=True):
        while len(kept) >= 2:
            (ax, ay), (bx, by) = kept[-2], kept[-1]
            if (by - ay) * (px - ax) > (py - ay) * (bx - ax):
                break
            kept.pop()
        kept.append((px, py))
    corners = np.array(kept)
    return corners[:, 0], corners[:, 1]
