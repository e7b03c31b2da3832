"""Signs without noise on the lines of ``bounds.gaussian.lines``: +, - or 0, the last where every feature is inactive.

Along a line every term of ``sum_i r_i sigma(z_i)`` grows if sigma does. So the sum is negative up to one place, positive
from another on, and 0 between the two, which are one unless sigma is 0 on an interval: there a sign of 0 has a probability,
and tells an orthant. The places are found to far less than the points' distance, and of a sign's half line or interval the
probability at a point is the share of the point's cell that it covers. That is the probability exactly of a z that is moved
along the line by a uniform part of a cell, and so are entries drawn: what is computed is of a little more noise, of
1/12 of a cell's square, and no sign is ever one that cannot be.
"""

from __future__ import annotations

import numpy as np

from bounds.arrays import Array
from bounds.density import Density, Signs
from bounds.gaussian.activations import Activation

#: Where an activation is looked at to see whether it grows, and the end beyond which it counts as what it is there.
_GRID = np.linspace(-20.0, 20.0, 4001)

#: Halvings of an interval in which an activation becomes 0.
_HALVINGS = 80


def by_halves(density: Density, activation: Activation) -> bool:
    """Whether what is seen are signs of growing sums, without noise."""
    return isinstance(density, Signs) and density.sigma == 0 and grows(activation)


def grows(activation: Activation) -> bool:
    """Whether it never falls."""
    return bool(np.all(np.diff(activation(_GRID)) >= 0))


def rests(activation: Activation) -> bool:
    """Whether it is 0 on a whole side, so that entries are 0 with a probability."""
    values = activation(_GRID)
    return bool(np.all(values[:2] == 0) or np.all(values[-2:] == 0))


def zeros(activation: Activation) -> tuple[float, float]:
    """The ends of the interval where a growing activation is 0: infinite where it is 0 to the end, one place where it is 0
    nowhere else."""
    return _first(activation, 0.0), _first(activation, np.nextafter(0.0, 1.0))


def _first(activation: Activation, value: float) -> float:
    """From where on a growing activation is at least ``value``."""
    low, high = float(_GRID[0]), float(_GRID[-1])
    if activation(np.array([low]))[0] >= value:
        return -np.inf
    if activation(np.array([high]))[0] < value:
        return np.inf
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if activation(np.array([middle]))[0] >= value else (middle, high)
    return high


def drawn(z: Array, residuals: Array, activation: Activation, cell: Array, uniform: Array) -> Array:
    """Signs (n,) at z (n, B) moved along ``cell`` (B,), from one point to the next, by ``uniform`` (n,) in (0, 1)."""
    moved = z + (uniform - 0.5)[:, None] * cell
    return np.asarray(np.sign(activation(moved) @ residuals))


def log_probability(seen: Array, z: Array, t: Array, cell: Array, ends: tuple[float, float]) -> Array:
    """Logarithm (n, lines, along) of the probability of signs ``seen`` (n,) at the points z (n, lines, along, B) with sums
    t (n, lines, along). ``ends``: of the interval where the activation is 0."""
    along = t.shape[2]
    below, above = _places(z[:, :, 0], t, cell, ends)
    place = np.arange(along)
    up = np.clip(place - above[:, :, None] + 0.5, 0.0, 1.0)
    down = np.clip(below[:, :, None] - place + 0.5, 0.0, 1.0)
    sign = seen[:, None, None]
    rests = np.maximum(1 - up - down, 0.0)  # not below 0 by rounding
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.where(sign > 0, up, np.where(sign < 0, down, rests))))


def _places(first: Array, t: Array, cell: Array, ends: tuple[float, float]) -> tuple[Array, Array]:
    """How many cells from the first point (n, lines, B) of its line the sum stops being negative, and becomes positive."""
    to_low, to_high = ((end - first) / cell for end in ends)
    low = np.max(np.minimum(to_low, to_high), axis=2)
    high = np.min(np.maximum(to_low, to_high), axis=2)
    crossing = _crossing(t)
    return np.where(low < high, low, crossing), np.where(low < high, high, crossing)


def _crossing(t: Array) -> Array:
    """How many cells from the first point t (n, lines, along) becomes positive, between points as if it were linear."""
    along = t.shape[2]
    negative = np.sum(t < 0, axis=2)
    after = np.clip(negative, 1, along - 1)
    left, right = (np.take_along_axis(t, (after - k)[:, :, None], axis=2)[:, :, 0] for k in (1, 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        between = after - 1 - left / (right - left)
    return np.where(negative == 0, -np.inf, np.where(negative == along, np.inf, between))
