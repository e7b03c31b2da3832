"""First-order error and floor for channels that act on every gradient entry by itself, biased or not.

With ``h(z) = E[gtilde | z]`` in place of g the population moments are ``A_h = E h He_2(z)`` and so on: their joint fit
has limit directions v_i, which for a biased channel are not the features' (that is the floor), and everything random is
as in the channel theorem. Expectations over z, which has B dimensions, are sums over a grid of z for B <= 2 and over a
scrambled Sobol sequence (fixed seed) beyond. Derivation: bounds/proofs/channel-theorem.md.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import sympy as sp

from bounds.defense import Defense
from bounds.errors import UnsupportedBound
from bounds.estimator import TensorAttack
from bounds.kinds.predicted.decisions import check_assignment, check_signs
from bounds.kinds.predicted.population_fit import ElementwiseError, FitLimit
from bounds.kinds.predicted.spectral.span import spectral_error
from bounds.kinds.predicted.unbiased import first_order, scattered
from bounds.kinds.predicted.wide import KEPT, Wide, read_only
from bounds.kinds.supported import check_estimator, check_moments, check_norms, unequal_norms
from bounds.law import Elementwise, Pruned, Unbiased
from bounds.setting import SIZES, Setting
from bounds.statement import Bound, Kind

#: Signs of the limit count as told by quadrature from this share of a neuron's scatter on: four standard errors at m = 1e8.
_RESOLVED = 4e-4

_ASSUMPTIONS = (
    "w_j ~ N(0, I_d), a_j = 1/m, squared loss summed over the batch",
    "features linearly independent with known norms, equal where the channel is biased; no vanishing residual",
    "mu_1, mu_2 != 0 and mu_3 or mu_4 != 0; the limit of the second moment keeps the span",
    "the attack's fit is the global minimum, and the minimum is unique up to order and signs",
    "first order in 1/sqrt(m), d fixed",
)


def elementwise_error(
    setting: Setting, attack: TensorAttack, channel: Elementwise | Pruned
) -> ElementwiseError:
    """The constants. Raises ``UnsupportedBound`` where the attack does not apply, or the span does not survive the
    channel. They do not depend on d and m but through the channel; arrays are read-only."""
    found = _attempted(Wide.of(setting), attack, channel)
    if isinstance(found, str):
        raise UnsupportedBound(found)
    return found


@lru_cache(maxsize=KEPT)
def _attempted(wide: Wide, attack: TensorAttack, channel: Elementwise | Pruned) -> ElementwiseError | str:
    """The fit is made once; that there is none is kept too, as it takes as long to find (the reason alone, not with its
    frames and their grids)."""
    try:
        found = _elementwise_error(wide.setting(), attack, channel)
    except UnsupportedBound as reason:
        return str(reason)
    read_only(found.weights, found.scatter)
    return found


def _elementwise_error(
    setting: Setting, attack: TensorAttack, channel: Elementwise | Pruned
) -> ElementwiseError:
    check_estimator(attack)
    check_norms(setting)
    if isinstance(channel, Pruned) and channel.unbiased:  # nothing is removed
        plain = first_order(setting, attack, Unbiased(setting.residuals, channel.sigma**2))
        return ElementwiseError(
            0.0,
            float(plain.orthogonal.mean()),
            float(plain.inplane.mean()),
            plain.noise,
            plain.curvature,
            plain.signs,
            plain.weights,
            plain.scatter,
        )
    _, order = check_moments(setting, attack, channel)
    if unequal_norms(setting) and not channel.unbiased:
        raise UnsupportedBound("not proved: a biased channel with unequal norms")
    return FitLimit(setting, attack, channel, order).error


@lru_cache(maxsize=64)
def _law(defense: Defense, setting: Setting) -> Elementwise | Pruned:
    """One for PREDICTED and FLOOR: a law whose functions are made anew each time is equal to nothing else."""
    law = defense.law(setting)
    assert isinstance(law, Elementwise | Pruned)
    return law


def _constants(defense: Defense, setting: Setting, attack: TensorAttack) -> ElementwiseError:
    # where the span is found does not depend on how, nor does what is found in it
    return elementwise_error(setting, replace(attack, preprocessing="none"), _law(defense, setting))


def _predicted(
    defense: Defense, setting: Setting, attack: TensorAttack, delta: float
) -> tuple[float, dict[str, float]]:
    found = _constants(defense, setting, attack)
    n, m = setting.d - setting.B, setting.m
    random = math.sqrt((n * found.k_perp + found.k_par) / m)
    spectral = spectral_error(defense, setting, attack, random, found.noise * math.sqrt(n / m))
    variance, parts = scattered(setting, found.k_perp, found.k_par, found.noise, found.curvature)
    check_signs(found.signs * math.sqrt(setting.m))
    low, order = check_moments(setting, attack, _law(defense, setting))
    errors = found.scatter / math.sqrt(setting.m)
    check_assignment(setting, low, order, attack.weight(order, low), found.weights, errors)
    if spectral is not None:
        variance, parts = spectral[0] + parts["inplane"] ** 2, parts | spectral[1]
    return math.sqrt(found.floor**2 + variance), {"floor": found.floor} | parts


def _floor(
    defense: Defense, setting: Setting, attack: TensorAttack, delta: float
) -> tuple[float, dict[str, float]]:
    found = _constants(defense, setting, attack)
    if found.signs < _RESOLVED:
        raise UnsupportedBound(
            f"not computed: the first moment's limit is {found.signs:.2g} of a neuron's scatter in one direction, too "
            f"little for quadrature to tell the sign that the attack gives it ({_RESOLVED:g} is asked for)"
        )
    return found.floor, {"floor": found.floor}


#: For a channel that acts on every entry by itself.
PREDICTED_ELEMENTWISE = Bound(
    kind=Kind.PREDICTED,
    statement="floor and first-order error around it, constants by quadrature",
    source="bounds/proofs/channel-theorem.md (ours)",
    statistic="root mean square over trials of R, of those with a result",
    assumptions=(
        *_ASSUMPTIONS,
        "where first order is beyond 0.25, and with preprocessing: the span by the spectral law, d and m growing together",
        "conditional on a result: trials in which the attack reports failure are not in it",
    ),
    numeric=_predicted,
    symbolic=sp.sqrt(
        SIZES["floor"] ** 2 + ((SIZES["d"] - SIZES["B"]) * SIZES["K_perp"] + SIZES["K_par"]) / SIZES["m"]
    ),
    laws=(Elementwise, Pruned),
)

#: The error of the named estimator that no width removes, 0 if the channel is unbiased.
FLOOR = Bound(
    kind=Kind.FLOOR,
    statement="error of the least-squares fit to the population moments, by quadrature",
    source="bounds/proofs/channel-theorem.md (ours)",
    statistic="limit of R as m grows",
    assumptions=_ASSUMPTIONS,
    numeric=_floor,
    symbolic=SIZES["floor"],
    laws=(Elementwise, Pruned),
)
