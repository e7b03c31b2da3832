"""Cross-entropy of two outputs: r_i is a multiple of (1, -1), and dL/dW that of one output with weights ``a_j1 - a_j2``.

Divided by these the rows are sums of features, each of one weight, and patterns of two values tell them apart as they do for
one output (``attack.rows.ica``), where dual directions of strongly correlated features are hard to find.
"""

from __future__ import annotations

import numpy as np

from attack.rows.duals import Directions
from attack.rows.ica import alternate
from attack.rows.patterns import Rows

#: Neurons with a smaller difference of output weights, over the root mean square of all, are left out.
_NEGLIGIBLE = 1e-2


def two_output_duals(
    rows: np.ndarray,
    neurons: np.ndarray,
    output_weight: np.ndarray,
    *,
    seed: int,
    max_starts: int,
    tolerance: float,
) -> Directions | None:
    """Dual directions of rows (m, B) with neurons (m, B) in the same coordinates; output_weight (2, m). None where patterns
    do not explain every row that is kept."""
    weights = output_weight[0] - output_weight[1]
    kept = np.abs(weights) > _NEGLIGIBLE * np.sqrt(np.mean(weights**2))
    problem = Rows(
        rows[kept] / weights[kept, None], neurons[kept], (0.0, 1.0), np.sqrt(tolerance * _NEGLIGIBLE)
    )
    found = alternate(problem, seed, max_starts)
    if found.solved is None:
        return None
    scaled, signs = found.solved.scaled, found.solved.signs
    zero = neurons @ (signs[:, None] * scaled).T <= 0
    zero[kept] = found.solved.design == 0
    return Directions(np.linalg.inv(scaled).T, zero, found.tries, tolerance)
