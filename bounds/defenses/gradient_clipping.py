"""Clipping: of the whole gradient, or of every sample's own, to a largest norm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import sympy as sp

from bounds.defense import Defense, choice, param
from bounds.density import Plain
from bounds.law import Clipping, Unbiased
from bounds.setting import SIZES, Setting
from bounds.wide_limits import clipped_residuals


@dataclass(frozen=True)
class GradientClipping(Defense):
    """The gradient times ``min(1, max_norm/|g|)``; ``per_sample``: every sample's gradient ``r_i sigma(W x_i)`` by its
    own such factor, before the sum. The norm is that of the gradient with respect to the output weights, which is what is
    sent; it is about ``sqrt(m E g^2)``. Clipping as a whole changes the scale only; per sample it makes the residuals
    more equal: ``|r_i|`` becomes ``min(|r_i|, C')``, ``C' = max_norm/(sqrt(m E sigma^2))``. RATE: Liu, Wang, Chen, Lei
    2025 (arXiv 2402.09478)."""

    name: ClassVar[str] = "gradient_clipping"
    max_norm: float = param(lo=1e-9, hi=math.inf, off=math.inf, grid=(0.5, 30.0))
    per_sample: bool = choice(False)
    rate: ClassVar[sp.Expr | None] = SIZES["B"]
    rate_source: ClassVar[str] = "Liu, Wang, Chen, Lei, AISTATS 2025 (as summaries give it)"

    def law(self, setting: Setting) -> Unbiased:
        off = math.isinf(self.max_norm)
        clipping = None if off else Clipping(self.max_norm, self.per_sample)
        if not self.per_sample:
            return Unbiased(setting.residuals, keeps_labels=off, inexact="", clipping=clipping)
        fluctuates = (
            "clipping of every sample changes the residuals by factors that fluctuate with the network"
        )
        return Unbiased(
            clipped_residuals(setting, self.max_norm),
            keeps_labels=off,
            inexact="" if off else fluctuates,
            clipping=clipping,
        )

    def density(self) -> Plain:
        return Plain()
