"""A proved upper bound with every constant: of the features' distance from the attack's span, and of R for B = 1, 2, 3.

The theorems (bounds/proofs/span.md, one-feature.md, in-plane.md) are about the attack as implemented: the linear
part, span and core are estimated on the same neurons, or on two halves of them (split.md). They are a priori, but
for ``error_given_misfit``.
"""

from __future__ import annotations

import math

import numpy as np
import sympy as sp

from bounds import checks
from bounds.defense import Defense
from bounds.errors import TrivialBound, UnsupportedBound
from bounds.estimator import TensorAttack
from bounds.gaussian.activations import ACTIVATIONS
from bounds.kinds.upper.inplane import in_plane_theorem
from bounds.kinds.upper.one_feature import one_feature_theorem
from bounds.kinds.upper.span import SpanBound, SpanTheorem, span_theorem
from bounds.law import Unbiased
from bounds.setting import SIZES, Setting
from bounds.statement import Bound, Kind

__all__ = ["UPPER", "SpanBound", "error_bound", "error_given_misfit", "span_bound"]


def span_bound(
    setting: Setting, attack: TensorAttack, noise_variance: float = 0.0, delta: float = 0.05
) -> SpanBound:
    """The span theorem for the gradient plus independent Gaussian noise of the given variance on every entry.

    Raises ``UnsupportedBound`` where it is not proved (unequal norms, an ill-posed setting) or vacuous (m too small).
    """
    return _span(setting, attack, noise_variance, delta).bound


def _span(setting: Setting, attack: TensorAttack, noise_variance: float, delta: float) -> SpanTheorem:
    """For one feature on the events that its error uses, so that both hold at once."""
    if setting.B == 1:
        return one_feature_theorem(setting, attack, noise_variance, delta).span
    return span_theorem(setting, attack, noise_variance, delta)


def error_bound(
    setting: Setting, attack: TensorAttack, noise_variance: float = 0.0, delta: float = 0.05
) -> float:
    """With probability at least ``1 - delta``, R is at most this (bounds/proofs/one-feature.md, in-plane.md).

    For B = 2, 3 it speaks of the global minimum of the attack's fit. Raises ``UnsupportedBound`` for B > 3, and as
    ``span_bound`` does.
    """
    if setting.B == 1:
        return one_feature_theorem(setting, attack, noise_variance, delta).error
    return in_plane_theorem(setting, attack, noise_variance, delta).fit.bound().error


def error_given_misfit(
    setting: Setting,
    attack: TensorAttack,
    misfit: float,
    noise_variance: float = 0.0,
    delta: float = 0.05,
) -> float:
    """The same for B = 2, 3 a posteriori, given the misfit that the attack reports (``Diagnostics.misfit``): the fit's
    objective over the squared norm of its data, not negative.

    The returned point has to be stationary; that it is the global minimum is not used. It holds on one event of probability
    ``1 - delta`` for every misfit at once. Raises ``UnsupportedBound`` as ``error_bound`` does, and for B = 1,
    where there is no fit to misfit.
    """
    return (
        in_plane_theorem(setting, attack, noise_variance, delta)
        .fit.bound(checks.real("misfit", misfit, 0.0))
        .error
    )


def stated_error(
    setting: Setting, attack: TensorAttack, noise_variance: float, delta: float
) -> tuple[float, dict[str, float]]:
    """``error_bound`` and its named parts. Where no proof is sharper ``TrivialBound`` carries twice the features' size, and
    the parts that are known; ``UnsupportedBound`` where nothing is proved."""
    parts: dict[str, float] = {}
    if setting.B == 1:
        one = one_feature_theorem(setting, attack, noise_variance, delta)
        span = one.span
    else:
        span = span_theorem(setting, attack, noise_variance, delta)
    try:
        parts = {"span": span.bound.rmse} | dict(span.bound.parts)
        if setting.B == 1:
            value = one.error
        else:
            inplane = in_plane_theorem(setting, attack, noise_variance, delta).fit.bound()
            value, parts = inplane.error, parts | dict(inplane.parts)
    except UnsupportedBound as reason:
        trivial = 2 * math.sqrt(float(np.mean(setting.norms**2)))
        raise TrivialBound(trivial, f"trivial, whatever the attack returns: {reason}", parts) from reason
    return value, parts | {"K_upper": value * math.sqrt(setting.m / (setting.d - setting.B))}


def _numeric(
    defense: Defense, setting: Setting, attack: TensorAttack, delta: float
) -> tuple[float, dict[str, float]]:
    """About R, from what the defense says it does to an entry."""
    law = defense.law(setting)
    assert isinstance(law, Unbiased)
    if law.inexact:
        raise UnsupportedBound(f"not proved: {law.inexact}")
    return stated_error(setting, attack, law.variance, delta)


def _declared(setting: Setting) -> tuple[str, ...]:
    """What a user has declared of an activation and nobody has proved."""
    activation = setting.activation
    if activation.variation is None or activation is ACTIVATIONS.get(activation.name):
        return ()
    return (
        f"declared of {activation.name} and not proved: it is smooth between its kinks {activation.kinks}, and there "
        f"{activation.variation.words}",
    )


#: For a defense whose channel adds independent Gaussian noise to every entry (or nothing).
UPPER = Bound(
    kind=Kind.UPPER,
    statement="a priori, every constant explicit, of the attack as it runs; computer-assisted, floating point",
    source="bounds/proofs/span.md, one-feature.md, in-plane.md and split.md (ours)",
    statistic="R of one trial; in the details, span: root mean square distance of the features from the attack's span",
    assumptions=(
        "w_j ~ N(0, I_d), a_j = 1/m, squared loss summed over the batch",
        "equal known norms, no vanishing residual, features linearly independent",
        "the span step has converged to the dominant eigenvectors, to its stated tolerance",
        "for more than one feature: the fit has found its global minimum",
        "between the points at which it is evaluated the activation varies as it declares (proved of the built-in ones, by "
        "which the errors of one-dimensional quadrature and of envelopes are bounded)",
        "not bounded: rounding, and the two-dimensional quadrature across kinks; for more than one feature the trapezoidal "
        "rule in the span, whose slack is measured (by half the spacing, and by second moments known exactly)",
    ),
    numeric=_numeric,
    symbolic=SIZES["K_upper"] * sp.sqrt((SIZES["d"] - SIZES["B"]) / SIZES["m"]),
    laws=(Unbiased,),
    of_setting=_declared,
)
