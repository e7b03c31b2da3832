"""Additive Gaussian noise: the server sees ``g_j + sigma N_j``, N_j ~ N(0, 1) independent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from bounds.bound import Bound
from bounds.defense import Defense, param
from bounds.first_order import predicted_bound
from bounds.rate import rate_bound
from bounds.setting import SYMBOLS
from bounds.upper import upper_bound


def _sigma(defense: Any) -> float:
    return float(defense.sigma)


@dataclass(frozen=True)
class GradientNoise(Defense):
    """Gaussian noise of standard deviation ``sigma`` on the entry that the server sees, ``g_j = sum_i r_i sigma(w_j.x_i)``
    (per sum over the batch; with a mean loss divide by B). RATE: Liu, Wang, Chen, Lei 2025 (arXiv 2402.09478)."""

    name: ClassVar[str] = "gradient_noise"
    sigma: float = param(lo=0.0, hi=1e6, off=0.0, grid=(0.5, 2.0))
    bounds: ClassVar[tuple[Bound, ...]] = (
        rate_bound(
            SYMBOLS["B"] + SYMBOLS["sigma"],
            lambda defense, setting: setting.B + _sigma(defense),
            "Liu, Wang, Chen, Lei, AISTATS 2025 (as summaries give it)",
        ),
        predicted_bound(lambda defense: _sigma(defense) ** 2),
        upper_bound(lambda defense: _sigma(defense) ** 2),
    )
