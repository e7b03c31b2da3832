"""Two features: where they can be, by branch and bound over their places in the plane of those that were found.

Proof: bounds/proofs/certificate.md, step 7. A feature is ``cos o (cos(t) xhat_i + sin(t) xhat_i^perp) + sin o n_i``, n_i a
unit vector outside the plane; a cell is a box of (t_1, t_2, o_1, o_2).
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from bounds.arrays import Array
from bounds.kinds.certificate.nearby import Explained, Nearby
from bounds.kinds.certificate.tails import LeftOver, Shape, left_over

#: Cuts of the cells, cells at most, and the share of the distance that a cell may leave open.
_LEVELS, _MOST, _OPEN = 40, 100_000, 0.05


@dataclasses.dataclass(frozen=True, eq=False)
class _Kernel:
    """``sum_k c_k^2 / k! rho^k``, its derivative, and the largest derivative of a feature's part by its place."""

    powers: dict[int, float]

    def __call__(self, cosine: Array) -> Array:
        return sum((s * cosine**k for k, s in self.powers.items()), np.zeros_like(cosine))

    def slope(self, cosine: Array) -> Array:
        return sum((s * k * cosine ** (k - 1) for k, s in self.powers.items() if k), np.zeros_like(cosine))

    @property
    def steepest(self) -> float:
        return math.sqrt(sum(s * k * k for k, s in self.powers.items()))


@dataclasses.dataclass(frozen=True, eq=False)
class Narrowed:
    """What is known, and what is left over at any place that is."""

    known: Explained
    left: LeftOver


def narrowed(model: Nearby, known: Explained, distance: float, flip: Array, shape: Shape) -> Narrowed | None:
    """What is left of ``known`` when the functions are at most ``distance`` apart; None where nothing is.

    flip (2,): the x_i are near ``flip_i xhat_i``. Angles and residuals come out no wider than they are known.
    """
    kernel = _Kernel(model.powers)
    wide = np.arcsin(np.clip(known.sines, 0.0, 1.0))
    reach = np.array([wide[0], wide[1], wide[0] / 2, wide[1] / 2])
    cells = np.array([[0.0, 0.0, wide[0] / 2, wide[1] / 2]])
    angles = np.arctan2(model.directions[:, 1], model.directions[:, 0])
    for level in range(_LEVELS + 1):
        left = _left(kernel, model, known, angles, flip, cells, reach)
        kept = left.distance <= distance
        if not kept.any():
            return None
        cells, left = cells[kept], left.where(kept)
        if level == _LEVELS or 2 * len(cells) > _MOST or np.max(left.slack) < _OPEN * distance:
            break
        # the side that lets functions move most is cut: places outside the plane move them little
        longest = int(np.argmax(np.tile(known.sizes, 2) * reach * np.append(np.ones(2), np.sin(wide))))
        reach = reach * np.where(np.arange(4) == longest, 0.5, 1.0)
        half = reach * (np.arange(4) == longest)
        cells = np.concatenate([cells - half, cells + half])
    room = ((distance + left.slack) / np.sqrt(left.condition))[:, None]
    cosines = np.cos(np.minimum(np.abs(cells[:, 2:]) + reach[2:], wide)) * np.cos(
        np.minimum(np.abs(cells[:, :2]) + reach[:2], wide)
    )
    narrow = np.minimum(known.sines, np.sqrt(1 - np.min(cosines, axis=0) ** 2))
    low = np.maximum(known.low, np.min(left.residuals - room, axis=0))
    high = np.minimum(known.high, np.max(left.residuals + room, axis=0))
    error = math.sqrt(float(np.max(np.sum(2 - 2 * cosines, axis=1))) / 2)
    sizes = np.maximum(-low, high)
    there = Explained(narrow, np.minimum(known.turned, sizes * narrow), low, high, min(known.error, error))
    sines = np.minimum(np.sqrt(1 - np.maximum(cosines, 0.0) ** 2), narrow)
    second, fourth = (float(np.max(left_over(shape, sines, power) @ sizes)) for power in (2, 4))
    return Narrowed(there, LeftOver(second, fourth))


@dataclasses.dataclass(frozen=True, eq=False)
class _Left:
    """Of cells (n,): distance, at least, of any function in the cell from that found; residuals (n, 2) that come nearest in
    the middle; slack: how far functions of the cell are from those of its middle; condition: smallest eigenvalue of the
    features' Gram matrix in the middle."""

    distance: Array
    residuals: Array
    slack: Array
    condition: Array

    def where(self, kept: NDArray[np.bool_]) -> _Left:
        return _Left(*(getattr(self, f.name)[kept] for f in dataclasses.fields(self)))


def _left(
    kernel: _Kernel, model: Nearby, known: Explained, angles: Array, flip: Array, cells: Array, reach: Array
) -> _Left:
    turn, out = cells[:, :2], cells[:, 2:]
    place = (np.cos(out) * flip)[:, :, None] * np.stack(
        [np.cos(angles + turn), np.sin(angles + turn)], axis=-1
    )
    gram = kernel(np.einsum("nia,nka->nik", place, place))
    right = kernel(place @ model.directions.T) @ model.residuals
    found = float(model.residuals @ kernel(model.directions @ model.directions.T) @ model.residuals)
    determinant = gram[:, 0, 0] * gram[:, 1, 1] - gram[:, 0, 1] ** 2
    trace = gram[:, 0, 0] + gram[:, 1, 1]
    condition = np.maximum(determinant / trace, 1e-14)  # at most the smallest eigenvalue
    safe = np.maximum(determinant, 1e-14)
    residuals = np.stack(
        [
            (gram[:, 1, 1] * right[:, 0] - gram[:, 0, 1] * right[:, 1]) / safe,
            (gram[:, 0, 0] * right[:, 1] - gram[:, 0, 1] * right[:, 0]) / safe,
        ],
        axis=1,
    )
    square = found - np.sum(residuals * right, axis=1)
    inside = np.where(determinant > 1e-10, np.sqrt(np.maximum(square - 1e-13 * found, 0.0)), 0.0)
    moved = np.hypot(reach[:2], np.minimum(np.sin(np.minimum(out + reach[2:], math.pi / 2)), 1.0) * reach[2:])
    slack = kernel.steepest * (moved @ known.sizes)
    outside = _outside(kernel, known, place, moved, np.maximum(out - reach[2:], 0.0))
    return _Left(np.hypot(np.maximum(inside - slack, 0.0), outside), residuals, slack, condition)


def _outside(kernel: _Kernel, known: Explained, place: Array, moved: Array, out: Array) -> Array:
    """Size, at least, of the mixed part, one factor outside the plane: (n,)."""
    size = np.maximum(np.linalg.norm(place, axis=2) - moved, 0.0)
    own = kernel.slope(size**2)
    between = (
        np.abs(np.sum(place[:, 0] * place[:, 1], axis=1)) + np.sum(moved, axis=1) + np.prod(moved, axis=1)
    )
    cross = kernel.slope(np.minimum(between, 1.0))
    middle, half = np.mean(own, axis=1), (own[:, 0] - own[:, 1]) / 2
    least = np.maximum(middle - np.hypot(half, cross), 0.0)
    return np.asarray(np.sqrt(least * np.sum((known.lowest * np.sin(out)) ** 2, axis=1)))
