"""The spectrum of the attack's second moment as d and m grow at a fixed ratio: edges of the bulk, outliers, overlaps.

``P = (1/m) sum_j h_j (w_j w_j^T - I)`` with weights h that depend on ``w_j`` through a few coordinates zeta_j, and n further
ones that are independent of everything. With ``s`` the mean of the diagonal of ``(1/m) u (x - D)^-1 u^T`` the bulk D gives

    x(s) = n/(m s) + E[h^2 s/(1 - h s)],    edges where x'(s) = 0,
    outliers where   n/(m s)   is an eigenvalue of   F(s) = E[h (zeta zeta^T - I)/(1 - h s)] - s w w^T/E[gamma^2/(1 - h s)],
    w = E[h gamma zeta/(1 - h s)]

(the last term only for residualized weights, see ``weights``). Derivation: bounds/proofs/spectral.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy

from bounds.arrays import Array
from bounds.estimator import MIN_GAP
from bounds.kinds.predicted.spectral.sample import Sample

#: How near s of an outlier is found, as a part of that of the edge.
_RESOLVED = 1e-7

#: How near to a pole of the bulk's equation an edge is looked for, as a part of its distance from 0.
_POLE = 1e-9


@dataclass(frozen=True, eq=False)
class Weights:
    """The weights of a second moment at equally likely neurons: ``h`` (N,), the coordinates that it depends on ``zeta``
    (N, K), of which the first B are those of the span, and ``gamma`` (N,), the response that the first moment is taken of,
    where its noise is part of h (None for plain moments). ``dimension``: n, of what is independent of h."""

    h: Array
    zeta: Array
    gamma: Array | None
    dimension: int


def weights(seen: Sample, response: Array, residualized: bool, dimension: int, m: int) -> Weights:
    """The weights that the attack gives the neurons for a ``response`` (N,) to what is seen, in ``dimension`` = d - B
    directions outside the span.

    Residualizing takes off ``bhat.w_j`` with ``bhat`` from the same neurons: outside the span it is a vector of length
    ``rms(gamma) sqrt(n/m)``, along which neuron j has the coordinate ``gamma_j sqrt(n/m)/rms(gamma) + N_j``. That is one
    more coordinate on which h depends. A weight that fewer than one of m neurons exceeds is cut: without a largest weight
    the bulk has no edge in the limit, and m neurons do not show it.
    """
    if not residualized:
        return Weights(_cut(response, m), seen.z, None, dimension)
    # every neuron with both signs of its free number: a mean odd in it would leave the span's vectors a part along bhat
    z, free = np.concatenate([seen.z, seen.z]), np.concatenate([seen.free, -seen.free])
    gamma = np.tile(response - response.mean(), 2)
    inside = gamma @ z / len(gamma)
    noise = math.sqrt(float(np.mean(gamma**2)) * dimension / m)
    along = gamma * dimension / (m * noise) + free if noise > 0 else free
    h = gamma - z @ inside - noise * along
    return Weights(_cut(h, m), np.column_stack([z, along]), gamma, dimension - 1)


def _cut(h: Array, m: int) -> Array:
    if m >= len(h):
        return h
    largest = float(np.quantile(np.abs(h), 1 - 1 / m))
    return np.clip(h, -largest, largest)


@dataclass(frozen=True, eq=False)
class Outliers:
    """lower, upper: edges of the bulk. values (k,): eigenvalues outside, by falling absolute value; vectors (k, B): the part
    of their unit eigenvectors that lies in the features' span. power: E h^2."""

    lower: float
    upper: float
    values: Array
    vectors: Array
    power: float

    @property
    def edge(self) -> float:
        """The largest absolute value in the bulk."""
        return max(self.upper, -self.lower)


def outliers(of: Weights, span: int, m: int) -> Outliers:
    """Edges and outliers of the second moment with these weights of ``m`` neurons; ``span``: B, how many of the coordinates
    are the features'. Raises ``ValueError`` for weights that all vanish."""
    if not np.any(of.h):
        raise ValueError("h must not vanish everywhere; got zeros alone")
    spectrum = _Spectrum(of, of.dimension / m)
    edges: list[float] = []
    values: list[float] = []
    vectors: list[Array] = []
    for side in (-1.0, 1.0):
        edge = spectrum.edge(side)
        edges.append(spectrum.x(edge))
        for s, inside in spectrum.crossings(edge):
            values.append(spectrum.x(s))
            vectors.append(inside[:span])
    order = np.argsort(-np.abs(values), kind="stable")
    found = np.array(vectors).reshape(-1, span)[order]
    return Outliers(edges[0], edges[1], np.array(values)[order], found, float(np.mean(of.h**2)))


@dataclass(frozen=True, eq=False)
class FoundSpan:
    """kept (B,): length of the projection of each feature's direction on the span that is found; 0 where fewer than B
    eigenvalues stand out. above: the weakest eigenvalue over the edge of the spectrum (0 where too few stand out); gap: over
    the edge that the attack computes, if that is larger."""

    kept: Array
    above: float
    gap: float

    @property
    def lost(self) -> bool:
        """Whether a direction of the span is in the bulk."""
        return not self.above > 1

    @property
    def unreported(self) -> bool:
        """Whether the attack gives no result."""
        return not self.gap >= MIN_GAP

    @property
    def turned(self) -> Array:
        """Squared distance (B,) of each unit direction from its normalised projection."""
        return np.asarray(2 * (1 - self.kept))


def found_span(of: Weights, directions: Array, m: int) -> FoundSpan:
    """What the attack finds of the span of ``directions`` (B, B) with these weights of ``m`` neurons: the eigenvectors of
    the B eigenvalues largest in absolute value."""
    B = len(directions)
    found = outliers(of, B, m)
    if len(found.values) < B:
        return FoundSpan(np.zeros(B), 0.0, 0.0)
    kept = np.minimum(np.linalg.norm(found.vectors[:B] @ directions.T, axis=0), 1.0)
    weakest = abs(float(found.values[B - 1]))
    rival = max(found.edge, *np.abs(found.values[B:]), 0.0)
    # as attack.tensor.moments.noise_edge
    noise = math.sqrt(found.power) * (2 * math.sqrt(of.dimension / m) + 3 * math.sqrt(2 / m))
    return FoundSpan(kept, weakest / rival, weakest / max(rival, noise))


class _Spectrum:
    """The functions of s above; ``ratio`` = n/m."""

    def __init__(self, of: Weights, ratio: float) -> None:
        self.h, self.zeta, self.gamma, self.ratio = of.h, of.zeta, of.gamma, ratio

    def x(self, s: float) -> float:
        return float(self.ratio / s + np.mean(self.h**2 * s / (1 - self.h * s)))

    def room(self, s: float) -> float:
        """``-s^2 x'(s)``: falls from n/m at s = 0 to 0 at the edge."""
        return float(self.ratio - np.mean((self.h * s / (1 - self.h * s)) ** 2))

    def edge(self, side: float) -> float:
        """s at the edge of the bulk on that side."""
        largest = float(np.max(side * self.h))
        if largest <= 0:  # no pole on this side: far enough out there is no room
            end = side / float(np.max(np.abs(self.h)))
            while self.room(end) > 0 and abs(end) < 1e12:
                end *= 2.0
        else:
            end = side * (1 - _POLE) / largest
        if self.room(end) >= 0:
            return end
        return float(scipy.optimize.brentq(self.room, 0.0, end, xtol=2e-12 * min(1.0, abs(end))))

    def signal(self, s: float) -> Array:
        """F(s), (K, K)."""
        effective = self.h / (1 - self.h * s)
        found = self._mean(effective) - np.mean(effective) * np.eye(self.zeta.shape[1])
        if self.gamma is not None:
            w, e, _, _ = self._first(s)
            found -= s * np.outer(w, w) / e
        return np.asarray(found)

    def _mean(self, f: Array) -> Array:
        return np.asarray((self.zeta.T * f) @ self.zeta / len(f))

    def _first(self, s: float) -> tuple[Array, float, Array, float]:
        """``w``, ``E[gamma^2/(1 - h s)]``, and their derivatives by s."""
        assert self.gamma is not None
        k = 1 / (1 - self.h * s)
        once, square = self.h * k * self.gamma, k * self.gamma**2
        w, slope = (f @ self.zeta / len(k) for f in (once, once * self.h * k))
        return w, float(np.mean(square)), slope, float(np.mean(square * self.h * k))

    def block_slope(self, s: float) -> Array:
        """The derivative by s of ``F(s) + E[h/(1 - h s)] I``, (K, K)."""
        found = self._mean((self.h / (1 - self.h * s)) ** 2)
        if self.gamma is not None:
            w, e, dw, de = self._first(s)
            found -= np.outer(w, w) / e * (1 - s * de / e)
            found -= s * (np.outer(w, dw) + np.outer(dw, w)) / e
        return np.asarray(found)

    def strengths(self, s: float) -> Array:
        """Eigenvalues of ``m s F(s)/n``, falling: an outlier is where one of them is 1."""
        return np.asarray(np.linalg.eigvalsh(s * self.signal(s))[::-1] / self.ratio)

    def crossings(self, edge: float) -> list[tuple[float, Array]]:
        """s and the part of the eigenvector in the coordinates (K,), of every outlier on the edge's side."""
        found = []
        for k in range(int(np.sum(self.strengths(edge) > 1))):
            s = scipy.optimize.brentq(
                lambda t, k=k: self.strengths(t)[k] - 1, 1e-9 * edge, edge, xtol=_RESOLVED * abs(edge)
            )
            a = np.linalg.eigh(s * self.signal(s))[1][:, ::-1][:, k]
            outside = s**2 * float(a @ self.block_slope(s) @ a) / self.room(s)
            found.append((s, a / math.sqrt(1 + outside)))
        return found
