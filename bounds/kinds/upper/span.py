"""The steps of the proof that bounds the features' distance from the attack's span, and for one feature the error.

The theorems ("Span theorem", "One feature" of paper_notes.md; read them through ``theorem.py``) are about the attack as
implemented: the linear part, span and core are estimated on the same neurons. They take the setting alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from bounds.arrays import Array
from bounds.errors import UnsupportedBound
from bounds.estimator import EQUAL_NORMS, MIN_GAP, RITZ_TOLERANCE, TensorAttack, core_order
from bounds.gaussian.activations import ZERO
from bounds.gaussian.quadrature import gaussian_rule
from bounds.gaussian.symmetric import symmetric_basis
from bounds.gaussian.tails import Envelope, Sample, chi, covariance_deviation, hermite_norm, radius
from bounds.kinds.pairs import _PairTable
from bounds.kinds.supported import check_independent, supported_orders
from bounds.kinds.upper.budget import Budget
from bounds.kinds.upper.envelopes import _FARTHEST, _moment, _product, envelope, mixed_envelope
from bounds.setting import Setting

#: Shares of the failure probability: leading Gaussian vectors, radii; the rest goes to all the small terms together.
LEADING, RADII = 0.45, 0.03


#: max |a^2 b| over a^2 + b^2 = 1.
_SQUARE_TIMES = 2 / (3 * math.sqrt(3))


@dataclass(frozen=True)
class SpanBound:
    """With probability at least ``1 - delta`` the attack returns a result, and the distance of x_i from its span is at most
    ``features[i]``. ``graph``: norm of the span as a graph over the true one. ``parts``: named sizes, all relative to the
    weakest eigenvalue of A but for ``leading``, the first-order part of the bound (root mean square)."""

    features: Array
    graph: float
    parts: Mapping[str, float]

    @property
    def rmse(self) -> float:
        """Root mean square over the features."""
        return math.sqrt(float(np.mean(self.features**2)))


@dataclass(frozen=True)
class _Functions:
    """One feature's share of the gradient as a function of t = (unit direction).z: moments and envelopes.

    Where a mean of one feature's function is used for all of them, only the sum over features is bounded: the mean over
    features has the same expectation and envelope, and for a function of one coordinate Chernoff's bound by convexity."""

    variance: float  # of sigma
    parallel: float  # E (sigma - c_0)^2 t^2
    power: float  # E phi^2, phi what enters the moments
    power_t: float  # E phi^2 t^2
    slope: float  # c_1
    centred: Envelope  # of sigma - c_0
    kept: Envelope  # of phi


def span_theorem(setting: Setting, attack: TensorAttack, noise_variance: float, delta: float) -> SpanTheorem:
    """The theorem with the failure probability split evenly over its small events."""
    check_supported(setting)
    events = _events(setting.B, noise_variance > 0, attack.residualized, core_order(setting.activation))
    budget = Budget(math.log(events / ((1 - LEADING - RADII) * delta)))
    found = SpanTheorem(setting, attack, noise_variance, delta, budget)
    found.evaluate()
    if budget.used != events:
        raise ArithmeticError(f"the theorem used {budget.used} events, {events} were counted")
    return found


@lru_cache(maxsize=256)
def _events(B: int, noisy: bool, residualized: bool, order: int) -> int:
    """How many small events the theorem uses: counted on a setting of that kind."""
    activation = "relu" if order == 4 else "z2z3"
    setting = Setting.orthonormal(B + 2, 100 * (B + 2), B, activation, labels=np.full(B, 3.0))
    attack = TensorAttack("residualized" if residualized else "plain")
    budget = Budget(20.0)
    SpanTheorem(setting, attack, float(noisy), 0.05, budget).evaluate()
    return budget.used


def check_supported(setting: Setting) -> None:
    """Raises ``UnsupportedBound`` where nothing is proved: unequal norms, an ill-posed setting, no orthogonal part."""
    norms = setting.norms
    if np.ptp(norms) > EQUAL_NORMS * norms.max():
        raise UnsupportedBound("not proved: norms must be equal")
    if supported_orders(setting)[0] != 2:
        raise UnsupportedBound("not proved for odd activations: the proof is about the second moment")
    if setting.d == setting.B:
        raise UnsupportedBound("not proved: d = B leaves no orthogonal part")
    check_independent(setting)


class SpanTheorem:
    """The numbers of the proof, under the names they have there. Every property is one step of it."""

    def __init__(
        self,
        setting: Setting,
        attack: TensorAttack,
        noise_variance: float,
        delta: float,
        budget: Budget,
        leading: float = LEADING,
    ) -> None:
        self.setting, self.attack, self.budget = setting, attack, budget
        self.B, self.m, self.n = setting.B, setting.m, setting.d - setting.B
        self.noise_variance, self.nu = noise_variance, math.sqrt(noise_variance)
        self.norm = float(setting.norms[0])
        self.order = core_order(setting.activation)
        self.residualized = attack.residualized
        self.functions = _functions(setting, attack.residualized)
        self.table = _PairTable.build(setting, attack.residualized, (2, self.order), setting.directions)
        share = RADII * delta / 3
        noisy = int(self.nu > 0)
        # (z, N) with N the noise; (z, e) with e one more coordinate of u; e alone is shorter than (z, e); and u.
        self.core = Sample(self.B + noisy, self.m, radius(self.B + noisy, self.m, share))
        self.joint = Sample(self.B + 1, self.m, radius(self.B + 1, self.m, share))
        self.line = Sample(1, self.m, self.core.limit)
        self.z_only = Sample(self.B, self.m, self.core.limit)
        self.e_only = Sample(1, self.m, self.joint.limit)
        self.ritz = 0.0
        self.longest_u = radius(self.n, self.m, share)
        if max(self.core.limit, self.joint.limit) > _FARTHEST / 2:
            raise UnsupportedBound(
                f"not proved: some neurons may lie {self.core.limit:.1f} standard deviations out"
            )
        self.leading_chi = chi(self.n, leading * delta / self.B)
        self.he2 = hermite_norm(2, self.B)

    def evaluate(self) -> None:
        """Every step once, so that every event is counted; vacuity is found only afterwards."""
        for step in ("linear", "shift", "leading", "coupling", "bent", "along_b", "edge", "sign_terms"):
            getattr(self, step)

    def response(self, s: Array) -> Array:
        """Envelope of h° = sum r_i* phi_i + nu N."""
        return self.mixture(s) + self.nu * s

    def root(self, sample: Sample, envelope: Envelope, expectation: float) -> float:
        """Square root of an upper bound of the sample mean of a nonnegative function."""
        return math.sqrt(sample.nonnegative_mean(envelope, self.budget.spend(), expectation))

    def normal(self, events: int = 1) -> float:
        """``sqrt(2 t)``: what a standard normal stays below."""
        return math.sqrt(2 * self.budget.spend(events))

    def chi(self, dimension: int) -> float:
        return chi(dimension, math.exp(-self.budget.spend()))

    # --- residuals, mean and linear part ---------------------------------------------------------------------

    @cached_property
    def tau(self) -> float:
        """``|f(x_i) - E f(x_i)|``."""
        f = self.functions
        return self.line.mean_excess(f.centred, self.budget.spend(2 * self.B), second=f.variance)

    @cached_property
    def linear(self) -> tuple[float, float, float, float]:
        """e_0, e_1 (errors of the mean and of the linear part in the span), beta = |b_perp|, kappa_0."""
        f, target, spend = self.functions, self.setting.residuals, self.budget.spend
        total_r = float(np.sum(np.abs(target))) + self.B * self.tau
        e0 = total_r * self.tau
        along = self.line.mean_excess(
            lambda s: f.centred(s) * s + abs(f.slope), spend(2 * self.B), second=f.parallel - f.slope**2
        )
        across = self.z_only.mean_excess(
            lambda s: f.centred(s) * s, spend(2 * self.B * (self.B - 1)), second=f.variance
        )
        e1 = total_r * math.sqrt(along**2 + (self.B - 1) * across**2)
        if self.nu:
            e0 += self.nu * self.normal(2) / math.sqrt(self.m)
            e1 += math.sqrt(self.B) * self.core.mean_excess(
                lambda s: self.nu * s**2 / 2, spend(2 * self.B), second=self.noise_variance
            )
        e1 += e0 * self.chi(self.B) / math.sqrt(self.m)
        raw = _PairTable.build(self.setting, False, (2, self.order), self.setting.directions)
        one = np.ones(1)
        mean = float(np.sum(target)) * self.setting.activation.coefficient(0, self.norm)
        variance = max(0.0, float(raw.second_moment(0, 0, one, one)[0]) - mean**2) + self.noise_variance
        strength = float(np.sum(np.abs(target)))
        gamma = self.root(self.core, lambda s: (strength * f.centred(s) + self.nu * s) ** 2, variance)
        gamma += self.tau * self.B * self.root(self.line, lambda s: f.centred(s) ** 2, f.variance)
        length = self.chi(self.n)
        return e0, e1, gamma * length / math.sqrt(self.m), length + self.normal(2)

    @cached_property
    def mixture(self) -> Envelope:
        """Envelope of ``sum r_i* phi_i``."""
        top = float(np.linalg.eigvalsh(self.setting.cosines)[-1])
        return mixed_envelope(np.abs(self.setting.residuals), self.functions.kept, math.sqrt(top))

    @cached_property
    def removed(self) -> tuple[float, float, float, float]:
        """The same, but zero where the attack removes nothing."""
        return self.linear if self.residualized else (0.0, 0.0, 0.0, 0.0)

    @cached_property
    def rms_phi(self) -> float:
        f = self.functions
        return self.root(self.line, lambda s: f.kept(s) ** 2, f.power)

    @cached_property
    def rms_z(self) -> float:
        return self.root(self.z_only, lambda s: s**2, float(self.B))

    # --- A: the second moment in the span --------------------------------------------------------------------

    @cached_property
    def limit(self) -> Array:
        directions = self.setting.directions
        alpha = self.setting.residuals * self.setting.activation.coefficient(2, self.norm)
        return np.asarray((directions.T * alpha) @ directions)

    @cached_property
    def sigma(self) -> float:
        return float(np.min(np.abs(np.linalg.eigvalsh(self.limit))))

    @cached_property
    def shift(self) -> float:
        """``|A - A_*|`` in Frobenius norm."""
        spend, m = self.budget.spend, self.m
        basis = symmetric_basis(self.B)
        k = len(basis)
        second = self.table.second_moment(0, 0, basis, basis) + 2 * self.noise_variance
        entries = [
            self.core.mean_excess(lambda s: self.response(s) * self.he2(s), spend(2), second=float(v))
            for v in second
        ]
        squares = self.root(self.z_only, lambda s: self.he2(s) ** 2, self.B * (self.B + 1.0))
        total = math.sqrt(float(np.sum(np.square(entries)))) + self.tau * self.B * self.rms_phi * squares
        if self.residualized:
            e0, e1, beta, kappa0 = self.removed
            total += e0 * math.sqrt(k) * self.z_only.mean_excess(self.he2, spend(2 * k), second=2.0)
            triple = self.z_only.mean_excess(lambda s: s * self.he2(s), spend(2 * self.B * k), second=10.0)
            total += e1 * math.sqrt(self.B * k) * triple
            total += beta * squares / math.sqrt(m) * (1 + self.normal() + kappa0)
        return total

    # --- C: the cross block, Gaussian given z ----------------------------------------------------------------

    @cached_property
    def slopes(self) -> Array:
        """``a_i = A_*^-1 u_i``, rows."""
        return np.asarray(np.linalg.solve(self.limit, self.setting.directions.T).T)

    @cached_property
    def lengths(self) -> Array:
        return np.asarray(np.linalg.norm(self.slopes, axis=1))

    @cached_property
    def rest(self) -> float:
        """Root mean square of ``(h^z - h°)(z.a)`` for unit a."""
        f = self.functions
        e0, e1, _, _ = self.removed
        moved = self.root(self.z_only, lambda s: (f.kept(s) * s) ** 2, f.power_t + (self.B - 1) * f.power)
        total = self.tau * self.B * moved
        if self.residualized:
            quartic = self.root(self.z_only, lambda s: s**4, self.B * (self.B + 2.0))
            total += e0 * self.rms_z + e1 * quartic
        return total

    def weighted(self, size: float, expectation: float) -> float:
        """Root mean square of ``h^z (z.a)``, ``|a| = size``, given ``E (h°)^2 (z.a)^2``."""
        found = self.root(self.core, lambda s: (self.response(s) * s * size) ** 2, expectation)
        return found + size * self.rest

    @cached_property
    def leading(self) -> Array:
        """``|C_z a_i|``, (B,)."""
        lengths = self.lengths
        expected = self.table.second_moment(0, 0, self.slopes, self.slopes)
        expected = expected + self.noise_variance * lengths**2
        sizes = [self.weighted(float(k), float(v)) for k, v in zip(lengths, expected, strict=True)]
        return np.array(sizes) * self.leading_chi / math.sqrt(self.m)

    @cached_property
    def coupling(self) -> float:
        """``|C_z A_*^-1|`` in Frobenius norm."""
        inverse = np.asarray(np.linalg.inv(self.limit), dtype=np.float64)
        expected = float(np.sum(self.table.second_moment(0, 0, inverse, inverse)))
        expected += self.noise_variance * float(np.sum(inverse**2))
        return (
            self.weighted(1 / self.sigma, expected) * (math.sqrt(self.n) + self.normal()) / math.sqrt(self.m)
        )

    @cached_property
    def bent(self) -> float:
        """``|C_b a|`` for unit a: the linear part's share of C."""
        if not self.residualized:
            return 0.0
        _, _, beta, kappa0 = self.removed
        m, rho = self.m, self.core.limit
        crossed = math.sqrt(self.B) * self.joint.mean_excess(
            lambda s: _SQUARE_TIMES * s**3, self.budget.spend(2 * self.B), second=3.0
        )
        crossed += (2 * kappa0 * rho * (1 + self.normal()) + kappa0**2 * rho) / m
        spread = self.root(self.joint, lambda s: s**4 / 4, float(self.B)) + kappa0 * rho / math.sqrt(m)
        return beta * (crossed + spread * (math.sqrt(self.n) + self.normal()) / math.sqrt(m))

    # --- D: the noise ----------------------------------------------------------------------------------------

    @cached_property
    def rms(self) -> float:
        """Root mean square of h^z."""
        one = np.ones(1)
        e0, e1, _, _ = self.removed
        expected = float(self.table.second_moment(0, 0, one, one)[0]) + self.noise_variance
        found = self.root(self.core, lambda s: self.response(s) ** 2, expected)
        return found + self.tau * self.B * self.rms_phi + e0 + e1 * self.rms_z

    @cached_property
    def largest(self) -> float:
        """Largest |h^z|."""
        e0, e1, _, _ = self.removed
        rho = np.array([self.core.limit])
        moved = self.tau * self.B * self.functions.kept(rho)
        return float((self.response(rho) + moved)[0] + e0 + e1 * self.core.limit)

    @cached_property
    def along_b(self) -> tuple[float, float]:
        """Root mean square and largest of ``p_j = v.u_j``, v the direction of b_perp."""
        kappa0 = self.linear[3]
        return 1 + (self.normal() + kappa0) / math.sqrt(self.m), self.joint.limit + kappa0

    @cached_property
    def edge(self) -> float:
        """``|D|`` in operator norm."""
        m, n, t = self.m, self.n, self.budget.exponent
        found = covariance_deviation(n, m, self.rms, self.largest, self.budget.spend(4))
        if not self.residualized:
            return found
        _, _, beta, kappa0 = self.removed
        rms_p, top = self.along_b
        cubic = self.e_only.mean_excess(lambda s: s**3, self.budget.spend(2), second=15.0)
        cubic += self.normal(2) / math.sqrt(m)
        self.budget.spend(2)
        cubic += 3 * kappa0 * (2 * math.sqrt(t) + 2 * t) / m
        cubic += (3 * kappa0**2 * self.normal(2) + kappa0**3) / m
        quartic = (math.sqrt(self.root(self.e_only, lambda s: s**4, 3.0)) + kappa0 * m**-0.25) ** 2
        flat = covariance_deviation(n - 1, m, rms_p, top, self.budget.spend(4))
        return found + beta * (cubic + quartic * self.chi(n - 1) / math.sqrt(m) + flat + top / m)

    # --- the span --------------------------------------------------------------------------------------------

    @cached_property
    def blocks(self) -> tuple[float, float, float, float]:
        """Of the matrix whose exact eigenvectors the span step returns: ``|A - A_*|``, ``|Y|`` with Y = C A^-1, the smallest
        singular value of A, and ``|D - Y A Y^T|``; and what the step's tolerance adds to every block (in ``ritz``)."""
        shift, graph, _, off = self._blocks(0.0)
        # Rayleigh-Ritz: V is exact for P - E V^T - V E^T, with |E| at most this.
        weakest = (self.sigma + shift) * (1 + graph**2) + off
        self.ritz = math.sqrt(self.B) * RITZ_TOLERANCE * weakest
        return self._blocks(self.ritz)

    def _blocks(self, ritz: float) -> tuple[float, float, float, float]:
        m, shift = self.m, self.shift + ritz
        if shift >= self.sigma:
            raise UnsupportedBound(
                f"vacuous: m = {m} is too small, the second moment in the span may be off by {shift / self.sigma:.2f} times "
                f"its weakest eigenvalue"
            )
        floor = self.sigma - shift
        graph = (self.coupling + (self.bent + ritz) / self.sigma) / (1 - shift / self.sigma)
        lengths = self.lengths
        known = self.leading + (self.bent + ritz) * lengths  # |C a_i|
        graph = self._tightened(graph, known, shift * lengths)
        off = self.edge + ritz + (float(np.linalg.norm(self.limit, 2)) + shift) * graph**2
        if floor <= 2 * off:
            raise UnsupportedBound(
                f"vacuous: m = {m} is too small, the noise of the second moment may reach {off / floor:.2f} times its "
                f"weakest eigenvalue (less than 0.5 is needed)"
            )
        return shift, graph, floor, off

    def _tightened(self, size: float, known: Array, slope: Array) -> float:
        """A bound of ``|M|`` for a matrix with ``|M u_i| <= known_i + slope_i |M|``, from a bound that is known: M is
        ``[M u_1, ..., M u_B]`` times the inverse of the directions. Every round gives a bound from the last one."""
        weakest = float(np.linalg.svd(self.setting.directions, compute_uv=False)[-1])
        for _ in range(30):
            size = min(size, float(np.linalg.norm(known + slope * size)) / weakest)
        return size

    @cached_property
    def span(self) -> SpanBound:
        """Perturbation of the dominant subspace."""
        m = self.m
        shift, graph, floor, off = self.blocks
        sine = graph * (floor - off) / (floor - 2 * off)
        cosine = math.sqrt(max(0.0, 1 - sine**2))
        if sine >= 0.7 or graph * sine / cosine >= 0.5:
            raise UnsupportedBound(
                f"vacuous: m = {m} is too small, the span may be off by an angle of sine {sine:.2f} (0.7 is too much)"
            )
        rms_p, _ = self.along_b
        power = self.rms + self.removed[2] * rms_p
        seen = power * (2 * math.sqrt(self.n / m) + 3 * math.sqrt(2 / m))
        if floor - off < MIN_GAP * max(off, seen):
            raise UnsupportedBound(
                f"vacuous: m = {m} is too small, the attack may see no gap between signal and noise"
            )
        gain = 1 / (1 - graph * sine / cosine)  # at most 2, so that off * gain < floor
        tangent = min(sine / cosine, graph / (1 - off * gain / floor))
        lengths = self.lengths
        known = self.leading + (self.bent + self.ritz + graph * shift) * lengths  # |Y u_i|
        slope = off * gain * lengths / (1 - shift / self.sigma)
        tangent = self._tightened(tangent, known, slope)
        features = known + slope * tangent
        parts = {
            "shift": shift / self.sigma,
            "edge": self.edge / self.sigma,
            "bent": self.bent / self.sigma,
            "leading": self.norm * math.sqrt(float(np.mean(self.leading**2))),
        }
        return SpanBound(self.norm * features, tangent, parts)

    # --- one feature: signs ----------------------------------------------------------------------------------

    @cached_property
    def sign_terms(self) -> dict[str, float]:
        """What the sign needs of the core, for B = 1: root mean squares and sample covariances of He_k(z)."""
        if self.B > 1:
            return {}
        q, f, spend = self.order, self.functions, self.budget.spend
        he = [hermite_norm(k, 1) for k in range(q + 1)]
        weights = self.table.second_moment(1, 1, *[np.ones((1,) + (1,) * q)] * 2)
        second = float(weights[0]) + math.factorial(q) * self.noise_variance
        strength = float(np.sum(np.abs(self.setting.residuals)))
        c2 = abs(self.setting.activation.coefficient(2, self.norm)) if self.residualized else 0.0

        def core_response(s: Array) -> Array:
            return strength * (f.kept(s) + c2 / 2 * he[2](s)) + self.nu * s

        terms = {
            "core": self.core.mean_excess(lambda s: core_response(s) * he[q](s), spend(2), second=second),
            "loose": self.root(self.line, lambda s: he[q](s) ** 2, float(math.factorial(q))),
        }
        for k in range(q):
            square = self.root(self.line, _product(he[k], 4, 0), _moment(k, 4, 0))
            top = float(he[k](np.array([self.core.limit]))[0]) ** 2
            mean = self.line.nonnegative_mean(_product(he[k], 2, 0), spend(), _moment(k, 2, 0))
            terms[f"u{k}"] = mean + covariance_deviation(self.n, self.m, square, top, spend(4))
            for i in range(1, 5):
                mixed = self.line.nonnegative_mean(_product(he[k], 2, 2 * i), spend(), _moment(k, 2, 2 * i))
                terms[f"z{k},{i}"] = mixed
        return terms

    @property
    def error(self) -> float:
        """The bound of R."""
        if self.B > 1:
            raise UnsupportedBound(
                "the in-plane part of the error is not proved for B > 1 (that of the span is: see the details)"
            )
        self.check_sign()
        tangent = float(self.span.features[0]) / self.norm
        return self.norm * math.sqrt(2 - 2 / math.sqrt(1 + tangent**2))

    def check_sign(self) -> None:
        """Raises ``UnsupportedBound`` unless the signs of residual and feature are certain (B = 1)."""
        q, span = self.order, self.span
        x = span.graph
        activation = self.setting.activation
        c1, c2, cq = (activation.coefficient(k, self.norm) for k in (1, 2, q))
        r = abs(float(self.setting.residuals[0]))
        e0, e1, beta, _ = self.linear
        rms_p, top = self.along_b
        shift, graph, floor, off = self.blocks
        weakest = floor - off  # of the eigenvalue that the span step returns; positive, as floor > 2 off
        if q % 2 == 0 and abs(c1) <= ZERO:
            raise UnsupportedBound("not proved: mu_1 = 0, so the feature is found up to its sign only")
        removed = self.removed[2]
        leave = (self.n / (self.m * weakest)) if self.attack.same_neuron == "leave_one_out" else 0.0
        bend = x**2 / 2 + leave * (self.largest + removed * top)
        terms = self.sign_terms

        def moved(k: int) -> float:
            """Root mean square of He_k(y') - He_k(z)."""
            total = 0.0
            for i in range(1, k + 1):
                power = 1 / (2 * i)
                by_u = (terms[f"u{k - i}"] * x**2 * (x * self.longest_u) ** (2 * i - 2)) ** power
                by_z = terms[f"z{k - i},{i}"] ** power
                total += math.comb(k, i) * ((1 + bend) * by_u + bend * by_z) ** i
            return total

        rms_h = self.rms + removed * rms_p
        off_second = shift + rms_h * moved(2)
        he2 = math.sqrt(terms["z0,2"]) + 1
        if self.residualized:
            eigenvalue = shift + (self.sigma + shift) * graph * x
            other = removed * rms_p + (self.sigma + eigenvalue) / 2 * moved(2) + eigenvalue / 2 * he2
            rms_core = self.rms + self.sigma / 2 * he2
        else:
            other, rms_core = 0.0, self.rms
        perturbed = (self.tau * self.rms_phi + (e0 + e1 * self.rms_z if self.residualized else 0.0)) * terms[
            "loose"
        ]
        off_core = terms["core"] + perturbed + rms_core * moved(q) + other * (terms["loose"] + moved(q))
        weight, ratio = self.attack.weight(q), cq / c2
        if q % 2:
            safe = off_second < r * abs(c2) and off_core < r * abs(cq)
        else:
            safe = off_second + weight * abs(ratio) * off_core < r * abs(c2) * (1 + weight * ratio**2)
            safe = safe and e1 + x * beta < abs(c1) * (r - self.tau)
        if not safe:
            raise UnsupportedBound(
                f"vacuous: m = {self.m} is too small to be certain of the feature's sign (the core may be off by "
                f"{off_core:.2g}, its limit is {r * abs(cq):.2g})"
            )


def _functions(setting: Setting, residualized: bool) -> _Functions:
    norm = float(setting.norms[0])
    activation = setting.activation
    c0, c1 = (activation.coefficient(k, norm) for k in (0, 1))
    kinks = [k / norm for k in activation.kinks]
    t, w = gaussian_rule(kinks, norm)
    centred = activation.function(norm * t) - c0
    kept = centred - c1 * t if residualized else centred + c0
    return _Functions(
        variance=float(w @ centred**2),
        parallel=float(w @ (centred * t) ** 2),
        power=float(w @ kept**2),
        power_t=float(w @ (kept * t) ** 2),
        slope=c1,
        centred=envelope(lambda x: activation.function(norm * x) - c0, kinks, norm),
        kept=envelope(
            lambda x: activation.function(norm * x) - ((c0 + c1 * x) if residualized else 0.0), kinks, norm
        ),
    )
