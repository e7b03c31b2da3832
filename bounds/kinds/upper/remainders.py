"""What is left of the moments' error beyond second order in the coupling, by norms alone.

Proof: bounds/proofs/in-plane.md, step 3, "Norms only". Symbols: X is the attack's span as a graph over the true one and
``S = (I + X^T X)^(-1/2)``; ``y = S (z + X^T u)`` are a weight's coordinates in the attack's span; Lambda, the Ritz matrix,
is the second moment there; ``A_r``: A_* with the residuals as they are; f is what the core multiplies He_q with, f0 its
main part.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from bounds.arrays import Array
from bounds.kinds.upper.budget import Known, Tally
from bounds.kinds.upper.fluctuations import Fluctuations
from bounds.kinds.upper.plane import PlaneCase
from bounds.kinds.upper.products import Products, Term, hermite_terms
from bounds.kinds.upper.sizes import PolynomialSizes, Sizes
from bounds.kinds.upper.span import SpanTheorem


@dataclass(frozen=True, eq=False)
class Coupling:
    """Sizes of X, the span as a graph over the true one: its norms, ``|X - C_z A_*^-1|_F``, ``|X u_i|`` (B,)."""

    operator: float
    frobenius: float
    beyond: float
    features: Array

    @property
    def shrunk_second(self) -> float:
        """``|I - S (x) S|``."""
        return 1 - 1 / (1 + self.operator**2)

    def shrunk(self, order: int) -> float:
        """``|I - S^(x)order|``."""
        return 1 - (1 + self.operator**2) ** (-order / 2)


@dataclass(frozen=True, eq=False)
class MomentsError:
    """Of the attack's moments from those of the truth's ``S u_i``: bounds of K functionals (K,), but for parts of P and T of
    which the norms ``second`` and ``core`` are known."""

    functionals: Array
    second: float
    core: float


class AtTrueSpan(Protocol):
    """Deviations of functionals (K,) at the true span."""

    @property
    def sampled(self) -> Array: ...

    @property
    def perturbed(self) -> Array: ...


def sampled_norm(found: AtTrueSpan, place: slice) -> float:
    """Norm of the deviation at the true span, of the functionals there: those of the second moment or of the core."""
    return float(np.linalg.norm(found.sampled[place] + found.perturbed[place]))


@dataclass(frozen=True, eq=False)
class Remainders:
    """Norms of what is beyond second order in the coupling, or small besides: named parts of P and of T; ``second_moment``:
    ``|Lambda - A_r|``, ``eigenvalue``: what multiplies the functionals' eigenvalue term."""

    second: Mapping[str, float]
    core: Mapping[str, float]
    second_moment: float
    eigenvalue: float


@dataclass(frozen=True, eq=False)
class CoupledMoments:
    """The attack's moments for an X of the sizes given, by norms: every method is one term of the proof."""

    case: PlaneCase
    span: SpanTheorem
    products: Products
    sizes: Sizes
    fluctuations: Fluctuations
    coupling: Coupling

    @property
    def residual(self) -> float:
        return self.span.first.residual

    @property
    def outside(self) -> float:
        """beta, the removed linear part's length outside the span."""
        return self.span.first.removed.outside

    @cached_property
    def apart(self) -> float:
        """How far A and A_r may lie from A_*, in Frobenius norm."""
        off = self.case.span.B * self.residual * abs(self.case.coefficient(2))
        return max(self.span.second.shift, off)

    @cached_property
    def limit_operator(self) -> float:
        """Operator norm of A and A_r, at most."""
        return float(np.linalg.norm(self.case.span.limit, 2)) + self.apart

    @cached_property
    def limit_frobenius(self) -> float:
        """Frobenius norm of A and A_r, at most."""
        return float(np.linalg.norm(self.case.span.limit)) + self.apart

    @cached_property
    def moved(self) -> float:
        """``|Lambda - A_*|`` in Frobenius norm."""
        x, shrunk = self.coupling.operator, self.coupling.shrunk_second
        total = self.span.second.shift + sum(self.second_terms.values()) + 2 * x * self.sizes.cross
        return total + shrunk * float(np.linalg.norm(self.case.span.limit))

    @cached_property
    def second_terms(self) -> dict[str, float]:
        x, shrunk = self.coupling.operator, self.coupling.shrunk_second
        bent = math.sqrt(self.case.span.B) * self.span.cross.bent
        return {
            "shrinking": shrunk * self.span.second.shift,
            "coupling": 2 * x * (bent + self.sizes.cross * shrunk),
            "noise": x * self.coupling.frobenius * self.span.noise.edge,
        }

    def _sampled_norm(self, group: str) -> float:
        """Norm of the deviation at the true span, of the second moment ("second") or of the core ("core")."""
        return sampled_norm(self.fluctuations, self.case.places[group])

    @cached_property
    def second_moment(self) -> float:
        """``|Lambda - A_r|``."""
        total = self._sampled_norm("second") + sum(self.second_terms.values())
        total += 2 * self.coupling.operator * self.sizes.cross
        return total + self.coupling.shrunk_second * self.limit_frobenius

    def remainders(self) -> Remainders:
        """Norms of what the functionals' own bounds leave out."""
        second, core, eigenvalue = self.second_terms, self._core_terms(), 0.0
        if self.sizes.polynomials is not None:
            eigenvalue = self.second_moment + self.coupling.shrunk_second * self.limit_frobenius
            core |= self._removed_terms(self.sizes.polynomials, eigenvalue)
        if self.case.leave_one_out:
            left_out = LeftOut(self)
            second = second | {"leave_one_out": left_out.second()}
            core |= left_out.core()
        return Remainders(second, core, self.second_moment, eigenvalue)

    def _core_terms(self) -> dict[str, float]:
        """f0 He_q(y): orders three and more, and what S changes in the lower ones."""
        q, x, xF = self.case.span.order, self.coupling.operator, self.coupling.frobenius
        shrunk = self.coupling.shrunk(q)
        response = Term(1.0, (("f", 1),), 0)
        high = [response.times(term) for away, term in hermite_terms(q, xF) if away >= 3]
        off = self.case.span.B * self.residual * abs(self.case.coefficient(q))
        return {
            "shrinking": shrunk * (self._sampled_norm("core") + off),
            "first": q * x * self.sizes.f_low_u * shrunk,
            "second": math.comb(q, 2) * x * xF * self.sizes.f_lowest_uu * shrunk,
            "high": self.products.mean_of(high),
        }

    def _removed_terms(self, sizes: PolynomialSizes, eigenvalue: float) -> dict[str, float]:
        """What enters by the removed linear part (along b_perp) and the removed second Hermite part."""
        q, x, xF = self.case.span.order, self.coupling.operator, self.coupling.frobenius
        shrunk, mean_of = self.coupling.shrunk(q), self.products.mean_of
        top, frobenius = self.limit_operator, self.limit_frobenius
        expansion = hermite_terms(q, xF)
        form, z = Term(1.0, (), 1), Term(1.0, (("z", 1),), 0)
        high = mean_of([form.times(t) for away, t in expansion if away >= 2])
        linear = sizes.he_core_u * shrunk + q * x * (sizes.he_low_uu + sizes.mean_he_low) + high
        crossed = x * (q * sizes.he2_he_low_u + 2 * sizes.z_he_core_u)
        crossed += mean_of(
            [
                two.times(t)
                for away, two in hermite_terms(2, xF)
                for further, t in expansion
                if away + further >= 2
            ]
        )
        crossed += 2 * shrunk * sizes.mean_he2_he_core
        # S A_r S for A_* in the terms that the functionals' own bounds have with A_*
        apart = self.residual * self.case.span.B * abs(self.case.coefficient(2))
        apart += self.coupling.shrunk_second * frobenius + shrunk * frobenius
        once = x * sizes.z_he_core_u + q * x * xF * (sizes.z_he_low_uu + sizes.mean_z_he_low)
        once_high = mean_of([form.times(z).times(t) for away, t in expansion if away >= 2])
        twice = mean_of(
            [Term(1.0, (), forms).times(t) for forms in (0, 2) for away, t in expansion if away >= 1]
        )
        return {
            "linear": self.outside * linear,
            "eigenvalue": eigenvalue / 2 * crossed,
            "removed_once": apart * once + top * xF * once_high,
            "removed_twice": apart / 2 * x * xF * sizes.he_core_uu + top / 2 * xF**2 * twice,
        }


@dataclass(frozen=True, eq=False)
class LeftOut:
    """The leave-one-out shift beyond what cancels the functionals' first order. ``y' = y - h K y`` is y with the neuron left
    out, ``K = (n/m) Lambda^-1``."""

    moments: CoupledMoments

    @property
    def ratio(self) -> float:
        return self.moments.case.span.n / self.moments.case.span.m

    @cached_property
    def weakest(self) -> float:
        """Smallest singular value of Lambda, at least."""
        return max(self.moments.case.span.sigma - self.moments.moved, 1e-9)

    @cached_property
    def inverse(self) -> float:
        """``|Lambda^-1 - A_*^-1|``."""
        return self.moments.moved / (self.weakest * self.moments.case.span.sigma)

    @cached_property
    def eta(self) -> float:
        """``|h K|``, at most."""
        noise = self.moments.span.noise
        return self.ratio / self.weakest * (noise.largest + self.moments.outside * noise.largest_p)

    @cached_property
    def y(self) -> list[Term]:
        """``|S^-1 y|`` as a sum, z first."""
        return [Term(1.0, (("z", 1),), 0), Term(self.moments.coupling.frobenius, (), 1)]

    @cached_property
    def h(self) -> list[Term]:
        """``|h|`` as a sum, h^z first."""
        removed = [Term(self.moments.outside, (), 1)] if self.moments.case.span.residualized else []
        return [Term(1.0, (("h", 1),), 0), *removed]

    @cached_property
    def hy(self) -> float:
        """Root mean square of ``|h y|``."""
        further = [a.times(b) for a, b in itertools.product(self.h, self.y)][1:]
        return self.moments.sizes.hz + self.moments.products.rms_of(further)

    def second(self) -> float:
        """Of P."""
        sigma, hz, hy = self.moments.case.span.sigma, self.moments.sizes.hz, self.hy
        return self.ratio * (
            2 * self.inverse * hy**2
            + 2 / sigma * (hy**2 - hz**2 + self.moments.coupling.shrunk_second * hz**2)
            + self.eta / self.weakest * hy**2
        )

    def core(self) -> dict[str, float]:
        """Of T, by parts."""
        moments, ratio, eta, hy = self.moments, self.ratio, self.eta, self.hy
        q, sigma, coupling = moments.case.span.order, moments.case.span.sigma, moments.coupling
        hz, fz = moments.sizes.hz, moments.sizes.f_low
        fy = self._f_times(q - 1, 0)
        shift = q * ratio * (self.inverse * fy * hy + (fy * hy - (1 - coupling.shrunk(q)) * fz * hz) / sigma)
        higher = sum(math.comb(q, i) * eta ** (i - 1) * self._f_times(q - i, i - 1) for i in range(2, q + 1))
        found = {"leave_one_out": shift + ratio / self.weakest * hy * higher}
        if moments.case.span.residualized:
            expansion = [t for _, t in hermite_terms(q, coupling.frobenius)]
            products = [a.times(b) for a, b in itertools.product(expansion, self.y)]
            yq, zq = moments.products.rms_of(products), moments.products.rms_of(products[:1])
            back = (1 + eta / 2) * hy * yq - (1 - coupling.shrunk(q + 2)) * hz * zq
            found["leave_one_out_eigenvalue"] = ratio * back
        return found

    def _f_times(self, order: int, exponent: int) -> float:
        """Sample root mean square of ``f |He_order(y)| |y|^exponent``."""
        xF, rms_of = self.moments.coupling.frobenius, self.moments.products.rms_of
        lengths = [
            Term(math.comb(exponent, j) * xF**j, ((("z", exponent - j),) if exponent > j else ()), j)
            for j in range(exponent + 1)
        ]
        hermites = [t for _, t in hermite_terms(order, xF)]
        products = [a.times(b) for a, b in itertools.product(hermites, lengths)]
        response = Term(1.0, (("f", 1),), 0)
        main = [response.times(t) for t in products]
        total = rms_of([g.times(t) for g, t in itertools.product(self._beyond_response, products)])
        if order == self.moments.case.span.order - 1 and exponent == 0:  # its first term is known better
            return total + self.moments.sizes.f_low + rms_of(main[1:])
        return total + rms_of(main)

    @cached_property
    def _beyond_response(self) -> list[Term]:
        """``|f - f0|`` as a sum: linear part, second Hermite part at y', the leave-one-out shift in it."""
        moments = self.moments
        if not moments.case.span.residualized:
            return []
        xF, top = moments.coupling.frobenius, moments.limit_operator
        ratio = self.ratio * (1 + self.eta / 2)
        he2 = [t for _, t in hermite_terms(2, xF)]
        square = [a.times(b) for a, b in itertools.product(self.y, self.y)]
        return [
            Term(moments.outside, (), 1),
            *(Term(moments.second_moment / 2, (), 0).times(t) for t in he2),
            Term(moments.limit_frobenius / 2 * moments.coupling.shrunk_second, (("he2", 1),), 0),
            Term(top * xF, (("z", 1),), 1),
            Term(top / 2 * xF**2, (), 2),
            Term(top / 2 * xF**2, (), 0),
            *(Term(ratio, (), 0).times(a).times(b) for a, b in itertools.product(self.h, square)),
        ]


def probe(known: Known, tally: Tally) -> Remainders:
    """The last step: the remainders for some X, so that every event they use is counted. X itself is not random given
    what precedes, and bounds for all X share these events."""
    B = known[PlaneCase].span.B
    coupling = Coupling(1e-3, 1e-3, 1e-3, np.full(B, 1e-3))
    moments = CoupledMoments(
        known[PlaneCase],
        SpanTheorem.of(known),
        known[Products].drawing(tally),
        known[Sizes],
        known[Fluctuations],
        coupling,
    )
    return moments.remainders()
