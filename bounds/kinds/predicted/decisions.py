"""What the estimator decides besides solving equations, and how far first order reaches inside the span.

A first-order prediction is about an estimator whose decisions are the right ones: the signs of features, and which of them
has which norm. Each rests on a statistic with a standard error of order 1/sqrt(m); nothing is predicted where one of them is
fewer than ``TOLD`` standard errors from turning. And the fit's solution is linear in the moments' errors only while what
the model's curvature adds is small beside it.
"""

from __future__ import annotations

import math

import numpy as np
import scipy

from bounds.arrays import Array
from bounds.errors import UnsupportedBound
from bounds.gaussian.symmetric import power
from bounds.kinds.supported import unequal_norms
from bounds.setting import Setting

#: First order is off by a relative O(R): beyond this random error it is not put to the test, and the spectral law says how
#: near the span is found.
REACH = 0.25


#: Decisions count as told from this many standard errors.
TOLD = 4.0


#: The largest ratio of second to first order inside the span at which something is predicted: 1/4, as a component's weight
#: that is four standard errors from zero turns its direction by that much more. Measured over predicted root mean square,
#: 120 trials each, ReLU with d = B: 1.52 +- .16 at .28, 1.12 +- .09 at .20, 1.14 +- .10 at .19, 1.11 +- .10 at .10; in the
#: experiments 1.02 +- .03 at .21, 1.06 +- .01 at .14, 1.00 +- .01 at .12.
CURVED = 0.25


#: The largest root mean square error inside the span, over that of the norms, at which something is predicted. Turns of the
#: order of 1 rad leave first order where H vanishes by symmetry too (orthogonal features).
#: Measured over predicted, orthonormal pairs with d = B = 2, plain, 100 trials each (where m <= 20 000): ReLU 1.05 +- .09 at
#: .20, 1.09 +- .12 at .25, 1.05 +- .11 at .35, 1.26 +- .10 at .44; SiLU 1.18 +- .09, 1.20 +- .14, 1.24 +- .13 at .20, .25,
#: .35; softplus (15 to 40 trials) .59 +- .04 at .80, .50 +- .06 at 1.2: an error of directions is bounded.
TURNED = 0.25


#: The fit with a common norm is no guide to labels where a weight exceeds the largest of the true fit so many times.
_DIVERGES = 10.0


def check_signs(errors: float) -> None:
    """``UnsupportedBound`` for signs that are too few standard ``errors`` from turning."""
    if errors < TOLD:
        raise UnsupportedBound(
            f"not first order: a feature's sign is {errors:.2g} standard errors from turning, not {TOLD:g}"
        )


def check_curvature(ratio: float) -> None:
    """``UnsupportedBound`` where the second order inside the span is no small part of the first."""
    if ratio > CURVED:
        raise UnsupportedBound(
            f"not first order: inside the span the second order is {ratio:.2g} of the first, above {CURVED:g}"
        )


def check_turns(inplane: float) -> None:
    """``UnsupportedBound`` where the error inside the span, over the norms' root mean square, is not small."""
    if inplane > TURNED:
        raise UnsupportedBound(
            f"not first order: the error inside the span is {inplane:.2g} of the features' norm, above {TURNED:g}"
        )


def second_over_first(curvature: Array, covariance: Array, norms: Array) -> float:
    """Root mean square of the error inside the span that is of second order, over that of first order, times sqrt(m).

    A displacement x of the fit's coordinates with covariance C/m (B^2, B^2) is ``-1/2 H_k[x, x]`` off in turn k, and for
    Gaussian x ``E (x.Hx)^2 = ((tr HC)^2 + 2 tr HCHC)/m^2``. curvature: H, (B (B - 1), B^2, B^2).
    """
    size = len(norms)
    if size == 1:
        return 0.0
    weights = np.repeat(norms**2, size - 1)
    bent = curvature @ covariance
    second = np.trace(bent, axis1=1, axis2=2) ** 2 + 2 * np.einsum("kab,kba->k", bent, bent)
    return math.sqrt(float(weights @ second) / 4 / float(weights @ np.diag(covariance)[size:]))


def check_assignment(
    setting: Setting, low: int, core: int, weight: float, alpha: Array, errors: Array
) -> None:
    """``UnsupportedBound`` where features with unequal norms may be taken for each other.

    The attack fits with a common ratio of the moments' coefficients and gives each component the norm that brings its label
    nearest to +-1. alpha: the weights of the components (B,); errors: how far they scatter, one standard deviation (B,). A
    permutation's margin moves by at most the sum of what its entries move by: it is told if it outlasts ``TOLD`` of that.
    """
    if not unequal_norms(setting):
        return
    norms, c = setting.norms, setting.activation.coefficient
    found = _common_fit(setting, low, core, weight, alpha)
    scale = np.array([c(low, float(n)) for n in norms])
    wide = np.array([c(0, float(n)) for n in norms])
    residuals = found[:, None] / scale
    signed = np.stack([residuals, -residuals]) if low % 2 else residuals[None]
    distance = np.abs(np.abs(wide - signed) - 1).min(axis=0)
    scatter = errors[:, None] / np.abs(scale)
    right = np.isclose(norms[:, None], norms, rtol=1e-6, atol=0)
    worst = np.where(right, distance + TOLD * scatter, distance - TOLD * scatter)
    rows, columns = scipy.optimize.linear_sum_assignment(worst)
    if np.all(right[rows, columns]):
        return
    moved = ~right[rows, columns]
    margin = float(np.sum(distance[rows, columns] - np.diag(distance)))
    moves = float(np.sum((scatter[rows, columns] + np.diag(scatter))[moved]))
    raise UnsupportedBound(
        f"not first order: the assignment of unequal norms by labels is {margin / moves:.2g} standard errors from "
        f"turning, not {TOLD:g}"
    )


def _common_fit(setting: Setting, low: int, core: int, weight: float, alpha: Array) -> Array:
    """The weights (B,) of the population's fit with the ratio of coefficients at the mean norm, from the features on.
    ``UnsupportedBound`` where it diverges."""
    size, u, c = setting.B, setting.directions, setting.activation.coefficient
    ratios = np.array([c(core, float(n)) / c(low, float(n)) for n in setting.norms])
    mean = float(setting.norms.mean())
    common = c(core, mean) / c(low, mean)
    if np.allclose(ratios, common, rtol=1e-9):  # a homogeneous activation: the fit is exact
        return alpha
    root = math.sqrt(weight)

    def moments(alpha: Array, v: Array, ratio: Array) -> Array:
        lows, cores = (np.array([power(x, k).ravel() for x in v]) for k in (low, core))
        return np.concatenate([alpha @ lows, root * (alpha * ratio) @ cores])

    data = moments(alpha, u, ratios)

    def misfit(x: Array) -> Array:
        v = x[size:].reshape(size, size)
        v = v / np.linalg.norm(v, axis=1, keepdims=True)
        return data - moments(x[:size], v, np.full(size, common))

    start = np.concatenate([alpha, u.ravel()])
    found = np.asarray(scipy.optimize.least_squares(misfit, start, xtol=1e-12, ftol=1e-12).x[:size])
    if np.abs(found).max() > _DIVERGES * np.abs(alpha).max():
        raise UnsupportedBound("not proved: the fit with a common norm has components that diverge")
    return found
