"""Patterns by alternating projections from independent components: in polynomial time, where samples of rows take 2^B.

Over neurons the slopes ``s_i`` (m,) of the B features are vectors of two values in the B-dimensional space that the columns
of the rows span. A vector of two values is projected onto that space, what comes out onto the vectors of two values, and so
on: it ends in a point of both sets, a pattern, or is given up. Each feature is found for itself, whatever the correlation of
the features.

Starts: patterns of features that are no near neighbours of each other are nearly independent coin flips over neurons, and
FastICA (Hyvärinen 1999, scikit-learn's) separates them, a sample being a neuron; a threshold makes two values of each
component. Components that are wrong are repaired by starts in the part of the space that is orthogonal to the patterns that
are found, and by patterns of random features.
"""

from __future__ import annotations

import warnings

import numpy as np

from attack.rows.patterns import Found, Patterns, Rows
from attack.streams import numpy_generator

#: Steps of one start at most; most that settle at all need about ten.
_STEPS = 60

#: Starts that are made at once, at least.
_BATCH = 16

#: Where none of this many starts has ended in a pattern there is none: elsewhere one of three does.
_HOPELESS = 256

#: Choices of B patterns out of those found that are put to the test at most.
_CHOICES = 100

#: FastICA's iterations and tolerance: its components are starts and no more.
_ITERATIONS, _CHANGE = 200, 1e-4


def alternate(problem: Rows, seed: int, max_starts: int) -> Found:
    """Patterns from starts in batches, until B of them explain every row."""
    _, B = problem.size
    basis = np.linalg.qr(problem.rows)[0]
    generator = numpy_generator(seed, "components")
    patterns = Patterns(problem, _CHOICES)
    starts, made = _components(problem, basis, generator), 0
    while True:
        starts = starts[:, : max_starts - made]
        made += starts.shape[1]
        for active in _settled(basis, starts, problem.ratio, problem.tolerance):
            solved = patterns.add(active)
            if solved is not None:
                return Found("ica", solved, len(patterns.found), made, max_starts)
        hopeless = made >= _HOPELESS and not patterns.found
        if made >= max_starts or patterns.exhausted or hopeless:
            return Found("ica", None, len(patterns.found), made, max_starts)
        starts = _more(problem, basis, patterns, generator, count=max(B, _BATCH))


def _components(problem: Rows, basis: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Thresholds of independent components, booleans (m, B): of a component and its negative that one which is nearer to
    the space."""
    from sklearn.decomposition import FastICA  # which brings half of scikit-learn
    from sklearn.exceptions import ConvergenceWarning

    state = int(generator.integers(2**31))
    # kurtosis: that of a coin is the lowest there is
    separate = FastICA(
        whiten="unit-variance", fun="cube", random_state=state, max_iter=_ITERATIONS, tol=_CHANGE
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", RuntimeWarning)  # of components that vanish
        components = separate.fit_transform(problem.rows)
    active = components > _between(components)
    off = [_distance(basis, np.where(side, 1.0, problem.ratio)) for side in (active, ~active)]
    return np.where(off[0] <= off[1], active, ~active)


def _between(values: np.ndarray) -> np.ndarray:
    """For each column the middle between the mean of what lies above it and of what lies below."""
    middle = values.mean(axis=0)
    for _ in range(10):
        above = values > middle
        sums = np.where(above, values, 0.0).sum(axis=0), np.where(above, 0.0, values).sum(axis=0)
        counts = above.sum(axis=0).clip(1), (~above).sum(axis=0).clip(1)
        middle = (sums[0] / counts[0] + sums[1] / counts[1]) / 2
    return middle


def _distance(basis: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Of columns (m, k) from the space, over their length."""
    inside = np.square(basis.T @ vectors).sum(axis=0)
    return np.asarray(1 - inside / np.square(vectors).sum(axis=0))


def _settled(basis: np.ndarray, active: np.ndarray, ratio: float, tolerance: float) -> list[np.ndarray]:
    """The patterns in which starts (m, k) end, those whose slopes lie in the space."""
    found = []
    fast = basis.astype(np.float32)  # single precision tells on which side a value is
    for _ in range(_STEPS):
        slopes = np.where(active, np.float32(1), np.float32(ratio))
        now = fast @ (fast.T @ slopes) > (1 + ratio) / 2
        moving = (now != active).any(axis=0)
        for pattern in active[:, ~moving].T:
            ends = np.where(pattern, 1.0, ratio)
            if np.abs(basis @ (basis.T @ ends) - ends).max() <= tolerance:
                found.append(pattern.copy())
        if not moving.any():
            break
        active = now[:, moving]
    return found


def _more(
    problem: Rows, basis: np.ndarray, patterns: Patterns, generator: np.random.Generator, *, count: int
) -> np.ndarray:
    """Starts (m, count): signs of random vectors of the space that are orthogonal to the patterns found, and patterns of
    random features."""
    B = problem.size[1]
    random = problem.neurons @ generator.standard_normal((B, count)) > 0
    found = [basis.T @ np.where(active, 1.0, problem.ratio) for active in patterns.found.values()]
    if not found or len(found) >= B:
        return random
    rest = np.linalg.qr(np.stack(found, axis=1), mode="complete")[0][:, len(found) :]
    apart = basis @ (rest @ generator.standard_normal((rest.shape[1], count // 2)))
    return np.concatenate([apart > 0, random[:, count // 2 :]], axis=1)
