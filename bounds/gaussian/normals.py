"""Quasi-random standard normal numbers."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import scipy

from bounds.arrays import Array

#: How near 0 and 1 the uniform numbers may lie.
_LEAST = 1e-12


@lru_cache(maxsize=16)
def normals(dimension: int, draws: int, seed: int = 0) -> Array:
    """Quasi-random standard normals (draws, dimension), ``draws`` a power of 2: a Sobol sequence scrambled by ``seed``, the
    same every time. Read-only."""
    uniform = scipy.stats.qmc.Sobol(dimension, scramble=True, seed=seed).random(draws)
    found = np.asarray(scipy.special.ndtri(np.clip(uniform, _LEAST, 1 - _LEAST)))
    found.setflags(write=False)
    return found
