"""Secure aggregation: the server sees the sum of several clients' gradients and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import sympy as sp

from bounds.defense import Defense, param
from bounds.density import Plain
from bounds.law import Unbiased
from bounds.setting import SIZES, Setting
from bounds.wide_limits import assigned


@dataclass(frozen=True)
class SecureAggregation(Defense):
    """``clients`` clients, each with its part of the features (``Setting.groups``; one after the other in turn unless
    given), compute gradients at the same weights; the server learns the sum. That is one observation of all features: B
    counts them all, and it is the batch size alone that defends. RATE: Liu, Wang, Chen, Lei 2025 (arXiv 2402.09478,
    version 1)."""

    name: ClassVar[str] = "secure_aggregation"
    transparent: ClassVar[bool] = True
    clients: int = param(lo=1, hi=10**6, off=1, grid=(3,), integer=True)
    rate: ClassVar[sp.Expr | None] = SIZES["B"]
    rate_source: ClassVar[str] = "Liu, Wang, Chen, Lei, arXiv 2402.09478v1 (as summaries give it)"

    def law(self, setting: Setting) -> Unbiased:
        assigned(setting.groups, self.clients, "clients")  # refuses a partition that the clients cannot make
        return Unbiased(setting.residuals, inexact="")

    def density(self) -> Plain:
        return Plain()
