"""Reconstruction robustness: how often any attacker comes within a distance, and what that says of R.

Balle, Cherubin, Hayes 2022 (arXiv 2201.04845) define it: an adversary who knows the mechanism, the prior and all
examples but one succeeds with probability gamma at most. Hayes, Mahloujifar, Balle 2023 (arXiv 2302.07225) give
gamma by the blow-up function of the mechanism's output with the example against any reference without it. kappa: the
prior mass that a ball of that radius can hold, the success of a guess without an observation.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import scipy

from bounds.arrays import Array
from bounds.errors import UnsupportedBound
from bounds.kinds.published.entries import Entry, entries
from bounds.kinds.published.sensitivity import typical_distance
from bounds.kinds.published.spheres import ambient, radii
from bounds.setting import Setting

#: Shares of (network, feature) for which an observation may lie further from the reference than assumed: successes all.
SHARES = tuple(10.0**-k for k in range(1, 13))

#: Cells of the integral over the squared distance; each counts with its worse end.
_CELLS = 1000


def log_cap(ambient: int, fraction: Array) -> Array:
    """log kappa of the uniform distribution on a sphere in R^ambient: of the largest share of it in a ball whose radius is
    sqrt(``fraction``) < 1 times the sphere's.

    That ball is centred inside the sphere and cuts out a cap of half angle arcsin sqrt(fraction). Two points for ambient 1.
    """
    if ambient == 1:
        return np.full(np.shape(fraction), math.log(0.5))
    a, u = (ambient - 1) / 2, np.asarray(fraction, dtype=float)
    share = scipy.special.betainc(a, 0.5, u)
    with np.errstate(divide="ignore"):
        # where the share underflows: an upper bound of it
        small = a * np.log(u) - 0.5 * np.log1p(-u) - math.log(a) - scipy.special.betaln(a, 0.5)
        exact = np.log(share)
    return np.asarray(np.where(share > 1e-280, exact, small) - math.log(2))


def gaussian_blow_up(log_kappa: Array, ratio: Array | float) -> Array:
    """gamma = Phi(Phi^-1(kappa) + ratio), ratio = distance between the two means over sigma: Hayes et al. 2023, for
    the Gaussian mechanism; the Neyman-Pearson lemma. Attained for two points and the reference half way."""
    return np.asarray(scipy.special.ndtr(scipy.special.ndtri_exp(np.minimum(log_kappa, 0.0)) + ratio))


def zcdp_success(log_kappa: Array, rho: Array) -> Array:
    """gamma = exp(-(sqrt(log 1/kappa) - sqrt(rho))^2) for kappa < e^-rho, else 1: Balle et al. 2022, for rho-zCDP;
    the best order of the Renyi form (kappa e^eps)^((alpha - 1)/alpha) with eps = alpha rho. Gaussian noise: rho =
    ratio^2 / 2."""
    far = np.sqrt(-np.asarray(log_kappa)) - np.sqrt(rho)
    return np.asarray(np.exp(-np.square(np.maximum(far, 0.0))))


def dp_success(log_kappa: Array, epsilon: float, delta: float) -> Array:
    """gamma = e^eps kappa + delta, from the definition of (eps, delta)-differential privacy."""
    return np.minimum(np.exp(np.minimum(log_kappa + epsilon, 0.0)) + delta, 1.0)


def mean_square(success: Callable[[Array], Array]) -> float:
    """``E|x^ - x|^2 / radius^2`` at least, where ``success(u)``, nondecreasing, bounds the probability of
    ``|x^ - x|^2 <= u radius^2`` for u < 1.

    E is the integral of 1 - success; cells count with their right ends, so the sum lies below the integral.
    """
    ends = np.arange(1, _CELLS) / _CELLS  # the last cell may hold anything
    return float(np.sum(np.maximum(1 - success(ends), 0.0)) / _CELLS)


def robustness_bound(setting: Setting, sigmas: Array, max_norm: float = math.inf) -> Array:
    """R^2 of every attack by reconstruction robustness; prior and adversary as in
    ``bounds.kinds.published.spheres``.

    Reference: noise about the constant vector c = r* E sigma. R matches B guesses to the features, so a guess counts
    if any of the B is near: kappa at most B times that of one. Instead of the worst feature, ``typical_distance``
    for all but a share of (network, feature), which is added to gamma: the best share of ``SHARES``. With per-sample
    clipping to ``max_norm`` the distance is that at most, from the reference without the example. Raises
    ``UnsupportedBound`` where nothing bounds it.
    """
    distances = [_distances(setting, entry, max_norm) for entry in entries(setting)]

    def feature(i: int, sigma: float) -> float:
        def success(fraction: Array) -> Array:
            log_kappa = log_cap(ambient(setting), fraction) + math.log(setting.B)
            return np.min(
                [share + gaussian_blow_up(log_kappa, distance / sigma) for share, distance in distances[i]],
                axis=0,
            )

        return mean_square(success)

    rest = radii(setting)
    return np.array([np.mean([rest[i] ** 2 * feature(i, s) for i in range(setting.B)]) for s in sigmas])


def _distances(setting: Setting, entry: Entry, max_norm: float) -> list[tuple[float, float]]:
    """Shares of (network, feature), and the distance from a reference that the others keep to."""
    clipped = [] if math.isinf(max_norm) else [(0.0, max_norm)]
    try:
        return clipped + [
            (share, typical_distance(entry, setting.activation, setting.m, share)) for share in SHARES
        ]
    except UnsupportedBound:
        if not clipped:
            raise
        return clipped
