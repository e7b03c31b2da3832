"""Wide limits of the norms that clipping compares with."""

from __future__ import annotations

import math

import numpy as np

from bounds.first_order import raw_gram
from bounds.quadrature import Array
from bounds.setting import Setting


def gradient_norm(setting: Setting) -> float:
    """``|g|``, about ``sqrt(m E (sum_i r_i sigma_i)^2)``."""
    return math.sqrt(setting.m * max(0.0, float(setting.residuals @ raw_gram(setting) @ setting.residuals)))


def clipped_residuals(setting: Setting, max_norm: float) -> Array:
    """The residuals that are left when every sample's gradient, of norm about ``|r_i| sqrt(m E sigma_i^2)``, is clipped."""
    largest = max_norm / np.sqrt(setting.m * np.diag(raw_gram(setting)))
    return np.asarray(np.sign(setting.residuals) * np.minimum(np.abs(setting.residuals), largest))
