"""From what is known of the attack's moments to the error: the half of the in-plane theorems that is not random.

Proof: bounds/proofs/in-plane.md, steps 5 to 8. Whichever neurons the moments come from, only their error enters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from bounds.arrays import Array
from bounds.errors import UnsupportedBound
from bounds.kinds.upper.identification import Perturbation, displacements, first_sines, second_order_misfit
from bounds.kinds.upper.plane import PlaneCase
from bounds.kinds.upper.remainders import Coupling, MomentsError
from bounds.kinds.upper.span import SpanTheorem


@dataclass(frozen=True)
class InPlaneBound:
    """With probability at least ``1 - delta`` the attack's R is at most ``error``.

    displacements (B,): of the fitted unit vectors in the span. parts: ``moments``: error of the moments; ``start``: the
    largest sine that the identification leaves; ``inplane``: root mean square of the displacements, as a part of R."""

    error: float
    displacements: Array
    parts: Mapping[str, float]


def shrinking(case: PlaneCase, coupling: Coupling) -> Array:
    """The moments of ``S u_i`` instead of those of u_i, (K,), ``S = (I + X^T X)^(-1/2)``."""
    g, model = case.functionals, case.model
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


@dataclass(frozen=True, eq=False)
class FitTheorem:
    """A fit of moments in a span: ``coupling``, sizes of the span as a graph; ``moments``: of the moments' error."""

    case: PlaneCase
    span: SpanTheorem
    coupling: Coupling
    moments: MomentsError

    @cached_property
    def perturbation(self) -> Perturbation:
        """The moments' error, with the misfit that a global minimum has at most."""
        coupling, model, places = self.coupling, self.case.model, self.case.places
        omega, kappa = model.omega, abs(model.kappa)
        random, turned_in = self.moments.functionals, shrinking(self.case, coupling)
        second_rest, core_rest = self.moments.second, self.moments.core
        weights = float(np.abs(model.weights) @ coupling.features) * coupling.operator
        second = second_rest + float(np.linalg.norm(random[places["second"]])) + weights
        core = core_rest + float(np.linalg.norm(random[places["core"]])) + weights * model.order / 2 * kappa
        total = math.hypot(second, math.sqrt(omega) * core)
        g, off = self.case.functionals, abs(self.case.coefficient(2)) * self.span.first.residual
        deviations = random + turned_in + g.second_norms * second_rest + g.core_norms * core_rest
        turned = np.concatenate([deviations[places["weights"]], deviations[places["turns"]]])
        rows = np.minimum(turned, model.rows.sizes(omega) * total)
        outside = float(np.linalg.norm((random + turned_in)[places["complement"]]))
        outside += math.hypot(second_rest, math.sqrt(omega) * core_rest)
        misfit = min(total, outside + second_order_misfit(model, rows, off))
        return Perturbation(total, model.seen_second(second, core), misfit, rows, off)

    def bound(self, misfit: float | None = None) -> InPlaneBound:
        """The bound of R; ``misfit``: the fit's objective over the squared norm of its data, where it is known.

        Raises ``UnsupportedBound`` where it is vacuous."""
        coupling, known, model = self.coupling, self.perturbation, self.case.model
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
        x, c1 = self.coupling.operator, abs(self.case.coefficient(1))
        residuals, tau = case.setting.residuals, first.residual
        along = c1 * (float(np.linalg.norm(residuals @ self.case.model.directions)) + case.B * tau)
        error = x * x / 2 * along + first.linear.slope + x * first.linear.outside
        error += c1 * float(p @ (np.abs(residuals) + tau))
        smallest = case.steepest_direction - float(np.linalg.norm(p))
        if smallest <= 0 or error / smallest >= c1 * (float(np.min(np.abs(residuals))) - tau):
            raise UnsupportedBound("vacuous: m is too small to be certain of the features' signs")
