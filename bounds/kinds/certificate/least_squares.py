"""What least squares on the held-out neurons tells beside found features: noise averages out here, not in a sum of squares.

Proof: bounds/proofs/certificate.md, step 8.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bounds.arrays import Array
from bounds.errors import UnsupportedBound
from bounds.kinds.certificate.nearby import Explained
from bounds.kinds.certificate.tails import Shape, left_over_mean

#: Rounds at most; one that gains less than this share is the last. Unknowns up to which equations are solved.
_ROUNDS, _GAIN, LARGEST = 200, 1e-4, 2_000

#: A derivative whose smallest eigenvalue is below this share of the largest tells nothing.
_SINGULAR = 1e-10


@dataclass(frozen=True, eq=False)
class Normal:
    """Normal equations of q by its derivative, means over the held-out neurons: the columns ``a(w.xhat_i)``, then
    ``a'(w.xhat_i) w`` feature by feature: matrix (B + B d, B + B d), right (B + B d,)."""

    matrix: Array
    right: Array


@dataclass(frozen=True, eq=False)
class Corrected:
    """features (B, d) by one step of least squares from those found, R of these at most ``error``."""

    features: Array
    error: float


@dataclass(frozen=True, eq=False)
class LeastSquares:
    """directions (B, d), residuals (B,): as found; sigma: of the noise on the ``held`` entries. noisy, confidence:
    log(1 / p) of each event of the noise, and of those of what the derivative leaves."""

    directions: Array
    residuals: Array
    normal: Normal
    shape: Shape
    held: int
    sigma: float
    noisy: float
    confidence: float

    @staticmethod
    def events(B: int) -> tuple[int, int]:
        """How many there are: of noise, and of what the derivative leaves, of every pair of a feature and one that was
        found: which belong together may depend on held-out neurons."""
        return 1 + 2 * B, 3 * B**2

    @property
    def B(self) -> int:
        return len(self.residuals)

    @cached_property
    def _tangents(self) -> Array:
        """Orthonormal bases (B, d - 1, d) of what is orthogonal to each direction."""
        return np.array([np.linalg.svd(v[None, :])[2][1:] for v in self.directions])

    @cached_property
    def _solved(self) -> tuple[Array, Array]:
        """The inverse of the normal matrix in residuals and turns, and their estimates."""
        B, d = self.directions.shape
        basis = np.zeros((B + B * (d - 1), B + B * d))
        basis[:B, :B] = np.eye(B)
        for i, turns in enumerate(self._tangents):
            basis[B + i * (d - 1) : B + (i + 1) * (d - 1), B + i * d : B + (i + 1) * d] = turns
        matrix = basis @ self.normal.matrix @ basis.T
        values = np.linalg.eigvalsh(matrix)
        if values[0] < _SINGULAR * values[-1]:
            raise UnsupportedBound("the held-out neurons do not determine the features")
        inverse: Array = np.asarray(np.linalg.inv(matrix), dtype=np.float64)
        return inverse, inverse @ (basis @ self.normal.right)

    @cached_property
    def _blocks(self) -> Array:
        """The inverse by turns, (B, d - 1, B, d - 1)."""
        B, d = self.directions.shape
        return self._solved[0][B:, B:].reshape(B, d - 1, B, d - 1)

    @cached_property
    def turns(self) -> Array:
        """Estimates of ``r_i`` times the turn, (B, d)."""
        B, d = self.directions.shape
        inside = self._solved[1][B:].reshape(B, d - 1)
        return np.einsum("ik,ikd->id", inside, self._tangents)

    @cached_property
    def sizes(self) -> Array:
        """Estimates of the residuals, (B,)."""
        return self.residuals + self._solved[1][: self.B]

    def _off(self, covariance: Array, left: float) -> float:
        """Length, at most, of a linear function of the estimates' error with this covariance, over that of noise."""
        values = np.clip(np.linalg.eigvalsh(covariance), 0.0, None)
        noise = math.sqrt(_longest(values, self.noisy) / self.held)
        return self.sigma * noise + left * math.sqrt(values[-1])

    def _left(self, known: Explained) -> float:
        """Root mean square over the held-out neurons, at most, of what the derivative leaves."""
        return float(known.sizes @ left_over_mean(self.shape, known.sines, self.held, self.confidence))

    def _round(self, known: Explained) -> Explained:
        left, B = self._left(known), self.B
        inverse = self._solved[0]
        along = np.sqrt(np.diag(inverse)[:B])
        shifts = (self.sigma * math.sqrt(2 * self.noisy / self.held) + left) * along
        low, high = np.maximum(known.low, self.sizes - shifts), np.minimum(known.high, self.sizes + shifts)
        if np.any(low > high):
            raise UnsupportedBound("no residuals explain the held-out neurons within what the noise allows")
        off = np.array([self._off(self._blocks[i, :, i], left) for i in range(B)])
        turned = np.minimum(known.turned, np.linalg.norm(self.turns, axis=1) + off)
        better = dataclasses.replace(known, low=low, high=high, turned=turned)
        with np.errstate(divide="ignore"):
            sines = np.fmin(known.sines, turned / better.lowest)
        error = min(known.error, float(np.linalg.norm(sines * better.longer)) / math.sqrt(B))
        return dataclasses.replace(better, sines=sines, error=error)

    def rounds(self, known: Explained) -> Explained:
        """What follows from what is known, until that gains nothing. Raises ``UnsupportedBound`` where nothing is left."""
        for _ in range(_ROUNDS):
            last, known = known, self._round(known)
            if np.all(known.sines >= (1 - _GAIN) * last.sines):
                break
        return known

    def corrected(self, known: Explained) -> Corrected:
        """By what is known. Raises ``UnsupportedBound`` where a residual may be zero."""
        if np.any(known.lowest == 0):
            raise UnsupportedBound("a residual may be zero")
        lowest = np.repeat(known.lowest, self.directions.shape[1] - 1)
        covariance = self._solved[0][self.B :, self.B :] / np.outer(lowest, lowest)
        turned = self._off(covariance, self._left(known))
        # t_i over the estimate of r_i, in place of r_i
        ratio = np.maximum(abs(1 / known.low - 1 / self.sizes), abs(1 / known.high - 1 / self.sizes))
        scaled = float(np.linalg.norm(np.linalg.norm(self.turns, axis=1) * ratio))
        shortened = float(np.linalg.norm(1 - np.sqrt(1 - known.sines**2)))
        features = self.directions + self.turns / self.sizes[:, None]
        return Corrected(features, math.hypot(turned + scaled, shortened) / math.sqrt(self.B))


#: Exponents, over the largest one that a weighted chi-square has, at which its tail is evaluated: each gives a valid bound.
_EXPONENTS = np.linspace(0.002, 0.998, 500)


def _longest(weights: Array, t: float) -> float:
    """At most ``sum_k weights_k N_k^2``, but for a probability of ``exp(-t)``: Chernoff's bound."""
    most = float(np.max(weights))
    if most == 0:
        return 0.0
    laplace = -0.5 * np.sum(np.log1p(-np.outer(_EXPONENTS, weights / most)), axis=1)
    return float(np.min((t + laplace) / _EXPONENTS)) * 2 * most
