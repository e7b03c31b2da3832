"""What first-order theory covers, and the reasons where it does not."""

from __future__ import annotations

import numpy as np

from bounds.arrays import Array
from bounds.errors import UnsupportedBound
from bounds.estimator import EQUAL_NORMS, TensorAttack, moment_orders
from bounds.gaussian.activations import ZERO
from bounds.law import Law, Pruned, Unbiased
from bounds.setting import Setting

#: Residuals below this fraction of the largest leave no usable trace of their sample.
ILL_POSED = 1e-6

#: The smallest eigenvalue of unit features' Gram matrix from which they are linearly independent.
DEPENDENT = 1e-12

#: And residuals below this are zero but for rounding.
_ROUNDING = 1e-12


def supported_orders(setting: Setting, residuals: Array | None = None) -> tuple[int, int]:
    """Orders of the fit's two moments; ``UnsupportedBound`` where the attack does not apply or a coefficient or a residual
    vanishes (those of the setting unless others are given)."""
    try:
        orders = moment_orders(setting.activation)
    except ValueError as error:
        raise UnsupportedBound(f"not proved for this activation: {error}") from error
    sizes = np.abs(setting.residuals if residuals is None else residuals)
    if not sizes.min() > max(ILL_POSED * sizes.max(), _ROUNDING):
        shown = (setting.residuals if residuals is None else residuals).tolist()
        raise UnsupportedBound(f"ill-posed: a residual vanishes, r* = {shown}")
    norms = setting.norms
    if min(abs(setting.activation.coefficient(k, float(n))) for k in orders for n in norms) <= ZERO:
        raise UnsupportedBound(
            f"not proved: a Hermite coefficient vanishes at one of the norms {norms.tolist()}"
        )
    return orders


_NOT_LEFT_OUT = {
    "ignored": "with same_neuron='ignored' a bias of order d/m is not part of the formula",
    "split": "the formula is that of an attack which uses every neuron for every step, not same_neuron='split'",
}


def check_estimator(attack: TensorAttack) -> None:
    """``UnsupportedBound`` for an estimator whose bias is not in the formulas."""
    if attack.same_neuron != "leave_one_out":
        raise UnsupportedBound(f"not proved: {_NOT_LEFT_OUT[attack.same_neuron]}")
    check_entries(attack)


def check_entries(attack: TensorAttack) -> None:
    """``UnsupportedBound`` for a span that is found by other weights than those of the formulas."""
    if attack.preprocessing != "none":
        raise UnsupportedBound("not proved for a span that preprocessed entries give")


def dependent(gram: Array) -> bool:
    """Whether features with this Gram matrix (B, B) are linearly dependent, to floating point: their directions' smallest
    eigenvalue is below ``DEPENDENT``."""
    norms = np.sqrt(np.maximum(np.diag(gram), 0.0))
    if not np.all(norms > 0):
        return True
    return bool(np.linalg.eigvalsh(gram / np.outer(norms, norms))[0] < DEPENDENT)


def check_independent(setting: Setting) -> None:
    """``UnsupportedBound`` for features that are linearly dependent."""
    if dependent(setting.gram):
        raise UnsupportedBound(
            f"ill-posed: the features are linearly dependent, pi_min = {setting.pi_min:.3g}"
        )


def check_norms(setting: Setting, keeps_labels: bool = True) -> None:
    """``UnsupportedBound`` where the attack cannot tell which feature has which norm."""
    if unequal_norms(setting) and not (keeps_labels and np.all(np.abs(setting.labels) == 1)):
        raise UnsupportedBound(
            "not proved: with unequal norms labels must be +-1, and left readable by the defense: norms are assigned by them"
        )


def unequal_norms(setting: Setting) -> bool:
    """Whether the attack has to find out which feature has which norm."""
    return bool(np.ptp(setting.norms) > EQUAL_NORMS * setting.norms.max())


def check_moments(setting: Setting, attack: TensorAttack, law: Law) -> tuple[int, int]:
    """Orders of the fit's two moments; ``UnsupportedBound`` where the moments of what the server sees do not give the
    features: an activation that the attack does not cover (or not under this law), a residual that vanishes, features that
    are linearly dependent, no signs, a contraction with a vector drawn at random, whose error grows otherwise."""
    low, order = supported_orders(setting, law.residuals if isinstance(law, Unbiased) else None)
    nothing_removed = isinstance(law, Pruned) and law.unbiased
    if low == 1 and not (isinstance(law, Unbiased) or nothing_removed):
        raise UnsupportedBound("not proved for odd activations under an elementwise channel")
    if low == 1 and attack.contraction != "first_moment":
        raise UnsupportedBound(
            "not proved for a random contraction: the constant depends on the vector drawn"
        )
    check_independent(setting)
    slopes = [setting.activation.coefficient(1, float(n)) for n in setting.norms]
    if order % 2 == 0 and min(np.abs(slopes)) <= ZERO:
        raise UnsupportedBound("not proved: mu_1 = 0, so features are found up to their sign only")
    return low, order


def check_applies(setting: Setting, attack: TensorAttack, law: Law) -> None:
    """``UnsupportedBound`` where the attack, or the condition under which its error vanishes as m grows, does not hold."""
    check_norms(setting, not isinstance(law, Unbiased) or law.keeps_labels)
    check_moments(setting, attack, law)
