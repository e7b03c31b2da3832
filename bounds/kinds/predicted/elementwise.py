"""First-order error and floor for channels that act on every gradient entry by itself, biased or not.

With ``h(z) = E[gtilde | z]`` in place of g the population moments are ``A_h = E h He_2(z)`` and so on: their joint fit
has limit directions v_i, which for a biased channel are not the features' (that is the floor), and everything random is
as in the channel theorem. Expectations over z, which has B dimensions, are sums over a grid of z for B <= 2 and over a
scrambled Sobol sequence (fixed seed) beyond. Derivation: paper_notes.md, "Channel theorem".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import sympy as sp

from bounds.defense import Defense
from bounds.errors import UnsupportedBound
from bounds.estimator import EQUAL_NORMS, TensorAttack
from bounds.kinds.predicted.population_fit import ElementwiseError, _Limit
from bounds.kinds.predicted.unbiased import first_order, scattered
from bounds.kinds.supported import check_estimator, check_independent, check_norms, supported_orders
from bounds.law import Elementwise, Pruned
from bounds.setting import SYMBOLS, Setting
from bounds.statement import Bound, Kind

#: Signs count as told from this many standard errors of the first moment.
_TOLD = 4.0


def elementwise_error(
    setting: Setting, attack: TensorAttack, channel: Elementwise | Pruned
) -> ElementwiseError:
    """The constants. Raises ``UnsupportedBound`` where the attack does not apply, or the span does not survive the
    channel."""
    check_estimator(attack)
    check_norms(setting)
    if isinstance(channel, Pruned) and channel.unbiased:  # nothing is removed
        plain = first_order(setting, attack)
        return ElementwiseError(0.0, float(plain.orthogonal.mean()), float(plain.inplane.mean()), plain.noise)
    low, order = supported_orders(setting)
    if low != 2:
        raise UnsupportedBound("not proved for odd activations under an elementwise channel")
    if np.ptp(setting.norms) > EQUAL_NORMS * setting.norms.max() and not channel.unbiased:
        raise UnsupportedBound("not proved: a biased channel with unequal norms")
    check_independent(setting)
    return _Limit(setting, attack, channel, order).error


def elementwise_bounds(channel: Callable[[Defense, Setting], Elementwise | Pruned]) -> tuple[Bound, Bound]:
    """PREDICTED and FLOOR for a channel that acts on every entry by itself. FLOOR is the error of the named estimator that
    no width removes, 0 if the channel is unbiased. Both speak of one fit, which is made once."""

    @lru_cache(maxsize=64)
    def attempted(defense: Defense, setting: Setting, attack: TensorAttack) -> ElementwiseError | str:
        try:
            return elementwise_error(setting, attack, channel(defense, setting))
        except UnsupportedBound as reason:
            return str(reason)  # kept too, as it takes as long to find; not with its frames and their grids

    def constants(defense: Defense, setting: Setting, attack: TensorAttack) -> ElementwiseError:
        found = attempted(defense, setting, attack)
        if isinstance(found, str):
            raise UnsupportedBound(found)
        return found

    def predicted(
        defense: Defense, setting: Setting, attack: TensorAttack, delta: float
    ) -> tuple[float, dict[str, float]]:
        found = constants(defense, setting, attack)
        told = found.signs * math.sqrt(setting.m)
        if told < _TOLD:
            raise UnsupportedBound(
                f"not first order: a feature's sign is {told:.2g} standard errors from turning, not {_TOLD:g}"
            )
        variance, parts = scattered(setting, found.k_perp, found.k_par, found.noise)
        return math.sqrt(found.floor**2 + variance), {"floor": found.floor} | parts

    def floor(
        defense: Defense, setting: Setting, attack: TensorAttack, delta: float
    ) -> tuple[float, dict[str, float]]:
        found = constants(defense, setting, attack)
        return found.floor, {"floor": found.floor}

    d, m, size, k_perp, k_par = (SYMBOLS[s] for s in ("d", "m", "B", "K_perp", "K_par"))
    limit = SYMBOLS["floor"]
    source = "paper_notes.md, 'Channel theorem' (ours)"
    return (
        Bound(
            kind=Kind.PREDICTED,
            statement="floor and first-order error around it, constants by quadrature",
            source=source,
            statistic="root mean square over trials of R",
            assumptions=_ASSUMPTIONS,
            numeric=predicted,
            symbolic=sp.sqrt(limit**2 + ((d - size) * k_perp + k_par) / m),
        ),
        Bound(
            kind=Kind.FLOOR,
            statement="error of the least-squares fit to the population moments, by quadrature",
            source=source,
            statistic="limit of R as m grows",
            assumptions=_ASSUMPTIONS,
            numeric=floor,
            symbolic=limit,
        ),
    )


_ASSUMPTIONS = (
    "w_j ~ N(0, I_d), a_j = 1/m, squared loss summed over the batch",
    "features linearly independent with known norms, equal where the channel is biased; no vanishing residual",
    "mu_1, mu_2 != 0 and mu_3 or mu_4 != 0; the limit of the second moment keeps the span",
    "the attack's fit is the global minimum, and the minimum is unique up to order and signs",
    "first order in 1/sqrt(m), d fixed",
)
