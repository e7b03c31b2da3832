"""Norms of random tensors that do not depend on the attack's span: what the in-plane theorem's remainders multiply.

Proof: bounds/proofs/in-plane.md, step 3, "Norms only". Symbols: q is the order of the core; f0 what the core multiplies He_q
with, but for the removed linear part; h^z the same for the second moment; C the second moment's cross block.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from bounds.arrays import Array
from bounds.gaussian.symmetric import symmetric_tensors
from bounds.gaussian.tails import covariance_deviation
from bounds.kinds.upper.budget import Known, Tally
from bounds.kinds.upper.plane import PlaneCase
from bounds.kinds.upper.products import Factors, Products
from bounds.kinds.upper.span import CrossBlock


@dataclass(frozen=True)
class PolynomialSizes:
    """Norms of means over neurons of polynomials in z alone, which enter by the removed linear and second Hermite parts:
    ``he_low``, ``he_core`` stand for He_{q-1}, He_q; ``_uu``: against u u^T - I, ``_u``: against u; ``mean_``: the mean."""

    he_low_uu: float
    he_core_uu: float
    mean_he_low: float
    mean_z_he_low: float
    z_he_low_uu: float
    mean_he2_he_core: float
    he_core_u: float
    z_he_core_u: float
    he2_he_low_u: float


@dataclass(frozen=True)
class Sizes:
    """``hz``: root mean square of ``|h^z z|``; ``f_low``: of ``|f0 He_{q-1}|``; ``cross``: ``|C|``; ``f_low_u``:
    ``|mean f0 He_{q-1} u|``; ``f_lowest_uu``: ``|mean f0 He_{q-2} (u u^T - I)|``; ``polynomials``: None for plain
    moments."""

    hz: float
    f_low: float
    cross: float
    f_low_u: float
    f_lowest_uu: float
    polynomials: PolynomialSizes | None


@dataclass(frozen=True, eq=False)
class _Sizing:
    case: PlaneCase
    products: Products
    tally: Tally

    def gaussian(self) -> float:
        """``|mean F (x) u| <= rms(F)`` times this."""
        span = self.case.span
        return (math.sqrt(span.n) + self.tally.normal()) / math.sqrt(span.m)

    def covariance(self, rms: float, factors: Factors) -> float:
        """``|mean F (u u^T - I)|`` for a function of that root mean square and envelope."""
        span, largest = self.case.span, self.products.largest(factors)
        return covariance_deviation(span.n, span.m, rms, largest, self.tally.spend(4))

    def response_rms(self, core: bool, basis: Array) -> float:
        """Sample root mean square of h^z, or (core) f0, times the components of He_k(z) along orthonormal symmetric
        tensors, basis (K, B, ..., B)."""
        case, span = self.case, self.case.span
        order, which = basis.ndim - 1, int(core)
        second = float(np.sum(span.table.second_moment(which, which, basis, basis)))
        second += span.noise_variance * math.factorial(order) * len(basis)
        he, response = case.he[order], case.core_response if core else span.response
        main = case.seen.rms(lambda s: (response(s) * he(s)) ** 2, self.tally.spend(), second)
        return main + self.products.residual_rms("core_kept" if core else "kept", (f"he{order}", 1))

    def polynomials(self) -> PolynomialSizes:
        case, ball, spend, q = self.case, self.case.ball, self.tally.spend, self.case.span.order
        low, core, tail = f"he{q - 1}", f"he{q}", self.case.seen.tail
        he_uu = []
        for values, name in ((case.hermite[q - 1], low), (case.hermite[q], core)):
            squares = ball.nonnegative_mean(values**2, spend(len(values)))
            he_uu.append(_norm(self.covariance(math.sqrt(square), ((name, 1),)) for square in squares))
        values = case.hermite[q - 1]
        blank, count = np.zeros(len(values)), len(values)
        mean_low = ball.mean_excess(values, spend(2 * count), blank + tail(case.he[q - 1]))
        outside = blank + tail(lambda s: s * case.he[q - 1](s))
        mean: list[float] = []
        spread: list[float] = []
        for z in ball.points.T:
            mean.extend(ball.mean_excess(z * values, spend(2 * count), outside))
            for square in ball.nonnegative_mean((z * values) ** 2, spend(count)):
                spread.append(self.covariance(math.sqrt(square), (("z", 1), (low, 1))))
        whole = case.hermite[q]
        outside = np.zeros(len(whole)) + tail(lambda s: case.he[2](s) * case.he[q](s))
        crossed = [ball.mean_excess(one * whole, spend(2 * len(whole)), outside) for one in case.hermite[2]]
        by_u = [
            math.sqrt(self.products.mean(*factors)) * self.gaussian()
            for factors in (((core, 2),), (("z", 2), (core, 2)), (("he2", 2), (low, 2)))
        ]
        return PolynomialSizes(
            he_low_uu=he_uu[0],
            he_core_uu=he_uu[1],
            mean_he_low=_norm(mean_low),
            mean_z_he_low=_norm(mean),
            z_he_low_uu=_norm(spread),
            mean_he2_he_core=_norm(np.ravel(crossed)),
            he_core_u=by_u[0],
            z_he_core_u=by_u[1],
            he2_he_low_u=by_u[2],
        )


def sizes(known: Known, tally: Tally) -> Sizes:
    """The norms that step 3 of the proof multiplies powers of the coupling with."""
    case = known[PlaneCase]
    sizing = _Sizing(case, known[Products].drawing(tally), tally)
    B, q = case.span.B, case.span.order
    hz = sizing.response_rms(False, np.eye(B))
    f_low = sizing.response_rms(True, symmetric_tensors(B, q - 1))
    return Sizes(
        hz=hz,
        f_low=f_low,
        cross=hz * sizing.gaussian() + math.sqrt(B) * known[CrossBlock].bent,
        f_low_u=f_low * sizing.gaussian(),
        f_lowest_uu=_norm(
            sizing.covariance(sizing.response_rms(True, e[None]), (("f", 1), (f"he{q - 2}", 1)))
            for e in symmetric_tensors(B, q - 2)
        ),
        polynomials=sizing.polynomials() if case.span.residualized else None,
    )


def _norm(values: Iterable[float]) -> float:
    return float(np.linalg.norm(list(values)))
