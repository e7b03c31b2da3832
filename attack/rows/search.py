"""Patterns by samples of B rows: of those that lie on one side of a feature, differences are orthogonal to its dual
direction, which is then their kernel. A sample does with a probability of about ``2^(1-B)`` for each feature."""

from __future__ import annotations

import numpy as np

from attack.rows.patterns import Found, Patterns, Rows, two_valued
from attack.streams import numpy_generator

_CHUNK = 512

#: Choices of B patterns out of those found that are put to the test at most.
_CHOICES = 2_000


def search(problem: Rows, seed: int, max_samples: int) -> Found:
    """Patterns of activity, one by one, until B of them explain every row."""
    rows, ratio, tolerance = problem.rows, problem.ratio, problem.tolerance
    m, B = problem.size
    generator = numpy_generator(seed, "rows")
    patterns = Patterns(problem, _CHOICES)
    tried: set[bytes] = set()
    probe = rows[generator.permutation(m)[: min(m, 128)]]
    drawn = 0
    while drawn < max_samples and not patterns.exhausted:
        count = min(_CHUNK, max_samples - drawn)
        drawn += count
        sample = rows[generator.integers(0, m, (count, B))]
        differences = sample[:, 1:] - sample[:, :1]
        kernels = np.linalg.svd(differences, full_matrices=True)[2][:, -1] if B > 1 else np.ones((count, 1))
        # A few rows first: most kernels are no duals.
        kernels = kernels[two_valued(kernels @ probe.T, ratio, tolerance)]
        heaviest = np.take_along_axis(kernels, np.abs(kernels).argmax(axis=1)[:, None], axis=1)
        for q, key in zip(kernels, np.round(kernels * np.sign(heaviest), 9) + 0.0, strict=True):
            if key.tobytes() in tried:  # the same dual comes again and again
                continue
            tried.add(key.tobytes())
            values = q @ rows.T
            if not two_valued(values[None], ratio, tolerance)[0]:
                continue
            solved = patterns.add(np.abs(values) > (1 + abs(ratio)) / 2 * np.abs(values).max())
            if solved is not None:
                return Found("search", solved, len(patterns.found), drawn, max_samples)
    return Found("search", None, len(patterns.found), drawn, max_samples)
