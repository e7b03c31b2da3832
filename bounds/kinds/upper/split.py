"""The in-plane theorem for the attack that takes the span from one half of the neurons and the moments from the other.

Proof: bounds/proofs/split.md. The span theorem holds on the first half; ``bounds.kinds.upper.fresh`` has what is random on
the second, and from there on it is the in-plane theorem (``bounds.kinds.upper.fitted``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bounds.kinds.upper.budget import Known, Step
from bounds.kinds.upper.fitted import FitTheorem
from bounds.kinds.upper.fresh import Fresh, FreshMoments, fresh
from bounds.kinds.upper.plane import PlaneCase
from bounds.kinds.upper.products import products
from bounds.kinds.upper.remainders import Coupling
from bounds.kinds.upper.span import STEPS, SpanTheorem

#: The random steps of the proof: those of the span on its half, then those of the moments on theirs.
SPLIT_STEPS: tuple[Step, ...] = (*STEPS, products, fresh)


@dataclass(frozen=True, eq=False)
class SplitTheorem:
    """The numbers of the proof, and what follows from them. ``events``: how many each step used."""

    case: PlaneCase
    span: SpanTheorem
    fresh: Fresh
    events: Mapping[str, int]

    @staticmethod
    def of(known: Known) -> SplitTheorem:
        return SplitTheorem(known[PlaneCase], SpanTheorem.of(known), known[Fresh], known.events)

    @cached_property
    def graph(self) -> Coupling:
        """The sizes of the attack's X. Raises ``UnsupportedBound`` where the span theorem is vacuous."""
        case = self.span.case
        features, x = self.span.bound.features / case.norm, self.span.bound.graph
        frobenius = min(math.sqrt(case.B) * x, float(np.linalg.norm(features)) / case.steepest_direction)
        return Coupling(min(x, frobenius), frobenius, math.inf, features)

    def moments(self, coupling: Coupling) -> FreshMoments:
        """The moments for a span of that size."""
        coefficients = self.case.coefficient(2), self.case.coefficient(self.span.case.order)
        return FreshMoments(self.span, self.fresh, coupling, self.case.places, coefficients)

    @cached_property
    def fit(self) -> FitTheorem:
        """What follows for the fit."""
        return FitTheorem(self.case, self.span, self.graph, self.moments(self.graph).error())
