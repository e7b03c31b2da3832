"""The noise that differential privacy asks for against the noise at which reconstruction provably fails.

Liu, Wang, Chen, Lei 2025 (arXiv 2402.09478), proposition 2.1, call (eps, delta)-DP too strong a demand against
reconstruction. Both noises are standard deviations on an entry of the sum dL/da. DP asks for sigma ~ sqrt(m
log(1/delta))/eps, failure for sqrt(m/d): the quotient grows as sqrt(d), whatever m.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

from bounds import checks
from bounds.arrays import Array
from bounds.errors import UnsupportedBound
from bounds.gaussian.activations import Activation
from bounds.kinds.published.entropy import entropy_bound_on_r
from bounds.kinds.published.sensitivity import FAILURE, Adjacency, sensitivity, wide_sensitivity
from bounds.setting import Setting

#: A root mean square of R in a setting, at a noise of standard deviation sigma, that no attack goes below.
Lower = Callable[[Setting, float], float]

#: Noise searched for, relative to sqrt(m): beyond, there is said to be none.
_SEARCHED = (1e-12, 1e12)


def _accounting() -> Any:
    try:
        import dp_accounting
    except ImportError as error:
        raise ImportError(
            "differential privacy needs dp-accounting: pip install 'reconbound[privacy]'"
        ) from error
    return dp_accounting


def multiplier(epsilon: float, delta: float) -> float:
    """Noise over sensitivity for (epsilon, delta)-DP of one release by the Gaussian mechanism, the least there is:
    the analytic Gaussian mechanism (Balle and Wang 2018, theorem 8), from ``dp-accounting``."""
    checks.inside("epsilon", epsilon, math.inf)
    checks.inside("delta", delta)
    return float(_accounting().get_sigma_gaussian(epsilon, delta))


def classical_multiplier(epsilon: float, delta: float) -> float:
    """The same by ``sqrt(2 log(1.25/delta))/epsilon``, for epsilon at most 1: Dwork and Roth 2014, theorem A.1. What
    rates are read from."""
    return math.sqrt(2 * math.log(1.25 / checks.inside("delta", delta))) / checks.inside(
        "epsilon", epsilon, math.nextafter(1.0, 2.0)
    )


def noise_for_dp(
    setting: Setting,
    epsilon: float,
    delta: float,
    *,
    adjacency: Adjacency = Adjacency.REPLACE_ONE,
    max_norm: float = math.inf,
    failure: float = FAILURE,
) -> float:
    """Noise sigma that makes dL/da (epsilon, delta)-DP for the neighbour relation ``adjacency``; ``sensitivity`` times
    ``multiplier``. Without clipping DP holds on networks but for a share ``failure``.

    Raises ``ImportError`` without ``dp-accounting``, ``UnsupportedBound`` where the sensitivity is unbounded.
    """
    moved = sensitivity(setting, adjacency, failure=failure, max_norm=max_norm)
    return moved * multiplier(epsilon, delta)


def epsilon_of(
    setting: Setting,
    sigma: float,
    delta: float,
    *,
    adjacency: Adjacency = Adjacency.REPLACE_ONE,
    max_norm: float = math.inf,
    failure: float = FAILURE,
) -> float:
    """The epsilon for which noise ``sigma`` makes dL/da (epsilon, ``delta``)-DP; the inverse of ``noise_for_dp``."""
    checks.inside("sigma", sigma, math.inf)
    checks.inside("delta", delta)
    moved = sensitivity(setting, adjacency, failure=failure, max_norm=max_norm)
    return float(_accounting().get_epsilon_gaussian(sigma / moved, delta))


def _by_entropy(setting: Setting, sigma: float) -> float:
    return math.sqrt(float(entropy_bound_on_r(setting, np.array([sigma]))[0]))


def noise_for_failure(setting: Setting, error: float = math.sqrt(0.5), lower: Lower = _by_entropy) -> float:
    """The least noise for which ``lower``, nondecreasing in sigma, says R >= ``error``. The default lower bound is that of
    ``bounds.kinds.published.entropy``: at first order ``sigma^2 = m V/((d - B) log 2)`` for B = 1.

    Raises ``UnsupportedBound`` where no noise reaches that error by this bound.
    """
    checks.inside("error", error, math.inf)
    low, high = (math.log(x * math.sqrt(setting.m)) for x in _SEARCHED)
    if lower(setting, math.exp(high)) < error:
        raise UnsupportedBound(f"no noise is proved to keep R above {error:g} here")
    return math.exp(
        float(scipy.optimize.brentq(lambda x: lower(setting, math.exp(x)) - error, low, high, xtol=1e-10))
    )


@dataclass(frozen=True)
class NoiseOverSizes:
    """Noise for DP and for failure, (len(d), len(m)) each, and the epsilon that the noise for failure gives.
    for_dp_wide: what DP asks for at least, as m grows, without clipping (``wide_sensitivity``)."""

    d: Array
    m: Array
    for_dp: Array
    for_dp_wide: Array
    for_failure: Array
    epsilon_at_failure: Array

    @property
    def quotient(self) -> Array:
        """How many times more noise DP asks for."""
        return np.asarray(self.for_dp / self.for_failure)


def noise_over_sizes(
    ds: Iterable[int],
    ms: Iterable[int],
    *,
    epsilon: float = 1.0,
    delta: float = 1e-5,
    adjacency: Adjacency = Adjacency.REPLACE_ONE,
    B: int = 1,
    activation: str | Activation = "relu",
    error: float = math.sqrt(0.5),
    lower: Lower = _by_entropy,
) -> NoiseOverSizes:
    """C14 over dimensions and widths, orthonormal features, labels +1, -1, ..., no clipping: both noises and the
    epsilon where they meet. ``lower``: the bound by which reconstruction fails."""
    sizes_d, sizes_m = list(ds), list(ms)

    def point(d: int, m: int) -> tuple[float, float, float, float]:
        setting = Setting.orthonormal(d=d, m=m, B=B, activation=activation)
        fails = noise_for_failure(setting, error, lower)
        dp = noise_for_dp(setting, epsilon, delta, adjacency=adjacency)
        wide = wide_sensitivity(setting, adjacency) * multiplier(epsilon, delta)
        return dp, wide, fails, epsilon_of(setting, fails, delta, adjacency=adjacency)

    found = np.array([[point(d, m) for m in sizes_m] for d in sizes_d])
    return NoiseOverSizes(np.array(sizes_d), np.array(sizes_m), *np.moveaxis(found, -1, 0))
