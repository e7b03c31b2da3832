"""The moments' deviation at the true span: every functional's random part that does not depend on the attack's span.

Proof: bounds/proofs/in-plane.md, steps 1 to 3. Symbols: X, the attack's span as a graph over the true one, is what these
numbers do not depend on; ``y = z + X^T u`` up to a rotation; f0 is what the core multiplies He_q with, but for the removed
linear part.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from bounds.arrays import Array
from bounds.gaussian.tails import covariance_deviation
from bounds.kinds.upper.budget import Known, Tally
from bounds.kinds.upper.plane import PlaneCase
from bounds.kinds.upper.products import Products
from bounds.kinds.upper.span import CrossBlock, FirstMoment, weighted_rms


@dataclass(frozen=True, eq=False)
class Curvature:
    """Of K functionals (K,), second-order terms: ``hessian`` of the coupling's second derivative against u u^T - I,
    ``mean`` of its mean, ``eigenvalue`` against He_2. Zero for functionals of P."""

    hessian: Array
    mean: Array
    eigenvalue: Array


@dataclass(frozen=True, eq=False)
class Fluctuations:
    """For K functionals (K,): everything random that does not depend on X.

    ``sampled``: leading deviation at the true span; ``perturbed``: that of residuals, mean and linear part; ``gradient``:
    root mean square of the functional's derivative along the coupling; ``curvature``. ``coupling_rms``: sample root mean
    square of ``|h^z A_*^-1 z|``."""

    sampled: Array
    perturbed: Array
    gradient: Array
    curvature: Curvature
    coupling_rms: float


@dataclass(frozen=True, eq=False)
class At:
    """What the parts of the step share: the functionals' polynomials <L, He_2> and <M, He_q> at the nodes, (K, N)."""

    case: PlaneCase
    first: FirstMoment
    products: Products
    tally: Tally
    second: Array
    core: Array

    @staticmethod
    def of(known: Known, tally: Tally) -> At:
        case = known[PlaneCase]
        g = case.functionals
        shared = known[Products].drawing(tally)
        return At(case, known[FirstMoment], shared, tally, case.polynomial(g.second), case.polynomial(g.core))


def fluctuations(known: Known, tally: Tally) -> Fluctuations:
    """Steps 2 and 3 of the proof, for every functional."""
    at = At.of(known, tally)
    span, rest = at.case.span, known[CrossBlock].rest
    # the Gaussian chaos and the Gaussian tensor that the gradient's root mean square multiplies
    tally.spend(3 * len(at.core))
    return Fluctuations(
        sampled(at),
        perturbed(at),
        slope_sizes(at),
        _curvature(at),
        weighted_rms(span, rest, tally, size=1 / span.sigma, expectation=span.inverse_power),
    )


def sampled(at: At) -> Array:
    """``|mean(h° <L, He_2> + f° <M, He_q>) - E|``; the rows that turn features have a share of their own."""
    case, span, values = at.case, at.case.span, at.case.values
    he2, heq = case.he[2], case.he[span.order]
    tail = case.tail(lambda s: span.response(s) * he2(s), lambda s: case.core_response(s) * heq(s))
    whole = values.response * at.second + values.core_response * at.core
    noise = span.noise_variance * (at.second + at.core) ** 2
    found = np.zeros(len(whole))
    for name, group in case.places.items():
        count = group.stop - group.start
        exponent = case.turns_exponent if name == "turns" else at.tally.spend(2 * count)
        found[group] = case.ball.mean_excess(
            whole[group], exponent, tail[group], noise[group] if span.nu else None
        )
    return found


def perturbed(at: At) -> Array:
    """What the errors of residuals, mean and linear part add at the true span. With a part of the neurons of their own the
    moments meet a linear part that does not depend on their u."""
    case, span, first, ball, spend = at.case, at.case.span, at.first, at.case.ball, at.tally.spend
    he2, heq = case.he[2], case.he[span.order]
    whole, count = at.second + at.core, len(at.core)
    kept = case.tail(lambda s: span.functions.kept(s) * he2(s), lambda s: case.core_kept(s) * heq(s))
    total = np.zeros(count)
    for phi, core_phi in zip(case.values.phi, case.values.core_phi, strict=True):
        moved = phi * at.second + core_phi * at.core
        total += first.residual * ball.mean_excess(moved, spend(2 * count), kept)
    if not span.residualized:
        return total
    removed = first.removed
    total += removed.mean * ball.mean_excess(whole, spend(2 * count), case.tail(he2, heq))
    linear = case.tail(lambda s: s * he2(s), lambda s: s * heq(s))
    along = [ball.mean_excess(z * whole, spend(2 * count), linear) for z in ball.points.T]
    total += removed.slope * np.linalg.norm(along, axis=0)
    square = ball.nonnegative_mean(whole**2, spend(count))
    gaussian = (math.sqrt(span.n) * (span.parts == 1) + at.tally.normal(count)) / math.sqrt(span.m)
    return np.asarray(total + removed.outside * gaussian * np.sqrt(square))


def _radial_means(at: At, envelopes: Callable[[int, Array], Array], expected: Array) -> Array:
    """Sample means, at most, of nonnegative functions with these envelopes and expectations: (K,)."""
    return np.array(
        [
            at.case.seen.nonnegative_mean(partial(envelopes, k), at.tally.spend(), float(value))
            for k, value in enumerate(expected)
        ]
    )


def slope_sizes(at: At) -> Array:
    """Sample root mean square of ``2 h^z L z + q f0 M[He_{q-1}(z)] - A_* z <M, He_q(z)>`` (the last if residualized)."""
    case, span, ball, q = at.case, at.case.span, at.case.ball, at.case.span.order
    g, z, values = case.functionals, at.case.ball.points, at.case.values
    removed = float(span.residualized)
    square = np.zeros_like(at.core)
    for b in range(span.B):
        line, part = 2 * g.second[:, b] @ z.T, q * case.polynomial(g.core[:, b])
        square += (
            values.response * line + values.core_response * part - removed * (z @ span.limit[b]) * at.core
        ) ** 2
        if span.nu:
            square += span.noise_variance * (line + part) ** 2
    count = len(at.core)
    if span.nu:
        top = removed * float(np.linalg.norm(span.limit, 2))
        L, M = g.second_norms, g.core_norms

        def radial(k: int, s: Array) -> Array:
            lines = 2 * L[k] * span.response(s) * s
            cores = q * case.core_response(s) * case.he[q - 1](s) + top * s * case.he[q](s)
            return (lines + M[k] * cores) ** 2

        mean = _radial_means(at, radial, ball.mean_slack * square @ ball.weights)
    else:
        mean = ball.nonnegative_mean(square, at.tally.spend(count))
    moved = 2 * g.second_norms * at.products.residual_rms("kept", ("z", 1))
    moved = moved + q * g.core_norms * at.products.residual_rms("core_kept", (f"he{q - 1}", 1))
    return np.asarray(np.sqrt(mean) + moved)


def _curvature(at: At) -> Curvature:
    """By entries (b, c) of u u^T - I; only functionals with a core part have any."""
    case, B = at.case, at.case.span.B
    count = len(case.functionals)
    with_core = slice(case.places["second"].stop, count)
    entries = Entries.of(at, with_core)
    found = np.zeros((3, count))
    for b, c in itertools.combinations_with_replacement(range(B), 2):
        repeated = 1 if b == c else 2
        entry = entries.at(b, c)
        parts = [entries.covariances(entry.hessian), entry.mean, entry.eigenvalue]
        found[:, with_core] += repeated * np.square(parts)
    return Curvature(*np.sqrt(found))


@dataclass(frozen=True, eq=False)
class Entry:
    """Of the K functionals with a core part: ``hessian`` at the nodes (K, N); ``mean``, ``eigenvalue`` (K,) as in
    ``Curvature``."""

    hessian: Array
    mean: Array
    eigenvalue: Array


@dataclass(frozen=True, eq=False)
class Entries:
    """The second-order terms entry by entry. ``core`` (K, N): <M, He_q> of the K functionals with a core part M of the
    ``sizes`` given; ``slots[b]``: ``M[He_{q-1}]_b``; ``pushed`` (N, B): ``A_* z``; ``top``: ``|A_*|`` if the attack removes
    the second Hermite part, else 0."""

    shared: At
    tensors: Array
    sizes: Array
    core: Array
    slots: tuple[Array, ...]
    pushed: Array
    top: float

    @staticmethod
    def of(shared: At, with_core: slice) -> Entries:
        case, span = shared.case, shared.case.span
        M = case.functionals.core[with_core]
        return Entries(
            shared,
            M,
            case.functionals.core_norms[with_core],
            shared.core[with_core],
            tuple(case.polynomial(M[:, b]) for b in range(span.B)),
            case.ball.points @ span.limit,
            float(np.linalg.norm(span.limit, 2)) if span.residualized else 0.0,
        )

    def at(self, b: int, c: int) -> Entry:
        """Hessian, mean and eigenvalue term of the entry."""
        case, span = self.shared.case, self.shared.case.span
        q, pairs = span.order, math.comb(span.order, 2)
        hessian = pairs * case.values.core_response * case.polynomial(self.tensors[:, b, c])
        mean = eigenvalue = np.zeros(len(self.sizes))
        if span.residualized:
            cross = -q / 2 * (self.pushed[:, b] * self.slots[c] + self.pushed[:, c] * self.slots[b])
            hessian = hessian + cross - span.limit[b, c] / 2 * self.core
            mean = self._deviation(cross, lambda s: self.top * q * s * case.he[q - 1](s))
            z = case.ball.points
            against = z[:, b] * z[:, c] - float(b == c)
            eigenvalue = self._deviation(against * self.core, lambda s: case.he[2](s) * case.he[q](s))
        return Entry(hessian, mean, eigenvalue)

    def _deviation(self, values: Array, envelope: Callable[[Array], Array]) -> Array:
        case, count = self.shared.case, len(self.sizes)
        outside = case.seen.tail(envelope) * self.sizes
        return case.ball.mean_excess(values, self.shared.tally.spend(2 * count), outside)

    def _radial(self, s: Array) -> Array:
        case, q = self.shared.case, self.shared.case.span.order
        main = math.comb(q, 2) * case.core_response(s) * case.he[q - 2](s)
        return main + self.top * (q * s * case.he[q - 1](s) + case.he[q](s) / 2)

    def covariances(self, hessian: Array) -> Array:
        """``|mean H (u u^T - I)|``, H the entry with residuals, mean and linear part as they are: (K,)."""
        span, tally = self.shared.case.span, self.shared.tally
        rms, largest = self.sizes_of(hessian)
        return np.array(
            [
                covariance_deviation(span.n, span.m, float(size), float(top), tally.spend(4))
                for size, top in zip(rms, largest, strict=True)
            ]
        )

    def sizes_of(self, hessian: Array) -> tuple[Array, Array]:
        """Sample root mean square and largest value of H: (K,) each."""
        case, span, tally, sizes = self.shared.case, self.shared.case.span, self.shared.tally, self.sizes
        q, pairs, ball = span.order, math.comb(span.order, 2), case.ball
        moved = pairs * self.shared.products.residual_rms("core_kept", (f"he{q - 2}", 1))
        limit = np.array([case.seen.limit])
        factor = self.shared.products.factor("f", limit)
        moved_top = pairs * (factor - case.core_response(limit))[0] * case.he[q - 2](limit)[0]
        if span.nu:
            expected = ball.mean_slack * (hessian**2) @ ball.weights
            expected += (pairs * span.nu * sizes) ** 2 * math.factorial(q - 2)
            largest = self._radial(limit)[0] * sizes
            mean = _radial_means(self.shared, lambda k, s: (self._radial(s) * sizes[k]) ** 2, expected)
        else:
            largest = ball.largest(hessian)
            mean = ball.nonnegative_mean(hessian**2, tally.spend(len(sizes)))
        return np.sqrt(mean) + moved * sizes, largest + moved_top * sizes
