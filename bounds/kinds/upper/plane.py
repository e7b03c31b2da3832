"""What the in-plane theorem starts from beyond the span's: the fit's model, its functionals, and functions on a grid in R^B.

Nothing here is random. Notation: bounds/proofs/in-plane.md. ``phi_q`` is phi less its second Hermite part (plain: phi);
``h° = sum r_i* phi_i``, ``f° = sum r_i* phi_q,i``, both plus noise; a functional (L, M) acts on the moments as
``<L, P> + <M, T>``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bounds.arrays import Array
from bounds.errors import UnsupportedBound
from bounds.gaussian.quadrature import hermite
from bounds.gaussian.symmetric import symmetric_tensors
from bounds.gaussian.tails import Ball, Envelope, Sample, hermite_norm
from bounds.kinds.fit_model import Functionals, Model
from bounds.kinds.upper.case import SpanCase, feature_curvature
from bounds.kinds.upper.envelopes import envelope

#: Shares of the failure probability: features' distances from the span, first-order motion of the fit (the rest as before).
LEADING_SPAN, LEADING_ROWS = 0.25, 0.25


#: Beyond, the Gaussian density times a polynomial of degree 14 is below 1e-4 of what lies within.
_REACH = 9.0


@dataclass(frozen=True, eq=False)
class NodeValues:
    """At the grid's nodes: one feature's functions ``phi`` and ``core_phi`` (phi_q), (B, N); the ``response`` h° and the
    ``core_response`` f° without noise, (N,)."""

    phi: Array
    core_phi: Array
    response: Array
    core_response: Array


@dataclass(frozen=True, eq=False)
class PlaneCase:
    """A span's case with what the in-plane steps derive from it. ``step``: spacing of the grid."""

    span: SpanCase
    step: float

    def coefficient(self, k: int) -> float:
        """c_k, the activation's Hermite coefficient at the features' norm."""
        return self.span.setting.activation.coefficient(k, self.span.norm)

    @property
    def seen(self) -> Sample:
        return self.span.samples.seen

    @property
    def leave_one_out(self) -> bool:
        return self.span.attack.same_neuron == "leave_one_out"

    @property
    def turns_exponent(self) -> float:
        """Of the events of the rows that turn features: they have a share of their own."""
        B = self.span.B
        return math.log(2 * B * (B - 1) / (LEADING_ROWS * self.span.delta))

    @cached_property
    def model(self) -> Model:
        span, c2, q = self.span, self.coefficient(2), self.span.order
        return Model(
            span.setting.directions,
            span.setting.residuals * c2,
            self.coefficient(q) / c2,
            span.attack.weight(q),
            q,
        )

    # --- envelopes ----------------------------------------------------------------------------------------------------

    @cached_property
    def he(self) -> list[Envelope]:
        """Of He_0, ..., He_q."""
        return [hermite_norm(k, self.span.B) for k in range(self.span.order + 1)]

    @cached_property
    def core_kept(self) -> Envelope:
        """Of phi_q."""
        span = self.span
        if not span.residualized:
            return span.functions.kept
        activation, norm = span.setting.activation, span.norm
        c0, c1, c2 = (self.coefficient(k) for k in range(3))
        curvature = feature_curvature(span.setting)
        return envelope(
            lambda x: activation.function(norm * x) - c0 - c1 * x - c2 / 2 * (x * x - 1),
            [k / norm for k in activation.kinks],
            lambda s: curvature(s) + abs(c2),
            norm / 3,
        )

    @cached_property
    def core_mixture(self) -> Envelope:
        """Of ``sum r_i* phi_q,i``."""
        return self.span.mixed(self.core_kept)

    def core_response(self, s: Array) -> Array:
        """Envelope of f°, with noise."""
        return np.asarray(self.core_mixture(s) + self.span.nu * s)

    # --- functionals of the moments -----------------------------------------------------------------------------------

    @cached_property
    def groups(self) -> Mapping[str, Functionals]:
        """Those of P alone, of T alone, the rows of the pseudo-inverse (weights, turns), and those that vanish on the
        model's tangent space."""
        B, q = self.span.B, self.span.order
        second, core = symmetric_tensors(B, 2), symmetric_tensors(B, q)
        return {
            "second": Functionals(second, np.zeros((len(second), *(B,) * q))),
            "core": Functionals(np.zeros((len(core), B, B)), core),
            "weights": self.model.rows[:B],
            "turns": self.model.rows[B:],
            "complement": self.model.complement,
        }

    @cached_property
    def functionals(self) -> Functionals:
        """All of them, one group after the other."""
        return Functionals.joined(list(self.groups.values()))

    @cached_property
    def places(self) -> Mapping[str, slice]:
        """Where each group stands among ``functionals``."""
        ends = np.cumsum([len(g) for g in self.groups.values()]).tolist()
        return {
            name: slice(start, end)
            for name, start, end in zip(self.groups, [0, *ends[:-1]], ends, strict=True)
        }

    # --- the grid -----------------------------------------------------------------------------------------------------

    @cached_property
    def ball(self) -> Ball:
        return Ball.of(self.span.B, self.seen.limit, self.span.m, self.step)

    @cached_property
    def hermite(self) -> Mapping[int, Array]:
        """Components of He_k at the nodes along the symmetric tensors' basis, (K, N), k = 0, ..., q."""
        return hermite_components(self.ball.points, self.span.order)

    def polynomial(self, tensors: Array) -> Array:
        """``<t, He(z)>`` at the nodes for a stack of symmetric tensors: (K, N)."""
        return polynomial(tensors, self.hermite)

    @cached_property
    def values(self) -> NodeValues:
        return self.values_at(self.ball.points)

    def values_at(self, points: Array) -> NodeValues:
        """The same at other points (N, B)."""
        span = self.span
        t = self.model.directions @ points.T
        phi = span.setting.activation.function(span.norm * t)
        if span.residualized:
            phi = phi - self.coefficient(0) - self.coefficient(1) * t
        core = phi - self.coefficient(2) / 2 * (t * t - 1) if span.residualized else phi
        r = span.setting.residuals
        return NodeValues(phi, core, r @ phi, r @ core)

    def tail(self, second: Envelope, core: Envelope) -> Array:
        """What lies beyond the ball of ``second |L| + core |M|``: (K,)."""
        g = self.functionals
        return np.asarray(self.seen.tail(second) * g.second_norms + self.seen.tail(core) * g.core_norms)

    def check_grid(self) -> None:
        """Raises ``UnsupportedBound`` where a grid of this spacing misses part of the functionals' second moments, which
        are known exactly: the activation then varies too fast for it. The grid that tells reaches far enough to hold all of
        them, whatever the sample's radius: that of a weaker demand is smaller and leaves more outside."""
        g, table = self.functionals, self.span.table
        wide = Ball.of(self.span.B, max(_REACH, self.seen.limit), self.span.m, self.step)
        components, values = hermite_components(wide.points, self.span.order), self.values_at(wide.points)
        seen = values.response * polynomial(g.second, components)
        seen = seen + values.core_response * polynomial(g.core, components)
        exact = table.second_moment(0, 0, g.second, g.second)
        exact = exact + 2 * table.second_moment(0, 1, g.second, g.core)
        exact = exact + table.second_moment(1, 1, g.core, g.core)
        if np.any(exact > wide.mean_slack * (seen**2 @ wide.weights) + 1e-12):
            raise UnsupportedBound(
                f"not proved: {self.span.setting.activation.name} varies too fast for the grid in the span"
            )


def hermite_components(points: Array, order: int) -> Mapping[int, Array]:
    """Components of He_k at points (N, B) along the symmetric tensors' basis, (K, N), k = 0, ..., order."""
    size, line = points.shape[1], hermite(order, points)
    found = {}
    for k in range(order + 1):
        rows = []
        for index in itertools.combinations_with_replacement(range(size), k):
            counts = [index.count(b) for b in range(size)]
            repeated = math.factorial(k) / math.prod(math.factorial(c) for c in counts)
            value = np.full(len(points), math.sqrt(repeated))
            for b, c in enumerate(counts):
                value = value * line[c][:, b]
            rows.append(value)
        found[k] = np.array(rows)
    return found


def polynomial(tensors: Array, components: Mapping[int, Array]) -> Array:
    """``<t, He>`` for a stack of symmetric tensors t, from components of He at points: (K, N)."""
    order, count = tensors.ndim - 1, len(tensors)
    basis = symmetric_tensors(tensors.shape[1] if order else 1, order)
    return np.asarray((tensors.reshape(count, -1) @ basis.reshape(len(basis), -1).T) @ components[order])
