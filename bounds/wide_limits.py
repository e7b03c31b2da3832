"""Wide limits of what defenses compare with, and who holds which feature."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bounds.arrays import Array
from bounds.kinds.pairs import pair_moments, planes
from bounds.setting import Setting


def gradient_norm(setting: Setting) -> float:
    """``|g|``, about ``sqrt(m E (sum_i r_i sigma_i)^2)``."""
    return math.sqrt(setting.m * max(0.0, float(setting.residuals @ raw_gram(setting) @ setting.residuals)))


def clipped_residuals(setting: Setting, max_norm: float) -> Array:
    """The residuals that are left when every sample's gradient, of norm about ``|r_i| sqrt(m E sigma_i^2)``, is clipped."""
    largest = max_norm / np.sqrt(setting.m * np.diag(raw_gram(setting)))
    return np.asarray(np.sign(setting.residuals) * np.minimum(np.abs(setting.residuals), largest))


def assigned(groups: Sequence[int], count: int, name: str) -> tuple[int, ...]:
    """The batch, 0 to ``count`` - 1, of each feature: by ``groups`` in increasing order, or in turn where there is one group
    only. ``name``: what the batches are, for messages.

    Raises ``ValueError`` for more groups than batches.
    """
    distinct = sorted(set(groups))
    if len(distinct) == 1:
        return tuple(i % count for i in range(len(groups)))
    if len(distinct) > count:
        raise ValueError(f"groups must be at most {name} = {count}; got {len(distinct)}")
    return tuple(distinct.index(g) for g in groups)


def raw_gram(setting: Setting) -> Array:
    """``E sigma(w.x_i) sigma(w.x_l)``, (B, B)."""
    gram = np.zeros((setting.B, setting.B))
    for i, k, cosine, _ in planes(setting.directions):
        norms = (float(setting.norms[i]), float(setting.norms[k]))
        gram[i, k] = gram[k, i] = pair_moments(setting.activation, False, (2, 4), norms, round(cosine, 15))[
            1, 1, 0, 0
        ]
    return gram
