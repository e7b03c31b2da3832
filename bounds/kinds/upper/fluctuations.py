"""The moments' deviation at the true span, for two and three features: means on grids, and what later terms are built from.

"In-plane theorem" of paper_notes.md, steps 1 to 3; continued in ``bounds.kinds.upper.inplane``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from bounds.arrays import Array
from bounds.errors import UnsupportedBound
from bounds.estimator import TensorAttack
from bounds.gaussian.quadrature import hermite
from bounds.gaussian.symmetric import symmetric_tensors
from bounds.gaussian.tails import Ball, Envelope, chevet, covariance_deviation, hermite_norm
from bounds.kinds.fit_model import Functionals, Model
from bounds.kinds.upper.budget import Budget
from bounds.kinds.upper.envelopes import envelope, mixed_envelope
from bounds.kinds.upper.span import SpanTheorem
from bounds.setting import Setting

#: Shares of the failure probability: features' distances from the span, first-order motion of the fit (the rest as before).
LEADING_SPAN, LEADING_ROWS = 0.25, 0.25


#: A product of powers of named factors (``MomentFluctuations.factor``), sorted by name.
Factors = tuple[tuple[str, int], ...]


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


@dataclass(frozen=True)
class Term:
    """``coefficient`` times a product of radial factors times ``forms`` linear forms of u of unit norm."""

    coefficient: float
    factors: Factors
    forms: int

    def times(self, other: Term) -> Term:
        return Term(
            self.coefficient * other.coefficient,
            merged(self.factors, other.factors),
            self.forms + other.forms,
        )


def merged(*factors: Factors) -> Factors:
    total: dict[str, int] = {}
    for name, exponent in itertools.chain(*factors):
        if exponent and name != "he0":
            total[name] = total.get(name, 0) + exponent
    return tuple(sorted(total.items()))


class MomentFluctuations(SpanTheorem):
    """What is random of the moments and does not depend on the coupling X. ``step``: spacing of the grid in the span."""

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
        _ = self.fluctuations, self.slope_rms

    def check_grid(self) -> None:
        """Raises ``UnsupportedBound`` where the grid misses part of the functionals' second moments, which are known
        exactly: the activation then varies too fast for it."""
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
        key = merged(factors)
        if not key:
            return 1.0
        if key not in self._radial_means:
            values = self.product(key)
            self._radial_means[key] = self.core.nonnegative_mean(
                values, self.budget.spend(), self.core.expectation(values)
            )
        return self._radial_means[key]

    def forms(self, count: int, *factors: tuple[str, int]) -> float:
        """``sup over unit a of mean(envelope |a.u|^count)``, at most."""
        key = merged(factors)
        if count == 0:
            return self.radial_mean(*key)
        if count == 1:
            return math.sqrt(self.radial_mean(*key) * self.forms(2, *key))
        if (count, key) not in self._powers:
            largest = float(self.product(key)(np.array([self.core.limit]))[0])
            mean = self.radial_mean(*key)
            self._powers[count, key] = chevet(count, self.n, self.m, mean, largest, self.budget.spend())
        return self._powers[count, key]

    def mean_of(self, terms: list[Term]) -> float:
        return sum(t.coefficient * self.forms(t.forms, *t.factors) for t in terms)

    def rms_of(self, terms: list[Term]) -> float:
        """Sample root mean square of a sum of terms."""
        return sum(
            t.coefficient * math.sqrt(self.forms(2 * t.forms, *((name, 2 * p) for name, p in t.factors)))
            for t in terms
        )

    def hermite_terms(self, order: int, frobenius: float) -> list[tuple[int, Term]]:
        """``|He_order(S^-1 y)|`` as a sum: how far a term is from He_order(z), and the term."""
        found = []
        for i in range(order + 1):
            for pairs in range(i // 2 + 1):
                pairings = math.factorial(i) / (
                    2**pairs * math.factorial(pairs) * math.factorial(i - 2 * pairs)
                )
                coefficient = math.comb(order, i) * pairings * frobenius**i
                found.append((i, Term(coefficient, merged(((f"he{order - i}", 1),)), i - 2 * pairs)))
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
