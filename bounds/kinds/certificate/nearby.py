"""From a distance of functions to the features: near one set of features, through Hermite polynomials of low order.

``g_theta(w) = sum_i r_i sigma(n w.x_i)`` has the parts ``c_k(n) / sqrt(k!) sum_i r_i x_i^k`` of order k, x_i unit vectors;
parts of different orders are orthogonal. Proof: bounds/proofs/certificate.md, steps 5 and 6.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bounds.arrays import Array


@dataclass(frozen=True, eq=False)
class Explained:
    """What is known of the truth beside found features ``xhat_i`` with residuals ``rhat_i``. At most: sines (B,) of the
    angles between x_i and xhat_i, which are acute; turned (B,), ``|r_i|`` times these; error: root mean square of
    ``|x_i - xhat_i|``. low, high (B,): between what r_i lies."""

    sines: Array
    turned: Array
    low: Array
    high: Array
    error: float

    @staticmethod
    def start(sines: Array, low: float, high: float) -> Explained:
        """Nothing but these sines, and that residuals lie between ``low`` and ``high``."""
        B = len(sines)
        return Explained(sines, max(-low, high) * sines, np.full(B, low), np.full(B, high), math.sqrt(2))

    @property
    def sizes(self) -> Array:
        """``|r_i|`` at most, (B,)."""
        return np.maximum(-self.low, self.high)

    @property
    def lowest(self) -> Array:
        """``|r_i|`` at least, (B,)."""
        return np.maximum(np.maximum(self.low, -self.high), 0.0)

    def shifts(self, found: Array) -> Array:
        """``|r_i - rhat_i|`` at most, (B,)."""
        return np.maximum(found - self.low, self.high - found)

    @property
    def longer(self) -> Array:
        """``|x_i - xhat_i|`` over the sine of their angle, at most, (B,)."""
        return np.asarray(np.sqrt(2 / (1 + np.sqrt(1 - self.sines**2))))


@dataclass(frozen=True, eq=False)
class Nearby:
    """The derivative of the orders ``powers`` -> ``c_k^2 / k!`` at unit directions (B, B), in an orthonormal basis of their
    span, with residuals (B,), by features and residuals."""

    directions: Array
    residuals: Array
    powers: dict[int, float]

    @property
    def B(self) -> int:
        return len(self.residuals)

    @cached_property
    def _gram(self) -> Array:
        return np.clip(self.directions @ self.directions.T, -1.0, 1.0)

    def _kernel(self, derivative: int, flip: Array | None = None) -> Array:
        """``sum_k c_k^2 / k! k (k - 1) ... G^(k - derivative)``, (B, B), feature i with the sign flip_i^k in order k."""
        total = np.zeros_like(self._gram)
        for k, square in self.powers.items():
            if k >= derivative:
                sign = 1.0 if flip is None or k % 2 == 0 else np.outer(flip, flip)
                total += square * math.perm(k, derivative) * sign * self._gram ** (k - derivative)
        return total

    @cached_property
    def _tangents(self) -> tuple[Array, Array]:
        """Unit vectors (B (B - 1), B) orthogonal to the direction of their owners (B (B - 1),)."""
        turns = np.array([t for v in self.directions for t in np.linalg.svd(v[None, :])[2][1:]])
        return turns.reshape(-1, self.B), np.repeat(np.arange(self.B), self.B - 1)

    def _inside(self, flip: Array | None = None) -> Array:
        """The derivative's squares, by residuals and then by turns inside the span: (B^2, B^2)."""
        B, (turns, owner) = self.B, self._tangents
        zero, first, second = (self._kernel(k, flip) for k in range(3))
        along = self.directions @ turns.T
        full = np.zeros((B * B, B * B))
        full[:B, :B] = zero
        full[:B, B:] = first[:, owner] * along
        full[B:, :B] = full[:B, B:].T
        between = np.ix_(owner, owner)
        full[B:, B:] = first[between] * (turns @ turns.T) + second[between] * along[owner] * along[owner].T
        return full

    @cached_property
    def _inverses(self) -> tuple[Array, Array]:
        """Inverses: by turns of every feature out of the span (B, B), the same in each direction there; and inside."""
        outside, inside = self._kernel(1), self._inside()
        return np.asarray(np.linalg.inv(outside), float), np.asarray(np.linalg.inv(inside), float)

    def bent(self, sines: Array) -> Array:
        """What the derivative leaves of a feature with residual 1 that is turned by these sines, at most: (B,)."""
        c, s = np.sqrt(1 - sines**2), sines
        total = np.zeros_like(s)
        for k, square in self.powers.items():
            left = np.zeros_like(s) if k == 0 else (1 - c**k) ** 2 + k * s**2 * (1 - c ** (k - 1)) ** 2
            for j in range(2, k + 1):
                left = left + math.comb(k, j) * s ** (2 * j) * c ** (2 * (k - j))
            total += square * left
        return np.asarray(np.sqrt(total))

    def reach(self, known: Explained, distance: float) -> float:
        """Size of the derivative's part, where functions are at most ``distance`` apart."""
        return distance + float(known.sizes @ self.bent(known.sines))

    def longest(self, shift: float, turn: float) -> float:
        """Largest root of ``shift |r - rhat|^2 + turn sum_i r_i^2 sin_i^2``, over the size of the derivative's part."""
        outside, inside = self._inverses
        scale = np.sqrt(np.repeat([shift, turn], [self.B, self.B * (self.B - 1)]))
        return math.sqrt(max(turn * _largest(outside), _largest(inside * np.outer(scale, scale))))

    def round(self, known: Explained, distance: float) -> Explained:
        """What follows from what is known when the functions are at most ``distance`` apart; never less than was known."""
        B, found = self.B, self.residuals
        reach = self.reach(known, distance)
        outside, inside = self._inverses
        shifts = reach * np.sqrt(np.diag(inside)[:B])
        low, high = np.maximum(known.low, found - shifts), np.minimum(known.high, found + shifts)
        blocks = inside[B:, B:].reshape(B, B - 1, B, B - 1)
        within = np.array([_largest(blocks[i, :, i]) for i in range(B)])
        turned = np.minimum(known.turned, reach * np.sqrt(np.maximum(np.diag(outside), within)))
        better = Explained(known.sines, turned, low, high, known.error)
        lowest = better.lowest
        with np.errstate(divide="ignore", invalid="ignore"):
            sines = np.fmin(known.sines, turned / lowest)
        better = dataclasses.replace(better, sines=sines)
        error = min(known.error, float(np.linalg.norm(sines * better.longer)) / math.sqrt(B))
        if np.all(lowest > 0):
            each = np.repeat(lowest, B - 1)
            joint = max(
                _largest(outside / np.outer(lowest, lowest)), _largest(inside[B:, B:] / np.outer(each, each))
            )
            error = min(error, float(np.max(better.longer)) * reach * math.sqrt(joint / B))
        return dataclasses.replace(better, error=error)

    def same_signs(self, distance: float) -> bool:
        """Whether as many residuals of the truth are negative as of those found: by the second moment's inertia."""
        second = (self.directions.T * self.residuals) @ self.directions
        weakest = float(np.min(np.abs(np.linalg.eigvalsh(second))))
        return distance < math.sqrt(self.powers[2]) * weakest

    def signs_are_told(self, known: Explained, distance: float) -> bool:
        """Whether no feature can be turned round: with the sign of any of them the other way functions ``distance`` apart
        are out of reach of what is known of angles (with ``xhat_i`` or ``-xhat_i``) and residuals."""
        reach = self.reach(known, distance)
        flips = itertools.product((1.0, -1.0), repeat=self.B)
        return all(self._turned_round(np.array(flip)) > reach for flip in flips if min(flip) < 0)

    def _turned_round(self, flip: Array) -> float:
        """Distance of the function with the signs ``flip``, to first order in residuals and turns, from the one found."""
        B, (turns, owner) = self.B, self._tangents
        along = self.directions @ turns.T
        square, right = 0.0, np.zeros(B * B)
        for k, power in self.powers.items():
            if k % 2 == 0:
                continue
            lost = (flip - 1) * self.residuals
            gram = self._gram**k
            square += power * float(lost @ gram @ lost)
            right[:B] += power * flip * (gram @ lost)
            right[B:] += (
                power
                * flip[owner]
                * k
                * ((lost[:, None] * along) * self._gram[:, owner] ** (k - 1)).sum(axis=0)
            )
        explained = float(right @ np.linalg.solve(self._inside(flip), right))
        return math.sqrt(max(0.0, square - explained))


def _largest(matrix: Array) -> float:
    return float(np.linalg.eigvalsh(matrix)[-1]) if matrix.size else 0.0
