"""Envelopes: the largest absolute value of a function within a radius."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from bounds.arrays import Array
from bounds.gaussian.quadrature import gaussian_rule
from bounds.gaussian.tails import Envelope

#: Envelopes are known up to here, in standard deviations.
_FARTHEST = 24.0


def _product(he: Envelope, power: int, degree: int) -> Envelope:
    """``he(s)^power s^degree``."""
    return lambda s: np.asarray(he(s) ** power * s**degree)


def _moment(k: int, power: int, degree: int) -> float:
    """``E He_k(Z)^power Z^degree``."""
    x, w = gaussian_rule()
    he = np.polynomial.hermite_e.hermeval(x, [0.0] * k + [1.0])
    return float(w @ (he**power * x**degree))


def envelope(function: Callable[[Array], Array], kinks: Sequence[float], norm: float) -> Envelope:
    """``max |function(t)|`` over ``|t| <= s``: on a grid of spacing 1/500 in the activation's own argument, or finer, and
    at its kinks, with 0.1 % to spare for what lies between. No radius gets near 24, where it ends."""
    steps = 12_000 * max(1, math.ceil(norm / 3))
    grid = np.unique(
        np.concatenate([np.linspace(0.0, _FARTHEST, steps + 1), np.abs(np.asarray(kinks, dtype=float))])
    )
    both = np.maximum(np.abs(function(grid)), np.abs(function(-grid)))
    largest = 1.001 * np.maximum.accumulate(both)
    return lambda s: np.asarray(np.interp(s, grid, largest))


def mixed_envelope(strengths: Array, kept: Envelope, stretch: float) -> Envelope:
    """``max sum_i strength_i kept(|t_i|)`` over ``sum t_i^2 <= (stretch s)^2``: what coordinates with ``|z| <= s`` allow.

    One feature after the other; with t_i in a cell of the grid, its share is taken at the upper end and what is left for the
    others at the lower one."""
    step = 0.025 * stretch
    t = np.asarray(step * np.arange(round(_FARTHEST / 2 / 0.025) + 2), dtype=np.float64)
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
