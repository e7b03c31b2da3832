"""From a perturbation of the moments to the fitted features: the deterministic half of the in-plane theorem.

The fit minimises ``|P - sum a_l v_l^2|^2 + omega |T - kappa sum a_l v_l^q|^2`` over weights a and unit vectors v in R^B.
Here P, T are within a known distance of the moments of the truth. Proof: bounds/proofs/in-plane.md, steps 5 to 8. Norms
of tensors are Frobenius norms, ``v^2`` and ``v^q`` tensor powers; a functional (L, M) acts as ``<L, P> + <M, T>``.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from bounds.arrays import Array
from bounds.errors import UnsupportedBound
from bounds.gaussian.symmetric import power, symmetric_tensors, symmetrised
from bounds.kinds.fit_model import Functionals, Model

#: Angles above this sine are not refined (the expansions ask for it).
STEEPEST = 0.7


#: Branch and bound stops here: halvings, cells that are left.
_LEVELS, _MOST_CELLS = 10, 20_000


#: Cells along every angle, of those that a fit's two directions may have.
_CELLS = 24


@dataclass(frozen=True, eq=False)
class Perturbation:
    """What is known of the moments' error eps = (P, T) - truth, and of the fit, of both only what a fit sees (their part in
    the space of its atoms).

    total: |eps|; second: |eps_P|; misfit: |data - fitted moments|, at most; rows (B^2,): the rows of the pseudo-inverse
    applied to eps; weights: how far every weight of the truth may lie from that of the model.
    """

    total: float
    second: float
    misfit: float
    rows: Array
    weights: float


@dataclass(frozen=True, eq=False)
class _Fitted:
    """Bounds of the fit: sines (B,) of the angles from the truth, smallest and largest |weight| (B,)."""

    sines: Array
    lowest: Array
    highest: Array


@dataclass(frozen=True, eq=False)
class _Wave:
    """B = 2: the atom ``(v^2, kappa v^q)`` of the unit vector at angle t is ``(a_k cos kt, a_k sin kt)`` over frequencies k,
    a the amplitudes, by the Fourier series of its kernel ``cos^2 + omega kappa^2 cos^q``."""

    frequencies: Array
    amplitudes: Array

    @staticmethod
    def of(model: Model) -> _Wave:
        weight = model.omega * model.kappa**2
        if model.order % 2:
            frequencies, squares = np.arange(4.0), np.array([0.5, 0.75 * weight, 0.5, 0.25 * weight])
        else:
            frequencies = np.array([0.0, 2.0, 4.0])
            squares = np.array([0.5 + 0.375 * weight, 0.5 + 0.5 * weight, 0.125 * weight])
        return _Wave(frequencies, np.sqrt(squares))

    @property
    def bent(self) -> float:
        """Length of an atom's second derivative."""
        return float(np.linalg.norm(self.frequencies**2 * self.amplitudes))

    def tangents(self, angles: Array, weights: Array) -> Array:
        """Atoms at the angles (..., 2), then their derivatives times the weights (2,): (..., N, 4)."""
        k, a = self.frequencies, self.amplitudes
        phase = np.multiply.outer(angles, k)
        atoms = np.concatenate([a * np.cos(phase), a * np.sin(phase)], axis=-1)
        slopes = np.concatenate([-k * a * np.sin(phase), k * a * np.cos(phase)], axis=-1)
        return np.swapaxes(np.concatenate([atoms, weights[:, None] * slopes], axis=-2), -1, -2)


# --- where the fit can be at all -------------------------------------------------------------------------------


def first_sines(model: Model, known: Perturbation) -> Array:
    """Sines of the angles between fitted and true directions, at most, (B,): sharp for B = 2, any B otherwise."""
    if model.B > 2:
        return contracted_sines(model, known)
    return two_feature_sines(model, known.total + known.misfit + model.atom * model.B * known.weights)


def two_feature_sines(model: Model, radius: float) -> Array:
    """B = 2: sines of the angles between fitted and true directions, at most, for the better of the two orders: (2,).

    radius: how far the truth's moments may lie from the span of the two fitted atoms. Branch and bound over pairs of angles:
    in every cell that is left out that distance is larger. 1 where the angle may be a right one.
    """
    q, wave = model.order, _Wave.of(model)
    angles = np.arctan2(model.directions[:, 1], model.directions[:, 0])
    frequencies, a = wave.frequencies, wave.amplitudes
    turn, widest = (2 * math.pi, math.pi / 2) if q % 2 else (math.pi, math.pi / 4)
    target = a * (np.exp(1j * np.outer(frequencies, angles)) @ model.weights)
    size = float(np.linalg.norm(np.abs(target)))
    # For angles mean + half and mean - half the span is that of e_1 (real parts) and e_2 (imaginary parts of the target
    # turned back by the mean), which stay away from zero. Lipschitz constants in mean and in half.
    by_mean = float(np.linalg.norm(frequencies * np.abs(target)))
    slope = np.array([sum(abs(k - 1 - 2 * j) for j in range(int(k))) for k in frequencies])
    smallest = a[1] * (1.0 if q % 2 else math.sqrt(2.0))
    by_half = size * max(
        float(np.linalg.norm(frequencies * a)) / a[0], float(np.linalg.norm(slope * a)) / smallest
    )
    grid = np.meshgrid((np.arange(64) + 0.5) * turn / 64, (np.arange(16) + 0.5) * widest / 16, indexing="ij")
    mean, half = (x.ravel() for x in grid)
    reach_mean, reach_half = turn / 128, widest / 32
    for level in range(_LEVELS):
        distance = _distance(target * np.exp(-1j * np.outer(mean, frequencies)), half, a, frequencies)
        kept = distance - by_mean * reach_mean - by_half * reach_half <= radius
        mean, half = mean[kept], half[kept]
        if level == _LEVELS - 1 or len(mean) > _MOST_CELLS:
            break
        reach_mean, reach_half = reach_mean / 2, reach_half / 2
        mean, half = (
            np.concatenate([x + i * r for i, r in corner])
            for x, corner in (
                (mean, [(i, reach_mean) for i in (-1, -1, 1, 1)]),
                (half, [(j, reach_half) for j in (-1, 1, -1, 1)]),
            )
        )
    period = turn
    away = np.array(
        [
            [np.abs((t - angle + period / 2) % period - period / 2) for angle in angles]
            for t in (mean + half, mean - half)
        ]
    )
    away = np.minimum(away + reach_mean + reach_half, math.pi / 2)
    straight, crossed = np.stack([away[0, 0], away[1, 1]]), np.stack([away[1, 0], away[0, 1]])
    better = np.where(straight.max(axis=0) < crossed.max(axis=0), straight, crossed)
    return np.asarray(np.sin(better.max(axis=1)))


def _distance(turned: Array, half: Array, a: Array, frequencies: Array) -> Array:
    """Distance of the target, turned back by the mean angle (cells, frequencies), from the span of the two atoms."""
    phase = np.outer(half, frequencies)
    even = a * np.cos(phase)
    odd = a * np.sin(phase) / np.sin(half)[:, None]
    total = np.zeros(len(half))
    for part, basis in ((turned.real, even), (turned.imag, odd)):
        share = np.sum(part * basis, axis=1) / np.sum(basis * basis, axis=1)
        total += np.sum((part - share[:, None] * basis) ** 2, axis=1)
    return np.sqrt(total)


@dataclass(frozen=True, eq=False)
class Contraction:
    """A symmetric Z of order q - 2 that tells feature i apart: ``Z[u_i^(q-2)] = base + 1``, ``base`` for the others. The
    functionals gamma_kl, row by row, are those that the contracted eigenvalue problem depends on."""

    base: float
    functionals: Functionals


def contraction(model: Model, feature: int) -> Contraction:
    """Z by least squares: any symmetric Z with those values is valid, a small one gives a sharp bound."""
    B, q = model.B, model.order
    basis = symmetric_tensors(B, q - 2)
    constraints = np.array(
        [[float(np.sum(e * power(u, q - 2))) for e in basis] + [-1.0] for u in model.directions]
    )
    goal = np.eye(B)[feature]
    pairs = list(itertools.product(range(B), range(B)))
    duals = [np.multiply.outer(model.dual[k], model.dual[j]) for k, j in pairs]
    blocks, offsets = [], []
    for (k, j), dd in zip(pairs, duals, strict=True):
        # The entries (k, feature) move the eigenvector, the others only the gaps.
        emphasis = (1.0 if j == feature and k != feature else 0.15) / abs(model.weights[j])
        block = np.zeros((B**q + B * B, len(basis) + 1))
        scale = model.kappa * math.sqrt(model.omega)
        block[: B**q, :-1] = np.stack([_product(e, dd).ravel() / scale for e in basis], axis=1)
        block[B**q :, -1] = symmetrised(dd).ravel()
        blocks.append(emphasis * block)
        offsets.append(-emphasis * block[:, -1] * (k == feature))
    stacked, wanted = np.concatenate(blocks), np.concatenate(offsets)
    normal = stacked.T @ stacked + 1e-12 * np.eye(len(basis) + 1)
    saddle = np.block([[normal, constraints.T], [constraints, np.zeros((B, B))]])
    solution = np.linalg.solve(saddle, np.concatenate([stacked.T @ wanted, goal]))[: len(basis) + 1]
    Z = np.tensordot(solution[:-1], basis, axes=1)
    values = solution[-1] + goal
    second = [-values[k] * symmetrised(dd) for (k, _), dd in zip(pairs, duals, strict=True)]
    core = [_product(Z, dd) / model.kappa for dd in duals]
    return Contraction(float(solution[-1]), Functionals(np.array(second), np.array(core)))


def _product(tensor: Array, matrix: Array) -> Array:
    return symmetrised(np.multiply.outer(tensor, matrix))


def contracted_sines(model: Model, known: Perturbation) -> Array:
    """Any B: sines of the angles between fitted and true directions, at most: (B,).

    Discs of Gershgorin for the eigenvalue problem of every contraction. Raises ``UnsupportedBound`` where they do not
    separate.
    """
    B = model.B
    weights = np.abs(model.weights) - known.weights
    if np.min(weights) <= 0:
        raise UnsupportedBound("vacuous: m is too small to be certain of a residual")
    duals = [[symmetrised(np.multiply.outer(a, b)) for b in model.dual] for a in model.dual]
    pi = np.linalg.norm(np.array(duals).reshape(B, B, -1), axis=2) * (known.second + known.misfit)
    relative = pi / weights
    if np.max(np.abs(np.linalg.eigvals(relative))) >= 1:
        raise UnsupportedBound("vacuous: m is too small, the fitted second moment may be singular")
    inverse = np.diag(1 / weights) @ np.linalg.inv(np.eye(B) - relative)
    sines = np.zeros(B)
    for i in range(B):
        found = contraction(model, i)
        gamma = found.functionals.sizes(model.omega) * (known.misfit + known.total)
        sines[i] = _separated(model, i, gamma.reshape(B, B) @ inverse, found.base)
    return sines


def _separated(model: Model, i: int, error: Array, base: float) -> float:
    """Sine of the angle of feature i, from the matrix ``diag(values) + e`` with ``|e| <= error`` entrywise."""
    scale = np.sqrt(np.abs(model.weights))
    reaches = (error * scale[None, :] / scale[:, None]).sum(axis=1)
    others = [k for k in range(model.B) if k != i]
    reach = float(reaches[i])
    vacuous = UnsupportedBound(
        f"vacuous: m is too small to tell feature {i} from the others by the core ({reach:.2g})"
    )
    if reach + max(reaches[k] for k in others) >= 1:
        raise vacuous
    rest = error[np.ix_(others, others)]
    coupled = rest - np.diag(np.diag(rest))
    for _ in range(30):
        gap = 1 - reach - np.diag(rest)
        if np.min(gap) <= 0 or np.max(np.abs(np.linalg.eigvals(coupled / gap[:, None]))) >= 1:
            raise vacuous
        a = np.linalg.solve(np.diag(gap) - coupled, error[others, i])
        reach = min(reach, float(error[i, i] + error[i, others] @ a))
    if np.max(a) >= 1:
        raise vacuous
    if model.order % 2 and (base + 1 <= reach or base + 1 <= abs(base) * np.sum(a)):
        raise UnsupportedBound("vacuous: m is too small to be certain of the feature's sign")
    cosines = np.abs(model.directions @ model.directions.T)[np.ix_(others, others)]
    return math.sqrt(float(a @ cosines @ a))


def second_order_misfit(model: Model, rows: Array, weights: float) -> float:
    """What is left of the tangent part of eps at a model that fits it to first order; infinite where there is none.

    rows (B^2,): the rows of the pseudo-inverse applied to eps; weights: as in ``Perturbation``."""
    B, q = model.B, model.order
    total = 0.0
    for i, weight in enumerate(np.abs(model.weights)):
        off = rows[i] + weights
        if off >= weight:
            return math.inf
        turns = rows[B + i * (B - 1) : B + (i + 1) * (B - 1)]
        tangent = float(np.linalg.norm(turns)) * weight / (weight - off)
        bent = 1 - (1 + tangent**2) ** (1 - q / 2)
        core = bent**2 * (1 + q * tangent**2)
        core += sum(math.comb(q, j) * tangent ** (2 * j) for j in range(2, q + 1))
        total += float(weight + off) * math.sqrt(tangent**4 + model.omega * model.kappa**2 * core)
    return total


# --- how far from the truth ------------------------------------------------------------------------------------


def displacements(model: Model, sines: Array, known: Perturbation) -> Array:
    """``|v_i - u_i|`` at most, (B,), for a stationary point of the fit whose angles have at most the given sines.

    Every round inserts the last bounds into the expansion around the truth, so every round gives valid ones. Raises
    ``UnsupportedBound`` where the start is too wide or the weights are not certain.
    """
    if np.max(sines) >= STEEPEST:
        raise UnsupportedBound(
            f"vacuous: m is too small, the fit may turn a feature by a sine of {np.max(sines):.2f}"
        )
    fitted = _first_weights(model, sines, known)
    for _ in range(60):
        last, fitted = fitted, _improved(model, fitted, known)
        if np.all(fitted.sines > 0.999 * last.sines) and np.all(fitted.highest > 0.999 * last.highest):
            break
    return np.asarray(np.sqrt(2 - 2 * np.sqrt(1 - fitted.sines**2)))


def _first_weights(model: Model, sines: Array, known: Perturbation) -> _Fitted:
    """The fitted weights by ``1/a_l = v_l.P^-1 v_l``, P the fitted second moment."""
    inverse = np.linalg.inv(model.second)
    norm = float(np.linalg.norm(inverse, 2))
    small = norm * (known.second + known.misfit + model.B * known.weights)
    if small >= 1:
        raise UnsupportedBound("vacuous: m is too small, the fitted second moment may be singular")
    along = np.einsum("lta,ab,lb->lt", model.tangents, inverse, model.directions)
    reciprocal = 1 / np.abs(model.weights)
    off = norm * small / (1 - small) + 2 * sines * np.linalg.norm(along, axis=1)
    off = off + sines**2 * (norm + reciprocal)
    if np.any(off >= reciprocal):
        raise UnsupportedBound("vacuous: m is too small, a fitted weight may be zero or of any size")
    return _Fitted(sines, 1 / (reciprocal + off), 1 / (reciprocal - off))


def _improved(model: Model, fitted: _Fitted, known: Perturbation) -> _Fitted:
    B, weights = model.B, np.abs(model.weights)
    s, cosine = fitted.sines, np.sqrt(1 - fitted.sines**2)
    total = known.rows + _misfit_rows(model, s, known.misfit) + _curvature(model, s) @ fitted.highest
    of_weights = total[:B] + known.weights
    certain = of_weights < weights
    highest = np.where(
        certain, np.minimum(fitted.highest, (weights + of_weights) / cosine**2), fitted.highest
    )
    lowest = np.maximum(fitted.lowest, weights - of_weights)
    turned = np.linalg.norm(total[B:].reshape(B, B - 1), axis=1) * weights / (lowest * cosine)
    return _Fitted(np.minimum(s, turned), lowest, highest)


def _misfit_rows(model: Model, sines: Array, misfit: float) -> Array:
    """The rows applied to the misfit, which is orthogonal to the model's tangent space at the fit: (B^2,)."""
    B = model.B
    if B == 2:
        return np.asarray(misfit * _planar_rows(model, sines))
    atoms = np.array([_atom_off_tangent(model, s) for s in sines])
    turns = np.array([_turn_off_tangent(model, s) for s in sines])
    along = np.linalg.norm(model.gram[:, B:].reshape(-1, B, B - 1), axis=2) * np.abs(model.weights)
    off = np.abs(model.gram[:, :B]) @ atoms + along @ turns
    return np.asarray(misfit * np.minimum(off, model.rows.sizes(model.omega)))


def _planar_rows(model: Model, sines: Array) -> Array:
    """B = 2: the distance of the rows from the model's tangent space at any two directions of these sines, at most: (4,).

    In every cell of pairs of angles by what combination of the tangents is nearest at its centre, and how far these are
    from the tangent space at another pair of the cell."""
    wave = _Wave.of(model)
    angles, reach = np.arctan2(model.directions[:, 1], model.directions[:, 0]), np.arcsin(sines)
    rows = np.linalg.pinv(wave.tangents(angles, model.weights))
    half = reach / _CELLS
    offsets = [h * np.arange(1 - _CELLS, _CELLS, 2) for h in half]
    centres = np.stack([g.ravel() for g in np.meshgrid(*offsets, indexing="ij")], axis=1) + angles
    spaces = wave.tangents(centres, np.ones(2))
    shares = np.einsum("cpn,kn->ckp", np.linalg.pinv(spaces), rows)
    left = np.linalg.norm(rows[None] - np.einsum("cnp,ckp->ckn", spaces, shares), axis=2)
    turned = np.abs(shares[:, :, :2]) @ (half**2 / 2) + np.abs(shares[:, :, 2:]) @ half
    return np.asarray(np.max(left + wave.bent * turned, axis=0))


def _atom_off_tangent(model: Model, s: float) -> float:
    """Distance of the atom of u from the tangent space at v, the sine of their angle at most s."""
    q, c = model.order, math.sqrt(1 - s * s)
    core = (c**2 - c**q) ** 2 + q * (c - c ** (q - 1)) ** 2 * s**2
    core += sum(math.comb(q, j) * s ** (2 * j) for j in range(2, q + 1))
    return math.sqrt(s**4 + model.omega * model.kappa**2 * core)


def _turn_off_tangent(model: Model, s: float) -> float:
    """The same for the atom's derivative along a unit tangent."""
    q, c = model.order, math.sqrt(1 - s * s)
    sizes = np.zeros(q + 1)
    sizes[0] = (q - 2) * s
    sizes[1] = (q * (c - c ** (q - 1)) + q * (q - 2) * s * s) / math.sqrt(q)
    for j in range(1, q):
        sizes[j + 1] += q * math.comb(q - 1, j) * s**j / math.sqrt(math.comb(q, j + 1))
        if j >= 2:
            sizes[j] += q * math.comb(q - 1, j) * s ** (j + 1) / math.sqrt(math.comb(q, j))
    return math.sqrt((2 * s) ** 2 + model.omega * model.kappa**2 * float(sizes @ sizes))


def _curvature(model: Model, sines: Array) -> Array:
    """What the rows make of the atoms beyond first order, per unit of fitted weight: (B^2, B)."""
    q, kappa, rows = model.order, abs(model.kappa), model.rows
    found = np.zeros((len(rows), model.B))
    for i, (u, basis, s) in enumerate(zip(model.directions, model.tangents, sines, strict=True)):
        bent = 1 - (1 - s * s) ** ((q - 2) / 2)
        # core[j]: q - j slots at u, j slots in the tangent space
        core = [_restricted(rows.core, u, basis, j) for j in range(q + 1)]
        norms = [kappa * np.linalg.norm(t.reshape(len(rows), -1), axis=1) for t in core]
        second = np.einsum("xa,kab,yb->kxy", basis, rows.second, basis)
        quadratic = model.kappa * math.comb(q, 2) * core[2]
        found[:, i] = bent * (norms[0] + q * norms[1] * s)
        found[:, i] += s**2 * np.linalg.norm(second + quadratic, 2, axis=(1, 2))
        found[:, i] += s**2 * bent * np.linalg.norm(quadratic, 2, axis=(1, 2))
        found[:, i] += sum(math.comb(q, j) * norms[j] * s**j for j in range(3, q + 1))
    return found


def _restricted(tensors: Array, direction: Array, basis: Array, slots: int) -> Array:
    for _ in range(tensors.ndim - 1 - slots):
        tensors = np.tensordot(tensors, direction, axes=([1], [0]))
    for _ in range(slots):
        tensors = np.tensordot(tensors, basis, axes=([1], [1]))
    return tensors
