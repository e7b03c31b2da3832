"""Second moments of the gradient times Hermite polynomials, as sums over pairs of features."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from bounds.arrays import Array
from bounds.errors import UnsupportedBound
from bounds.gaussian.activations import Activation
from bounds.gaussian.quadrature import hermite, plane_moments
from bounds.law import Unbiased
from bounds.setting import Setting


def inner_product(left: Array, right: Array) -> Array:
    return np.asarray(np.sum((left * right).reshape(left.shape[0], -1), axis=1))


@lru_cache(maxsize=4096)
def pair_moments(
    activation: Activation,
    residualized: bool,
    orders: tuple[int, int],
    norms: tuple[float, float],
    cosine: float,
) -> Array:
    """Moments of the pair: index [p, q] with 0 the function that enters the low moment, 1 the one of the core, and, where
    the core is even and leaves signs to the first moment, 2 the one that enters that."""
    if activation.homogeneous and norms != (1.0, 1.0):
        scaled = pair_moments(activation, residualized, orders, (1.0, 1.0), cosine)
        return norms[0] * norms[1] * scaled
    low, order = orders

    def functions(norm: float) -> Callable[[Array], Array]:
        c0, c1, c2 = (activation.coefficient(k, norm) for k in range(3))

        def stack(t: Array) -> Array:
            raw = activation.function(norm * t)
            once = raw - c0 - c1 * t
            if low == 1:  # the first moment is that of the centred gradient in any case
                return np.stack([raw - c0, once if residualized else raw])
            pair = [once, once - c2 / 2 * hermite(2, t)[2]] if residualized else [raw, raw]
            return np.stack([*pair, *([raw - c0] if order % 2 == 0 else [])])

        return stack

    f_kinks, g_kinks = ([k / n for k in activation.kinks] for n in norms)
    f, g = (functions(n) for n in norms)
    return plane_moments(f, g, cosine, 2 * order, f_kinks, g_kinks, scale=max(norms))


@dataclass(frozen=True)
class PairTable:
    """``h_p h_q = sum_il r_i r_l tau_p,i tau_q,l`` split over pairs: (weight, basis of the pair's plane (B, 2), moments)."""

    pairs: tuple[tuple[float, Array, Array], ...]

    @staticmethod
    def build(
        setting: Setting,
        residualized: bool,
        orders: tuple[int, int],
        directions: Array,
        weights: Array | None = None,
    ) -> PairTable:
        """weights (B, B) symmetric: of the pairs; ``r_i r_l`` unless given."""
        weights = np.outer(setting.residuals, setting.residuals) if weights is None else weights
        table = []
        for i, k, cosine, plane in planes(directions):
            norms = (float(setting.norms[i]), float(setting.norms[k]))
            moments = pair_moments(setting.activation, residualized, orders, norms, round(cosine, 15))
            if i != k:
                moments = moments + moments.swapaxes(0, 1)
            table.append((float(weights[i, k]), plane, moments))
        return PairTable(tuple(table))

    def second_moment(self, p: int, q: int, left: Array, right: Array) -> Array:
        """``E[h_p h_q He_a(left_n) He_b(right_n)]`` for symmetric tensors stacked on axis 0: shape (n,)."""
        total = np.zeros(left.shape[0])
        for weight, plane, moments in self.pairs:
            total += weight * product_moment(moments[p, q], plane, left, right)
        return total

    def covariance(self, p: int, q: int, left: Array, right: Array) -> Array:
        """The same for every tensor of one stack with every tensor of the other: shape (n, n')."""
        total = np.zeros((left.shape[0], right.shape[0]))
        for weight, plane, moments in self.pairs:
            total += weight * product_moments(moments[p, q], plane, left, right)
        return total


@dataclass(frozen=True)
class _Moments:
    """Second moments of what the server sees, times Hermite polynomials of z: gradient, masking and noise."""

    gradient: PairTable
    masking: PairTable | None
    variance: float

    @staticmethod
    def of(setting: Setting, residualized: bool, orders: tuple[int, int], channel: Unbiased) -> _Moments:
        def table(residualized: bool, weights: Array) -> PairTable:
            return PairTable.build(setting, residualized, orders, setting.directions, weights)

        gradient = table(residualized, np.outer(channel.residuals, channel.residuals))
        masking = None if channel.masking is None else table(False, channel.masking)
        return _Moments(gradient, masking, channel.variance)

    def second(self, p: int, q: int, left: Array, right: Array) -> Array:
        """``E[h_p h_q He_a(left_n) He_b(right_n)]`` (n,), h with all its randomness; indices as in ``PairTable``."""
        total = self.gradient.second_moment(p, q, left, right)
        # The same random part enters both moments, whatever is taken off their mean.
        if self.masking is not None:
            total = total + self.masking.second_moment(1, 1, left, right)
        if self.variance and left.ndim == right.ndim:
            total = total + self.variance * math.factorial(left.ndim - 1) * inner_product(left, right)
        return total

    def spread(self, *parts: Array) -> Array:
        """``E[I_n^2]``, (n,), of ``I = sum_p h_p <parts_p, He(z)>``, p counting the functions of ``pair_moments``."""
        return sum(
            (self.second(p, q, a, b) for p, a in enumerate(parts) for q, b in enumerate(parts)),
            np.zeros(len(parts[0])),
        )

    def influences(self, low: Array, core: Array) -> Array:
        """``E[I_n I_n']``, (n, n), of what a neuron adds to functionals of both moments, ``I = h_low <low, He(z)> + h_core
        <core, He(z)>``."""
        parts = self._covariance(0, 1, low, core)
        return self._covariance(0, 0, low, low) + parts + parts.T + self._covariance(1, 1, core, core)

    def _covariance(self, p: int, q: int, left: Array, right: Array) -> Array:
        """As ``second``, for every tensor of one stack with every tensor of the other."""
        total = self.gradient.covariance(p, q, left, right)
        if self.masking is not None:
            total = total + self.masking.covariance(1, 1, left, right)
        if self.variance and left.ndim == right.ndim:
            flat = left.reshape(len(left), -1) @ right.reshape(len(right), -1).T
            total = total + self.variance * math.factorial(left.ndim - 1) * flat
        return total


def planes(directions: Array) -> Iterator[tuple[int, int, float, Array]]:
    """``(i, k, cosine, orthonormal basis (B, 2) of the plane)`` for every pair i <= k of unit directions (B, B); the basis
    starts along feature i. Raises ``UnsupportedBound`` for parallel ones."""
    for i, k in itertools.combinations_with_replacement(range(len(directions)), 2):
        cosine = 1.0 if i == k else float(np.clip(directions[i] @ directions[k], -1.0, 1.0))
        across = directions[k] - cosine * directions[i]
        length = np.linalg.norm(across)
        if i != k and length < 1e-12:
            raise UnsupportedBound("ill-posed: two features are parallel")
        yield i, k, cosine, np.column_stack([directions[i], across / length if i != k else 0 * across])


def product_moment(moments: Array, plane: Array, left: Array, right: Array) -> Array:
    """``E[f g He_a(left_n) He_b(right_n)]`` (n,) for f, g that depend on w through a plane, and symmetric tensors stacked on
    axis 0. ``moments[s, t] = E[f g He_s(z_1) He_t(z_2)]`` in the coordinates of ``plane`` (B, 2).

    Product formula: ``He_a(L) He_b(M) = sum_k k! C(a, k) C(b, k) He_{a+b-2k}(L x_k M)``, x_k contracting k slots.
    """
    a, b = left.ndim - 1, right.ndim - 1
    total = np.zeros(left.shape[0])
    lefts, rights = _contractions(left, plane), _contractions(right, plane)
    for k in range(min(a, b) + 1):
        factor = math.factorial(k) * math.comb(a, k) * math.comb(b, k)
        grid = _symmetric_grid(moments, a - k, b - k)
        total += factor * np.einsum("nix,niy,xy->n", lefts[a - k], rights[b - k], grid, optimize=True)
    return total


def product_moments(moments: Array, plane: Array, left: Array, right: Array) -> Array:
    """The same for every tensor of one stack with every tensor of the other: shape (n, n')."""
    a, b = left.ndim - 1, right.ndim - 1
    total = np.zeros((left.shape[0], right.shape[0]))
    lefts, rights = _contractions(left, plane), _contractions(right, plane)
    for k in range(min(a, b) + 1):
        factor = math.factorial(k) * math.comb(a, k) * math.comb(b, k)
        weighted = lefts[a - k] @ _symmetric_grid(moments, a - k, b - k)
        total += factor * weighted.reshape(len(left), -1) @ rights[b - k].reshape(len(right), -1).T
    return total


def _contractions(tensors: Array, plane: Array) -> list[Array]:
    """Entry j: j slots contracted with the plane's basis, shape (n, B^(order - j), 2^j)."""
    result = []
    current = tensors
    for j in range(tensors.ndim):
        result.append(current.reshape(tensors.shape[0], -1, 2**j))
        if j < tensors.ndim - 1:
            current = np.tensordot(current, plane, axes=([1], [0]))
    return result


def _symmetric_grid(moments: Array, rows: int, columns: int) -> Array:
    """E[f g He_n(z1, z2)], n = rows + columns, as a (2^rows, 2^columns) matrix; an entry with b ones is N[n-b, b]."""
    ones = np.array([x.bit_count() for x in range(2 ** max(rows, columns))])
    b = ones[: 2**rows, None] + ones[None, : 2**columns]
    return np.asarray(moments[rows + columns - b, b])
