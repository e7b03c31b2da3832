"""The fit in B dimensions as a model: what its solution does when the moments move."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np

from bounds.arrays import Array
from bounds.gaussian.symmetric import power, symmetric_tensors, symmetrised


@dataclass(frozen=True, eq=False)
class Solution:
    """How the fit moves with the moments, by ``B`` weights and then ``B (B - 1)`` turns, ``B - 1`` for each direction along
    its ``tangents`` (B, B - 1, B). Row k, ``low`` (B^2, B, ...) and ``core`` (B^2, B, ...) symmetric tensors, gives the
    displacement of coordinate k per unit of (dP, dT)."""

    low: Array
    core: Array
    tangents: Array

    def curvature(self, directions: Array, alpha: Array, ratio: Array) -> Array:
        """``H`` (B (B - 1), B^2, B^2): a displacement x to first order is ``-1/2 H_k[x, x]`` off in turn k, where the
        model's second derivatives in direction x are fitted away."""
        size = alpha.size
        H = np.zeros((size * (size - 1), size**2, size**2))
        for i, (u, basis) in enumerate(zip(directions, self.tangents, strict=True)):
            turns = size + i * (size - 1) + np.arange(size - 1)
            H[turns - size, i, turns] = H[turns - size, turns, i] = 1 / alpha[i]
            for rows, factor in ((self.low, alpha[i]), (self.core, alpha[i] * ratio[i])):
                bent = np.array([_second(row, u, basis) for row in rows[size:]])
                H[:, turns[:, None], turns[None]] += factor * bent
        return H


def _second(row: Array, u: Array, tangents: Array) -> Array:
    """Second derivatives of ``<row, v^k>``, row a symmetric tensor of order k, by turns of the unit vector v from u."""
    order = row.ndim
    if order == 1:
        return np.asarray(-np.eye(len(tangents)) * (row @ u))
    twice = row
    for _ in range(order - 2):
        twice = twice @ u
    bent = order * (order - 1) * tangents @ twice @ tangents.T
    return np.asarray(bent - np.eye(len(tangents)) * order * (u @ twice @ u))


def solution(
    directions: Array, alpha: Array, ratio: Array, orders: tuple[int, int], weight: float
) -> Solution:
    """The map from moments to the fit at an exact fit.

    The fit minimises ``|P - sum alpha_i u_i^k|^2 + weight |T - sum alpha_i ratio_i u_i^q|^2`` over alpha and unit u, (k, q)
    the ``orders``. At an exact fit its solution map is the pseudo-inverse of the Jacobian (Gauss-Newton is exact there).
    """
    size = alpha.size
    low, order = orders
    root = math.sqrt(weight)

    def stacked(low_moment: Array, core: Array) -> Array:
        return np.concatenate([low_moment.ravel(), root * core.ravel()])

    def tangent(u: Array, t: Array, k: int) -> Array:
        return sum(
            (reduce(np.multiply.outer, [t if s == slot else u for s in range(k)]) for slot in range(k)),
            0 * power(u, k),
        )

    tangents = np.array([np.linalg.svd(u[None, :])[2][1:] for u in directions]).reshape(size, size - 1, size)
    weights = [stacked(power(u, low), c * power(u, order)) for u, c in zip(directions, ratio, strict=True)]
    moves = [
        a * stacked(tangent(u, t, low), c * tangent(u, t, order))
        for u, a, c, basis in zip(directions, alpha, ratio, tangents, strict=True)
        for t in basis
    ]
    jacobian = np.stack(weights + moves, axis=1)
    q, r = np.linalg.qr(jacobian)
    rows = np.linalg.solve(r, q.T)
    split = size**low
    return Solution(
        rows[:, :split].reshape(-1, *(size,) * low),
        root * rows[:, split:].reshape(-1, *(size,) * order),
        tangents,
    )


def solution_map(
    directions: Array, alpha: Array, ratio: Array, orders: tuple[int, int], weight: float
) -> tuple[Array, Array]:
    """The turns' rows of ``solution``: tensors (B (B - 1), B, ..., B) of both orders."""
    found = solution(directions, alpha, ratio, orders, weight)
    return found.low[alpha.size :], found.core[alpha.size :]


@dataclass(frozen=True, eq=False)
class Functionals:
    """K linear functionals of the two moments: second (K, B, B), core (K, B, ..., B), every one a symmetric tensor."""

    second: Array
    core: Array

    def __len__(self) -> int:
        return len(self.second)

    def __getitem__(self, part: slice) -> Functionals:
        return Functionals(self.second[part], self.core[part])

    @property
    def second_norms(self) -> Array:
        return np.asarray(np.linalg.norm(self.second.reshape(len(self), -1), axis=1))

    @property
    def core_norms(self) -> Array:
        return np.asarray(np.linalg.norm(self.core.reshape(len(self), -1), axis=1))

    def sizes(self, omega: float) -> Array:
        """Norms of the functionals with respect to the weighted norm of the moments, (K,)."""
        return np.asarray(np.sqrt(self.second_norms**2 + self.core_norms**2 / omega))

    @staticmethod
    def joined(parts: list[Functionals]) -> Functionals:
        return Functionals(np.concatenate([p.second for p in parts]), np.concatenate([p.core for p in parts]))


@dataclass(frozen=True, eq=False)
class Model:
    """The moments of the truth: ``sum alpha_i (u_i^2, kappa u_i^order)``. directions (B, B): unit rows u_i; weights (B,):
    alpha_i, none zero; omega: weight of the core's misfit."""

    directions: Array
    weights: Array
    kappa: float
    omega: float
    order: int

    @property
    def B(self) -> int:
        return len(self.weights)

    @property
    def atom(self) -> float:
        """Norm of ``(u^2, kappa u^q)``, u of length one."""
        return math.sqrt(1 + self.omega * self.kappa**2)

    @property
    def size(self) -> float:
        """Norm of the moments, by the kernel of the atoms."""
        cosines = self.directions @ self.directions.T
        kernel = cosines**2 + self.omega * self.kappa**2 * cosines**self.order
        return math.sqrt(float(self.weights @ kernel @ self.weights))

    @cached_property
    def second(self) -> Array:
        return np.asarray((self.directions.T * self.weights) @ self.directions)

    @cached_property
    def dual(self) -> Array:
        """Rows d_k with ``d_k.u_l = 1`` for k = l, else 0."""
        return np.asarray(np.linalg.inv(self.directions).T)

    @cached_property
    def tangents(self) -> Array:
        """(B, B - 1, B): orthonormal vectors orthogonal to each direction."""
        return np.array([np.linalg.svd(u[None, :])[2][1:] for u in self.directions])

    @cached_property
    def _columns(self) -> Array:
        """Derivatives of the moments by the weights, then by every direction along its tangents: (N, B^2), weighted."""
        B, q, root = self.B, self.order, math.sqrt(self.omega) * self.kappa
        columns = [_stacked(power(u, 2), root * power(u, q)) for u in self.directions]
        for u, weight, basis in zip(self.directions, self.weights, self.tangents, strict=True):
            for t in basis:
                second = 2 * symmetrised(np.multiply.outer(u, t))
                core = q * symmetrised(np.multiply.outer(power(u, q - 1), t))
                columns.append(weight * _stacked(second, root * core))
        found = np.stack(columns, axis=1)
        if found.shape[1] != B * B:
            raise ArithmeticError(f"{found.shape[1]} columns for {B * B} parameters")
        return found

    @cached_property
    def gram(self) -> Array:
        """Inverse of J^T J, (B^2, B^2), J the derivative of the moments."""
        return np.asarray(np.linalg.inv(self._columns.T @ self._columns))

    @cached_property
    def rows(self) -> Functionals:
        """The pseudo-inverse of J: B rows for the weights, then B - 1 for each direction along its tangents."""
        flat = self.gram @ self._columns.T
        split = self.B**2
        second = flat[:, :split].reshape(-1, self.B, self.B)
        return Functionals(
            second, math.sqrt(self.omega) * flat[:, split:].reshape(-1, *(self.B,) * self.order)
        )

    @cached_property
    def _atoms(self) -> Array:
        """An orthonormal basis (K, N) of the space of all atoms ``(u^2, kappa u^q)``, u of length one, in coordinates along
        bases of the symmetric tensors: what a fit sees of its data. For an even q it is a proper part of them, as u^2 is
        then a contraction of u^q, and as large as the symmetric tensors of order q."""
        B, q = self.B, self.order
        size = math.comb(B + q - 1, q) + (B * (B + 1) // 2 if q % 2 else 0)
        second, core = (as_rows(symmetric_tensors(B, k)) for k in (2, q))
        points = np.random.default_rng(0).standard_normal((4 * size, B))
        points = points / np.linalg.norm(points, axis=1, keepdims=True)
        root = math.sqrt(self.omega) * self.kappa
        atoms = [
            np.concatenate([second @ power(u, 2).ravel(), root * core @ power(u, q).ravel()]) for u in points
        ]
        return np.asarray(np.linalg.svd(np.array(atoms), full_matrices=False)[2][:size])

    def _functionals(self, coordinates: Array) -> Functionals:
        """Of coordinates along the bases of the symmetric tensors, (K, N)."""
        second, core = (symmetric_tensors(self.B, k) for k in (2, self.order))
        return Functionals(
            np.tensordot(coordinates[:, : len(second)], second, axes=1),
            math.sqrt(self.omega) * np.tensordot(coordinates[:, len(second) :], core, axes=1),
        )

    def seen_second(self, second: float, core: float) -> float:
        """The size of P's part in what a fit sees of data (P, T), at most, from the sizes of P and T."""
        split = self.B * (self.B + 1) // 2
        inside = self._atoms[:, :split].T @ self._atoms
        along, across = (float(np.linalg.norm(part, 2)) for part in (inside[:, :split], inside[:, split:]))
        return along * second + across * math.sqrt(self.omega) * core

    @cached_property
    def complement(self) -> Functionals:
        """Orthonormal functionals of what a fit sees, and no small change of the model fits: they vanish on the columns
        of J."""
        second, core = (as_rows(symmetric_tensors(self.B, k)) for k in (2, self.order))
        split = self.B**2
        inner = np.concatenate([second @ self._columns[:split], core @ self._columns[split:]])
        free = np.linalg.svd((self._atoms @ inner).T)[2][split:] @ self._atoms
        return self._functionals(free)


def as_rows(tensors: Array) -> Array:
    """A stack of tensors as rows."""
    return tensors.reshape(len(tensors), -1)


def _stacked(second: Array, core: Array) -> Array:
    return np.concatenate([second.ravel(), core.ravel()])
