"""First-order error of maximum likelihood: Cramer and Rao's, in the population, with B x B matrices.

With features on their spheres and residuals free, an entry has the information ``Q = E [p I p^T]``, ``p_i = r_i
sigma'(w.x_i)``, for each of the d - B directions outside the span; inside it the unknowns are B (B - 1) turns and B
residuals. To first order in 1/m

    E sum_i |x_i - xhat_i|^2 = ((d - B) tr Q^-1 + tr [F^-1]_turns) / m

(bounds/proofs/lower.md, section 6). It bounds estimates that are unbiased near the truth, and no others: shrinking beats it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import sympy as sp

from bounds.arrays import Array
from bounds.defense import Defense
from bounds.density import Density, Plain
from bounds.errors import UnsupportedBound
from bounds.estimator import LikelihoodAttack
from bounds.gaussian.activations import Activation
from bounds.gaussian.quadrature import plane_moments
from bounds.gaussian.slope import derivative
from bounds.kinds.lower.information import require_noise
from bounds.kinds.lower.slopes import directions_of, fixed_residuals
from bounds.kinds.pairs import planes, product_moments
from bounds.kinds.supported import ILL_POSED, check_independent, check_norms
from bounds.law import Unbiased
from bounds.setting import SIZES, Setting
from bounds.statement import Bound, Kind

#: First order is stated up to this error, in units of the features' norm. Measured over stated, ReLU and two features: 1.03
#: to 1.07 at .10, 1.09 to 1.15 at .15.
LARGEST = 0.12

#: And from so many entries for each unknown on: before, the mean of an inverse is not the inverse of the mean.
ENTRIES = 10

#: Smallest eigenvalue of the information, each unknown in its own unit, that counts as more than rounding.
SINGULAR = 1e-10


def population_information(gram: Array, residuals: Array, activation: Activation) -> Array:
    """Information of an entry with unit Gaussian noise, (B^2, B^2), about the features' turns inside their span, B - 1 for
    each feature (radians; feature by feature), and then the residuals."""
    B = len(residuals)
    norms, directions = directions_of(gram)
    slope = derivative(activation)
    tangents = np.stack([np.linalg.svd(u[None])[2][1:] for u in directions])  # (B, B - 1, B)
    found = np.zeros((B, B, B, B))  # feature, its turn or (last) residual; the same of the other

    def functions(norm: float, residual: float) -> Callable[[Array], Array]:
        def stack(t: Array) -> Array:
            return np.stack([residual * norm * slope(norm * t), activation.function(norm * t)])

        return stack

    one = np.ones(1)
    for i, k, cosine, plane in planes(directions):
        f_kinks, g_kinks = ([kink / norms[index] for kink in activation.kinks] for index in (i, k))
        f, g = (functions(float(norms[index]), float(residuals[index])) for index in (i, k))
        moments = plane_moments(f, g, cosine, 2, f_kinks, g_kinks, float(max(norms[i], norms[k])))
        both = found[i, :, k, :]
        if B > 1:
            both[: B - 1, : B - 1] = product_moments(moments[0, 0], plane, tangents[i], tangents[k])
            both[: B - 1, B - 1 :] = product_moments(moments[0, 1], plane, tangents[i], one)
            both[B - 1 :, : B - 1] = product_moments(moments[1, 0], plane, one, tangents[k])
        both[B - 1, B - 1] = moments[1, 1, 0, 0]
        found[k, :, i, :] = both.T
    turns = [i * B + a for i in range(B) for a in range(B - 1)]
    order = [*turns, *(i * B + B - 1 for i in range(B))]
    return np.asarray(found.reshape(B * B, B * B)[np.ix_(order, order)])


def population_cramer_rao(
    density: Density,
    gram: Array,
    residuals: Array,
    activation: Activation,
    *,
    d: int,
    m: int,
    threshold: float = 0.0,
) -> float:
    """Root mean square over features of Cramer and Rao's bound as d and m grow at m/d, ``sqrt((d - 1)/m tr Q^-1 / B)``:
    norms known, residuals known or not (they cost no more than one of the d directions). threshold: of ``Thresholded``.

    Raises ``UnsupportedBound`` without noise and where a residual vanishes or the information is singular.
    """
    return math.sqrt((d - 1) / m * float(np.mean(_outside(density, gram, residuals, activation, threshold))))


def _outside(
    density: Density, gram: Array, residuals: Array, activation: Activation, threshold: float = 0.0
) -> Array:
    """Diagonal (B,) of Q^-1."""
    sizes = np.abs(residuals)
    if not sizes.min() > ILL_POSED * sizes.max():
        raise UnsupportedBound(f"ill-posed: a residual vanishes, r* = {np.asarray(residuals).tolist()}")
    return _inverse(
        fixed_residuals(density, residuals, gram, activation, threshold=threshold), "outside the span"
    )


def _inside(gram: Array, residuals: Array, activation: Activation) -> Array:
    """Sum (B,) of the squares of every feature's errors inside the span, for unit noise and one entry."""
    B = len(residuals)
    found = _inverse(population_information(gram, residuals, activation), "inside the span")
    return np.asarray(np.diag(gram) * found[: B * (B - 1)].reshape(B, B - 1).sum(axis=1))


def _inverse(matrix: Array, where: str) -> Array:
    """Diagonal of the inverse; ``UnsupportedBound`` where there is none beside what each unknown does by itself."""
    scale = np.sqrt(np.diag(matrix))
    if not scale.min() > 0 or np.linalg.eigvalsh(matrix / np.outer(scale, scale))[0] < SINGULAR:
        raise UnsupportedBound(f"ill-posed: the information {where} is singular")
    return np.asarray(np.diag(np.linalg.inv(matrix)))


def _numeric(
    defense: Defense, setting: Setting, attack: LikelihoodAttack, delta: float
) -> tuple[float, Mapping[str, float]]:
    seen, density = defense.law(setting), defense.density()
    require_noise(density)
    assert isinstance(seen, Unbiased)
    if seen.masking is not None and np.any(seen.masking):
        raise UnsupportedBound("not proved for entries that are masked")
    check_independent(setting)
    check_norms(setting, seen.keeps_labels)
    noise = Plain(sigma=math.sqrt(seen.variance))
    d, m, B = setting.d, setting.m, setting.B
    outside = float(np.mean(_outside(noise, setting.gram, seen.residuals, setting.activation)))
    inside = float(np.mean(_inside(setting.gram, seen.residuals, setting.activation))) * seen.variance
    square = ((d - B) * outside + inside) / m
    if square > LARGEST**2 * float(np.mean(np.diag(setting.gram))):
        raise UnsupportedBound(
            f"not proved: first order gives an error of {math.sqrt(square):.3g}, which is not small"
        )
    if m < ENTRIES * B * d:
        raise UnsupportedBound(
            f"not proved: m = {m} entries are fewer than {ENTRIES} for each of B d unknowns"
        )
    return math.sqrt(square), {
        "orthogonal": math.sqrt((d - B) * outside / m),
        "inplane": math.sqrt(inside / m),
        "K_perp": outside,
        "K_par": inside,
    }


#: Of the likelihood attack, for a defense that adds Gaussian noise.
PREDICTED_LIKELIHOOD = Bound(
    kind=Kind.PREDICTED,
    statement="first-order root mean square error of maximum likelihood: Cramer-Rao in the population",
    source="bounds/proofs/lower.md (ours)",
    statistic="root mean square over trials of R, of those with a result",
    assumptions=(
        "w_j ~ N(0, I_d), a_j = 1/m, squared loss summed over the batch; Gaussian noise on every entry",
        "features linearly independent with known norms, residuals unknown and none vanishing",
        "the attack ends in the maximum that is nearest to the truth",
        f"first order: exact as m grows with d fixed; stated where it is at most {LARGEST} of the norms, with at least "
        f"{ENTRIES} entries for each unknown: there the error measured is up to 10 % larger",
    ),
    numeric=_numeric,
    symbolic=sp.sqrt(((SIZES["d"] - SIZES["B"]) * SIZES["K_perp"] + SIZES["K_par"]) / SIZES["m"]),
    laws=(Unbiased,),
)
