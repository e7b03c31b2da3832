"""Sample means of products of envelopes and linear forms: what the in-plane theorem's remainders are made of.

Proof: bounds/proofs/in-plane.md, steps 1 and 3. A linear form is ``a.u`` for a unit vector a that may depend on everything.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace

import numpy as np

from bounds.arrays import Array
from bounds.gaussian.tails import Envelope, chevet
from bounds.kinds.upper.budget import Known, Tally
from bounds.kinds.upper.plane import PlaneCase
from bounds.kinds.upper.span import FirstMoment

#: A product of powers of named factors (``Products.factor``), sorted by name.
Factors = tuple[tuple[str, int], ...]


def merged(*factors: Factors) -> Factors:
    """The product of products."""
    total: dict[str, int] = {}
    for name, exponent in itertools.chain(*factors):
        if exponent and name != "he0":
            total[name] = total.get(name, 0) + exponent
    return tuple(sorted(total.items()))


@dataclass(frozen=True)
class Term:
    """``coefficient`` times a product of radial factors times ``forms`` linear forms."""

    coefficient: float
    factors: Factors
    forms: int

    def times(self, other: Term) -> Term:
        return Term(
            self.coefficient * other.coefficient,
            merged(self.factors, other.factors),
            self.forms + other.forms,
        )


def hermite_terms(order: int, frobenius: float) -> list[tuple[int, Term]]:
    """``|He_order(S^-1 y)|`` as a sum: how far a term is from He_order(z), and the term. ``frobenius``: norm of the span
    as a graph X over the true one; ``S = (I + X^T X)^(-1/2)``, ``y = S (z + X^T u)``."""
    found = []
    for i in range(order + 1):
        for pairs in range(i // 2 + 1):
            pairings = math.factorial(i) / (2**pairs * math.factorial(pairs) * math.factorial(i - 2 * pairs))
            coefficient = math.comb(order, i) * pairings * frobenius**i
            found.append((i, Term(coefficient, merged(((f"he{order - i}", 1),)), i - 2 * pairs)))
    return found


@dataclass(frozen=True, eq=False)
class Products:
    """Bounds of sample means of products. Each is one event when it is first asked for, drawn from ``tally``, and kept."""

    case: PlaneCase
    first: FirstMoment
    tally: Tally
    _means: dict[Factors, float] = field(default_factory=dict)
    _powers: dict[tuple[int, Factors], float] = field(default_factory=dict)

    def drawing(self, tally: Tally) -> Products:
        """The same numbers; further events are those of another tally."""
        return replace(self, tally=tally)

    def factor(self, name: str, s: Array) -> Array:
        """Envelopes by name: z, h (of h^z), f (of f0), kept (of phi), core_kept (of phi_q), he0, he1, ..."""
        case, span, first = self.case, self.case.span, self.first
        match name:
            case "z":
                return s
            case "kept":
                return span.functions.kept(s)
            case "core_kept":
                return case.core_kept(s)
            case "h":
                main = span.response(s) + first.residual * span.B * span.functions.kept(s)
            case "f":
                main = case.core_response(s) + first.residual * span.B * case.core_kept(s)
            case _:
                return case.he[int(name.removeprefix("he"))](s)
        return main + first.removed.mean + first.removed.slope * s

    def product(self, factors: Factors) -> Envelope:
        def values(s: Array) -> Array:
            found = np.ones_like(s)
            for name, exponent in factors:
                found = found * self.factor(name, s) ** exponent
            return found

        return values

    def largest(self, *factors: Factors) -> float:
        """Of a product of envelopes, within the radius of all neurons."""
        return float(self.product(merged(*factors))(np.array([self.case.seen.limit]))[0])

    def mean(self, *factors: tuple[str, int]) -> float:
        """Sample mean of a product of envelopes, at most."""
        key = merged(factors)
        if not key:
            return 1.0
        if key not in self._means:
            values, seen = self.product(key), self.case.seen
            self._means[key] = seen.nonnegative_mean(values, self.tally.spend(), seen.expectation(values))
        return self._means[key]

    def forms(self, count: int, *factors: tuple[str, int]) -> float:
        """``sup over unit a of mean(envelope |a.u|^count)``, at most."""
        key = merged(factors)
        if count == 0:
            return self.mean(*key)
        if count == 1:
            return math.sqrt(self.mean(*key) * self.forms(2, *key))
        if (count, key) not in self._powers:
            span, largest, mean = self.case.span, self.largest(key), self.mean(*key)
            self._powers[count, key] = chevet(count, span.n, span.m, mean, largest, self.tally.spend())
        return self._powers[count, key]

    def mean_of(self, terms: list[Term]) -> float:
        """Sample mean of a sum of terms."""
        return sum(t.coefficient * self.forms(t.forms, *t.factors) for t in terms)

    def rms_of(self, terms: list[Term]) -> float:
        """Sample root mean square of a sum of terms."""
        return sum(
            t.coefficient * math.sqrt(self.forms(2 * t.forms, *((name, 2 * p) for name, p in t.factors)))
            for t in terms
        )

    def residual_rms(self, kept: str, *factors: tuple[str, int]) -> float:
        """Sample root mean square of ``|h^z - h°|`` (kept) or ``|f0 - f°|`` (core_kept) times the factors."""
        squares = [(name, 2 * p) for name, p in factors]
        first, span = self.first, self.case.span
        total = first.residual * span.B * math.sqrt(self.mean((kept, 2), *squares))
        if span.residualized:
            total += first.removed.mean * math.sqrt(self.mean(*squares))
            total += first.removed.slope * math.sqrt(self.mean(("z", 2), *squares))
        return total


def products(known: Known, tally: Tally) -> Products:
    """The step that later ones draw from; it uses no event itself."""
    return Products(known[PlaneCase], known[FirstMoment], tally)
