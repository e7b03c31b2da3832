"""LIMIT: the least error that any attack can reach as d and m grow at ``alpha = m/d``.

State evolution has one fixed point or several. Message passing reaches the one from an overlap near 0; the best of all
estimators has the one at which the free entropy

    f(V) = (tr(1 - G^-1 V) + log det(G^-1 V)) / 2 + alpha E log p(y | omega, V)

is largest (bounds/proofs/limit.md). Its slope by Q = G - V is half of ``alpha E[g_out g_out^T] + G^-1 - V^-1``, so that of
two fixed points the difference is an integral over what state evolution computes anyway.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from bounds.arrays import Array
from bounds.defense import Defense
from bounds.density import Density, Signs
from bounds.errors import UnsupportedBound
from bounds.estimator import AttackSpec
from bounds.gaussian.activations import Activation
from bounds.gaussian.lines import RESOLVED, lines
from bounds.kinds.limit.channel import Channel
from bounds.kinds.limit.entries import sampled
from bounds.kinds.limit.signs import grows, rests
from bounds.kinds.limit.state_evolution import (
    ALONG,
    StateEvolution,
    mean_information,
    state_evolution,
)
from bounds.setting import SIZES, Setting
from bounds.statement import Bound, Kind

#: Entries with which fixed points are found, and those of each of two scramblings with which they are computed, for one
#: feature and for more.
ROUGH, FINE = (2**10, 2**8), (2**12, 2**10)

#: Points on a line where noise is as wide as the distance of ``ALONG`` of them, and where it is not.
CLOSE = 60

#: Steps at most, and the change of the error below which they end.
STEPS, TOLERANCE = 400, 1e-3

#: Of the features' size, the error from which the fixed point next to the truth is looked for.
NEAR = 0.03

#: Fixed points are told apart from this ratio of their errors on.
APART = 1.05

#: Part of the Gram matrix by which what is known of exchangeable features is made to differ.
KICK = 0.05

#: Points of the integral between two fixed points.
_PATH = 12

#: The largest m/d that rounding leaves the information of an entry at.
LARGEST_ALPHA = 1e6

#: Values that are kept.
_KEPT = 4096


@dataclass(frozen=True)
class Limit:
    """error: of the best of all estimators; passing: of message passing from its start; numerical: how far off ``error``
    may be, by two scramblings and fewer entries; alpha: entries per dimension that tell something by themselves (one mask
    for the batch takes its share); gain: by how much the free entropy (per dimension) is larger at ``error`` than at
    ``passing``, infinite where the former is 0, 0 where there is one fixed point."""

    error: float
    passing: float
    numerical: float
    alpha: float
    gain: float


def limit(channel: Channel) -> Limit:
    """The errors at both fixed points of a channel. Kept: defenses that leave the same channel share it.

    Raises ``UnsupportedBound`` for alpha above ``LARGEST_ALPHA``, and where no fixed point is reached in ``STEPS`` steps, as
    happens very near a threshold.
    """
    if channel.alpha > LARGEST_ALPHA:
        raise UnsupportedBound(f"not computed: m/d is {channel.alpha:.3g}, above {LARGEST_ALPHA:g}")
    if not channel.told.any():
        raise UnsupportedBound("nothing is told: every residual vanishes")
    if rests(channel.activation) and not grows(channel.activation) and _silent(channel.density):
        raise UnsupportedBound(
            "not computed: signs without noise of an activation that is 0 on a side and falls somewhere"
        )
    B = len(channel.residuals)
    gram, residuals = (tuple(np.ravel(values).tolist()) for values in (channel.gram, channel.residuals))
    return _limit(B, channel.alpha, gram, residuals, channel.activation, channel.density)


def _silent(density: Density) -> bool:
    return isinstance(density, Signs) and density.sigma == 0


@lru_cache(maxsize=_KEPT)
def _limit(
    B: int,
    alpha: float,
    gram: tuple[float, ...],
    residuals: tuple[float, ...],
    activation: Activation,
    density: Density,
) -> Limit:
    channel = Channel(alpha, np.array(gram).reshape(B, B), np.array(residuals), activation, density)
    below = apart(channel, _evolved(channel))
    above = _evolved(channel, overlap=(1 - NEAR**2) * channel.gram)
    passing, numerical = _refined(channel, below)
    if above.error * APART >= below.error:
        return Limit(passing, passing, numerical, alpha, 0.0)
    gain = math.inf if above.error == 0 else free_entropy_gain(channel, below.overlap, above.overlap)
    if gain <= 0:
        return Limit(passing, passing, numerical, alpha, 0.0)
    error, numerical = _refined(channel, above)
    return Limit(error, passing, numerical, alpha, gain)


def apart(channel: Channel, found: StateEvolution) -> StateEvolution:
    """Where two features enter alike, a start that knows nothing of either keeps them alike, which message passing on a
    finite problem does not: the fixed point from one at which what is known of them differs."""
    if not channel.exchangeable or found.error == 0 or not _inside(channel, found):
        return found
    V = channel.gram - found.overlap
    scales = 1 - KICK * np.arange(len(V)) / len(V)
    moved = _evolved(channel, overlap=channel.gram - scales[:, None] * V * scales)
    return moved if moved.error * APART < found.error else found


def _inside(channel: Channel, found: StateEvolution) -> bool:
    """Whether floating point tells the overlap from nothing and from the Gram matrix, so that one may go on from there."""
    return all(np.linalg.eigvalsh(Q)[0] > 0 for Q in (found.overlap, channel.gram - found.overlap))


def _evolved(
    channel: Channel,
    *,
    overlap: Array | None = None,
    draws: tuple[int, int] = ROUGH,
    along: int = ALONG,
    seed: int = 0,
) -> StateEvolution:
    c = channel
    found = state_evolution(
        c.alpha, c.gram, c.residuals, c.activation, c.density,
        overlap=overlap, steps=STEPS, tolerance=TOLERANCE, draws=_count(c, draws), along=along, seed=seed,
    )  # fmt: skip
    if not found.converged:
        raise UnsupportedBound(
            f"not computed: the error is still at {found.error:.3g} after {STEPS} steps, near a threshold of m/d"
        )
    return found


def _refined(channel: Channel, rough: StateEvolution) -> tuple[float, float]:
    """The error at a fixed point from more entries, and how far off it may be: the most of half the distance of two
    scramblings, a third of what four times as many entries changed, and half of what closer points on lines did. Where lines
    are not as close as what is seen is sharp, the value is that of more noise, by the square of their points' distance:
    extrapolated to none."""
    if rough.error == 0 or not _inside(channel, rough):
        return rough.error, 0.0
    V = channel.gram - rough.overlap
    along = ALONG if channel.density.sigma >= _resolved(channel, V) else CLOSE
    one, other = (
        _evolved(channel, overlap=rough.overlap, draws=FINE, along=along, seed=seed).error for seed in (0, 1)
    )
    error = (one + other) / 2
    off = abs(one - other) / 2
    if along == ALONG or min(one, other) == 0:
        return error, max(off, abs(error - rough.error) / 3)
    coarse = _evolved(channel, overlap=rough.overlap, draws=FINE).error
    if coarse == 0:
        return error, error
    change = math.log(one / coarse) / (((CLOSE - 1) / (ALONG - 1)) ** 2 - 1)
    off = max(off, abs(error - rough.error * one / coarse) / 3, abs(one - coarse) / 2)
    return error * math.exp(change), off


def _count(channel: Channel, draws: tuple[int, int]) -> int:
    return draws[min(len(channel.residuals), 2) - 1]


def _resolved(channel: Channel, V: Array) -> float:
    """The noise that points on a line resolve where every term runs."""
    nodes = lines(len(V), ALONG).points
    return (
        RESOLVED * float(nodes[1, 0] - nodes[0, 0]) * float(np.abs(channel.residuals) @ np.sqrt(np.diag(V)))
    )


def free_entropy_gain(channel: Channel, first: Array, second: Array) -> float:
    """``f`` at the overlap ``second`` less that at ``first`` (B, B), per dimension: its slope along the path on which
    ``G - Q`` is a product of powers (Gauss-Legendre)."""
    c = channel
    start, end = c.gram - first, c.gram - second
    root = np.linalg.cholesky(start)
    back = np.linalg.inv(root)
    values, vectors = np.linalg.eigh(back @ end @ back.T)
    basis = root @ vectors  # start = basis basis^T, end = basis diag(values) basis^T
    entries = sampled(c.gram, c.residuals, c.activation, c.density, _count(c, ROUGH))
    inverse = np.linalg.inv(c.gram)
    nodes, weights = np.polynomial.legendre.leggauss(_PATH)
    total = 0.0
    for place, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        powers = values**place
        V = (basis * powers) @ basis.T
        slope = c.alpha * mean_information(
            c.gram, V, c.residuals, c.activation, c.density, entries, ALONG
        ) + (inverse - np.linalg.inv(V))
        moved = -(basis * (powers * np.log(values))) @ basis.T
        total += float(weight) * float(np.sum(slope * moved)) / 2
    return total


def _numeric(
    defense: Defense, setting: Setting, attack: AttackSpec, delta: float
) -> tuple[float, dict[str, float]]:
    found = limit(Channel.of(defense, setting))
    return found.error, {
        "limit": found.error,
        "passing": found.passing,
        "gap": found.passing - found.error,
        "alpha": found.alpha,
        "numerical": found.numerical,
    }


#: What no attack on the gradient of the output weights beats, in the limit.
LIMIT = Bound(
    kind=Kind.LIMIT,
    statement="error of the best of all estimators as d and m grow at m/d, by state evolution",
    source="bounds/proofs/limit.md; Barbier et al. 2019 (arXiv 1708.03395), Aubin et al. 2018 (arXiv 1806.05451)",
    statistic="limit of the root mean square over trials of R, as d and m grow at m/d",
    assumptions=(
        "d and m grow at the same rate: of relative order 1/d at finite d (known norms) and beside it fluctuations",
        "w_j Gaussian; features in random directions with this Gram matrix",
        "the server is granted residuals, Gram matrix and signs, which are finitely many numbers",
        "the replica formula beyond what is proved of it: bounds/proofs/limit.md",
        "expectations by quasi-random sums, off by about 'numerical'",
    ),
    numeric=_numeric,
    symbolic=SIZES["limit"],
)
