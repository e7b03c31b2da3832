"""No defense: the server sees ``g_j = sum_i r_i sigma(w_j.x_i)``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import sympy as sp

from bounds.defense import Defense
from bounds.density import Plain
from bounds.law import Unbiased
from bounds.setting import SIZES, Setting


@dataclass(frozen=True)
class NoDefense(Defense):
    """The gradient is sent as it is. RATE: Wang, Lee, Lei 2023 (arXiv 2212.03714), Theorem 5.1."""

    name: ClassVar[str] = "none"
    rate: ClassVar[sp.Expr | None] = SIZES["B"]
    rate_source: ClassVar[str] = "Wang, Lee, Lei, AISTATS 2023, Theorem 5.1"

    def law(self, setting: Setting) -> Unbiased:
        return Unbiased(setting.residuals, inexact="")

    def density(self) -> Plain:
        return Plain()
