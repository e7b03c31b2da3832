"""From how many neurons per dimension on features are exact without noise: for the best estimator, and by message passing.

At error s state evolution rests for one alpha, ``alpha(s)`` (``resting``): that for which the fixed point's trace is what s
says. Message passing, which comes from s = 1, passes every s where alpha is larger. So it ends at 0 from the largest of all
``alpha(s)`` on. As s falls to 0, ``alpha(s)`` tends to ``B / rho``, rho the probability that an entry tells a number and not
only an interval, the limit of ``tr V E[g_out g_out^T]``. From there on the free entropy at 0 is infinite, below it is
not: the best estimator is exact from ``B / rho`` on (bounds/proofs/limit.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from bounds import checks
from bounds.arrays import Array
from bounds.density import Density, Plain
from bounds.gaussian.activations import Activation
from bounds.gaussian.normals import normals
from bounds.kinds.limit.entries import Entries, drawn, sampled
from bounds.kinds.limit.state_evolution import mean_information

#: Errors, in units of the features' size, between which the largest alpha is looked for, and at which first.
_LEAST, _MOST, _GRID = 0.01, 0.995, 16

#: Points of a line without noise, for one feature and for more: alpha is off by about the square of their distance.
_ALONG = (100, 60)

#: Entries of each scrambling unless given, for one feature and for more.
_DRAWS = (2**12, 2**10)

#: Entries of which those that tell a number are counted (a power of 2).
_COUNTED = 2**16

#: Steps to the shape of V at one error, the change below which they end, and how far exchangeable features start apart.
_STEPS, _STILL, _KICK = 40, 1e-3, 0.05


@dataclass(frozen=True)
class Thresholds:
    """information: alpha from which the best estimator is exact; algorithm: that from which message passing is, never less;
    error: the R at which message passing rests just below it, 0 where both are the same; numerical: half the distance of
    ``algorithm`` in two scramblings."""

    information: float
    algorithm: float
    error: float
    numerical: float


def thresholds(
    activation: Activation,
    residuals: Sequence[float] | Array,
    gram: Array | None = None,
    *,
    density: Density | None = None,
    draws: int | None = None,
) -> Thresholds:
    """Both thresholds of ``sum_i r_i sigma(z_i)``, ``residuals`` r (B,), z ~ N(0, gram), seen by ``density`` (as it is).

    gram: the identity unless given. draws: quasi-random entries of each of two scramblings (a power of 2). Raises
    ``ValueError`` for a density with noise, which no number of neurons makes exact, ``NotImplementedError`` for one without
    windows.
    """
    r = checks.array("residuals", residuals, (None,))
    G = np.eye(len(r)) if gram is None else checks.array("gram", gram, (len(r), len(r)))
    density = Plain() if density is None else density
    if density.sigma > 0:
        raise ValueError(f"density must be without noise; got sigma = {density.sigma:g}")
    information = len(r) / told(G, r, activation, density)
    count = _DRAWS[min(len(r), 2) - 1] if draws is None else checks.integer("draws", draws, 1)
    one, other = (
        _highest(G, r, activation, density, sampled(G, r, activation, density, count, seed))
        for seed in (0, 1)
    )
    alpha, error = (one + other) / 2
    gap = alpha > information and error > 0
    half = float(abs(one[0] - other[0])) / 2
    return Thresholds(information, *((float(alpha), float(error)) if gap else (information, 0.0)), half)


def _highest(
    gram: Array, residuals: Array, activation: Activation, density: Density, entries: Entries
) -> Array:
    """The largest alpha at which state evolution rests above 0, and the error there: 0 where it is the least looked at."""
    size = float(np.sqrt(np.trace(gram) / len(gram)))
    shape = gram * np.outer(*[1 - _KICK * np.arange(len(gram)) / len(gram)] * 2)
    place = np.linspace(_MOST, _LEAST, _GRID)
    found, shapes = [], []
    for s in place:
        alpha, shape = resting(s * size, gram, residuals, activation, density, entries, shape)
        found.append(alpha)
        shapes.append(shape)
    best = int(np.argmax(found))
    if best in (0, len(place) - 1):
        return np.array([found[best], size * place[best] if best == 0 else 0.0])

    def lost(s: float) -> float:
        return -resting(s * size, gram, residuals, activation, density, entries, shapes[best])[0]

    top = scipy.optimize.minimize_scalar(
        lost, bounds=(place[best + 1], place[best - 1]), method="bounded", options={"xatol": 0.005}
    )
    return np.array([-top.fun, size * top.x])


def told(gram: Array, residuals: Array, activation: Activation, density: Density) -> float:
    """The probability that an entry tells a number which changes with the features: for ReLU that one is active."""
    B = len(residuals)
    normal = normals(2 * B + 1, _COUNTED)
    z = normal[:, :B] @ np.linalg.cholesky(gram).T
    parts = residuals * activation(z)
    lower, upper = density.windows(drawn(density, parts, normal[:, B:]))
    moves = np.any(parts != residuals * activation(z + 1e-6 * np.sqrt(np.diag(gram))), axis=1)
    return float(np.mean((lower == upper) & moves))


def resting(
    error: float,
    gram: Array,
    residuals: Array,
    activation: Activation,
    density: Density,
    entries: Entries,
    shape: Array,
) -> tuple[float, Array]:
    """The alpha for which state evolution rests at ``error``, and V (B, B) there: of every step the alpha that keeps the
    trace, from a V of this ``shape``."""
    B = len(gram)
    inverse: Array = np.asarray(np.linalg.inv(gram), dtype=np.float64)
    along = _ALONG[min(B, 2) - 1]
    wanted = B * error**2
    V = shape * (wanted / np.trace(shape))
    alpha = np.nan
    for _ in range(_STEPS):
        known = mean_information(gram, V, residuals, activation, density, entries, along)
        before, last = V, alpha
        alpha = _keeping(wanted, inverse, known)
        V = np.asarray(np.linalg.inv(inverse + alpha * known), dtype=np.float64)
        if B == 1 or (
            np.linalg.norm(V - before) <= _STILL * np.linalg.norm(V) and abs(alpha - last) <= _STILL * alpha
        ):
            break
    return alpha, V


def _keeping(trace: float, inverse: Array, known: Array) -> float:
    """The alpha for which ``tr (inverse + alpha known)^-1`` is this."""

    def excess(log: float) -> float:
        return float(np.trace(np.linalg.inv(inverse + np.exp(log) * known))) / trace - 1

    low, high = -20.0, 20.0
    if excess(high) > 0:
        return float(np.inf)
    return float(np.exp(scipy.optimize.brentq(excess, low, high, xtol=1e-6)))
