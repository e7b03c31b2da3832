"""No defense: the server sees ``g_j = sum_i r_i sigma(w_j.x_i)``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bounds.defense import Defense
from bounds.kinds.stated import unbiased_bounds
from bounds.law import Unbiased
from bounds.setting import SYMBOLS
from bounds.statement import Bound


@dataclass(frozen=True)
class NoDefense(Defense):
    """The gradient is sent as it is. RATE: Wang, Lee, Lei 2023 (arXiv 2212.03714), Theorem 5.1."""

    name: ClassVar[str] = "none"
    bounds: ClassVar[tuple[Bound, ...]] = unbiased_bounds(
        lambda defense, setting: Unbiased(setting.residuals),
        SYMBOLS["B"],
        lambda defense, setting: setting.B,
        "Wang, Lee, Lei, AISTATS 2023, Theorem 5.1",
        exact_variance=lambda defense: 0.0,
    )
