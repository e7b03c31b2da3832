"""Rates: orders of growth in d and m times a defense's own factor. They have no constant and are never bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping

import sympy as sp

from bounds.defense import Defense
from bounds.errors import UnsupportedBound
from bounds.estimator import TensorAttack
from bounds.kinds.supported import check_applies
from bounds.setting import SIZES, Setting
from bounds.statement import Bound, Kind
from bounds.wide_limits import gradient_norm


def rate_at(defense: Defense, setting: Setting) -> tuple[float, dict[str, float]]:
    """``defense.rate * sqrt(d/m)`` with every symbol at its value, and the values that are not the setting's or the
    defense's own. Infinite parameters are limits, taken after the others."""
    if defense.rate is None:
        raise UnsupportedBound(f"not proved: no rate is stated for {defense.name}")
    formula = defense.rate * sp.sqrt(SIZES["d"] / SIZES["m"])
    used = {s.name for s in formula.free_symbols}
    found = {"G": gradient_norm(setting) / math.sqrt(setting.m)} if "G" in used else {}
    values = {"d": setting.d, "m": setting.m, "B": setting.B, **found}
    values |= {p.name: getattr(defense, p.name) for p in defense.parameters()}
    by_symbol = {s: values[s.name] for s in formula.free_symbols}
    formula = formula.subs({s: v for s, v in by_symbol.items() if math.isfinite(v)})
    for s in formula.free_symbols:
        formula = sp.limit(formula, s, sp.oo)
    return float(formula), found


def _numeric(
    defense: Defense, setting: Setting, attack: TensorAttack, delta: float
) -> tuple[float, Mapping[str, float]]:
    check_applies(setting, attack, defense.law(setting))
    return rate_at(defense, setting)


RATE = Bound(
    kind=Kind.RATE,
    statement="order of growth only, up to logarithms and powers of 1/pi_min and kappa; no constant",
    source="the defense's own",
    statistic="exponents of R",
    assumptions=(
        "w_j ~ N(0, I_d), a_j = 1/m",
        "known norms, features linearly independent, no vanishing residual",
        "1-Lipschitz activation (in the literature), with the moments that the attack needs",
    ),
    numeric=_numeric,
    symbolic=SIZES["factor"] * sp.sqrt(SIZES["d"] / SIZES["m"]),
)
