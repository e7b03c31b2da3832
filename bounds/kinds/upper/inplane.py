"""The error inside the span, with every constant, for two and three features: the random half of the in-plane theorem.

"In-plane theorem" of paper_notes.md, whose steps the names follow; read it through ``theorem.py``. The deterministic half,
from the moments' error to the fitted features, is ``bounds.identification``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np

from bounds.arrays import Array
from bounds.errors import UnsupportedBound
from bounds.estimator import RITZ_TOLERANCE, TensorAttack, core_order
from bounds.gaussian.symmetric import symmetric_tensors
from bounds.gaussian.tails import chaos, covariance_deviation
from bounds.kinds.upper.budget import Budget
from bounds.kinds.upper.fluctuations import LEADING_ROWS, LEADING_SPAN, MomentFluctuations, Term, merged
from bounds.kinds.upper.identification import Perturbation, displacements, first_sines, second_order_misfit
from bounds.kinds.upper.span import RADII, check_supported
from bounds.setting import Setting

#: Expectations by the trapezoidal rule stop here: its nodes grow with a power of B.
MOST_FEATURES = 3


#: Spacing of its nodes, in units of an activation at unit norm; and for counting events, where values do not matter.
_STEP = {2: 0.1, 3: 0.3}


_COARSE = 1.5


_MOST_NODES = 500_000


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
class Remainders:
    """Norms of what is beyond second order in the coupling, or small besides: named parts of P and of T; ``second_moment``:
    ``|Lambda - A_r|``, ``eigenvalue``: what multiplies the functionals' eigenvalue term."""

    second: Mapping[str, float]
    core: Mapping[str, float]
    second_moment: float
    eigenvalue: float


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
    if (14 / step) ** setting.B > _MOST_NODES:
        raise UnsupportedBound(
            f"not proved: norms of {setting.norms[0]:.3g} ask for too fine a grid in the span"
        )
    found = InPlaneTheorem(setting, attack, noise_variance, delta, budget, step)
    found.evaluate()
    if budget.used != events:
        raise ArithmeticError(f"the theorem used {budget.used} events, {events} were counted")
    budget.close()
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


class InPlaneTheorem(MomentFluctuations):
    """The numbers of the proof, under the names they have there."""

    def evaluate(self) -> None:
        """Every step once, so that every event is counted; vacuity is found only afterwards."""
        super().evaluate()
        self.remainders(Coupling(1e-3, 1e-3, 1e-3, np.full(self.B, 1e-3)))

    # --- norms that the remainders are made of -----------------------------------------------------------------------

    def covariance(self, rms: float, *factors: tuple[str, int]) -> float:
        """``|mean f (u u^T - I)|`` for a function of that root mean square and envelope."""
        largest = float(self.product(merged(factors))(np.array([self.core.limit]))[0])
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
        response = Term(1.0, (("f", 1),), 0)
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
        form, z = Term(1.0, (), 1), Term(1.0, (("z", 1),), 0)
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
            [Term(1.0, (), forms).times(t) for forms in (0, 2) for away, t in expansion if away >= 1]
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
        y = [Term(1.0, (("z", 1),), 0), Term(xF, (), 1)]
        h = [Term(1.0, (("h", 1),), 0), *([Term(beta, (), 1)] if self.residualized else [])]
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
                Term(math.comb(exponent, j) * xF**j, merged((("z", exponent - j),)), j)
                for j in range(exponent + 1)
            ]
            hermites = [t for _, t in self.hermite_terms(order, xF)]
            products = [a.times(b) for a, b in itertools.product(hermites, lengths)]
            response = Term(1.0, (("f", 1),), 0)
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
        self, coupling: Coupling, apart: float, h: list[Term], y: list[Term], ratio: float
    ) -> list[Term]:
        """``|f - f0|`` as a sum of terms: linear part, second Hermite part at y', the leave-one-out shift in it."""
        if not self.residualized:
            return []
        xF = coupling.frobenius
        top, frobenius = self.limit_norms
        _, _, beta, _ = self.removed
        he2 = [t for _, t in self.hermite_terms(2, xF)]
        square = [a.times(b) for a, b in itertools.product(y, y)]
        return [
            Term(beta, (), 1),
            *(Term(apart / 2, (), 0).times(t) for t in he2),
            Term(frobenius / 2 * coupling.shrunk_second, (("he2", 1),), 0),
            Term(top * xF, (("z", 1),), 1),
            Term(top / 2 * xF**2, (), 2),
            Term(top / 2 * xF**2, (), 0),
            *(Term(ratio, (), 0).times(a).times(b) for a, b in itertools.product(h, square)),
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
