"""The in-plane theorem: the error itself for two and three features, with every constant.

Proof: bounds/proofs/in-plane.md, whose steps the names follow. It holds a span theorem, what is random of the moments
(``fluctuations``) and norms for the rest (``remainders``); from the moments' error to the fitted features leads
``bounds.kinds.upper.identification``. X is the attack's span as a graph over the true one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np

from bounds.arrays import Array
from bounds.errors import UnsupportedBound
from bounds.estimator import RITZ_TOLERANCE, TensorAttack
from bounds.gaussian.tails import chaos
from bounds.kinds.upper.budget import Known, Shape, Spent, Step, run, solved
from bounds.kinds.upper.case import RADII, SpanCase, check_supported
from bounds.kinds.upper.fluctuations import Fluctuations, fluctuations
from bounds.kinds.upper.identification import Perturbation, displacements, first_sines, second_order_misfit
from bounds.kinds.upper.plane import LEADING_ROWS, LEADING_SPAN, PlaneCase
from bounds.kinds.upper.products import Products, products
from bounds.kinds.upper.remainders import CoupledMoments, Coupling, Remainders, probe
from bounds.kinds.upper.sizes import Sizes, sizes
from bounds.kinds.upper.span import STEPS, SpanTheorem
from bounds.setting import Setting

#: Expectations by the trapezoidal rule stop here: its nodes grow with a power of B.
MOST_FEATURES = 3


#: Spacing of its nodes, in units of an activation at unit norm; and for counting events, where values do not matter.
_STEP = {2: 0.1, 3: 0.3}


_COARSE = 1.5


_MOST_NODES = 500_000


#: The random steps of the proof, in its order; ``products`` keeps what later ones share.
IN_PLANE_STEPS: tuple[Step, ...] = (*STEPS, products, fluctuations, sizes, probe)


@dataclass(frozen=True)
class InPlaneBound:
    """With probability at least ``1 - delta`` the attack's R is at most ``error``.

    displacements (B,): of the fitted unit vectors in the span. parts: ``moments``: error of the moments; ``start``: the
    largest sine that the identification leaves; ``inplane``: root mean square of the displacements, as a part of R."""

    error: float
    displacements: Array
    parts: Mapping[str, float]


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
    events = _events(Shape.of(setting, attack, noise_variance))
    step = _STEP[setting.B] / max(1.0, float(setting.norms[0]))
    if (14 / step) ** setting.B > _MOST_NODES:
        raise UnsupportedBound(
            f"not proved: norms of {setting.norms[0]:.3g} ask for too fine a grid in the span"
        )
    start = start_of(setting, attack, noise_variance, delta, step)
    share = (1 - LEADING_SPAN - LEADING_ROWS - RADII) * delta
    theorem = InPlaneTheorem.of(solved(IN_PLANE_STEPS, start, events, share), math.log(events / share))
    theorem.case.check_grid()
    return theorem


def start_of(
    setting: Setting, attack: TensorAttack, noise_variance: float, delta: float, step: float
) -> Known:
    """What the steps start from; ``step``: spacing of the grid."""
    span = SpanCase(setting, attack, noise_variance, delta, LEADING_SPAN)
    return Known.of(span, PlaneCase(span, step))


@lru_cache(maxsize=256)
def _events(shape: Shape) -> int:
    """How many small events the theorem uses: counted on a setting of that shape."""
    return run(IN_PLANE_STEPS, start_of(*shape.example(), 0.05, _COARSE)).spent


@dataclass(frozen=True, eq=False)
class InPlaneTheorem:
    """The numbers of the proof, and what follows from them. ``exponent``: every small event has probability
    ``exp(-exponent)``; ``events``: how many each step used."""

    case: PlaneCase
    span: SpanTheorem
    products: Products
    fluctuations: Fluctuations
    sizes: Sizes
    exponent: float
    events: Mapping[str, int]

    @staticmethod
    def of(known: Known, exponent: float) -> InPlaneTheorem:
        return InPlaneTheorem(
            known[PlaneCase],
            SpanTheorem.of(known),
            known[Products].drawing(Spent(exponent)),
            known[Fluctuations],
            known[Sizes],
            exponent,
            known.events,
        )

    # --- the span as a graph ------------------------------------------------------------------------------------------

    def coupled(self, coupling: Coupling) -> CoupledMoments:
        """The moments for a span of that size."""
        return CoupledMoments(self.case, self.span, self.products, self.sizes, self.fluctuations, coupling)

    def _ritz_size(self, coupling: Coupling) -> float:
        """What the span step's tolerance adds to X, in Frobenius norm."""
        x, sigma = coupling.operator, self.span.case.sigma
        floor, weakest = sigma - self.span.second.shift, sigma + self.coupled(coupling).moved
        return (1 + x) * math.sqrt(self.span.case.B) * RITZ_TOLERANCE * math.sqrt(1 + x * x) * weakest / floor

    @cached_property
    def graph(self) -> Coupling:
        """The sizes of the attack's X. Raises ``UnsupportedBound`` where the span theorem is vacuous."""
        case, cross, edge = self.span.case, self.span.cross, self.span.noise.edge
        relative, floor = self.span.second.shift / case.sigma, case.sigma - self.span.second.shift
        root_B = math.sqrt(case.B)
        features, x = self.span.bound.features / case.norm, self.span.bound.graph
        wide = Coupling(x, root_B * x, math.inf, features)
        known = (cross.coupling + root_B * cross.bent / case.sigma) / (1 - relative)
        known += self._ritz_size(wide)
        left = 1 - (edge + self.sizes.cross * x) / floor
        frobenius = min(
            root_B * x,
            float(np.linalg.norm(features)) / case.steepest_direction,
            known / left if left > 0 else math.inf,
        )
        x = min(x, frobenius)
        near = Coupling(x, frobenius, math.inf, features)
        beyond = cross.coupling * relative / (1 - relative) + root_B * cross.bent / floor
        beyond += frobenius * (edge + self.sizes.cross * x) / floor + self._ritz_size(near)
        return Coupling(x, frobenius, beyond, features)

    # --- the moments, the fit -----------------------------------------------------------------------------------------

    def random_deviations(self, coupling: Coupling, remainders: Remainders) -> Array:
        """What is random of every functional of the moments' error, but for the remainders: (K,)."""
        random, case = self.fluctuations, self.span.case
        # The three events of every functional are counted with its gradient.
        t, n, m = self.exponent, case.n, case.m
        first = random.coupling_rms * chaos(n, m, t)
        first += coupling.beyond * (math.sqrt(n) + math.sqrt(2 * t)) / math.sqrt(m)
        if not self.case.leave_one_out:
            first += n / m * random.coupling_rms
        x, xF = coupling.operator, coupling.frobenius
        total = random.sampled + random.perturbed + random.gradient * first
        total = total + xF**2 * random.curvature.hessian + x * xF * random.curvature.mean
        return np.asarray(total + remainders.eigenvalue / 2 * random.curvature.eigenvalue)

    def shrinking(self, coupling: Coupling) -> Array:
        """The moments of ``S u_i`` instead of those of u_i, (K,), ``S = (I + X^T X)^(-1/2)``."""
        g, model = self.case.functionals, self.case.model
        q, kappa = model.order, model.kappa
        total = np.zeros(len(g))
        for u, weight, a in zip(model.directions, model.weights, coupling.features, strict=True):
            core = g.core
            for _ in range(q - 1):
                core = np.tensordot(core, u, axes=([1], [0]))
            slope = np.linalg.norm(2 * g.second @ u + q * kappa * core, axis=1)
            bent = g.second_norms + math.comb(q, 2) * abs(kappa) * g.core_norms
            d = coupling.operator * a / 2
            total += abs(weight) * (d * slope + d * d * bent)
        return total

    @cached_property
    def perturbation(self) -> Perturbation:
        """The moments' error, with the misfit that a global minimum has at most."""
        coupling, model, places = self.graph, self.case.model, self.case.places
        omega, kappa = model.omega, abs(model.kappa)
        remainders = self.coupled(coupling).remainders()
        random, shrinking = self.random_deviations(coupling, remainders), self.shrinking(coupling)
        second_rest, core_rest = sum(remainders.second.values()), sum(remainders.core.values())
        weights = float(np.abs(model.weights) @ coupling.features) * coupling.operator
        second = second_rest + float(np.linalg.norm(random[places["second"]])) + weights
        core = core_rest + float(np.linalg.norm(random[places["core"]])) + weights * model.order / 2 * kappa
        total = math.hypot(second, math.sqrt(omega) * core)
        g, off = self.case.functionals, abs(self.case.coefficient(2)) * self.span.first.residual
        deviations = random + shrinking + g.second_norms * second_rest + g.core_norms * core_rest
        turned = np.concatenate([deviations[places["weights"]], deviations[places["turns"]]])
        rows = np.minimum(turned, model.rows.sizes(omega) * total)
        outside = float(np.linalg.norm((random + shrinking)[places["complement"]]))
        outside += math.hypot(second_rest, math.sqrt(omega) * core_rest)
        misfit = min(total, outside + second_order_misfit(model, rows, off))
        return Perturbation(total, model.seen_second(second, core), misfit, rows, off)

    def bound(self, misfit: float | None = None) -> InPlaneBound:
        """The bound of R; ``misfit``: the fit's objective over the squared norm of its data, where it is known.

        Raises ``UnsupportedBound`` where it is vacuous."""
        coupling, known, model = self.graph, self.perturbation, self.case.model
        if misfit is not None:
            data = model.size + model.atom * model.B * known.weights + known.total
            known = replace(known, misfit=math.sqrt(misfit) * data)
        start = first_sines(model, known)
        p = displacements(model, start, known)
        if model.order % 2 == 0:
            self._check_signs(p)
        a, x, norm = coupling.features, coupling.operator, self.span.case.norm
        error = norm * math.sqrt(float(np.mean(p**2 + a * (a + x * p))))
        parts = {
            "inplane": norm * math.sqrt(float(np.mean(p**2))),
            "moments": known.total,
            "misfit": known.misfit,
            "start": float(np.max(start)),
        }
        return InPlaneBound(error, p, parts)

    def _check_signs(self, p: Array) -> None:
        """Raises ``UnsupportedBound`` unless the linear part gives every feature its sign (even order)."""
        case, first = self.span.case, self.span.first
        x, c1 = self.graph.operator, abs(self.case.coefficient(1))
        residuals, tau = case.setting.residuals, first.residual
        along = c1 * (float(np.linalg.norm(residuals @ self.case.model.directions)) + case.B * tau)
        error = x * x / 2 * along + first.linear.slope + x * first.linear.outside
        error += c1 * float(p @ (np.abs(residuals) + tau))
        smallest = case.steepest_direction - float(np.linalg.norm(p))
        if smallest <= 0 or error / smallest >= c1 * (float(np.min(np.abs(residuals))) - tau):
            raise UnsupportedBound("vacuous: m is too small to be certain of the features' signs")
