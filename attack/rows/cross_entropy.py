"""Labels that cross-entropy shows in its gradient, and sizes of features that it tells.

The derivative by the outputs is ``k (softmax(f(x_i)) - e_(y_i))``, k = 1/B for the mean: negative at the label and nowhere
else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy

from bounds import checks

#: Norms of a feature that are tried, over the smallest that its strength at the label allows.
_NORMS = np.geomspace(1.0, 1e4, 401)


def probabilities(outputs: np.ndarray) -> np.ndarray:
    """Softmax of outputs (..., C)."""
    return np.asarray(scipy.special.softmax(outputs, axis=-1))


def residuals_of(outputs: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """``softmax(f) - e_y`` (B, C) of outputs (B, C) and classes (B,)."""
    return np.asarray(probabilities(outputs) - np.eye(outputs.shape[1])[classes])


def present_classes(output_gradient: np.ndarray) -> tuple[int, ...]:
    """Classes of which there certainly is a sample, from dL/dA (C, m) of cross-entropy and an activation that is nowhere
    negative: what samples of other classes add to a class's row is positive. Others may be there too."""
    values = checks.array("output_gradient", output_gradient, (None, None))
    rounding = 1e-6 * np.abs(values).max()
    return tuple(int(c) for c in np.flatnonzero(values.min(axis=1) < -rounding))


@dataclass(frozen=True)
class ClassCounts:
    """How many samples each class has; doubt: how far the numbers were from integers at most, 0.5 of nothing known."""

    counts: tuple[int, ...]
    doubt: float


def class_counts(
    output_bias_gradient: np.ndarray, outputs: np.ndarray, batch_size: int, *, mean: bool = True
) -> ClassCounts:
    """From dL/dc (C,) alone, ``k (sum_i softmax(f(x_i)) - counts)``, with outputs (C,) or (n, C) in place of those at the
    features, which are not known: those of a fresh network differ little from input to input, its output bias say.

    Exact where ``B`` times the mean probability is off by less than a half; ``doubt`` says how near a half it looks.
    Raises ``ValueError`` on bad input.
    """
    B = checks.integer("batch_size", batch_size, 1)
    gradient = checks.array("output_bias_gradient", output_bias_gradient, (None,))
    shown = np.atleast_2d(np.asarray(outputs, dtype=np.float64))
    if shown.ndim != 2 or shown.shape[1] != len(gradient):
        raise ValueError(
            f"outputs must have shape (C,) or (n, C), C = {len(gradient)}; got {np.shape(outputs)}"
        )
    expected = B * probabilities(shown).mean(axis=0) - gradient * (B if mean else 1)
    counts = np.clip(np.round(expected), 0, B)
    return ClassCounts(tuple(int(n) for n in counts), float(np.abs(expected - counts).max()))


@dataclass(frozen=True, eq=False)
class Norms:
    """norms (B,), and off (B,): the distance of what cross-entropy makes of features of these norms from what is seen, over
    the size of that."""

    norms: np.ndarray
    off: np.ndarray


def norms_told(
    forward: Callable[[np.ndarray], np.ndarray],
    directions: np.ndarray,
    strengths: np.ndarray,
    *,
    factor: float,
) -> Norms:
    """Norms n_i of features whose unit vectors (B, d) and ``n_i r_i`` (B, C) are known: those at which
    ``r_i = factor (softmax(f(x_i)) - e_(y_i))``, a condition in one unknown at the label, which the other outputs test.

    forward: f of features (n, d), one that grows with them; factor: k.
    """
    found = [_size(forward, u, p, factor) for u, p in zip(directions, strengths, strict=True)]
    return Norms(np.array([n for n, _ in found]), np.array([off for _, off in found]))


def _size(
    forward: Callable[[np.ndarray], np.ndarray], direction: np.ndarray, strength: np.ndarray, factor: float
) -> tuple[float, float]:
    label = int(strength.argmin())

    def residual(norm: float) -> np.ndarray:
        return factor * residuals_of(forward(norm * direction[None]), np.array([label]))[0]

    def at_label(norm: float) -> float:
        return float(strength[label] - norm * residual(norm)[label])

    # |r| at the label is at most ``factor``, so that a norm is at least this.
    unit = max(-float(strength[label]) / factor, np.finfo(float).tiny)
    grid = unit * _NORMS
    values = np.array([at_label(norm) for norm in grid])
    best = (float(unit), np.inf)
    for i in np.flatnonzero(np.sign(values[:-1]) != np.sign(values[1:])):
        norm = float(scipy.optimize.brentq(at_label, grid[i], grid[i + 1], xtol=1e-300, rtol=8.9e-16))
        off = float(np.linalg.norm(strength - norm * residual(norm)) / np.linalg.norm(strength))
        best = min(best, (norm, off), key=lambda one: one[1])
    return best
