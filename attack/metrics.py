"""Matched reconstruction error: ``R = min_pi sqrt((1/B) sum_i |x_i - xhat_pi(i)|^2)``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

from bounds import checks


@dataclass(frozen=True, eq=False)
class MatchedError:
    """``rmse`` = R, its parts orthogonal to and inside span{x_i} (``rmse^2 = orthogonal^2 + inplane^2``), and the matching:
    row i of X is paired with row ``permutation[i]`` of the reconstruction, times ``signs[i]``. ``span``: root
    mean square distance of the features from the span of the reconstruction."""

    rmse: float
    orthogonal: float
    inplane: float
    span: float
    permutation: tuple[int, ...]
    signs: tuple[int, ...]


def matched_error(X: Any, reconstruction: Any, sign_free: bool = False) -> MatchedError:
    """Error of a reconstruction (B, d) of the features X (B, d) under the best matching (Hungarian method).

    sign_free: also minimise over a sign for each feature (where a model cannot tell x from -x; report it as such).
    Guessing zero scores 1 for unit features. Raises ``ValueError`` on wrong shapes or non-finite values.
    """
    truth = checks.array("X", X, (None, None))
    guess = checks.array("reconstruction", reconstruction, (None, None))
    if truth.shape != guess.shape:
        raise ValueError(f"reconstruction must have the shape of X, {truth.shape}; got {guess.shape}")
    # Differences, not expanded squares: those would lose small errors to cancellation.
    plus = np.sum((truth[:, None] - guess[None]) ** 2, axis=2)
    minus = np.sum((truth[:, None] + guess[None]) ** 2, axis=2) if sign_free else np.full_like(plus, np.inf)
    rows, columns = scipy.optimize.linear_sum_assignment(np.minimum(plus, minus))
    signs = np.where(plus[rows, columns] <= minus[rows, columns], 1, -1)
    difference = truth - signs[:, None] * guess[columns]
    basis = np.linalg.qr(truth.T)[0]
    inside = difference @ basis
    found = np.linalg.qr(guess.T)[0]
    outside = truth - (truth @ found) @ found.T
    return MatchedError(
        rmse=math.sqrt(np.sum(difference**2) / len(truth)),
        orthogonal=math.sqrt(np.sum((difference - inside @ basis.T) ** 2) / len(truth)),
        inplane=math.sqrt(np.sum(inside**2) / len(truth)),
        span=math.sqrt(np.sum(outside**2) / len(truth)),
        permutation=tuple(int(c) for c in columns),
        signs=tuple(int(s) for s in signs),
    )


def matched_rmse(X: Any, reconstruction: Any, sign_free: bool = False) -> float:
    """``matched_error(...).rmse``."""
    return matched_error(X, reconstruction, sign_free).rmse
