"""Additive Gaussian noise: the server sees ``g_j + sigma N_j``, N_j ~ N(0, 1) independent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import sympy as sp

from bounds import checks
from bounds.defense import Defense, param, symbol
from bounds.density import Plain
from bounds.law import Unbiased
from bounds.setting import SIZES, Setting


@dataclass(frozen=True)
class GradientNoise(Defense):
    """Gaussian noise of standard deviation ``sigma`` on the entry that the server sees, ``g_j = sum_i r_i sigma(w_j.x_i)``
    (per sum over the batch; ``per_mean`` converts from a mean loss). RATE: Liu, Wang, Chen, Lei 2025 (arXiv 2402.09478)."""

    name: ClassVar[str] = "gradient_noise"
    sigma: float = param(lo=0.0, hi=1e6, off=0.0, grid=(0.5, 2.0), words="standard deviation of the noise σ")
    rate: ClassVar[sp.Expr | None] = SIZES["B"] + symbol("sigma")
    rate_source: ClassVar[str] = "Liu, Wang, Chen, Lei, AISTATS 2025 (as summaries give it)"

    def law(self, setting: Setting) -> Unbiased:
        return Unbiased(setting.residuals, self.sigma**2, inexact="")

    def density(self) -> Plain:
        return Plain(sigma=self.sigma)

    @classmethod
    def per_mean(cls, sigma: float, batch_size: int) -> GradientNoise:
        """The same defense when ``sigma`` is on the gradient of the mean loss over ``batch_size`` samples."""
        return cls(checks.real("sigma", sigma, 0.0) * checks.integer("batch_size", batch_size, 1))
