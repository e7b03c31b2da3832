"""What the server sees, at quasi-random neurons: the law of ``(z, gtilde)`` that every expectation here is over."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from bounds.arrays import Array
from bounds.defense import Defense
from bounds.density import Density, Plain
from bounds.gaussian.activations import Activation
from bounds.gaussian.normals import normals
from bounds.kinds.limit.entries import drawn
from bounds.law import Unbiased
from bounds.setting import Setting

#: Quasi-random neurons that an expectation is over (a power of 2), unless given.
DRAWS = 2**14


@dataclass(frozen=True, eq=False)
class Sample:
    """Equally likely neurons: their coordinates in the span ``z`` (N, B), what is ``seen`` (N,) of them, and a standard
    normal number ``free`` (N,) of their own, independent of both. density: by which ``seen`` was drawn."""

    z: Array
    seen: Array
    free: Array
    density: Density


@lru_cache(maxsize=8)
def normal_draws(dimension: int, draws: int) -> Array:
    """Quasi-random standard normals (draws, dimension), of mean 0 and covariance I exactly; kept, as every spectrum asks for
    the same. Read-only."""
    found = normals(dimension, draws)
    found = found - found.mean(axis=0)
    found = np.asarray(np.linalg.solve(np.linalg.cholesky(found.T @ found / draws), found.T).T)
    found.setflags(write=False)
    return found


def sample(defense: Defense, setting: Setting, draws: int = DRAWS) -> Sample:
    """Neurons of ``setting`` under ``defense``, up to a factor of what is seen.

    A law of the form noise on residuals is drawn as Gaussian noise; any other by the density of what is seen. Raises
    ``UnsupportedBound`` for a defense that says neither.
    """
    law = defense.law(setting)
    residuals = law.residuals if isinstance(law, Unbiased) else setting.residuals
    if isinstance(law, Unbiased) and law.masking is None:
        density: Density = Plain(sigma=law.variance**0.5)
    else:
        density = defense.density()
    return sample_of(
        density, residuals, setting.directions * setting.norms[:, None], setting.activation, draws
    )


def sample_of(
    density: Density, residuals: Array, features: Array, activation: Activation, draws: int = DRAWS
) -> Sample:
    """Neurons whose entries are drawn from ``density`` of ``sum_i r_i sigma(z.x_i)``, ``features`` (B, B) in
    coordinates of their span."""
    B = len(residuals)
    normal = normal_draws(2 * B + 2, draws)
    z = normal[:, :B]
    parts = residuals * activation(z @ features.T)
    return Sample(z, np.asarray(drawn(density, parts, normal[:, B + 1 :])), normal[:, B], density)
