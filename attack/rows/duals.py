"""Dual directions of the features: those in which the rows of a gradient vanish wherever one feature is inactive.

Rows are ``c_j = sum_i t_ji b_i`` in B dimensions, where t_ji is zero on the neurons on which ReLU is inactive for feature i,
and any number elsewhere: those of ``dL/dW`` with several outputs, whose weights differ from neuron to neuron, and the
columns of ``dL/dA``. The direction dual to b_i sees a zero on every inactive neuron; SPEAR (Dimitrov, Baader, Mueller,
Vechev, NeurIPS 2024) finds it as the kernel of B - 1 rows, which all have to be such. Here a feature proposes the neurons:
those that it would leave well inactive. The direction in which their rows are smallest proposes the next feature, the one on
which the sizes of all rows in that direction depend most. It ends where these rows vanish in one direction and in no other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from attack.streams import numpy_generator

#: A neuron is proposed as inactive where the feature's preactivation is below this many standard deviations. Starts take
#: turns: far below errs less, and nearer to zero more of the others are active. Of rows that share the neurons' coordinates
#: the last features are known well.
_MARGINS, _SHARED_MARGINS = (0.7, 0.5), (1.0, 0.5, 0.2)

#: Steps of one start at most; most need about ten.
_STEPS = 25

#: Directions are the same where their cosine is nearer to one than the first of these, and will be nearer than the second,
#: after so many steps.
_SAME, _NEARLY, _EARLY = 1e-6, 0.02, 3

#: Where none of this many starts ends in a direction there is none.
_HOPELESS = 60

#: One direction vanishes where the next is this many times the tolerance, at least.
_ALONE = 30.0

#: A direction is confirmed where of the neurons that should be inactive, by this many standard deviations, at most this
#: share is not: the feature is known to the error of least squares only.
_CONFIRMING, _STRAY = 0.5, 0.1

#: Rows below this fraction of the largest hold nothing but rounding in double precision.
_LEAST = 1e-12


@dataclass(frozen=True, eq=False)
class Directions:
    """duals (k, B): one a feature, as many as were found; zero (m, k): on which rows they vanish, rows that vanish
    themselves among them; starts: how many were made; tolerance: as it was given."""

    duals: np.ndarray
    zero: np.ndarray
    starts: int
    tolerance: float


def find_duals(
    rows: np.ndarray,
    neurons: np.ndarray,
    *,
    seed: int,
    max_starts: int,
    tolerance: float,
    shared: int = 0,
) -> Directions:
    """Dual directions of rows (m, B), one after the other, until there are B.

    neurons (m, k): coordinates of which a feature's preactivation is a linear function; shared: how many of these, the first
    ones, are the coordinates of the rows themselves, so that b_i is the feature there: what is still to be found is then
    orthogonal to every dual direction that has been. tolerance: size of a vanishing row in a direction, over the row's own,
    columns of equal weight.
    """
    m, B = rows.shape
    if B == 1:
        return Directions(np.ones((1, 1)), np.abs(rows) <= tolerance * np.abs(rows).max(), 0, tolerance)
    basis, triangle = np.linalg.qr(rows)
    basis = basis * np.sqrt(m)
    size = np.linalg.norm(basis, axis=1)
    live = size > max(_LEAST, tolerance) * size.max()
    unit = np.where(live[:, None], basis / np.where(live, size, 1.0)[:, None], 0.0)
    centred = neurons - neurons.mean(axis=0)
    weights = np.linalg.pinv(centred)
    proposal = _Proposal(basis, unit, live, neurons, weights, tolerance)
    margins = _SHARED_MARGINS if shared else _MARGINS
    generator = numpy_generator(seed, "duals")
    spread = weights @ weights.T * m  # of features whose preactivations are of one size
    draw = np.linalg.cholesky(spread + 1e-12 * np.trace(spread) * np.eye(len(spread)))
    found = np.zeros((0, B))
    starts = 0
    while len(found) < B and starts < max_starts and (len(found) or starts < _HOPELESS):
        inside = _orthogonal(np.linalg.solve(triangle, found.T), shared) if len(found) and shared else None
        if len(found) and starts % 2:
            start = proposal.apart(found, generator)
        else:
            start = draw @ generator.standard_normal(len(spread))
        dual = replace(proposal, margin=margins[starts // 2 % len(margins)]).settle(start, found, inside)
        starts += 1
        if dual is not None and not _alike(found, dual, _SAME):
            found = np.concatenate([found, dual[None]])
    zero = (np.abs(unit @ found.T) < _ALONE * tolerance) | ~live[:, None]
    scaled = np.linalg.solve(triangle, found.T).T * np.sqrt(m)
    return Directions(scaled, zero, starts, tolerance)


def _alike(found: np.ndarray, dual: np.ndarray, tolerance: float) -> bool:
    """Whether one of the directions (k, B) that are found is this one."""
    return bool(np.any(1 - np.abs(found @ dual) <= tolerance))


def _orthogonal(duals: np.ndarray, shared: int) -> Callable[[np.ndarray], np.ndarray]:
    """Features less what of their first coordinates lies along dual directions (B, k)."""
    along = np.linalg.qr(duals)[0]

    def inside(feature: np.ndarray) -> np.ndarray:
        first = feature[:shared]
        return np.concatenate([first - along @ (along.T @ first), feature[shared:]])

    return inside


@dataclass(frozen=True, eq=False)
class _Proposal:
    """basis (m, B): the rows in coordinates where columns are orthogonal, of mean square 1; unit: the same over their
    lengths; live: rows that do not vanish; weights (k, m): least squares on the neurons."""

    basis: np.ndarray
    unit: np.ndarray
    live: np.ndarray
    neurons: np.ndarray
    weights: np.ndarray
    tolerance: float
    margin: float = 0.0

    def apart(self, found: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """The feature on which a random combination of the columns depends that is orthogonal to all that were found."""
        rest = np.linalg.qr(found.T, mode="complete")[0][:, len(found) :]
        values = self.basis @ rest @ generator.standard_normal(rest.shape[1])
        return np.asarray(self.weights @ (values - values.mean()))

    def settle(
        self, feature: np.ndarray, found: np.ndarray, inside: Callable[[np.ndarray], np.ndarray] | None
    ) -> np.ndarray | None:
        """The unit direction in which a feature (k,) ends; None where it ends in none, or nears one that is found."""
        for step in range(_STEPS):
            feature = feature if inside is None else inside(feature)
            preactivation = self.neurons @ feature
            inactive = self.live & (preactivation < -self.margin * preactivation.std())
            dual, alone = self._kernel(inactive)
            if alone and self._confirms(dual, inside):
                zero = self.live & (np.abs(self.unit @ dual) < _ALONE * self.tolerance)
                return self._kernel(zero)[0]
            if step >= _EARLY and _alike(found, dual, _NEARLY):
                return None
            seen = np.abs(self.basis @ dual)
            feature = self.weights @ (seen - seen.mean())
        return None

    def _confirms(self, dual: np.ndarray, inside: Callable[[np.ndarray], np.ndarray] | None) -> bool:
        """Whether rows vanish in this direction wherever the feature on which their sizes depend is inactive: few rows may
        have a kernel by chance."""
        seen = np.abs(self.basis @ dual)
        feature = self.weights @ (seen - seen.mean())
        preactivation = self.neurons @ (feature if inside is None else inside(feature))
        inactive = self.live & (preactivation < -_CONFIRMING * preactivation.std())
        active = np.abs(self.unit[inactive] @ dual) > _ALONE * self.tolerance
        return bool(np.count_nonzero(active) <= _STRAY * np.count_nonzero(inactive))

    def _kernel(self, chosen: np.ndarray) -> tuple[np.ndarray, bool]:
        """The direction in which the chosen rows are smallest, and whether they vanish there and nowhere else."""
        rows = self.unit[chosen]
        count, B = rows.shape
        if count < B:
            return np.eye(B)[0], False
        values, vectors = np.linalg.eigh(rows.T @ rows / count)
        sizes = np.sqrt(np.maximum(values, 0.0))
        vanishes = sizes[0] <= max(self.tolerance, 1e-7)  # a square root of rounding is 1e-8
        if not vanishes:
            return vectors[:, 0], False
        precise = np.linalg.svd(rows, full_matrices=False)
        small, dual = precise[1][-2:] / np.sqrt(count), precise[2][-1]
        return dual, bool(small[-1] <= self.tolerance and (B == 1 or small[0] > _ALONE * self.tolerance))
