"""No defense: the server sees ``g_j = sum_i r_i sigma(w_j.x_i)``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bounds.bound import Bound
from bounds.defense import Defense
from bounds.first_order import predicted_bound
from bounds.rate import rate_bound
from bounds.setting import SYMBOLS
from bounds.upper import upper_bound


@dataclass(frozen=True)
class NoDefense(Defense):
    """The gradient is sent as it is. RATE: Wang, Lee, Lei 2023 (arXiv 2212.03714), Theorem 5.1."""

    name: ClassVar[str] = "none"
    bounds: ClassVar[tuple[Bound, ...]] = (
        rate_bound(
            SYMBOLS["B"], lambda defense, setting: setting.B, "Wang, Lee, Lei, AISTATS 2023, Theorem 5.1"
        ),
        predicted_bound(lambda defense: 0.0),
        upper_bound(lambda defense: 0.0),
    )
