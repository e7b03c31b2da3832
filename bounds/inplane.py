"""The error inside the span, with every constant, for two and three features: the random half of the in-plane theorem.

"In-plane theorem" of paper_notes.md, whose steps the names follow; read it through ``bounds.upper``. The deterministic half,
from the moments' error to the fitted features, is ``bounds.identification``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial

import numpy as np
from scipy import stats

from bounds.bound import UnsupportedBound
from bounds.concentration import Ball, Envelope, chaos, chevet, covariance_deviation, hermite_norm
from bounds.identification import (
    Functionals,
    Model,
    Perturbation,
    displacements,
    first_sines,
    second_order_misfit,
    symmetric_tensors,
)
from bounds.quadrature import Array, hermite
from bounds.setting import Setting
from bounds.span_theorem import (
    RADII,
    Budget,
    SpanTheorem,
    check_supported,
    envelope,
    mixed_envelope,
)
from bounds.tensor_attack import RITZ_TOLERANCE, TensorAttack, core_order

#: Shares of the failure probability: features' distances from the span, first-order motion of the fit (the rest as before).
LEADING_SPAN, LEADING_ROWS = 0.25, 0.25
#: Expectations by the trapezoidal rule stop here: its nodes grow with a power of B.
MOST_FEATURES = 3
#: Spacing of its nodes, in units of an activation at unit norm; and for counting events, where values do not matter.
_STEP = {2: 0.1, 3: 0.3}
_COARSE = 1.5

#: A product of powers of the factors of ``_Envelopes``, sorted by name.
Factors = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class InPlaneBound:
    """With probability at least ``1 - delta`` the attack's R is at most ``error``.

    displacements (B,): of the fitted unit vectors in the span. parts: ``moments``: error of the moments; ``start``: the
    largest sine that the identification leaves; ``inplane``: root mean square of the displacements, as a part of R."""

    error: float
    displacements: Array
    parts: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Coupling:
    """Sizes of X, the span as a graph over the true one: its norms, ``|X - C_z A_*^-1|_F``, ``|X u_i|`` (B,)."""

    operator: float
    frobenius: float
    beyond: float
    features: Array

    @property
    def shrunk_second(self) -> float:
        """``|I - S (x) S|``, S = (I + X^T X)^(-1/2)."""
        return 1 - 1 / (1 + self.operator**2)

    def shrunk(self, order: int) -> float:
        """``|I - S^(x)order|``."""
        return 1 - (1 + self.operator**2) ** (-order / 2)


@dataclass(frozen=True, eq=False)
class Fluctuations:
    """For K functionals (K,): everything random that does not depend on X.

    sampled: leading deviation at the true span; perturbed: that of residuals, mean and linear part; gradient: root mean
    square of the functional's derivative along the coupling; hessian, hessian_mean: its second derivative against u u^T - I
    and its mean; eigenvalue: against He_2."""

    sampled: Array
    perturbed: Array
    gradient: Array
    hessian: Array
    hessian_mean: Array
    eigenvalue: Array


@dataclass(frozen=True, eq=False)
class Remainders:
    """Norms of what is beyond second order in the coupling, or small besides: named parts of P and of T; ``second_moment``:
    ``|Lambda - A_r|``, ``eigenvalue``: what multiplies the functionals' eigenvalue term."""

    second: Mapping[str, float]
    core: Mapping[str, float]
    second_moment: float
    eigenvalue: float


@dataclass(frozen=True)
class _Term:
    """``coefficient`` times a product of radial factors times ``forms`` linear forms of u of unit norm."""

    coefficient: float
    factors: Factors
    forms: int

    def times(self, other: _Term) -> _Term:
        return _Term(
            self.coefficient * other.coefficient,
            _merged(self.factors, other.factors),
            self.forms + other.forms,
        )


def _merged(*factors: Factors) -> Factors:
    total: dict[str, int] = {}
    for name, exponent in itertools.chain(*factors):
        if exponent and name != "he0":
            total[name] = total.get(name, 0) + exponent
    return tuple(sorted(total.items()))


def in_plane_theorem(
    setting: Setting, attack: TensorAttack, noise_variance: float, delta: float
) -> InPlaneTheorem:
    """The theorem with its events counted. Raises ``UnsupportedBound`` for B > 3, and as the span theorem does."""
    check_supported(setting)
    if not 2 <= setting.B <= MOST_FEATURES:
        raise UnsupportedBound(
            f"not proved: the error inside the span for B = {setting.B} (its expectations are computed on grids in R^B, "
            f"for B <= {MOST_FEATURES}; that of the span is proved: see the details)"
        )
    order = core_order(setting.activation)
    events = _events(
        setting.B, noise_variance > 0, attack.residualized, order, attack.same_neuron == "leave_one_out"
    )
    budget = Budget(math.log(events / ((1 - LEADING_SPAN - LEADING_ROWS - RADII) * delta)))
    step = _STEP[setting.B] / max(1.0, float(setting.norms[0]))
    found = InPlaneTheorem(setting, attack, noise_variance, delta, budget, step)
    found.evaluate()
    if budget.used != events:
        raise ArithmeticError(f"the theorem used {budget.used} events, {events} were counted")
    found.check_grid()
    return found


@lru_cache(maxsize=256)
def _events(B: int, noisy: bool, residualized: bool, order: int, leave_one_out: bool) -> int:
    """How many small events the theorem uses: counted on a setting of that kind."""
    activation = "relu" if order == 4 else "z2z3"
    setting = Setting.orthonormal(B + 2, 100 * (B + 2), B, activation, labels=np.full(B, 3.0))
    attack = TensorAttack(
        "residualized" if residualized else "plain",
        same_neuron="leave_one_out" if leave_one_out else "ignored",
    )
    budget = Budget(20.0)
    InPlaneTheorem(setting, attack, float(noisy), 0.05, budget, _COARSE).evaluate()
    return budget.used


class InPlaneTheorem(SpanTheorem):
    """The numbers of the proof, under the names they have there. ``step``: spacing of the grid in the span."""

    def __init__(
        self,
        setting: Setting,
        attack: TensorAttack,
        noise_variance: float,
        delta: float,
        budget: Budget,
        step: float,
    ) -> None:
        super().__init__(setting, attack, noise_variance, delta, budget, LEADING_SPAN)
        q, activation, norm = self.order, setting.activation, self.norm
        self.c0, self.c1, self.c2, self.cq = (activation.coefficient(k, norm) for k in (0, 1, 2, q))
        self.model = Model(
            setting.directions,
            setting.residuals * self.c2,
            self.cq / self.c2,
            attack.weight(q),
            q,
        )
        self.leave_one_out = attack.same_neuron == "leave_one_out"
        self.turns_exponent = math.log(2 * self.B * (self.B - 1) / (LEADING_ROWS * delta))
        self.ball = Ball.of(self.B, self.core.limit, self.m, step)
        self.he = [hermite_norm(k, self.B) for k in range(q + 1)]
        self._radial_means: dict[Factors, float] = {}
        self._powers: dict[tuple[int, Factors], float] = {}

    def evaluate(self) -> None:
        """Every step once, so that every event is counted; vacuity is found only afterwards."""
        super().evaluate()
        for step in ("fluctuations", "sizes", "slope_rms"):
            getattr(self, step)
        nearby = Coupling(1e-3, 1e-3, 1e-3, np.full(self.B, 1e-3))
        self.remainders(nearby)

    def check_grid(self) -> None:
        """Raises ``UnsupportedBound`` where the grid misses part of the functionals' second moments, which are known exactly:
        the activation then varies too fast for it."""
        g, table = self.functionals, self.table
        _, _, h, f = self._values
        values = h * self.polynomial(g.second) + f * self.polynomial(g.core)
        exact = table.second_moment(0, 0, g.second, g.second)
        exact = exact + 2 * table.second_moment(0, 1, g.second, g.core)
        exact = exact + table.second_moment(1, 1, g.core, g.core)
        if np.any(exact > self.ball.mean_slack * (values**2 @ self.ball.weights) + 1e-12):
            raise UnsupportedBound(
                f"not proved: {self.setting.activation.name} varies too fast for the grid in the span"
            )

    # --- functions of z ------------------------------------------------------------------------------------------

    @cached_property
    def core_kept(self) -> Envelope:
        """Envelope of phi_q: phi less its second Hermite part where the attack removes it."""
        if not self.residualized:
            return self.functions.kept
        activation, norm = self.setting.activation, self.norm
        return envelope(
            lambda x: activation.function(norm * x) - self.c0 - self.c1 * x - self.c2 / 2 * (x * x - 1),
            [k / norm for k in activation.kinks],
            norm,
        )

    @cached_property
    def core_mixture(self) -> Envelope:
        """Envelope of ``sum r_i* phi_q,i``."""
        top = float(np.linalg.eigvalsh(self.setting.cosines)[-1])
        return mixed_envelope(np.abs(self.setting.residuals), self.core_kept, math.sqrt(top))

    def core_response(self, s: Array) -> Array:
        """Envelope of f° = sum r_i* phi_q,i + nu N."""
        return np.asarray(self.core_mixture(s) + self.nu * s)

    def factor(self, name: str, s: Array) -> Array:
        """Envelopes by name: z, h (of h^z), f (of f0), kept (of phi), core_kept (of phi_q), he0, he1, ..."""
        e0, e1, _, _ = self.removed
        match name:
            case "z":
                return s
            case "h":
                return self.response(s) + self.tau * self.B * self.functions.kept(s) + e0 + e1 * s
            case "f":
                return self.core_response(s) + self.tau * self.B * self.core_kept(s) + e0 + e1 * s
            case "kept":
                return self.functions.kept(s)
            case "core_kept":
                return self.core_kept(s)
        return self.he[int(name.removeprefix("he"))](s)

    def product(self, factors: Factors) -> Envelope:
        def values(s: Array) -> Array:
            found = np.ones_like(s)
            for name, exponent in factors:
                found = found * self.factor(name, s) ** exponent
            return found

        return values

    def radial_mean(self, *factors: tuple[str, int]) -> float:
        """Sample mean of a product of envelopes, at most."""
        key = _merged(factors)
        if not key:
            return 1.0
        if key not in self._radial_means:
            values = self.product(key)
            self._radial_means[key] = self.core.nonnegative_mean(
                values, self.budget.spend(), self.expectation(values)
            )
        return self._radial_means[key]

    def expectation(self, values: Envelope) -> float:
        """Upper Riemann sum of ``E values(|zeta|)``."""
        s = np.linspace(0.0, self.core.limit + 12.0, 8001)
        found = values(s) * stats.chi.pdf(s, self.core.dimension)
        return float(np.sum(np.maximum(found[1:], found[:-1])) * (s[1] - s[0]))

    def forms(self, count: int, *factors: tuple[str, int]) -> float:
        """``sup over unit a of mean(envelope |a.u|^count)``, at most."""
        key = _merged(factors)
        if count == 0:
            return self.radial_mean(*key)
        if count == 1:
            return math.sqrt(self.radial_mean(*key) * self.forms(2, *key))
        if (count, key) not in self._powers:
            largest = float(self.product(key)(np.array([self.core.limit]))[0])
            mean = self.radial_mean(*key)
            self._powers[count, key] = chevet(count, self.n, self.m, mean, largest, self.budget.spend())
        return self._powers[count, key]

    def mean_of(self, terms: list[_Term]) -> float:
        return sum(t.coefficient * self.forms(t.forms, *t.factors) for t in terms)

    def rms_of(self, terms: list[_Term]) -> float:
        """Sample root mean square of a sum of terms."""
        return sum(
            t.coefficient * math.sqrt(self.forms(2 * t.forms, *((name, 2 * p) for name, p in t.factors)))
            for t in terms
        )

    def hermite_terms(self, order: int, frobenius: float) -> list[tuple[int, _Term]]:
        """``|He_order(S^-1 y)|`` as a sum: how far a term is from He_order(z), and the term."""
        found = []
        for i in range(order + 1):
            for pairs in range(i // 2 + 1):
                pairings = math.factorial(i) / (
                    2**pairs * math.factorial(pairs) * math.factorial(i - 2 * pairs)
                )
                coefficient = math.comb(order, i) * pairings * frobenius**i
                found.append((i, _Term(coefficient, _merged(((f"he{order - i}", 1),)), i - 2 * pairs)))
        return found

    def gaussian(self) -> float:
        """``|mean F (x) u| <= rms(F)`` times this."""
        return (math.sqrt(self.n) + self.normal()) / math.sqrt(self.m)

    # --- root mean squares of h^z and f0 against Hermite tensors -----------------------------------------------------

    def residual_rms(self, kept: str, *factors: tuple[str, int]) -> float:
        """Sample root mean square of ``|h^z - h°|`` (kept) or ``|f0 - f°|`` (core_kept) times the factors."""
        squares = [(name, 2 * p) for name, p in factors]
        total = self.tau * self.B * math.sqrt(self.radial_mean((kept, 2), *squares))
        if self.residualized:
            e0, e1, _, _ = self.removed
            total += e0 * math.sqrt(self.radial_mean(*squares))
            total += e1 * math.sqrt(self.radial_mean(("z", 2), *squares))
        return total

    def response_rms(self, core: bool, basis: Array) -> float:
        """Sample root mean square of h^z, or (core) f0, times the components of He_k(z) along orthonormal symmetric
        tensors, basis (K, B, ..., B)."""
        order, which = basis.ndim - 1, int(core)
        second = float(np.sum(self.table.second_moment(which, which, basis, basis)))
        second += self.noise_variance * math.factorial(order) * len(basis)
        he, response = self.he[order], self.core_response if core else self.response
        main = self.root(self.core, lambda s: (response(s) * he(s)) ** 2, second)
        return main + self.residual_rms("core_kept" if core else "kept", (f"he{order}", 1))

    @cached_property
    def slope_rms(self) -> float:
        """Sample root mean square of ``|h^z A_*^-1 z|``."""
        inverse = np.asarray(np.linalg.inv(self.limit), dtype=np.float64)
        expected = float(np.sum(self.table.second_moment(0, 0, inverse, inverse)))
        expected += self.noise_variance * float(np.sum(inverse**2))
        return self.weighted(1 / self.sigma, expected)

    # --- functionals of the moments ----------------------------------------------------------------------------------

    @cached_property
    def bases(self) -> tuple[Array, Array]:
        """Orthonormal bases of the symmetric tensors of the second moment and of the core."""
        return symmetric_tensors(self.B, 2), symmetric_tensors(self.B, self.order)

    @cached_property
    def _groups(self) -> dict[str, Functionals]:
        second, core = self.bases
        return {
            "second": Functionals(second, np.zeros((len(second), *(self.B,) * self.order))),
            "core": Functionals(np.zeros((len(core), self.B, self.B)), core),
            "weights": self.model.rows[: self.B],
            "turns": self.model.rows[self.B :],
            "complement": self.model.complement,
        }

    @cached_property
    def functionals(self) -> Functionals:
        """Those of P alone, of T alone, the rows of the pseudo-inverse (weights, turns), and those that vanish on the
        model's tangent space."""
        return Functionals.joined(list(self._groups.values()))

    @cached_property
    def places(self) -> dict[str, slice]:
        """Where each group stands among ``functionals``."""
        ends = np.cumsum([len(g) for g in self._groups.values()]).tolist()
        return {
            name: slice(start, end)
            for name, start, end in zip(self._groups, [0, *ends[:-1]], ends, strict=True)
        }

    @cached_property
    def _hermite(self) -> dict[int, Array]:
        """Components of He_k at the nodes along the symmetric tensors' basis, (K, N), k = 0, ..., q."""
        z = self.ball.points
        line = hermite(self.order, z)
        found = {}
        for k in range(self.order + 1):
            rows = []
            for index in itertools.combinations_with_replacement(range(self.B), k):
                counts = [index.count(b) for b in range(self.B)]
                repeated = math.factorial(k) / math.prod(math.factorial(c) for c in counts)
                value = np.full(len(z), math.sqrt(repeated))
                for b, c in enumerate(counts):
                    value = value * line[c][:, b]
                rows.append(value)
            found[k] = np.array(rows)
        return found

    def polynomial(self, tensors: Array) -> Array:
        """``<t, He(z)>`` at the nodes for a stack of symmetric tensors: (K, N)."""
        order, count = tensors.ndim - 1, len(tensors)
        basis = symmetric_tensors(self.B, order)
        return np.asarray(
            (tensors.reshape(count, -1) @ basis.reshape(len(basis), -1).T) @ self._hermite[order]
        )

    @cached_property
    def _values(self) -> tuple[Array, Array, Array, Array]:
        """At the nodes: phi_i and phi_q,i (B, N), and h° and f° without noise (N,)."""
        t = self.model.directions @ self.ball.points.T
        phi = self.setting.activation.function(self.norm * t)
        if self.residualized:
            phi = phi - self.c0 - self.c1 * t
        core = phi - self.c2 / 2 * (t * t - 1) if self.residualized else phi
        r = self.setting.residuals
        return phi, core, r @ phi, r @ core

    def tail(self, second: Envelope, core: Envelope) -> Array:
        """What lies beyond the ball of ``second |L| + core |M|``: (K,)."""
        g = self.functionals
        return np.asarray(self.core.tail(second) * g.second_norms + self.core.tail(core) * g.core_norms)

    @cached_property
    def fluctuations(self) -> Fluctuations:
        g = self.functionals
        second, core = self.polynomial(g.second), self.polynomial(g.core)
        return Fluctuations(
            self._sampled(second, core),
            self._perturbed(second + core, second, core),
            self._gradient(core),
            *self._curved(core),
        )

    def _sampled(self, second: Array, core: Array) -> Array:
        """``|mean(h° <L, He_2> + f° <M, He_q>) - E|``; rows of the pseudo-inverse have a share of their own."""
        _, _, h, f = self._values
        he2, heq = self.he[2], self.he[self.order]
        tail = self.tail(lambda s: self.response(s) * he2(s), lambda s: self.core_response(s) * heq(s))
        values, noise = h * second + f * core, self.noise_variance * (second + core) ** 2
        found = np.zeros(len(values))
        for name, group in self.places.items():
            count = group.stop - group.start
            exponent = self.turns_exponent if name == "turns" else self.budget.spend(2 * count)
            found[group] = self.ball.mean_excess(
                values[group], exponent, tail[group], noise[group] if self.nu else None
            )
        return found

    def _perturbed(self, whole: Array, second: Array, core: Array) -> Array:
        """What the errors of residuals, mean and linear part add at the true span."""
        phi, core_phi, _, _ = self._values
        he2, heq = self.he[2], self.he[self.order]
        count, spend = len(whole), self.budget.spend
        kept = self.tail(lambda s: self.functions.kept(s) * he2(s), lambda s: self.core_kept(s) * heq(s))
        total = np.zeros(count)
        for one, core_one in zip(phi, core_phi, strict=True):
            total += self.tau * self.ball.mean_excess(one * second + core_one * core, spend(2 * count), kept)
        if not self.residualized:
            return total
        e0, e1, beta, _ = self.removed
        total += e0 * self.ball.mean_excess(whole, spend(2 * count), self.tail(he2, heq))
        linear = self.tail(lambda s: s * he2(s), lambda s: s * heq(s))
        along = [self.ball.mean_excess(z * whole, spend(2 * count), linear) for z in self.ball.points.T]
        total += e1 * np.linalg.norm(along, axis=0)
        square = self.ball.nonnegative_mean(whole**2, spend(count))
        gaussian = (math.sqrt(self.n) + self.normal(count)) / math.sqrt(self.m)
        return np.asarray(total + beta * gaussian * np.sqrt(square))

    def _radial_means_of(self, envelopes: Callable[[int, Array], Array], expected: Array) -> Array:
        """Sample means, at most, of nonnegative functions with these envelopes and expectations: (K,)."""
        return np.array(
            [
                self.core.nonnegative_mean(partial(envelopes, k), self.budget.spend(), float(value))
                for k, value in enumerate(expected)
            ]
        )

    def _gradient(self, core: Array) -> Array:
        """Sample root mean square of ``2 h^z L z + q f0 M[He_{q-1}(z)] - A_* z <M, He_q(z)>`` (the last if residualized)."""
        g, q = self.functionals, self.order
        _, _, h, f = self._values
        z = self.ball.points
        removed = float(self.residualized)
        square = np.zeros_like(core)
        for b in range(self.B):
            line, part = 2 * g.second[:, b] @ z.T, q * self.polynomial(g.core[:, b])
            square += (h * line + f * part - removed * (z @ self.limit[b]) * core) ** 2
            if self.nu:
                square += self.noise_variance * (line + part) ** 2
        spend, count = self.budget.spend, len(core)
        spend(3 * count)  # the Gaussian chaos and the Gaussian tensor that the root mean square multiplies
        if self.nu:
            top = removed * float(np.linalg.norm(self.limit, 2))
            L, M = g.second_norms, g.core_norms

            def radial(k: int, s: Array) -> Array:
                lines = 2 * L[k] * self.response(s) * s
                cores = q * self.core_response(s) * self.he[q - 1](s) + top * s * self.he[q](s)
                return (lines + M[k] * cores) ** 2

            mean = self._radial_means_of(radial, self.ball.mean_slack * square @ self.ball.weights)
        else:
            mean = self.ball.nonnegative_mean(square, spend(count))
        moved = 2 * g.second_norms * self.residual_rms("kept", ("z", 1))
        moved = moved + q * g.core_norms * self.residual_rms("core_kept", (f"he{q - 1}", 1))
        return np.asarray(np.sqrt(mean) + moved)

    def _curved(self, core: Array) -> tuple[Array, Array, Array]:
        """Second-order terms of T: against u u^T - I, their means, the eigenvalue term. Zero for functionals of P."""
        g, q, B = self.functionals, self.order, self.B
        found = np.zeros((3, len(g)))
        with_core = slice(self.places["second"].stop, len(g))
        core, M = core[with_core], g.core[with_core]
        sizes, count, spend = g.core_norms[with_core], len(M), self.budget.spend
        _, _, _, f = self._values
        z = self.ball.points
        slots = [self.polynomial(M[:, b]) for b in range(B)]
        pushed = z @ self.limit
        top = float(np.linalg.norm(self.limit, 2)) if self.residualized else 0.0
        heq, he1, he2 = self.he[q], self.he[q - 1], self.he[q - 2]
        pairs = math.comb(q, 2)
        other = f"he{q - 2}"
        moved = pairs * self.residual_rms("core_kept", (other, 1))
        limit = np.array([self.core.limit])
        moved_top = pairs * (self.factor("f", limit) - self.core_response(limit))[0] * he2(limit)[0]

        def radial(s: Array) -> Array:
            return pairs * self.core_response(s) * he2(s) + top * (q * s * he1(s) + heq(s) / 2)

        for b, c in itertools.combinations_with_replacement(range(B), 2):
            repeated = 1 if b == c else 2
            hessian = pairs * f * self.polynomial(M[:, b, c])
            if self.residualized:
                cross = -q / 2 * (pushed[:, b] * slots[c] + pushed[:, c] * slots[b])
                hessian = hessian + cross - self.limit[b, c] / 2 * core
                outside = self.core.tail(lambda s: top * q * s * he1(s)) * sizes
                found[1, with_core] += repeated * self.ball.mean_excess(cross, spend(2 * count), outside) ** 2
                against = self.ball.points[:, b] * self.ball.points[:, c] - float(b == c)
                outside = self.core.tail(lambda s: self.he[2](s) * heq(s)) * sizes
                seen = self.ball.mean_excess(against * core, spend(2 * count), outside)
                found[2, with_core] += repeated * seen**2
            if self.nu:
                expected = self.ball.mean_slack * (hessian**2) @ self.ball.weights
                expected += (pairs * self.nu * sizes) ** 2 * math.factorial(q - 2)
                largest = radial(limit)[0] * sizes
                mean = self._radial_means_of(lambda k, s: (radial(s) * sizes[k]) ** 2, expected)
            else:
                largest = self.ball.largest(hessian)
                mean = self.ball.nonnegative_mean(hessian**2, spend(count))
            for k in range(count):
                deviation = covariance_deviation(
                    self.n,
                    self.m,
                    math.sqrt(mean[k]) + moved * sizes[k],
                    float(largest[k] + moved_top * sizes[k]),
                    spend(4),
                )
                found[0, with_core.start + k] += repeated * deviation**2
        hessian_size, hessian_mean, eigenvalue = np.sqrt(found)
        return hessian_size, hessian_mean, eigenvalue

    # --- norms that the remainders are made of -----------------------------------------------------------------------

    def covariance(self, rms: float, *factors: tuple[str, int]) -> float:
        """``|mean f (u u^T - I)|`` for a function of that root mean square and envelope."""
        largest = float(self.product(_merged(factors))(np.array([self.core.limit]))[0])
        return covariance_deviation(self.n, self.m, rms, largest, self.budget.spend(4))

    @cached_property
    def sizes(self) -> dict[str, float]:
        """Norms of random tensors that do not depend on X, by the names they have in the proof."""
        B, q = self.B, self.order
        first, core_first = np.eye(B), symmetric_tensors(B, q - 1)
        sizes = {
            "hz": self.response_rms(False, first),
            "f He_{q-1}": self.response_rms(True, core_first),
        }
        sizes["C"] = sizes["hz"] * self.gaussian() + math.sqrt(B) * self.bent
        sizes["f He_{q-1} u"] = sizes["f He_{q-1}"] * self.gaussian()
        sizes["f He_{q-2} uu"] = _root_sum_square(
            self.covariance(self.response_rms(True, e[None]), ("f", 1), (f"he{q - 2}", 1))
            for e in symmetric_tensors(B, q - 2)
        )
        if self.residualized:
            sizes |= self._polynomial_sizes()
        return sizes

    def _polynomial_sizes(self) -> dict[str, float]:
        """The same for polynomials in z alone, which enter by the removed linear and second Hermite parts."""
        q, spend = self.order, self.budget.spend
        names = (f"he{q - 1}", f"he{q}")
        sizes = {}
        for k, name in zip((q - 1, q), names, strict=True):
            squares = self.ball.nonnegative_mean(self._hermite[k] ** 2, spend(len(self._hermite[k])))
            sizes[f"{name} uu"] = _root_sum_square(
                self.covariance(math.sqrt(square), (name, 1)) for square in squares
            )
        values = self._hermite[q - 1]
        blank = np.zeros(len(values))
        outside = blank + self.core.tail(self.he[q - 1])
        sizes["mean he_{q-1}"] = _root_sum_square(
            self.ball.mean_excess(values, spend(2 * len(values)), outside)
        )
        outside = blank + self.core.tail(lambda s: s * self.he[q - 1](s))
        mean: list[float] = []
        spread: list[float] = []
        for z in self.ball.points.T:
            mean.extend(self.ball.mean_excess(z * values, spend(2 * len(values)), outside))
            for square in self.ball.nonnegative_mean((z * values) ** 2, spend(len(values))):
                spread.append(self.covariance(math.sqrt(square), ("z", 1), (names[0], 1)))
        sizes["mean z he_{q-1}"] = _root_sum_square(mean)
        sizes["z he_{q-1} uu"] = _root_sum_square(spread)
        outside = np.zeros(len(self._hermite[q])) + self.core.tail(lambda s: self.he[2](s) * self.he[q](s))
        sizes["mean he_2 he_q"] = _root_sum_square(
            x
            for one in self._hermite[2]
            for x in self.ball.mean_excess(one * self._hermite[q], spend(2 * len(self._hermite[q])), outside)
        )
        for name, factors in (
            ("he_q u", ((names[1], 2),)),
            ("z he_q u", (("z", 2), (names[1], 2))),
            ("he_2 he_{q-1} u", (("he2", 2), (names[0], 2))),
        ):
            sizes[name] = math.sqrt(self.radial_mean(*factors)) * self.gaussian()
        return sizes

    # --- beyond second order in the coupling -------------------------------------------------------------------------

    @cached_property
    def apart(self) -> float:
        """How far A and A_r may lie from A_*, in Frobenius norm."""
        return max(self.shift, self.B * self.tau * abs(self.c2))

    @cached_property
    def limit_norms(self) -> tuple[float, float]:
        """Operator and Frobenius norm of A and A_r, at most."""
        return (
            float(np.linalg.norm(self.limit, 2)) + self.apart,
            float(np.linalg.norm(self.limit)) + self.apart,
        )

    def sampled_norm(self, group: str) -> float:
        """Norm of the deviation at the true span, of the second moment ("second") or of the core ("core")."""
        found, place = self.fluctuations, self.places[group]
        return float(np.linalg.norm(found.sampled[place] + found.perturbed[place]))

    def moved(self, coupling: Coupling) -> float:
        """``|Lambda - A_*|`` in Frobenius norm, Lambda the span step's Ritz matrix."""
        x, shrunk = coupling.operator, coupling.shrunk_second
        total = self.shift + sum(self._second_terms(coupling).values()) + 2 * x * self.sizes["C"]
        return total + shrunk * float(np.linalg.norm(self.limit))

    def _second_terms(self, coupling: Coupling) -> dict[str, float]:
        x, shrunk = coupling.operator, coupling.shrunk_second
        return {
            "shrinking": shrunk * self.shift,
            "coupling": 2 * x * (math.sqrt(self.B) * self.bent + self.sizes["C"] * shrunk),
            "noise": x * coupling.frobenius * self.edge,
        }

    def remainders(self, coupling: Coupling) -> Remainders:
        """Norms of what the functionals' own bounds leave out."""
        x, shrunk = coupling.operator, coupling.shrunk_second
        second = self._second_terms(coupling)
        apart = self.sampled_norm("second") + sum(second.values()) + 2 * x * self.sizes["C"]
        apart += shrunk * self.limit_norms[1]
        core = self._core_terms(coupling)
        eigenvalue = 0.0
        if self.residualized:
            eigenvalue = apart + shrunk * self.limit_norms[1]
            core |= self._removed_terms(coupling, eigenvalue)
        if self.leave_one_out:
            from_second, from_core = self._leave_one_out(coupling, apart)
            second, core = second | {"leave_one_out": from_second}, core | from_core
        return Remainders(second, core, apart, eigenvalue)

    def _core_terms(self, coupling: Coupling) -> dict[str, float]:
        """f0 He_q(y): orders three and more, and what S changes in the lower ones."""
        q, x, xF, shrunk = self.order, coupling.operator, coupling.frobenius, coupling.shrunk(self.order)
        response = _Term(1.0, (("f", 1),), 0)
        high = [response.times(term) for away, term in self.hermite_terms(q, xF) if away >= 3]
        return {
            "shrinking": shrunk * (self.sampled_norm("core") + self.B * self.tau * abs(self.cq)),
            "first": q * x * self.sizes["f He_{q-1} u"] * shrunk,
            "second": math.comb(q, 2) * x * xF * self.sizes["f He_{q-2} uu"] * shrunk,
            "high": self.mean_of(high),
        }

    def _removed_terms(self, coupling: Coupling, eigenvalue: float) -> dict[str, float]:
        """What enters by the removed linear part (along b_perp) and the removed second Hermite part."""
        q, x, xF, shrunk = self.order, coupling.operator, coupling.frobenius, coupling.shrunk(self.order)
        sizes, names = self.sizes, (f"he{self.order - 1}", f"he{self.order}")
        _, _, beta, _ = self.removed
        top, frobenius = self.limit_norms
        expansion = self.hermite_terms(q, xF)
        form, z = _Term(1.0, (), 1), _Term(1.0, (("z", 1),), 0)
        high = self.mean_of([form.times(t) for away, t in expansion if away >= 2])
        linear = sizes["he_q u"] * shrunk + q * x * (sizes[f"{names[0]} uu"] + sizes["mean he_{q-1}"]) + high
        crossed = x * (q * sizes["he_2 he_{q-1} u"] + 2 * sizes["z he_q u"])
        crossed += self.mean_of(
            [
                two.times(t)
                for away, two in self.hermite_terms(2, xF)
                for further, t in expansion
                if away + further >= 2
            ]
        )
        crossed += 2 * shrunk * sizes["mean he_2 he_q"]
        # S A_r S for A_* in the terms that the functionals' own bounds have with A_*
        apart = self.tau * self.B * abs(self.c2) + coupling.shrunk_second * frobenius + shrunk * frobenius
        once = x * sizes["z he_q u"] + q * x * xF * (sizes["z he_{q-1} uu"] + sizes["mean z he_{q-1}"])
        once_high = self.mean_of([form.times(z).times(t) for away, t in expansion if away >= 2])
        twice = self.mean_of(
            [_Term(1.0, (), forms).times(t) for forms in (0, 2) for away, t in expansion if away >= 1]
        )
        return {
            "linear": beta * linear,
            "eigenvalue": eigenvalue / 2 * crossed,
            "removed_once": apart * once + top * xF * once_high,
            "removed_twice": apart / 2 * x * xF * sizes[f"{names[1]} uu"] + top / 2 * xF**2 * twice,
        }

    def _leave_one_out(self, coupling: Coupling, apart: float) -> tuple[float, dict[str, float]]:
        """The leave-one-out shift beyond what cancels the functionals' first order: of P, and of T by parts."""
        q, xF, shrunk = self.order, coupling.frobenius, coupling.shrunk(self.order)
        shrunk_second, ratio = coupling.shrunk_second, self.n / self.m
        _, _, beta, _ = self.removed
        moved = self.moved(coupling)
        weakest = max(self.sigma - moved, 1e-9)
        inverse = moved / (weakest * self.sigma)
        eta = ratio / weakest * (self.largest + beta * self.along_b[1])
        hz, fz = self.sizes["hz"], self.sizes["f He_{q-1}"]
        y = [_Term(1.0, (("z", 1),), 0), _Term(xF, (), 1)]
        h = [_Term(1.0, (("h", 1),), 0), *([_Term(beta, (), 1)] if self.residualized else [])]
        hy = hz + self.rms_of([a.times(b) for a, b in itertools.product(h, y)][1:])
        second = ratio * (
            2 * inverse * hy**2
            + 2 / self.sigma * (hy**2 - hz**2 + shrunk_second * hz**2)
            + eta / weakest * hy**2
        )
        rest = self._beyond_core_response(coupling, apart, h, y, ratio * (1 + eta / 2))

        def f_times(order: int, exponent: int) -> float:
            """Sample root mean square of ``f |He_order(y)| |y|^exponent``."""
            lengths = [
                _Term(math.comb(exponent, j) * xF**j, _merged((("z", exponent - j),)), j)
                for j in range(exponent + 1)
            ]
            hermites = [t for _, t in self.hermite_terms(order, xF)]
            products = [a.times(b) for a, b in itertools.product(hermites, lengths)]
            response = _Term(1.0, (("f", 1),), 0)
            main = [response.times(t) for t in products]
            total = self.rms_of([g.times(t) for g, t in itertools.product(rest, products)])
            if order == q - 1 and exponent == 0:  # its first term is known better
                return total + fz + self.rms_of(main[1:])
            return total + self.rms_of(main)

        fy = f_times(q - 1, 0)
        shift = q * ratio * (inverse * fy * hy + (fy * hy - (1 - shrunk) * fz * hz) / self.sigma)
        shift += (
            ratio
            / weakest
            * hy
            * sum(math.comb(q, i) * eta ** (i - 1) * f_times(q - i, i - 1) for i in range(2, q + 1))
        )
        core = {"leave_one_out": shift}
        if self.residualized:
            expansion = [t for _, t in self.hermite_terms(q, xF)]
            products = [a.times(b) for a, b in itertools.product(expansion, y)]
            yq, zq = self.rms_of(products), self.rms_of(products[:1])
            back = (1 + eta / 2) * hy * yq - (1 - coupling.shrunk(q + 2)) * hz * zq
            core["leave_one_out_eigenvalue"] = ratio * back
        return second, core

    def _beyond_core_response(
        self, coupling: Coupling, apart: float, h: list[_Term], y: list[_Term], ratio: float
    ) -> list[_Term]:
        """``|f - f0|`` as a sum of terms: linear part, second Hermite part at y', the leave-one-out shift in it."""
        if not self.residualized:
            return []
        xF = coupling.frobenius
        top, frobenius = self.limit_norms
        _, _, beta, _ = self.removed
        he2 = [t for _, t in self.hermite_terms(2, xF)]
        square = [a.times(b) for a, b in itertools.product(y, y)]
        return [
            _Term(beta, (), 1),
            *(_Term(apart / 2, (), 0).times(t) for t in he2),
            _Term(frobenius / 2 * coupling.shrunk_second, (("he2", 1),), 0),
            _Term(top * xF, (("z", 1),), 1),
            _Term(top / 2 * xF**2, (), 2),
            _Term(top / 2 * xF**2, (), 0),
            *(_Term(ratio, (), 0).times(a).times(b) for a, b in itertools.product(h, square)),
        ]

    # --- the span as a graph -----------------------------------------------------------------------------------------

    def _ritz_size(self, coupling: Coupling) -> float:
        """What the span step's tolerance adds to X, in Frobenius norm."""
        x, floor = coupling.operator, self.sigma - self.shift
        weakest = self.sigma + self.moved(coupling)
        return (1 + x) * math.sqrt(self.B) * RITZ_TOLERANCE * math.sqrt(1 + x * x) * weakest / floor

    @cached_property
    def graph(self) -> Coupling:
        """The sizes of the attack's X. Raises ``UnsupportedBound`` where the span theorem is vacuous."""
        span, relative = self.span, self.shift / self.sigma
        floor = self.sigma - self.shift
        features, x = span.features / self.norm, span.graph
        wide = Coupling(x, math.sqrt(self.B) * x, math.inf, features)
        known = (self.coupling + math.sqrt(self.B) * self.bent / self.sigma) / (1 - relative)
        known += self._ritz_size(wide)
        left = 1 - (self.edge + self.sizes["C"] * x) / floor
        smallest = float(np.linalg.svd(self.model.directions, compute_uv=False)[-1])
        frobenius = min(
            math.sqrt(self.B) * x,
            float(np.linalg.norm(features)) / smallest,
            known / left if left > 0 else math.inf,
        )
        x = min(x, frobenius)
        near = Coupling(x, frobenius, math.inf, features)
        beyond = self.coupling * relative / (1 - relative) + math.sqrt(self.B) * self.bent / floor
        beyond += frobenius * (self.edge + self.sizes["C"] * x) / floor + self._ritz_size(near)
        return Coupling(x, frobenius, beyond, features)

    # --- the moments, the fit ----------------------------------------------------------------------------------------

    def own_deviations(self, coupling: Coupling, remainders: Remainders) -> tuple[Array, Array]:
        """Every functional of the moments' error but for the remainders: what is random, and what S does to the truth."""
        found, x, xF = self.fluctuations, coupling.operator, coupling.frobenius
        # The three events of every functional are counted with its gradient.
        t, n, m = self.budget.exponent, self.n, self.m
        first = self.slope_rms * chaos(n, m, t) + coupling.beyond * (
            math.sqrt(n) + math.sqrt(2 * t)
        ) / math.sqrt(m)
        if not self.leave_one_out:
            first += self.n / self.m * self.slope_rms
        random = found.sampled + found.perturbed + found.gradient * first + xF**2 * found.hessian
        random = random + x * xF * found.hessian_mean + remainders.eigenvalue / 2 * found.eigenvalue
        return random, self._shrinking(coupling)

    def _shrinking(self, coupling: Coupling) -> Array:
        """The moments of ``S u_i`` instead of those of u_i, (K,)."""
        g, q, kappa = self.functionals, self.order, self.model.kappa
        total = np.zeros(len(g))
        for u, weight, a in zip(self.model.directions, self.model.weights, coupling.features, strict=True):
            core = g.core
            for _ in range(q - 1):
                core = np.tensordot(core, u, axes=([1], [0]))
            slope = np.linalg.norm(2 * g.second @ u + q * kappa * core, axis=1)
            bent = g.second_norms + math.comb(q, 2) * abs(kappa) * g.core_norms
            d = coupling.operator * a / 2
            total += abs(weight) * (d * slope + d * d * bent)
        return total

    def perturbation(self, coupling: Coupling) -> Perturbation:
        """The moments' error, with the misfit that a global minimum has at most."""
        remainders, omega = self.remainders(coupling), self.model.omega
        random, shrinking = self.own_deviations(coupling, remainders)
        second_rest, core_rest = sum(remainders.second.values()), sum(remainders.core.values())
        weights = float(np.abs(self.model.weights) @ coupling.features) * coupling.operator
        kappa, places = abs(self.model.kappa), self.places
        second = second_rest + float(np.linalg.norm(random[places["second"]])) + weights
        core = core_rest + float(np.linalg.norm(random[places["core"]])) + weights * self.order / 2 * kappa
        total = math.hypot(second, math.sqrt(omega) * core)
        g, off = self.functionals, abs(self.c2) * self.tau
        deviations = random + shrinking + g.second_norms * second_rest + g.core_norms * core_rest
        turned = np.concatenate([deviations[places["weights"]], deviations[places["turns"]]])
        rows = np.minimum(turned, self.model.rows.sizes(omega) * total)
        outside = float(np.linalg.norm((random + shrinking)[places["complement"]]))
        outside += math.hypot(second_rest, math.sqrt(omega) * core_rest)
        misfit = min(total, outside + second_order_misfit(self.model, rows, off))
        return Perturbation(total, second, misfit, rows, off)

    @cached_property
    def _known(self) -> Perturbation:
        return self.perturbation(self.graph)

    @property
    def error(self) -> float:
        """The bound of R."""
        return self.bound().error

    def bound(self, misfit: float | None = None) -> InPlaneBound:
        """The bound of R; ``misfit``: the fit's objective over the squared norm of its data, where it is known.

        Raises ``UnsupportedBound`` where it is vacuous."""
        coupling, known = self.graph, self._known
        if misfit is not None:
            data = self.model.size + self.model.atom * self.B * known.weights + known.total
            known = replace(known, misfit=math.sqrt(misfit) * data)
        start = first_sines(self.model, known)
        p = displacements(self.model, start, known)
        if self.order % 2 == 0:
            self._check_signs(p)
        a, x = coupling.features, coupling.operator
        error = self.norm * math.sqrt(float(np.mean(p**2 + a * (a + x * p))))
        parts = {
            "inplane": self.norm * math.sqrt(float(np.mean(p**2))),
            "moments": known.total,
            "misfit": known.misfit,
            "start": float(np.max(start)),
        }
        return InPlaneBound(error, p, parts)

    def _check_signs(self, p: Array) -> None:
        """Raises ``UnsupportedBound`` unless the linear part gives every feature its sign (even order)."""
        _, e1, beta, _ = self.linear
        x, r, c1 = self.graph.operator, np.abs(self.setting.residuals), abs(self.c1)
        along = c1 * (
            float(np.linalg.norm(self.setting.residuals @ self.model.directions)) + self.B * self.tau
        )
        error = x * x / 2 * along + e1 + x * beta + c1 * float(p @ (r + self.tau))
        smallest = float(np.linalg.svd(self.model.directions, compute_uv=False)[-1])
        smallest -= float(np.linalg.norm(p))
        if smallest <= 0 or error / smallest >= c1 * (float(np.min(r)) - self.tau):
            raise UnsupportedBound("vacuous: m is too small to be certain of the features' signs")


def _root_sum_square(values: Iterable[float]) -> float:
    return float(np.linalg.norm(list(values)))
