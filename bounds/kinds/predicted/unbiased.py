"""First-order error of the tensor attack, with its constants, for channels that leave the gradient unbiased.

To first order in 1/sqrt(m), with U an orthonormal basis of the span and z = U^T w (bounds/proofs/first-order-error.md),

    E|e_perp,i|^2 = |x_i|^2 (d - B)/m * E[s (z.A^-1 u_i)^2],
    E|e_par,i|^2  = |x_i|^2 / m * sum_t E[(h_2 <L_it, He_2(z)> + h_q <M_it, He_q(z)>)^2]

(odd activations: in place of ``z.A^-1 u_i`` ``<Z_i, He_2(z)>`` with Z the pseudo-inverse of the core's unfolding, and the
first moment in place of the second in the fit). Here ``u_i`` are unit directions in the span,
``A = sum_i r_i c_2 u_i u_i^T``, ``h_k`` is the (residualized) gradient entry that enters the k-th moment,
``s = E[h_2^2 | z]``, and L, M are the rows of the least-squares solution map of the fit in B dimensions. Every expectation
is a sum over pairs of features of Gaussian integrals in the plane of the pair: the product formula of Hermite polynomials
turns the B-dimensional integral into contractions, so no grid of n^B points appears.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import sympy as sp

from bounds.arrays import Array
from bounds.defense import Defense
from bounds.errors import UnsupportedBound
from bounds.estimator import TensorAttack
from bounds.gaussian.activations import ZERO
from bounds.gaussian.symmetric import power
from bounds.kinds.fit_model import Solution, solution
from bounds.kinds.pairs import _Moments
from bounds.kinds.predicted.decisions import (
    check_assignment,
    check_curvature,
    check_signs,
    check_turns,
    second_over_first,
)
from bounds.kinds.predicted.spectral.span import spectral_error
from bounds.kinds.predicted.wide import KEPT, UnbiasedContent, Wide, read_only
from bounds.kinds.supported import check_estimator, check_moments, check_norms
from bounds.law import Unbiased
from bounds.setting import SIZES, Setting
from bounds.statement import Bound, Kind
from bounds.wide_limits import raw_gram


@dataclass(frozen=True)
class FirstOrder:
    """Constants per feature, (B,): ``E|e_perp,i|^2 = (d - B)/m orthogonal_i`` and ``E|e_par,i|^2 = inplane_i/m``.

    ``noise``: the edge of the noise of the moment that gives the span over its weakest direction is
    ``noise * sqrt((d - B)/m)``. First order needs this to be small too. ``curvature``: the error of second order inside the
    span is ``curvature/sqrt(m)`` of that of first order. ``signs`` times sqrt(m): how many standard errors the least certain
    sign of a feature is away from turning (infinite where none is claimed). ``weights``, ``scatter`` (B,): of the fit's
    components, and their standard deviations times sqrt(m).
    """

    orthogonal: Array
    inplane: Array
    noise: float
    curvature: float
    signs: float
    weights: Array
    scatter: Array


def first_order(setting: Setting, attack: TensorAttack, channel: Unbiased | None = None) -> FirstOrder:
    """The constants for an observation through an unbiased channel (None: of the gradient as it is).

    Raises ``UnsupportedBound`` for a setting that is ill-posed (a residual that vanishes, features that are linearly
    dependent), an activation this attack does not cover or gives no signs for, ``same_neuron="ignored"`` (its bias
    is not in the formula) or a random contraction. With unequal norms the constants are those of a correct assignment of
    norms. They do not depend on d and m but through the channel; arrays are read-only.
    """
    check_estimator(attack)
    channel = Unbiased(setting.residuals) if channel is None else channel
    return _first_order(Wide.of(setting), attack, UnbiasedContent.of(channel))


@lru_cache(maxsize=KEPT)
def _first_order(wide: Wide, attack: TensorAttack, content: UnbiasedContent) -> FirstOrder:
    setting, channel = wide.setting(), content.law()
    low, order = check_moments(setting, attack, channel)
    directions, norms = setting.directions, setting.norms
    c_low, c_q = (np.array([setting.activation.coefficient(k, n) for n in norms]) for k in (low, order))
    alpha = channel.residuals * c_low
    moments = _Moments.of(setting, attack.residualized, (low, order), channel)
    if low == 2:
        orthogonal, noise = _second_moment_span(directions, alpha, moments)
    else:
        orthogonal, noise = _unfolded_span(directions, channel.residuals * c_q, moments)
    # In-plane part: rows of the pseudo-inverse of the fit's Jacobian.
    fit = solution(directions, alpha, c_q / c_low, (low, order), attack.weight(order, low))
    covariance = moments.influences(fit.low, fit.core)
    inplane = np.diag(covariance)[setting.B :].reshape(setting.B, setting.B - 1).sum(axis=1)
    # A weight moves with the moments, and with the residual of its feature, r_i - r_i* = mean_j sigma_ij - c_0: by as much
    # of it as the defense leaves.
    left = np.abs(
        np.divide(channel.residuals, setting.residuals, out=np.ones(setting.B), where=setting.residuals != 0)
    )
    own = np.abs(c_low) * _activation_scatter(setting, channel) * left
    scatter = np.sqrt(np.maximum(np.diag(covariance)[: setting.B] - alpha**2, 0.0)) + own
    covariance[: setting.B, : setting.B] -= np.outer(alpha, alpha)
    covariance[np.diag_indices(setting.B)] = scatter**2
    orthogonal, inplane = norms**2 * orthogonal, norms**2 * inplane
    read_only(orthogonal, inplane, alpha, scatter)
    return FirstOrder(
        orthogonal,
        inplane,
        noise,
        second_over_first(fit.curvature(directions, alpha, c_q / c_low), covariance, norms),
        _signs(setting, channel, moments, fit, low, order),
        alpha,
        scatter,
    )


def _activation_scatter(setting: Setting, channel: Unbiased) -> Array:
    """Standard deviation of ``sigma(w.x_i)`` over the neurons, as the client's network has it (masked), (B,)."""
    square = np.diag(raw_gram(setting))
    if channel.masking is not None:
        square = square * (1 + np.diag(channel.masking) / channel.residuals**2)
    mean = np.array([setting.activation.coefficient(0, float(n)) for n in setting.norms])
    return np.sqrt(np.maximum(square - mean**2, 0.0))


def _signs(
    setting: Setting, channel: Unbiased, moments: _Moments, fit: Solution, low: int, order: int
) -> float:
    """Standard errors, over sqrt(m), between the least certain sign and its turning. An odd core gives signs by its own
    components, taken along the features; two odd moments claim none.

    An even core leaves them to the first moment ``b = sum_i r_i c_1 u_i``: the sign of feature i is that of ``q_i =
    w_i/alpha_i``, w the coefficients of b in the fitted directions. To first order ``dw_i = u^i.(db - sum_k r_k c_1 du_k)``
    with u^i the dual vectors, and ``dq_i/q_i = dw_i/w_i - dalpha_i/alpha_i``. The residuals' own fluctuation is not in it:
    w and alpha have it alike.
    """
    if low == 1:
        return math.inf
    directions, norms = setting.directions, setting.norms
    k = order if order % 2 else 1
    strength = channel.residuals * [setting.activation.coefficient(k, float(n)) for n in norms]
    powers = np.array([power(u, k).ravel() for u in directions])
    dual = np.linalg.pinv(powers).T.reshape(-1, *(setting.B,) * k)
    if order % 2:
        square = moments.second(1, 1, dual, dual) - strength**2
        return float(np.min(np.abs(strength) / np.sqrt(np.maximum(square, ZERO**2))))
    alpha = channel.residuals * [setting.activation.coefficient(low, float(n)) for n in norms]
    # Coordinates of the fit in q_i: its own weight, and every turn, along the dual vector.
    along = np.einsum("ib,ktb,k->ikt", dual, fit.tangents, strength).reshape(setting.B, -1)
    mixed = -np.hstack([np.diag(1 / alpha), along / strength[:, None]])
    low_part, core = (np.tensordot(mixed, rows, axes=1) for rows in (fit.low, fit.core))
    square = moments.spread(low_part, core, dual / strength[:, None])
    return float(1 / np.sqrt(np.maximum(square.max(), ZERO**2)))


def _second_moment_span(directions: Array, alpha: Array, moments: _Moments) -> tuple[Array, float]:
    """Orthogonal constants of unit features and the noise over the weakest eigenvalue: ``s (z.a)^2`` with a = A^-1 u_i."""
    second = (directions.T * alpha) @ directions
    if np.linalg.cond(second) > 1e12:
        raise UnsupportedBound("ill-posed: the features are linearly dependent")
    a = np.asarray(np.linalg.solve(second, directions.T).T)
    orthogonal = moments.second(0, 0, a, a)
    one: Array = np.ones(1)
    power = float(moments.second(0, 0, one, one)[0])
    return orthogonal, 2 * math.sqrt(power) / float(np.min(np.abs(np.linalg.eigvalsh(second))))


def _unfolded_span(directions: Array, strength: Array, moments: _Moments) -> tuple[Array, float]:
    """The same for the span from the unfolding ``Y = sum_i strength_i u_i vec(u_i u_i^T)^T`` of the third moment:
    ``s <Z_i, He_2(z)>^2`` with vec Z_i = Y^+ u_i."""
    size = len(strength)
    squares = np.einsum("ia,ib->iab", directions, directions).reshape(size, -1)
    unfolded = (directions.T * strength) @ squares
    Z = (np.linalg.pinv(unfolded) @ directions.T).T.reshape(size, size, size)
    orthogonal = moments.second(1, 1, Z, Z)
    # The unfolding's own noise couples to an error of the span through h z: trace over an orthonormal basis.
    basis = np.identity(size)
    power = float(moments.second(1, 1, basis, basis).sum())
    return orthogonal, 2 * math.sqrt(power) / float(np.linalg.svd(unfolded)[1][-1])


def scattered(
    setting: Setting, k_perp: float, k_par: float, noise: float, curvature: float
) -> tuple[float, dict[str, float]]:
    """The first-order variance ``((d - B) K_perp + K_par)/m`` of R, and its parts by name. noise and curvature: as in
    ``FirstOrder``. ``UnsupportedBound`` where the latter, or the error inside the span, is no longer small."""
    n, m = setting.d - setting.B, setting.m
    check_curvature(curvature / math.sqrt(m))
    perp, par = n * k_perp / m, k_par / m
    check_turns(math.sqrt(par / np.mean(setting.norms**2)))
    return perp + par, {
        "orthogonal": math.sqrt(perp),
        "inplane": math.sqrt(par),
        "K_perp": k_perp,
        "K_par": k_par,
        "noise_over_signal": noise * math.sqrt(n / m),
        "inplane_over_curvature": curvature / math.sqrt(m),
    }


def _numeric(
    defense: Defense, setting: Setting, attack: TensorAttack, delta: float
) -> tuple[float, dict[str, float]]:
    seen = defense.law(setting)
    assert isinstance(seen, Unbiased)
    check_norms(setting, seen.keeps_labels)
    constants = first_order(setting, replace(attack, preprocessing="none"), seen)
    k_perp, k_par = float(constants.orthogonal.mean()), float(constants.inplane.mean())
    n, m = setting.d - setting.B, setting.m
    random = math.sqrt((n * k_perp + k_par) / m)
    spectral = spectral_error(defense, setting, attack, random, constants.noise * math.sqrt(n / m))
    variance, parts = scattered(setting, k_perp, k_par, constants.noise, constants.curvature)
    check_signs(constants.signs * math.sqrt(setting.m))
    low, order = check_moments(setting, attack, seen)
    errors = constants.scatter / math.sqrt(setting.m)
    check_assignment(setting, low, order, attack.weight(order, low), constants.weights, errors)
    if spectral is not None:
        variance, parts = spectral[0] + parts["inplane"] ** 2, parts | spectral[1]
    sizes = np.abs(seen.residuals)
    # Kappa: the spread of the residuals as the server sees them.
    return math.sqrt(variance), parts | {"kappa": float(sizes.max() / sizes.min())}


#: For a defense that leaves the gradient unbiased.
PREDICTED = Bound(
    kind=Kind.PREDICTED,
    statement="first-order root mean square error, constants by quadrature",
    source="bounds/proofs/first-order-error.md (ours)",
    statistic="root mean square over trials of R, of those with a result (up to signs where the attack reports them as "
    "unknown)",
    assumptions=(
        "w_j ~ N(0, I_d), a_j = 1/m, squared loss summed over the batch",
        "features linearly independent with known norms, no vanishing residual",
        "mu_1, mu_2 != 0 and mu_3 or mu_4 != 0, or mu_2 = 0 and mu_1, mu_3 != 0; sigma of polynomial growth",
        "signs, and with unequal norms (labels +-1) the assignment of norms by labels, four standard errors from turning",
        "conditional on a result: trials in which the attack reports failure are not in it",
        "first order: exact as m grows with d fixed; before, off by terms that grow with R, noise_over_signal and "
        "inplane_over_curvature (inside the span: second order over first)",
        "where first order is beyond 0.25, and with preprocessing: the span by the spectral law, d and m growing together",
    ),
    numeric=_numeric,
    symbolic=sp.sqrt(((SIZES["d"] - SIZES["B"]) * SIZES["K_perp"] + SIZES["K_par"]) / SIZES["m"]),
    laws=(Unbiased,),
)
