"""The fit's moments from neurons of their own: what is random of them given the span that the other half gave.

Proof: bounds/proofs/split.md. Given everything but the coordinates u of these neurons outside the true span, the attack's
span is fixed, and ``X^T u = Xi e`` for independent standard Gaussian e in R^B and ``Xi = (X^T X)^(1/2)``. So every
term of the moments is a fixed tensor, the mean of a function of (z, N, e), contracted with powers of Xi: nothing has to hold
for all spans at once. Symbols as in ``bounds.kinds.upper.remainders``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bounds.arrays import Array
from bounds.gaussian.symmetric import symmetric_tensors
from bounds.gaussian.tails import Envelope, Sample
from bounds.kinds.upper.budget import Known, Tally
from bounds.kinds.upper.fluctuations import At, Entries, perturbed, sampled, slope_sizes
from bounds.kinds.upper.remainders import Coupling, MomentsError, sampled_norm
from bounds.kinds.upper.span import SpanTheorem

#: Angles between (z, N) and e at which a product of envelopes is evaluated.
_ANGLES = 48


@dataclass(frozen=True, eq=False)
class Fresh:
    """What is random of the moments, none of it depending on X. Of K functionals (K,): ``sampled``, ``perturbed`` as in
    ``Fluctuations``; ``first``, ``second``: the first order in Xi over ``|X|``, the second over ``|X|^2``; ``mean``,
    ``eigenvalue`` as in ``Curvature``. ``other_half``: ``|A - A_r|`` of the half that gave the span.

    ``tensors``: norms of sample means of ``weight(z) He_(k-i)(z) (x) further(e) (x) He_i(e)``, by name and i: of P (k = 2)
    ``h`` (h^z; i >= 1), ``h_outside`` (one more e); of T (k = q) the same ``f`` (f0), ``f_outside``, and ``he2``, ``z`` (one
    more e), ``one`` (one more He_2(e)), by which the second Hermite part that the attack removes enters."""

    sampled: Array
    perturbed: Array
    first: Array
    second: Array
    mean: Array
    eigenvalue: Array
    other_half: float
    tensors: Mapping[tuple[str, int], float]


@dataclass(frozen=True, eq=False)
class _Tensors:
    """Norms of means of tensors over the neurons."""

    at: At

    def response(self, core: bool, i: int) -> float:
        """Of ``h^z He_(2-i)(z) (x) He_i(e)``, or (core) ``f0 He_(q-i)(z) (x) He_i(e)``."""
        case, span, paired = self.at.case, self.at.case.span, self.at.case.span.samples.paired
        order, which = (span.order if core else 2) - i, int(core)
        basis = symmetric_tensors(span.B, order)
        second = float(np.sum(span.table.second_moment(which, which, basis, basis)))
        second += span.noise_variance * math.factorial(order) * len(basis)
        envelope = case.core_response if core else span.response
        main = self._mean(lambda s: envelope(s) * case.he[order](s), second, case.he[i], self._moment(i))
        square = paired.nonnegative_mean(lambda s: case.he[i](s) ** 2, self.at.tally.spend(), self._moment(i))
        moved = self.at.products.residual_rms("core_kept" if core else "kept", (f"he{order}", 1))
        return main + moved * math.sqrt(square)

    def polynomial(self, names: tuple[str, ...], further: int, i: int, loose: bool = False) -> float:
        """Of a product of He_k(z), by the names of ``Products.factor``, with ``He_further(e) (x) He_i(e)``; ``loose``: with
        one further coordinate of u in e, that He_i does not depend on."""
        case, B = self.at.case, self.at.case.span.B
        weight = self.at.products.product(tuple((name, 1) for name in names))
        second = case.span.samples.z.expectation(lambda s: weight(s) ** 2)

        def outside(s: Array) -> Array:
            return np.asarray(case.he[further](s) * case.he[i](s))

        paired = case.span.samples.paired
        moment = Sample(B, paired.count, paired.limit).expectation(lambda s: outside(s) ** 2)
        return self._mean(weight, second, outside, moment + loose * self._moment(i))

    def _mean(self, weight: Envelope, second: float, outside: Envelope, moment: float) -> float:
        """Of a function of (z, N) times one of e, by their norms and second moments."""
        angles = np.linspace(0, math.pi / 2, _ANGLES + 1)
        seen, along = np.cos(angles[:-1]), np.sin(angles[1:])

        def envelope(s: Array) -> Array:
            s = np.asarray(s, dtype=float)
            return np.asarray(np.max(weight(np.outer(seen, s)) * outside(np.outer(along, s)), axis=0))

        paired = self.at.case.span.samples.paired
        return paired.tensor_mean(envelope, self.at.tally.spend(2), second * moment)

    def _moment(self, i: int) -> float:
        """``E |He_i(e)|^2``."""
        return math.factorial(i) * math.comb(self.at.case.span.B + i - 1, i)


def fresh(known: Known, tally: Tally) -> Fresh:
    """Everything random of the fit's moments; the tensors do not depend on the span, and none of their events does."""
    at = At.of(known, tally)
    span, g = at.case.span, at.case.functionals
    count, removed = len(g), span.residualized
    first = slope_sizes(at) * tally.normal(count) / math.sqrt(span.m)
    start = at.case.places["second"].stop
    entries = Entries.of(at, slice(start, count))
    squares = np.zeros((4, count))
    for b, c in itertools.combinations_with_replacement(range(span.B), 2):
        entry = entries.at(b, c)
        parts = [*entries.sizes_of(entry.hessian), entry.mean, entry.eigenvalue]
        squares[:, start:] += (1 if b == c else 2) * np.square(parts)
    rms, largest, mean, eigenvalue = np.sqrt(squares)
    t = tally.spend(2 * count)
    second = 2 * (math.sqrt(t) * rms + t * largest / math.sqrt(span.m)) / math.sqrt(span.m)
    drawn, moved = sampled(at), perturbed(at)
    return Fresh(
        drawn,
        moved,
        first,
        second,
        mean,
        eigenvalue,
        _other_half(at, drawn, moved),
        _tensors(_Tensors(at), span.order, removed),
    )


def _other_half(at: At, drawn: Array, moved: Array) -> float:
    """``|A - A_r|`` there: the same bounds as here, each by an event of its own, but that the linear part which is removed
    comes from the same neurons."""
    span, second = at.case.span, at.case.places["second"]
    count = second.stop - second.start
    at.tally.spend(2 * count * (1 + span.B))
    total = float(np.linalg.norm(drawn[second] + moved[second]))
    if span.residualized:
        at.tally.spend(count * (2 + 2 * span.B + 2) + 1)
        size = math.sqrt(at.products.mean(("he2", 2)))
        outside = (math.sqrt(span.n) + at.tally.normal()) / math.sqrt(span.m)
        total += at.first.removed.outside * size * outside
    return total


def _tensors(sizes: _Tensors, q: int, removed: bool) -> dict[tuple[str, int], float]:
    found = {("h", i): sizes.response(False, i) for i in (1, 2)}
    found |= {("f", i): sizes.response(True, i) for i in range(1, q + 1)}
    if not removed:
        return found
    found |= {("h_outside", i): sizes.polynomial((f"he{2 - i}",), 1, i, loose=True) for i in range(3)}
    for i in range(q + 1):
        low = f"he{q - i}"
        found["f_outside", i] = sizes.polynomial((low,), 1, i, loose=True)
        found["he2", i] = sizes.polynomial(("he2", low), 0, i)
        found["z", i] = sizes.polynomial(("z", low), 1, i)
        found["one", i] = sizes.polynomial((low,), 2, i)
    return found


@dataclass(frozen=True, eq=False)
class FreshMoments:
    """The moments' error for a span of the sizes given."""

    at: SpanTheorem
    fresh: Fresh
    coupling: Coupling
    places: Mapping[str, slice]
    coefficients: tuple[float, float]  # c_2, c_q

    def error(self) -> MomentsError:
        x, xF, fresh = self.coupling.operator, self.coupling.frobenius, self.fresh
        random = fresh.sampled + fresh.perturbed + x * fresh.first + x**2 * fresh.second
        random = random + x * xF * fresh.mean + self.apart / 2 * fresh.eigenvalue
        return MomentsError(
            np.asarray(random), sum(self.second_terms.values()), sum(self.core_terms.values())
        )

    @property
    def _off(self) -> float:
        """``|A_r - A_*|``."""
        case = self.at.case
        return case.B * self.at.first.residual * abs(self.coefficients[0])

    @property
    def apart(self) -> float:
        """``|S Lambda S - A_r|``, Lambda the Ritz matrix of the other half: ``S Lambda S = (A + C^T X) S^2`` but for the
        tolerance of the span step."""
        case, x = self.at.case, self.coupling.operator
        if not case.residualized:
            return 0.0
        limit = case.limit
        cross = (
            self.at.cross.coupling * float(np.linalg.norm(limit, 2)) + math.sqrt(case.B) * self.at.cross.bent
        )
        apart = self.fresh.other_half + x * cross
        return (
            apart
            + self.coupling.shrunk_second * (float(np.linalg.norm(limit)) + self._off + apart)
            + self.at.blocks.ritz
        )

    @property
    def second_terms(self) -> dict[str, float]:
        """Of P."""
        x, tensors, shrunk = self.coupling.operator, self.fresh.tensors, self.coupling.shrunk(2)
        terms = {
            "shrinking": shrunk * sampled_norm(self.fresh, self.places["second"]),
            "first": 2 * shrunk * x * tensors["h", 1],
            "second": x**2 * tensors["h", 2],
        }
        if self.at.case.residualized:
            beta = self.at.first.removed.outside
            terms["linear"] = beta * (
                shrunk * tensors["h_outside", 0]
                + sum(math.comb(2, i) * x**i * tensors["h_outside", i] for i in (1, 2))
            )
        return terms

    @property
    def core_terms(self) -> dict[str, float]:
        """Of T."""
        x, xF, tensors, q = (
            self.coupling.operator,
            self.coupling.frobenius,
            self.fresh.tensors,
            self.at.case.order,
        )
        shrunk = self.coupling.shrunk(q)
        weights = [math.comb(q, i) * x**i for i in range(q + 1)]
        terms = {
            "shrinking": shrunk * sampled_norm(self.fresh, self.places["core"]),
            "low": shrunk * sum(weights[i] * tensors["f", i] for i in (1, 2)),
            "high": sum(weights[i] * tensors["f", i] for i in range(3, q + 1)),
        }
        if not self.at.case.residualized:
            return terms
        top = float(np.linalg.norm(self.at.case.limit, 2))
        moved = self.apart + self._off  # of S Lambda S from A_*
        changed, whole = moved + shrunk * top, top + moved
        beta = self.at.first.removed.outside
        terms["linear"] = beta * (
            shrunk * tensors["f_outside", 0]
            + sum(weights[i] * tensors["f_outside", i] for i in range(1, q + 1))
        )
        terms["eigenvalue"] = (
            self.apart
            / 2
            * (shrunk * tensors["he2", 0] + sum(weights[i] * tensors["he2", i] for i in range(1, q + 1)))
        )
        terms["removed_once"] = xF * (
            changed * (tensors["z", 0] + weights[1] * tensors["z", 1])
            + whole * sum(weights[i] * tensors["z", i] for i in range(2, q + 1))
        )
        terms["removed_twice"] = (
            x
            * xF
            / 2
            * (
                changed * tensors["one", 0]
                + whole * sum(weights[i] * tensors["one", i] for i in range(1, q + 1))
            )
        )
        return terms
