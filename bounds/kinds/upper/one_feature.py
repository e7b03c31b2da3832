"""One feature: the span theorem and the certainty of signs give the error itself.

Proof: bounds/proofs/one-feature.md. The returned feature is ``+V`` or ``-V`` for the unit vector V that spans the attack's
span, so its error is known once its sign is. Symbols: ``y = V.w``, and ``y'`` the same with the neuron left out; q the order
of the core; x the norm of the span as a graph over the true one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bounds.arrays import Array
from bounds.errors import UnsupportedBound
from bounds.estimator import TensorAttack
from bounds.gaussian.activations import ZERO
from bounds.gaussian.tails import covariance_deviation, hermite_norm
from bounds.kinds.upper.budget import Known, Step, Tally
from bounds.kinds.upper.case import SpanCase
from bounds.kinds.upper.envelopes import hermite_moment, powers
from bounds.kinds.upper.span import STEPS, SpanTheorem, solved_steps
from bounds.setting import Setting


@dataclass(frozen=True)
class SignTerms:
    """What the sign needs of the core. ``core``: its deviation at the true span; ``loose``: sample root mean square of
    He_q(z); ``covariances[k]``: ``|mean He_k(z)^2 u u^T|``; ``means[k, i]``: mean of ``He_k(z)^2 z^(2i)``."""

    core: float
    loose: float
    covariances: tuple[float, ...]
    means: Mapping[tuple[int, int], float]


def sign_terms(known: Known, tally: Tally) -> SignTerms:
    """Sample means of Hermite polynomials of z, with and without u."""
    case = known[SpanCase]
    q, f, samples = case.order, case.functions, case.samples
    he = [hermite_norm(k, 1) for k in range(q + 1)]
    weights = case.table.second_moment(1, 1, *[np.ones((1,) + (1,) * q)] * 2)
    second = float(weights[0]) + math.factorial(q) * case.noise_variance
    strength = float(np.sum(np.abs(case.setting.residuals)))
    c2 = abs(case.setting.activation.coefficient(2, case.norm)) if case.residualized else 0.0

    def core_response(s: Array) -> Array:
        return strength * (f.kept(s) + c2 / 2 * he[2](s)) + case.nu * s

    core = samples.seen.mean_excess(lambda s: core_response(s) * he[q](s), tally.spend(2), second=second)
    loose = samples.line.rms(lambda s: he[q](s) ** 2, tally.spend(), float(math.factorial(q)))
    covariances, means = [], {}
    for k in range(q):
        square = samples.line.rms(powers(he[k], 4, 0), tally.spend(), hermite_moment(k, 4, 0))
        top = float(he[k](np.array([samples.seen.limit]))[0]) ** 2
        mean = samples.line.nonnegative_mean(powers(he[k], 2, 0), tally.spend(), hermite_moment(k, 2, 0))
        covariances.append(mean + covariance_deviation(case.n, case.m, square, top, tally.spend(4)))
        for i in range(1, 5):
            means[k, i] = samples.line.nonnegative_mean(
                powers(he[k], 2, 2 * i), tally.spend(), hermite_moment(k, 2, 2 * i)
            )
    return SignTerms(core, loose, tuple(covariances), means)


#: The random steps of the proof, in its order.
ONE_FEATURE_STEPS: tuple[Step, ...] = (*STEPS, sign_terms)


@dataclass(frozen=True, eq=False)
class OneFeatureTheorem:
    """B = 1: a span theorem and what makes the signs certain."""

    span: SpanTheorem
    signs: SignTerms

    @property
    def error(self) -> float:
        """The bound of R. Raises ``UnsupportedBound`` where m is too small."""
        self.check_sign()
        norm = self.span.case.norm
        tangent = float(self.span.bound.features[0]) / norm
        return norm * math.sqrt(2 - 2 / math.sqrt(1 + tangent**2))

    def check_sign(self) -> None:
        """Raises ``UnsupportedBound`` unless the signs of residual and feature are certain."""
        case, first, x = self.span.case, self.span.first, self.span.bound.graph
        q, activation = case.order, case.setting.activation
        c1, c2, cq = (activation.coefficient(k, case.norm) for k in (1, 2, q))
        if q % 2 == 0 and abs(c1) <= ZERO:
            raise UnsupportedBound("not proved: mu_1 = 0, so the feature is found up to its sign only")
        r = abs(float(case.setting.residuals[0]))
        off_second, off_core = self._deviations(x)
        weight, ratio = case.attack.weight(q), cq / c2
        if q % 2:
            safe = off_second < r * abs(c2) and off_core < r * abs(cq)
        else:
            safe = off_second + weight * abs(ratio) * off_core < r * abs(c2) * (1 + weight * ratio**2)
            safe = safe and first.linear.slope + x * first.linear.outside < abs(c1) * (r - first.residual)
        if not safe:
            raise UnsupportedBound(
                f"vacuous: m = {case.m} is too small to be certain of the feature's sign (the core may be off by "
                f"{off_core:.2g}, its limit is {r * abs(cq):.2g})"
            )

    def _deviations(self, x: float) -> tuple[float, float]:
        """How far the fit's second moment and core may lie from their limits."""
        case, first, noise, blocks = self.span.case, self.span.first, self.span.noise, self.span.blocks
        signs, removed, sigma = self.signs, first.removed, case.sigma
        weakest = (
            blocks.floor - blocks.off
        )  # of the eigenvalue that the span step returns; positive, as floor > 2 off
        leave = (case.n / (case.m * weakest)) if case.attack.same_neuron == "leave_one_out" else 0.0
        bend = x**2 / 2 + leave * (noise.largest + removed.outside * noise.largest_p)
        moved_2, moved_q = (self._moved(k, x, bend) for k in (2, case.order))
        he2 = math.sqrt(signs.means[0, 2]) + 1
        rms_core, other = noise.rms, 0.0
        perturbed = first.residual * first.rms_phi
        if case.residualized:
            eigenvalue = blocks.shift + (sigma + blocks.shift) * blocks.graph * x
            other = removed.outside * noise.rms_p + (sigma + eigenvalue) / 2 * moved_2 + eigenvalue / 2 * he2
            rms_core += sigma / 2 * he2
            perturbed += removed.mean + removed.slope * first.rms_z
        off_second = blocks.shift + (noise.rms + removed.outside * noise.rms_p) * moved_2
        off_core = signs.core + perturbed * signs.loose + rms_core * moved_q
        return off_second, off_core + other * (signs.loose + moved_q)

    def _moved(self, k: int, x: float, bend: float) -> float:
        """Root mean square of He_k(y') - He_k(z)."""
        longest = x * self.span.case.samples.longest_u
        total = 0.0
        for i in range(1, k + 1):
            power = 1 / (2 * i)
            by_u = (self.signs.covariances[k - i] * x**2 * longest ** (2 * i - 2)) ** power
            by_z = self.signs.means[k - i, i] ** power
            total += math.comb(k, i) * ((1 + bend) * by_u + bend * by_z) ** i
        return total


def one_feature_theorem(
    setting: Setting, attack: TensorAttack, noise_variance: float, delta: float
) -> OneFeatureTheorem:
    """The theorem for B = 1. Raises ``UnsupportedBound`` where it is not proved."""
    if attack.same_neuron == "split":
        raise UnsupportedBound("not proved: for one feature the signs with same_neuron='split'")
    known = solved_steps(ONE_FEATURE_STEPS, setting, attack, noise_variance, delta)
    return OneFeatureTheorem(SpanTheorem.of(known), known[SignTerms])
