"""At which strength a defense costs a given accuracy, and the error of an attack there: between measured strengths only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bounds import checks

#: Of the intervals, and how often trials are drawn again for them.
LEVEL, RESAMPLED = 0.95, 400

Values = NDArray[np.float64]


def monotone(losses: Sequence[float] | Values) -> Values:
    """The nearest losses, in squares, that never fall (isotonic regression, equal weights)."""
    from sklearn.isotonic import isotonic_regression

    return np.asarray(isotonic_regression(np.asarray(losses, dtype=float)))


def crossing(positions: Sequence[float], losses: Sequence[float] | Values, wanted: float) -> float | None:
    """The first position at which losses, which never fall and are straight between these positions, reach ``wanted``; None
    where none does, or all are above it already at the first: nothing is said beyond what was measured.

    Raises ``ValueError`` for losses that fall, positions that do not grow, or numbers of them that differ.
    """
    x, y = np.asarray(positions, dtype=float), np.asarray(losses, dtype=float)
    checks.real("wanted", wanted)
    if x.shape != y.shape or x.ndim != 1 or not len(x):
        raise ValueError(f"losses must be one for each position; got {len(y)} for {len(x)}")
    if (np.diff(x) <= 0).any() or (np.diff(y) < 0).any():
        raise ValueError("positions must grow, and losses must not fall, from one to the next")
    if not y[0] <= wanted <= y[-1]:
        return None
    k = int(np.searchsorted(y, wanted))
    if y[k] == wanted:
        return float(x[k])
    return float(x[k - 1] + (x[k] - x[k - 1]) * (wanted - y[k - 1]) / (y[k] - y[k - 1]))


def between(positions: Sequence[float], errors: Sequence[float] | Values, position: float | None) -> float:
    """The error at a position, straight between those measured; nan where there is no position, or it is beyond them."""
    if position is None or not positions[0] <= position <= positions[-1]:
        return math.nan
    return float(np.interp(position, positions, np.asarray(errors, dtype=float)))


@dataclass(frozen=True)
class Estimate:
    """A value, and the ends of the interval that trials drawn again give, over those draws that have a value: the share
    ``reached`` of them. The ends are nan where one trial alone has nothing to be drawn from."""

    value: float
    low: float
    high: float
    reached: float


@dataclass(frozen=True)
class Match:
    """Where a defense costs ``loss``: the position of the strength (None: at no measured one, ``why``), with its interval;
    errors: of every attack there, by its name."""

    loss: float
    position: Estimate | None
    errors: dict[str, Estimate]
    why: str = ""


def matched(
    positions: Sequence[float],
    losses: Values,
    errors: dict[str, Values],
    wanted: float,
    *,
    seed: int = 0,
) -> Match:
    """losses (trials, strengths): of accuracy, in points; errors: of each attack (trials, strengths), in any unit.

    Means over trials; losses are made monotone. The interval is the bootstrap's: trials of the training and of the attacks
    are drawn again, each as a whole over all strengths, and all is done again, so that it has the uncertainty of both.
    """
    mean = losses.mean(axis=0)
    at = crossing(positions, monotone(mean), wanted)
    if at is None:
        curve = monotone(mean)
        why = (
            f"costs {curve[0]:.1f} at its weakest" if curve[0] > wanted else f"costs {curve[-1]:.1f} at most"
        )
        return Match(wanted, None, {}, why)
    generator = np.random.default_rng(seed)
    places: list[float] = []
    drawn: dict[str, list[float]] = {name: [] for name in errors}
    for _ in range(RESAMPLED):
        curve = monotone(_resampled(losses, generator).mean(axis=0))
        other = crossing(positions, curve, wanted)
        samples = {name: _resampled(values, generator) for name, values in errors.items()}
        if other is None:
            continue
        places.append(other)
        for name, values in samples.items():
            drawn[name].append(between(positions, values.mean(axis=0), other))
    return Match(
        wanted,
        _estimate(at, places, len(losses)),
        {
            name: _estimate(
                between(positions, values.mean(axis=0), at), drawn[name], min(len(losses), len(values))
            )
            for name, values in errors.items()
        },
    )


def _resampled(values: Values, generator: np.random.Generator) -> Values:
    return values[generator.integers(len(values), size=len(values))]


def _estimate(value: float, drawn: Sequence[float], trials: int) -> Estimate:
    if not drawn or trials < 2:
        return Estimate(value, math.nan, math.nan, len(drawn) / RESAMPLED)
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(drawn, (tail, 100 - tail))
    return Estimate(value, float(low), float(high), len(drawn) / RESAMPLED)
