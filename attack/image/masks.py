"""Which hidden units dropout has left to which sample, read from the gradient of the output weights.

Its column of unit j is ``sum_i a_ij r_i``: r_i (C,) the slope of sample i's loss by the outputs, a_ij what the mask leaves
of the unit. A unit that is left to one sample alone has a column along that sample's r_i, and a mask of its own for each
sample makes many of these: columns that are parallel to others are the r_i, each up to a factor. All other columns are
combinations of them, whose coefficients that are not zero tell who has the unit. So dropout takes a batch apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Columns with a sine of their angle below this are parallel, and each of so many is along one sample's slope: two
#: mixtures may be parallel by chance, three are not.
_PARALLEL, _LEAST = 2e-5, 3

#: Share of a column that rounding may make of it; more that no sample explains means that it is no such gradient.
_ROUNDING, _UNEXPLAINED = 2e-5, 1e-3

#: Columns among which parallel ones are looked for.
_SEARCHED = 4000


@dataclass(frozen=True, eq=False)
class SampleMasks:
    """Samples in the order of their classes (B,): of each the units (B, m) that are left to it and are not zero; values: of
    the units as the output layer gets them, None without the bias' gradient; rounding: their error, of the largest."""

    kept: NDArray[np.bool_]
    classes: NDArray[np.intp]
    values: Array | None
    rounding: float


def sample_masks(gradient: Array, B: int, bias: Array | None = None) -> SampleMasks | None:
    """From the gradient (C, m) of the output weights of B samples, summed, and that of their bias (C,), which is the sum of
    the samples' slopes and so tells their sizes; None where it does not show all B of them:
    slopes by fewer than B independent outputs, too few units that one sample has alone, or a gradient of other make.

    A sample's class is the output by which its loss changes most; for cross-entropy that is its label. Of the squared loss
    it need not be: an output that is further off than the label's decides, so classes and order then mean nothing.
    """
    if len(gradient) < B:
        return None
    lengths = np.linalg.norm(gradient, axis=0)
    used = np.flatnonzero(lengths > _ROUNDING * lengths.max(initial=0.0))
    columns = gradient[:, used] / lengths[used]
    slopes = _parallel(columns[:, :_SEARCHED], B)
    if slopes is None:
        return None
    smallest = np.linalg.svd(slopes, compute_uv=False)[-1]
    shares = np.linalg.lstsq(slopes, columns, rcond=None)[0]
    if smallest <= _PARALLEL or np.abs(slopes @ shares - columns).max() > _UNEXPLAINED:
        return None
    kept = np.zeros((B, gradient.shape[1]), dtype=np.bool_)
    kept[:, used] = np.abs(shares) > _ROUNDING / smallest
    classes = np.abs(slopes).argmax(axis=0)
    order = np.argsort(classes, kind="stable")
    values = None
    if bias is not None:
        values = np.zeros(kept.shape)
        sizes = np.linalg.lstsq(slopes, bias, rcond=None)[0]
        values[:, used] = np.where(kept[:, used], shares * lengths[used] / sizes[:, None], 0.0)
        values = values[order]
    return SampleMasks(kept[order], classes[order], values, _ROUNDING / float(smallest))


def _parallel(columns: Array, B: int) -> Array | None:
    """B directions (C, B) to which most of the columns, of length 1, are parallel; None if there are fewer."""
    cosines = columns.T @ columns
    alike = np.abs(cosines) > 1 - _PARALLEL**2 / 2
    free, found = np.ones(columns.shape[1], dtype=np.bool_), list[Array]()
    for _ in range(B):
        counts = (alike & free).sum(axis=1) * free
        best = int(counts.argmax()) if counts.size else 0
        if not counts.size or counts[best] < _LEAST:
            return None
        group = np.flatnonzero(alike[best] & free)
        mean = (columns[:, group] * np.sign(cosines[best, group])).mean(axis=1)
        found.append(mean / np.linalg.norm(mean))
        free &= ~alike[best]
    return np.stack(found, axis=1)
