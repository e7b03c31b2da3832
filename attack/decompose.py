"""Joint decomposition of the second moment and the core in B dimensions: the estimator that theory predicts.

Minimises ``|P - sum_i alpha_i u_i u_i^T|^2 + omega |T - sum_i alpha_i ratio_i u_i^(x)q|^2`` over alpha and unit vectors u.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Decomposition:
    """alpha (B,), directions (B, B) with unit rows, ``misfit`` (the objective over the squared norm of the data),
    ``agreeing`` starts out of ``starts`` that ended at the same solution, and starts whose eigenvectors were complex."""

    alpha: Array
    directions: Array
    misfit: float
    agreeing: int
    starts: int
    complex_starts: int


@dataclass(frozen=True, eq=False)
class _Fit:
    """The least-squares problem on the distinct entries of the two symmetric tensors, weighted by multiplicity."""

    data: Array
    ratio: Array
    indices: tuple[Array, Array]  # (N_2, 2), (N_q, q) sorted multi-indices
    weights: tuple[Array, Array]

    @staticmethod
    def of(second: Array, core: Array, ratio: Array, omega: float) -> _Fit:
        size = second.shape[0]
        indices, weights, data = [], [], []
        for tensor, factor in ((second, 1.0), (core, omega)):
            index = np.array(list(itertools.combinations_with_replacement(range(size), tensor.ndim)))
            counts = np.stack([np.sum(index == k, axis=1) for k in range(size)], axis=1)
            multiplicity = math.factorial(tensor.ndim) / np.prod(
                [[math.factorial(c) for c in row] for row in counts.tolist()], axis=1
            )
            indices.append(index)
            weights.append(np.sqrt(factor * multiplicity))
            data.append(tensor[tuple(index.T)] * weights[-1])
        return _Fit(np.concatenate(data), ratio, (indices[0], indices[1]), (weights[0], weights[1]))

    def atoms(self, U: Array) -> Array:
        """The weighted rank-one tensors of every component: (B, N)."""
        (i2, iq), (w2, wq) = self.indices, self.weights
        return np.hstack(
            [np.prod(U[:, i2], axis=2) * w2, np.prod(U[:, iq], axis=2) * wq * self.ratio[:, None]]
        )

    def jacobian(self, alpha: Array, U: Array, tangents: Array) -> Array:
        """d(model)/d(alpha, tangent coordinates): (N, B + B (B - 1)); tangents (B, B - 1, B)."""
        size = alpha.size
        moves = []
        for index, weight, scale in zip(self.indices, self.weights, (np.ones(size), self.ratio), strict=True):
            entries, shifts = U[:, index], tangents[:, :, index]
            total = np.zeros((size, size - 1, len(index)))
            for slot in range(index.shape[1]):
                others = np.prod(np.delete(entries, slot, axis=2), axis=2)
                total += others[:, None] * shifts[:, :, :, slot]
            moves.append(total * weight * (alpha * scale)[:, None, None])
        return np.vstack(
            [self.atoms(U), np.concatenate(moves, axis=2).reshape(size * (size - 1), self.data.size)]
        ).T

    def best_alpha(self, U: Array) -> Array:
        return np.asarray(np.linalg.lstsq(self.atoms(U).T, self.data, rcond=None)[0])

    def minimise(self, U: Array, iterations: int = 100) -> tuple[float, Array, Array]:
        """Levenberg-Marquardt on the product of spheres: (objective, alpha, U)."""
        alpha = self.best_alpha(U)
        size = alpha.size
        misfit = self.data - alpha @ self.atoms(U)
        value = float(misfit @ misfit)
        floor = 1e-28 * float(self.data @ self.data)
        damping = 1e-3
        for _ in range(iterations):
            tangents = np.linalg.svd(U[:, None, :])[2][:, 1:]
            jacobian = self.jacobian(alpha, U, tangents)
            normal, slope = jacobian.T @ jacobian, jacobian.T @ misfit
            scale = np.diag(np.diag(normal) + 1e-12 * np.trace(normal))
            while damping < 1e12:
                step = np.linalg.solve(normal + damping * scale, slope)
                turn = np.einsum("it,itk->ik", step[size:].reshape(size, size - 1), tangents)
                new_alpha, new_U = alpha + step[:size], U + turn
                new_U = new_U / np.linalg.norm(new_U, axis=1, keepdims=True)
                new_misfit = self.data - new_alpha @ self.atoms(new_U)
                new_value = float(new_misfit @ new_misfit)
                if new_value <= value:
                    break
                damping *= 4
            else:
                return value, alpha, U
            small = float(np.linalg.norm(turn)) < 1e-11 or value - new_value <= 1e-15 * value
            alpha, U, misfit, value = new_alpha, new_U, new_misfit, new_value
            damping = max(damping / 10, 1e-14)
            if small or value <= floor:
                break
        return value, alpha, U


def decompose(
    second: Array,
    core: Array,
    ratio: Array,
    omega: float,
    starts: int,
    generator: np.random.Generator,
    guess: Array | None = None,
) -> Decomposition:
    """Fit unit directions and weights to ``second`` (B, B) and ``core`` (B,)*q, q in {3, 4}, both symmetric.

    ratio (B,): known ratio of a component's weight in the core to its weight in the second moment. For even q directions
    come up to sign. ``guess`` (B, B): known directions to start from, in the order of ``ratio``, instead of the usual
    starts, whose order is arbitrary. Deterministic given the generator's state. Starts are simultaneous
    diagonalisations (Kuleshov, Chaganty, Liang 2015): a random contraction M of the core shares its components with the
    second moment P, and M P^-1 has them as eigenvectors (not M against P as a pencil: those are the dual basis).
    """
    fit = _Fit.of(second, core, ratio, omega)
    size, order = second.shape[0], core.ndim
    whitening = np.linalg.pinv(second)
    results, complex_starts = [], 0
    if guess is not None:
        results, starts = [fit.minimise(guess)], 1
    for _ in range(starts if guess is None else 0):
        weight = generator.standard_normal((size,) * (order - 2))
        contracted = np.tensordot(core, weight, axes=order - 2)
        vectors = np.linalg.eig(contracted @ whitening)[1]
        complex_starts += bool(np.max(np.abs(vectors.imag)) > 1e-9)
        U = np.ascontiguousarray((vectors.real + vectors.imag).T)
        U = U / np.linalg.norm(U, axis=1, keepdims=True)
        if order % 2:
            U = _aligned(U, second, core, ratio)
        results.append(fit.minimise(U))
    results.sort(key=lambda result: result[0])
    value, alpha, U = results[0]
    total = float(fit.data @ fit.data)
    agreeing = sum(_same(U, other) and v <= value + 1e-6 * total for v, _, other in results)
    return Decomposition(alpha, U, value / total if total else 0.0, agreeing, starts, complex_starts)


def _aligned(U: Array, second: Array, core: Array, ratio: Array) -> Array:
    """Odd q: the core fixes the sign of each direction relative to its weight in the second moment."""
    weights = []
    for tensor in (second, core):
        atoms = np.array([_outer(u, tensor.ndim).ravel() for u in U])
        weights.append(np.linalg.lstsq(atoms.T, tensor.ravel(), rcond=None)[0])
    return U * np.where(weights[0] * weights[1] * ratio < 0, -1.0, 1.0)[:, None]


def _outer(u: Array, order: int) -> Array:
    result = u
    for _ in range(order - 1):
        result = np.multiply.outer(result, u)
    return result


def _same(U: Array, V: Array, tolerance: float = 1e-4) -> bool:
    """Equal up to order and sign."""
    overlap = np.abs(U @ V.T)
    rows, columns = linear_sum_assignment(-overlap)
    return bool(np.all(overlap[rows, columns] > 1 - tolerance))
