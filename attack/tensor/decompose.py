"""Joint decomposition of a low moment and the core in B dimensions: the estimator that theory predicts.

Minimises ``|P - sum_i alpha_i u_i^(x)k|^2 + omega |T - sum_i alpha_i ratio_i u_i^(x)q|^2`` over alpha and unit vectors u,
with k = 2, or k = 1 and q = 3 for odd activations.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: A relative change of the objective below this is rounding.
_ROUNDING = 1e-15


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
    """The least-squares problem on the distinct entries of the two symmetric tensors, weighted by multiplicity.

    Every method takes several starts at once: alpha (S, B), U (S, B, B). Loops over a few starts cost more than the sums.
    """

    data: Array
    ratio: Array
    indices: tuple[NDArray[np.intp], ...]  # (N_k, k), (N_q, q) sorted multi-indices
    weights: tuple[Array, ...]

    @staticmethod
    def of(low: Array, core: Array, ratio: Array, omega: float) -> _Fit:
        size = low.shape[0]
        indices, weights, data = [], [], []
        for tensor, factor in ((low, 1.0), (core, omega)):
            index = np.array(list(itertools.combinations_with_replacement(range(size), tensor.ndim)))
            counts = np.stack([np.sum(index == k, axis=1) for k in range(size)], axis=1)
            multiplicity = math.factorial(tensor.ndim) / np.prod(
                [[math.factorial(c) for c in row] for row in counts.tolist()], axis=1
            )
            indices.append(index)
            weights.append(np.sqrt(factor * multiplicity))
            data.append(tensor[tuple(index.T)] * weights[-1])
        return _Fit(np.concatenate(data), ratio, tuple(indices), tuple(weights))

    def atoms(self, U: Array) -> Array:
        """The weighted rank-one tensors of every component: (S, B, N)."""
        low, core = (
            np.prod(U[..., index], axis=-1) * weight
            for index, weight in zip(self.indices, self.weights, strict=True)
        )
        return np.concatenate([low, core * self.ratio[:, None]], axis=2)

    def jacobian(self, alpha: Array, U: Array, tangents: Array) -> Array:
        """d(model)/d(alpha, tangent coordinates): (S, B + B (B - 1), N); tangents (S, B, B - 1, B)."""
        count, size = alpha.shape
        axes = np.eye(size)
        moves = []
        for index, weight, scale in zip(self.indices, self.weights, (np.ones(size), self.ratio), strict=True):
            factors = [U[..., column] for column in index.T]
            move = np.zeros((count, size, len(index), size))
            for slot, column in enumerate(index.T):
                others = math.prod(factors[:slot] + factors[slot + 1 :], start=np.ones(()))
                move += others[..., None] * axes[column]
            moves.append(
                tangents @ np.swapaxes(move * weight[:, None], 2, 3) * (alpha * scale)[..., None, None]
            )
        turns = np.concatenate(moves, axis=3).reshape(count, size * (size - 1), self.data.size)
        return np.concatenate([self.atoms(U), turns], axis=1)

    def misfit(self, alpha: Array, U: Array) -> Array:
        """Data minus model, (S, N)."""
        return np.asarray(self.data - (alpha[:, None, :] @ self.atoms(U))[:, 0])

    def minimise(self, U: Array, iterations: int = 300) -> tuple[Array, Array, Array]:
        """Levenberg-Marquardt on the product of spheres, from every start: (objective (S,), alpha, U)."""
        U = U.copy()
        alpha = self.data @ np.linalg.pinv(self.atoms(U))
        misfit = self.misfit(alpha, U)
        value = np.sum(misfit**2, axis=1)
        floor = 1e-28 * float(self.data @ self.data)
        count, size = alpha.shape
        damping = np.full(count, 1e-3)
        live = np.arange(count)
        for _ in range(iterations):
            tangents = _complements(U[live])
            jacobian = self.jacobian(alpha[live], U[live], tangents)
            normal = jacobian @ np.swapaxes(jacobian, 1, 2)
            scale = np.diagonal(normal, axis1=1, axis2=2)
            scale = damping[live, None] * (scale + 1e-12 * scale.sum(axis=1, keepdims=True))
            slope = jacobian @ misfit[live, :, None]
            step = np.linalg.solve(normal + scale[:, :, None] * np.eye(scale.shape[1]), slope)[..., 0]
            turn = (step[:, size:].reshape(len(live), size, 1, size - 1) @ tangents)[:, :, 0]
            new_alpha, new_U = alpha[live] + step[:, :size], U[live] + turn
            new_U /= np.linalg.norm(new_U, axis=2, keepdims=True)
            new_misfit = self.misfit(new_alpha, new_U)
            new_value = np.sum(new_misfit**2, axis=1)
            better = new_value <= value[live]
            # Where the step promises no more than rounding, objectives are compared in vain, however it is damped.
            settled = np.sum(slope[..., 0] * step, axis=1) <= _ROUNDING * value[live]
            small = np.linalg.norm(turn, axis=(1, 2)) < 1e-11
            small |= value[live] - new_value <= _ROUNDING * value[live]
            taken = live[better]
            alpha[taken], U[taken] = new_alpha[better], new_U[better]
            misfit[taken], value[taken] = new_misfit[better], new_value[better]
            damping[live] = np.where(better, np.maximum(damping[live] / 10, 1e-14), damping[live] * 4)
            ended = settled | (better & (small | (new_value <= floor)))
            live = live[~ended & (damping[live] < 1e12)]
            if not live.size:
                break
        return value, alpha, U


def _complements(U: Array) -> Array:
    """Orthonormal bases of what is orthogonal to each of the last axis' unit vectors: (..., B) to (..., B - 1, B).

    The Householder reflection that takes u to a multiple of the first axis is orthogonal, with first row along u.
    """
    mirror = U.copy()
    mirror[..., 0] += np.where(U[..., 0] < 0, -1.0, 1.0)
    size = np.sum(mirror**2, axis=-1)[..., None, None]
    whole = np.eye(U.shape[-1]) - 2 * mirror[..., :, None] * mirror[..., None, :] / size
    return np.asarray(whole[..., 1:, :])


def decompose(
    low: Array,
    core: Array,
    ratio: Array,
    omega: float,
    starts: int,
    generator: np.random.Generator,
    guess: Array | None = None,
) -> Decomposition:
    """Fit unit directions and weights to ``low`` (B,)*k, k in {1, 2}, and ``core`` (B,)*q, q in {3, 4}, both symmetric.

    ratio (B,): known ratio of a component's weight in the core to its weight in the low moment. Directions come up to sign
    for even q, and for k = 1 up to a common sign of direction and weight. ``guess`` (B, B): known directions to start from,
    in the order of ``ratio``, instead of the usual starts, whose order is arbitrary. Deterministic given the generator's
    state. Starts are simultaneous diagonalisations (Kuleshov, Chaganty, Liang 2015): a random contraction M of the core
    shares its components with the second moment P (for k = 1: with another such contraction), and M P^-1 has them as
    eigenvectors (not M against P as a pencil: those are the dual basis).
    """
    fit = _Fit.of(low, core, ratio, omega)
    size, order = low.shape[0], core.ndim

    def contracted() -> Array:
        weight = generator.standard_normal((size,) * (order - 2))
        return np.asarray(np.tensordot(core, weight, axes=order - 2))

    complex_starts, guesses = 0, []
    for _ in range(starts if guess is None else 0):
        partner = low if low.ndim == 2 else contracted()
        vectors = np.linalg.eig(contracted() @ np.linalg.pinv(partner))[1]
        complex_starts += bool(np.max(np.abs(vectors.imag)) > 1e-9)
        U = np.ascontiguousarray((vectors.real + vectors.imag).T)
        U = U / np.linalg.norm(U, axis=1, keepdims=True)
        guesses.append(_aligned(U, low, core, ratio) if (order - low.ndim) % 2 else U)
    values, alphas, solutions = fit.minimise(np.array([guess] if guess is not None else guesses))
    best = int(np.argmin(values))
    value, alpha, U = float(values[best]), alphas[best], solutions[best]
    total = float(fit.data @ fit.data)
    near = values <= value + 1e-6 * total
    agreeing = sum(_same(U, other) for other in solutions[near])
    return Decomposition(alpha, U, value / total if total else 0.0, agreeing, len(values), complex_starts)


def _aligned(U: Array, low: Array, core: Array, ratio: Array) -> Array:
    """Orders of different parity: the core fixes the sign of each direction relative to its weight in the low moment."""
    weights = []
    for tensor in (low, core):
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
    rows, columns = scipy.optimize.linear_sum_assignment(-overlap)
    return bool(np.all(overlap[rows, columns] > 1 - tolerance))
