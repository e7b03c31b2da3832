"""From a distance of functions to features near one set, whatever they were before: no other features explain as much.

Proof: bounds/proofs/certificate.md, step 4.
"""

from __future__ import annotations

import math

import numpy as np
import scipy

from bounds.arrays import Array
from bounds.errors import UnsupportedBound
from bounds.gaussian.activations import ZERO
from bounds.kinds.certificate.nearby import Nearby
from bounds.kinds.fit_model import Model
from bounds.kinds.upper.identification import Perturbation, first_sines


def lines(found: Nearby, order: int, distance: float, largest: float) -> Array:
    """Sines (B,) of the angles between the lines of x_i and xhat_i, at most, in some order: for every features and
    residuals, these at most ``largest``, whose function is at most ``distance`` from that of ``found``.

    order: of the moment that is used beside the second, 3 or 4 (B > 1). Raises ``UnsupportedBound`` where others may do.
    """
    if found.B == 1:
        return _one(found, distance)
    if math.sqrt(found.powers[2]) <= ZERO:
        raise UnsupportedBound("not proved for odd activations")
    radius = distance / math.sqrt(found.powers[2])
    second = (found.directions.T * found.residuals) @ found.directions
    weakest = float(np.min(np.abs(np.linalg.eigvalsh(second))))
    if radius >= weakest:
        raise UnsupportedBound(
            f"vacuous: functions {distance:.3g} apart may have features outside the span of those that were found"
        )
    outside = radius / math.sqrt(2) / math.sqrt(weakest**2 - radius**2)
    cosine = 1 / math.sqrt(1 + outside**2)
    omega = 2 / math.factorial(order)
    kappa = math.sqrt(found.powers[order] / found.powers[2] / omega)
    model = Model(found.directions, found.residuals, kappa, omega, order)
    shortened = math.sqrt(omega) * kappa * found.B * largest * (1 - cosine ** (order - 2))
    # the fit of the theorem is the truth here, its data and its truth are what was found
    known = Perturbation(0.0, 0.0, radius + shortened, np.zeros(found.B**2), 0.0)
    inside = np.clip(first_sines(model, known), 0.0, 1.0)
    return np.asarray(np.sqrt(1 - (1 - inside**2) * cosine**2))


def _one(found: Nearby, distance: float) -> Array:
    """``min_r |r Phi(x) - rhat Phi(xhat)|^2 = rhat^2 (K(1) - K(rho)^2 / K(1))``, and ``|K(rho)| <= K(|rho|)``."""

    def kernel(cosine: float) -> float:
        return sum(s * cosine**k for k, s in found.powers.items())

    power = float(found.residuals[0]) ** 2 * kernel(1.0)
    if power <= distance**2:  # also where the residual is 0, or so small that its square is
        raise UnsupportedBound(f"vacuous: functions {distance:.3g} apart may have any feature")
    left = 1 - distance**2 / power
    if kernel(0.0) >= math.sqrt(left) * kernel(1.0):
        raise UnsupportedBound(f"vacuous: functions {distance:.3g} apart may have any feature")
    cosine = scipy.optimize.brentq(lambda c: kernel(c) - math.sqrt(left) * kernel(1.0), 0.0, 1.0, xtol=1e-15)
    return np.array([math.sqrt(max(0.0, 1 - (cosine - 1e-14) ** 2))])
