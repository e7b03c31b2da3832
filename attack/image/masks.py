"""Which hidden units dropout has left to which sample, read from the gradient of the output layer.

The weights' column of unit j is ``sum_i a_ij r_i``: r_i (C,) the slope of sample i's loss by the outputs, a_ij what the mask
leaves of the unit. A unit that is left to one sample alone has a column along that sample's r_i, and a mask of its own for
each sample makes many of these. All other columns are combinations of the r_i, whose coefficients that are not zero tell who
has the unit. So dropout takes a batch apart.

Which directions are the r_i is certified, not believed: they give the hidden values a_i, these the outputs ``A a_i + c``,
and these the slopes ``p_i - e_y`` that were to be found (p_i the softmax of the outputs, or for the squared loss themselves)
for one class y of each sample. Mixtures of slopes, parallel by chance or as two samples show one picture, do not fit so.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attack.image.head_gradient import parameter, sent
from attack.image.observed import ImageObservation

Array = NDArray[np.float64]

#: Share of a column that single precision may make of it: a few roundings. Columns with a sine of their angle below this are
#: parallel, and what slopes leave of a column is at most this, times how far mixtures of slopes magnify it.
_ROUNDING = 1e-6

#: Slopes so close that rounding is more of a share than this are not told apart.
_BLURRED = 0.1

#: How far a slope may be off the one that follows from it: so many roundings of the largest, or of one (that of a
#: probability), and at most this share of itself, as mixtures are off by .6 and more. Below the third no better is sought.
_ROUNDINGS, _OFF, _CERTAIN = 30.0, 0.5, 1e-3

#: Of the bias' gradient, what the samples may leave unexplained.
_LEFT = 1e-5

#: Columns among which parallel ones are looked for; directions that are candidates, choices among them that are tried, and
#: choices of classes for samples without a unit.
_SEARCHED, _CANDIDATES, _TRIES, _CHOICES = 4000, 40, 500, 10_000

#: Sizes that are tried of a slope whose bias shows none, by their logarithm, and how often the grid is refined.
_SIZES, _REFINED = np.linspace(-9.0, 2.0, 221), 8


@dataclass(frozen=True, eq=False)
class SampleMasks:
    """Samples in the order of their classes (B,): of each the units (B, m) that are left to it and are not zero; values
    (B, m): of the units as the output layer gets them; rounding: their error, of the largest; off: the largest share of a
    slope by which it is not the one that follows from the values."""

    kept: NDArray[np.bool_]
    classes: NDArray[np.intp]
    values: Array
    rounding: float
    off: float


@dataclass(frozen=True, eq=False)
class _Output:
    """bias (C,): the output layer's gradient, None where none is sent; offset: c (C,); made (C, C): ``G A^T``, of the
    weights A and their gradient G (C, m); loss: a key of the network's ``LOSSES``."""

    bias: Array | None
    offset: Array
    made: Array
    loss: str

    def predicted(self, outputs: Array) -> Array:
        if self.loss != "cross-entropy":
            return outputs
        powers = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=-1, keepdims=True))

    def off(self, directions: Array, made: Array, sizes: Array) -> Array:
        """(n, C): how far slopes of these directions, (n, C) or (C,), and sizes (n,) are off those of samples of each class
        with the outputs that follow, of themselves; made, alike: these times the size, without the offset."""
        sizes = sizes[:, None]
        over = self.predicted(made / sizes + self.offset) - sizes * directions
        return np.asarray(np.linalg.norm(over[:, None] - np.eye(over.shape[1]), axis=2) / np.abs(sizes))


@dataclass(frozen=True, eq=False)
class _Reading:
    """directions (C, K), unit vectors, and sizes (K,) of the slopes of the samples that have units, and their classes;
    without: classes of the others; off: as in ``SampleMasks``."""

    directions: Array
    sizes: Array
    classes: list[int]
    without: tuple[int, ...]
    off: float


def sample_masks(observation: ImageObservation) -> SampleMasks | None:
    """From the gradient of the output layer, whose bias' tells the slopes' sizes; where none is sent they follow from what
    slopes must be. A sample without a unit shows nothing but in the bias, of which it is what the others leave.

    None where no reading is certified: slopes by fewer than B independent outputs, a sample that has units, but none alone,
    or a gradient of other make. ``ValueError`` where the gradient of the output's weights is not sent.
    """
    network, B = observation.network, observation.batch_size
    gradient = observation.gradient(f"{network.output}.weight").double().cpu().numpy()
    weights, offset = (parameter(network, network.output, kind) for kind in ("weight", "bias"))
    assert weights is not None  # a linear layer has weights
    C, cross_entropy = len(gradient), network.loss == "cross-entropy"
    lengths = np.linalg.norm(gradient, axis=0)
    used = np.flatnonzero(lengths > _ROUNDING * lengths.max(initial=0.0))
    if not used.size or (C - 1 if cross_entropy else C) < B:  # slopes of cross-entropy add up to zero
        return None
    columns = gradient[:, used] / lengths[used]
    bias = sent(observation, f"{network.output}.bias")
    output = _Output(bias, np.zeros(C) if offset is None else offset, gradient @ weights.T, network.loss)
    found = _best(output, columns, B)
    if found is None:
        return None
    smallest = float(np.linalg.svd(found.directions, compute_uv=False)[-1])
    shares = np.linalg.lstsq(found.directions, columns, rcond=None)[0]
    if np.abs(found.directions @ shares - columns).max() > _ROUNDING / smallest:
        return None
    kept = np.zeros((B, gradient.shape[1]), dtype=np.bool_)
    values = np.zeros(kept.shape)
    shown = len(found.sizes)
    kept[:shown, used] = np.abs(shares) > _ROUNDING / smallest
    values[:shown, used] = np.where(kept[:shown, used], shares * lengths[used] / found.sizes[:, None], 0.0)
    classes = np.array([*found.classes, *found.without], dtype=np.intp)
    order = np.argsort(classes, kind="stable")
    return SampleMasks(kept[order], classes[order], values[order], _ROUNDING / smallest, found.off)


def _best(output: _Output, columns: Array, B: int) -> _Reading | None:
    """The choice of directions that is certified best, and as many as the columns (C, n), of length 1, have dimensions."""
    spread = np.linalg.svd(columns, compute_uv=False)
    K = int((spread > _ROUNDING * spread[0]).sum())
    if K > B:
        return None
    groups = _groups(columns[:, :_SEARCHED])
    best: _Reading | None = None
    tries = _TRIES if output.bias is not None else _TRIES // 20
    for choice in itertools.islice(_choices(groups.shape[1], K), tries):
        found = _certified(output, groups[:, choice], B)
        if found is not None and (best is None or found.off < best.off):
            best = found
            if best.off < _CERTAIN:
                break
    return best


def _groups(columns: Array) -> Array:
    """Directions (C, n) of parallel columns, those of the most first."""
    cosines = columns.T @ columns
    alike = np.abs(cosines) > 1 - _ROUNDING**2 / 2
    free, found = np.ones(columns.shape[1], dtype=np.bool_), list[Array]()
    counts = alike.sum(axis=1)
    while free.any() and len(found) < _CANDIDATES:
        best = int(np.where(free, counts, 0).argmax())
        group = np.flatnonzero(alike[best] & free)
        mean = (columns[:, group] * np.sign(cosines[best, group])).mean(axis=1)
        found.append(mean / np.linalg.norm(mean))
        free[group] = False
        counts = counts - alike[:, group].sum(axis=1)
    return np.stack(found, axis=1)


def _choices(n: int, K: int) -> Iterator[list[int]]:
    """K of n, those among the first few before all others."""
    for last in range(K - 1, n):
        for others in itertools.combinations(range(last), K - 1):
            yield [*others, last]


def _certified(output: _Output, directions: Array, B: int) -> _Reading | None:
    """With the classes that fit best; None for directions too close to one another, that do not explain the bias, or that
    are not those of slopes."""
    K = directions.shape[1]
    basis, spread, turned = np.linalg.svd(directions, full_matrices=False)
    if spread[-1] * _BLURRED < _ROUNDING:
        return None
    inverse = (turned.T / spread) @ basis.T
    made = inverse @ output.made
    without: tuple[int, ...] = ()
    if output.bias is None:
        if K < B:  # nothing tells the classes of the others
            return None
        sizes = np.array([_size(output, directions[:, i], made[i]) for i in range(K)])
    else:
        left = _left(output, output.bias, basis, B - K)
        if left is None:
            return None
        without, rest = left
        sizes = inverse @ rest
        if not sizes.all():
            return None
    every = output.off(directions.T, made, sizes)
    off, lengths = every.min(axis=1), np.abs(sizes)
    allowed = _ROUNDINGS * _ROUNDING / spread[-1] * max(1.0, float(lengths.max())) / lengths
    if (off > np.minimum(allowed, _OFF)).any():
        return None
    return _Reading(directions, sizes, every.argmin(axis=1).tolist(), without, float(off.max()))


def _left(output: _Output, bias: Array, basis: Array, count: int) -> tuple[tuple[int, ...], Array] | None:
    """Classes of so many samples whose outputs are the offset, and the sum of the other slopes, which the basis (C, K)
    spans; None where no classes leave such a sum."""
    C = len(bias)
    if math.comb(C + count - 1, count) > _CHOICES:
        return None
    best, least = None, _LEFT * max(float(np.linalg.norm(bias)), 1.0 if count else 0.0)
    for classes in itertools.combinations_with_replacement(range(C), count):
        rest = bias - count * output.predicted(output.offset) + np.bincount(classes, minlength=C)
        off = float(np.linalg.norm(rest - basis @ (basis.T @ rest)))
        if off <= least:
            best, least = (classes, rest), off
    return best


def _size(output: _Output, direction: Array, made: Array) -> float:
    """Of a slope, with which it is the least off the one that follows from it."""
    tried = np.concatenate([10**_SIZES, -(10**_SIZES)])
    step = float(_SIZES[1] - _SIZES[0])
    for _ in range(_REFINED):
        best = float(tried[output.off(direction, made, tried).min(axis=1).argmin()])
        tried = best * 10 ** np.linspace(-step, step, 41)
        step /= 20
    return best
