"""Dropout of hidden units: the client computes its gradient with a random part of the neurons masked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import sympy as sp

from bounds.defense import Defense, choice, param, symbol
from bounds.density import Density, Erased, Masked
from bounds.law import Unbiased
from bounds.setting import SIZES, Setting


@dataclass(frozen=True)
class Dropout(Defense):
    """Every hidden unit is dropped with probability ``p`` and else rescaled by ``1/(1 - p)``: with b the mask, the server
    sees ``g_j = sum_i r_i b_ij sigma(w_j.x_i)/(1 - p)``. ``per_sample``: an independent mask for every sample, as in
    training frameworks; else one mask for the batch, and the entries of dropped units are zero. The residuals are those
    of the masked network, equal to the others as m grows. RATE: Liu, Wang, Chen, Lei 2025 (arXiv 2402.09478).

    To first order ``E[g^2 | z]`` grows by ``p/(1 - p) g^2`` (one mask) or ``p/(1 - p) sum_i r_i^2 sigma_i^2``: no floor.
    """

    name: ClassVar[str] = "dropout"
    p: float = param(lo=0.0, hi=0.999, off=0.0, grid=(0.5, 0.9))
    per_sample: bool = choice(True)
    rate: ClassVar[sp.Expr | None] = SIZES["B"] / sp.sqrt(1 - symbol("p"))
    rate_source: ClassVar[str] = "Liu, Wang, Chen, Lei, AISTATS 2025 (as summaries give it)"

    def law(self, setting: Setting) -> Unbiased:
        r, odds = setting.residuals, self.p / (1 - self.p)
        masking = odds * (np.diag(r * r) if self.per_sample else np.outer(r, r))
        return Unbiased(r, 0.0, masking, inexact="entries are masked at random" if self.p > 0 else "")

    def density(self) -> Density:
        return Masked(p=self.p) if self.per_sample and self.p > 0 else Erased(p=self.p)
