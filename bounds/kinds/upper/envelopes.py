"""Envelopes: the largest absolute value of a function within a radius."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from bounds.arrays import Array
from bounds.gaussian.quadrature import gaussian_rule
from bounds.gaussian.tails import Envelope

#: Envelopes are known up to here, in standard deviations.
FARTHEST = 24.0


def powers(he: Envelope, power: int, degree: int) -> Envelope:
    """``he(s)^power s^degree``."""
    return lambda s: np.asarray(he(s) ** power * s**degree)


def hermite_moment(k: int, power: int, degree: int) -> float:
    """``E He_k(Z)^power Z^degree``."""
    x, w = gaussian_rule()
    he = np.polynomial.hermite_e.hermeval(x, [0.0] * k + [1.0])
    return float(w @ (he**power * x**degree))


def envelope(
    function: Callable[[Array], Array],
    kinks: Sequence[float],
    curvature: Callable[[Array], Array],
    refinement: float = 1.0,
) -> Envelope:
    """``max |function(t)|`` over ``|t| <= s``, at most: on a grid of spacing 1/500, or ``refinement`` times finer, and at
    both sides of its kinks, plus what lies between two points of it. ``curvature(s)``, which does not fall, bounds the
    second derivative between kinks where ``|t| <= s``: a function exceeds its chord over a cell of length l by at most
    ``l^2 / 8`` times that. No radius gets near 24, where it ends."""
    steps = 12_000 * max(1, math.ceil(refinement))
    spacing, at = FARTHEST / steps, np.abs(np.asarray(kinks, dtype=float))
    sides = [np.nextafter(at, 0.0), at, np.nextafter(at, math.inf)]
    grid = np.unique(np.concatenate([np.linspace(0.0, FARTHEST, steps + 1), *sides]))
    both = np.maximum(np.abs(function(grid)), np.abs(function(-grid)))
    largest = np.maximum.accumulate(both) + curvature(grid + spacing) * spacing**2 / 8
    return lambda s: np.asarray(np.interp(s, grid, largest))


def mixed_envelope(strengths: Array, kept: Envelope, stretch: float) -> Envelope:
    """``max sum_i strength_i kept(|t_i|)`` over ``sum t_i^2 <= (stretch s)^2``: what coordinates with ``|z| <= s`` allow.

    One feature after the other; with t_i in a cell of the grid, its share is taken at the upper end and what is left for the
    others at the lower one."""
    step = 0.025 * stretch
    t = np.asarray(step * np.arange(round(FARTHEST / 2 / 0.025) + 2), dtype=np.float64)
    total = np.zeros_like(t)
    for strength in strengths:
        share = strength * kept(t + step)
        left = [
            np.ceil(np.sqrt(np.maximum(t[j] ** 2 - t[: j + 1] ** 2, 0)) / step - 1e-6).astype(int)
            for j in range(len(t))
        ]
        total = np.array([np.max(total[cells] + share[: len(cells)]) for cells in left])
    whole = float(np.sum(strengths))  # no |t_i| exceeds |z| either
    return lambda s: np.minimum(np.interp(stretch * s + step, t, total), whole * kept(s))
