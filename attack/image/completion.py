"""Rows of low rank of which some entries are hidden: what a server that knows which were pruned makes of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

#: A row is known where it has this many more entries than unknowns, at least.
_MORE = 2

#: Steps at most, the relative change of the error at which they end, and an error that is none.
_STEPS, _STILL, _NONE = 200, 1e-6, 1e-28

#: Of entries that rank explains no more than this share of the power is left.
_EXPLAINED = 1e-10

#: Steps with hidden entries as the nearest rows of that rank have them, cut to their limit: a start that is near enough.
_ROUGH = 20

#: Ridge of the normal equations, over their trace.
_RIDGE = 1e-14


@dataclass(frozen=True, eq=False)
class Completed:
    """rows (m, n) of the rank; sure (m,): rows with more entries than unknowns; left: share of the power of what was seen
    that rank leaves; determined: whether that is next to nothing, and every column has more entries than unknowns too, in
    rows that are sure (necessary for there to be no others, and enough in general position)."""

    rows: np.ndarray
    sure: np.ndarray
    left: float
    determined: bool


def completed(seen: np.ndarray, kept: np.ndarray, rank: int, *, limit: float = math.inf) -> Completed:
    """The rows (m, n) of this rank nearest to the entries that are kept (booleans), by alternating least squares from the
    hidden entries' zeros; limit: no hidden entry is larger (which starts the search).

    A row of no more entries than unknowns is not used, and filled in by the smallest combination.
    """
    filled = seen * kept
    for _ in range(_ROUGH):
        left, right = _leading(filled, rank)
        filled = np.where(kept, seen, np.clip(left @ right, -limit, limit))
    sure = kept.sum(axis=1) >= rank + _MORE
    known, weights = (seen * kept)[sure], kept[sure].astype(np.float64)
    columns, power = np.linalg.qr(right.T)[0], float(np.square(known).sum())
    before, share = math.inf, 0.0
    for _ in range(_STEPS if power else 0):
        factors = np.linalg.qr(_solved(known, weights, columns))[0]
        columns = np.linalg.qr(_solved(known.T, weights.T, factors))[0]
        made = _solved(known, weights, columns) @ columns.T
        share = float(np.square((made - known) * weights).sum()) / power
        if share <= _NONE or share >= before * (1 - _STILL):
            break
        before = share
    rows = _solved(seen * kept, kept.astype(np.float64), columns) @ columns.T
    enough = bool((weights.sum(axis=0) >= rank + _MORE).all()) and weights.sum() > rank * sum(weights.shape)
    return Completed(rows, sure, share, enough and share <= _EXPLAINED)


def _leading(rows: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Factors (m, rank), (rank, n) of the nearest rows of that rank, by the shorter side's second moments."""
    if len(rows) <= rows.shape[1]:
        left = np.linalg.eigh(rows @ rows.T)[1][:, -rank:]
        return left, left.T @ rows
    right = np.linalg.eigh(rows.T @ rows)[1][:, -rank:]
    return rows @ right, right.T


def _solved(seen: np.ndarray, weights: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """For each row (m, n) the combination (m, rank) of the columns (n, rank) nearest to its kept entries."""
    rank = columns.shape[1]
    outer = (columns[:, :, None] * columns[:, None, :]).reshape(len(columns), rank * rank)
    gram = (weights @ outer).reshape(-1, rank, rank)
    ridge = _RIDGE * np.trace(gram, axis1=1, axis2=2)
    gram += np.maximum(ridge, np.finfo(float).tiny)[:, None, None] * np.eye(rank)
    return np.asarray(np.linalg.solve(gram, (seen @ columns)[:, :, None])[:, :, 0])
