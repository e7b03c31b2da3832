"""Rates: orders of growth in d and m times a defense's own factor. They have no constant and are never bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import sympy as sp

from bounds.defense import Defense
from bounds.estimator import TensorAttack
from bounds.setting import SYMBOLS, Setting
from bounds.statement import Bound, Kind


def rate_bound(factor: sp.Expr, numeric_factor: Callable[[Defense, Setting], float], source: str) -> Bound:
    """The RATE ``factor * sqrt(d / m)``, up to logarithms and powers of 1/pi_min and kappa."""

    def numeric(
        defense: Defense, setting: Setting, attack: TensorAttack, delta: float
    ) -> tuple[float, Mapping[str, float]]:
        return numeric_factor(defense, setting) * math.sqrt(setting.d / setting.m), {}

    return Bound(
        kind=Kind.RATE,
        statement="order of growth only, up to logarithms and powers of 1/pi_min and kappa; no constant",
        source=source,
        statistic="exponents of R",
        assumptions=(
            "w_j ~ N(0, I_d), a_j = 1/m",
            "unit features, linearly independent",
            "1-Lipschitz activation",
        ),
        numeric=numeric,
        symbolic=factor * sp.sqrt(SYMBOLS["d"] / SYMBOLS["m"]),
    )
