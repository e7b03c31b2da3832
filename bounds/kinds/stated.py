"""The statements that a defense gets from an unbiased channel (``elementwise_bounds``: those of an elementwise one)."""

from __future__ import annotations

from collections.abc import Callable

import sympy as sp

from bounds.defense import Defense
from bounds.kinds.predicted.unbiased import predicted_bound
from bounds.kinds.rate import rate_bound
from bounds.kinds.upper.theorem import upper_bound
from bounds.law import Unbiased
from bounds.setting import Setting
from bounds.statement import Bound


def unbiased_bounds(
    channel: Callable[[Defense, Setting], Unbiased],
    factor: sp.Expr,
    numeric_factor: Callable[[Defense, Setting], float],
    source: str,
    exact_variance: Callable[[Defense], float] | None = None,
) -> tuple[Bound, ...]:
    """RATE, PREDICTED and, where it is proved, UPPER.

    factor: that of the rate, over ``SYMBOLS``, and numeric; source: of the rate. ``exact_variance``: what the server sees
    is a positive multiple of the gradient plus independent Gaussian noise of that variance, exactly; it raises
    ``UnsupportedBound`` for members of which that is not true, and is None where it is true of none.
    """
    stated = (rate_bound(factor, numeric_factor, source), predicted_bound(channel))
    return stated if exact_variance is None else (*stated, upper_bound(exact_variance))
