"""The slope of an activation, and how steep it gets."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from bounds.arrays import Array
from bounds.errors import UnsupportedBound
from bounds.gaussian.activations import REACH, Activation

#: Points at which a slope is looked at, to either side of 0 together, and their distance from the kinks.
_POINTS, _OFF = 80_001, 1e-9


def derivative(activation: Activation) -> Callable[[Array], Array]:
    """sigma'; ``UnsupportedBound`` for an activation that does not say it."""
    if activation.derivative is None:
        raise UnsupportedBound(f"not computed: activation {activation.name!r} says no derivative")
    return activation.derivative


@lru_cache(maxsize=64)
def steepest(activation: Activation) -> float:
    """sup |sigma'|, found on a grid; infinite where it still grows at the ends. ``UnsupportedBound`` without a
    derivative."""
    t = np.linspace(-REACH, REACH, _POINTS) + _OFF
    slopes = np.abs(derivative(activation)(t))
    largest = float(slopes.max())
    return largest if largest <= (1 + 1e-6) * float(slopes[np.abs(t) < REACH / 2].max()) else math.inf
