"""LOWER: no attack on the gradient with respect to the output weights does better (bounds/proofs/lower.md)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import sympy as sp

from bounds import checks
from bounds.arrays import Array
from bounds.defense import Defense
from bounds.density import Density, Masked
from bounds.errors import TrivialBound, UnsupportedBound
from bounds.estimator import AttackSpec
from bounds.gaussian.activations import ZERO, Activation
from bounds.kinds.lower.clipped import Entries, clipped_samples, clipped_whole, lipschitz
from bounds.kinds.lower.information import require_noise
from bounds.kinds.lower.orbit import OrbitBound, orbit_bound
from bounds.kinds.lower.slopes import fixed_residuals, moving_residuals, pair_means
from bounds.kinds.supported import check_independent, dependent
from bounds.law import Elementwise, Law, Pruned, Unbiased
from bounds.setting import SIZES, Setting
from bounds.statement import Bound, Kind

#: Weights of the part of the information that clipping leaves uncertain: the best is taken, each is valid.
_ETAS = np.geomspace(1e-4, 10.0, 41)


def lower_bound(
    density: Density,
    gram: Array,
    residuals: Array,
    *,
    d: int,
    m: int,
    activation: Activation,
    threshold: float = 0.0,
) -> OrbitBound:
    """The theorem for m independent entries with this density, d dimensions and ``residuals`` (B,) that are numbers.

    gram (B, B): of the features. density: with noise; ``Erased(sigma, p)`` is noise before a dropout that is rescaled, and
    ``Erased((1 - p) sigma, p)`` noise of standard deviation sigma after it (or, not rescaled, with the residuals of that);
    ``Masked`` is bounded with the mask known. threshold: of ``Thresholded``, noise then pruning, a number that is known.
    Raises ``ValueError`` for shapes; ``UnsupportedBound`` where there is no regular information, for d <= B, and for
    features that are linearly dependent.
    """
    G = checks.array("gram", gram, (None, None))
    r = checks.array("residuals", residuals, (len(G),))
    size, width = checks.integer("d", d, 1), checks.integer("m", m, 1)
    if dependent(G):
        raise UnsupportedBound("not proved: the features are linearly dependent")
    told = width * fixed_residuals(density, r, G, activation, threshold=threshold)
    return orbit_bound(told, G, size, signs=sign_free(activation))


def sign_free(activation: Activation) -> bool:
    """Whether attacks may leave the features' signs open, and are judged up to them."""
    return abs(activation.coefficient(2)) <= ZERO


def _entries(setting: Setting, means: Array) -> Entries:
    centres = np.array([setting.activation.coefficient(0, float(n)) for n in setting.norms])
    return Entries(
        setting.m, setting.residuals, setting.gram, centres, means[0, 0], means[2, 2], lipschitz(setting.activation)
    )  # fmt: skip


def _undefended(setting: Setting, means: Array) -> Array:
    centres = np.array([setting.activation.coefficient(0, float(n)) for n in setting.norms])
    return setting.m * moving_residuals(setting.residuals, means, centres, setting.m)


def _elementwise(law: Elementwise | Pruned, density: Density, setting: Setting, means: Array) -> Array:
    if isinstance(density, Masked):
        raise UnsupportedBound(
            "not proved: terms that are masked one by one, of a law that says nothing of masks"
        )
    return _undefended(setting, means)


def _unbiased(law: Unbiased, density: Density, setting: Setting, means: Array) -> Array:
    if law.clipping is None:
        same = np.array_equal(law.residuals, setting.residuals) and law.masking is None
        if law.inexact or not same or not math.isclose(law.variance, density.sigma**2):
            why = law.inexact or "the law and the density of what is seen do not say the same"
            raise UnsupportedBound(f"not proved: {why}")
        return _undefended(setting, means)
    entries = _entries(setting, means)
    if not law.clipping.per_sample:
        return clipped_whole(entries, _undefended(setting, means), law.clipping.max_norm)
    main, rest = clipped_samples(entries, law.clipping.max_norm)
    prior = np.linalg.inv(setting.gram)

    def whole(eta: float) -> Array:
        return (1 + eta) * main + (1 + 1 / eta) * setting.B * np.diag(rest)

    def weight(eta: float) -> float:
        per_direction = whole(eta) / (density.sigma**2 * (setting.d - setting.B))
        return float(np.trace(np.linalg.inv(prior + per_direction)))

    return whole(max(_ETAS.tolist(), key=weight))


#: Mean information of all entries for unit noise, (B, B), by the law of what is added to or done with the clean entries.
_BY_LAW: Mapping[type[Law], Callable[[Any, Density, Setting, Array], Array]] = {
    Unbiased: _unbiased,
    Elementwise: _elementwise,
    Pruned: _elementwise,
}


def _numeric(
    defense: Defense, setting: Setting, attack: AttackSpec, delta: float
) -> tuple[float, Mapping[str, float]]:
    density = defense.density()
    require_noise(density)
    check_independent(setting)
    if setting.d <= setting.B:
        raise UnsupportedBound(f"not proved for d = B = {setting.d}: nothing is outside the features' span")
    means = pair_means(setting.gram, setting.activation)
    law = defense.law(setting)
    told = _BY_LAW[type(law)](law, density, setting, means) / density.sigma**2
    found = orbit_bound(told, setting.gram, setting.d, signs=sign_free(setting.activation))
    before = 1 / float(np.mean(np.diag(setting.gram)))
    if found.square == 0:
        why = "trivial: the noise is so small that what matching may gain is all of the error, to floating point"
        raise TrivialBound(0.0, why, {"ordered": math.sqrt(found.ordered), "sharpness": found.sharpness})
    entry = max(0.0, 1 / found.square - before) * (setting.d - setting.B) / setting.m
    return math.sqrt(found.square), {
        "ordered": math.sqrt(found.ordered),
        "sharpness": found.sharpness,
        "I_lower": entry,
        "P_lower": before,
    }


LOWER = Bound(
    kind=Kind.LOWER,
    statement="no attack has a smaller root mean square of R: van Trees over the rotations of the features",
    source="bounds/proofs/lower.md (ours)",
    statistic="root mean square over trials of R, failed ones included",
    assumptions=(
        "w_j ~ N(0, I_d), a_j = 1/m, squared loss summed over the batch; Gaussian noise on every entry, or before whatever "
        "else is done with it",
        "mean over rotations of the features, or an attack that treats directions alike; it may know the Gram matrix, the "
        "labels and the network",
        "d > B, features linearly independent; clipping: an activation with a bounded slope",
        "floating point: expectations by fixed quadrature",
    ),
    numeric=_numeric,
    symbolic=sp.sqrt(
        (SIZES["d"] - SIZES["B"])
        / ((SIZES["d"] - SIZES["B"]) * SIZES["P_lower"] + SIZES["m"] * SIZES["I_lower"])
    ),
)
