"""The in-plane theorem: the error itself for two and three features, with every constant.

Proof: bounds/proofs/in-plane.md, whose steps the names follow. It holds a span theorem, what is random of the moments
(``fluctuations``) and norms for the rest (``remainders``); from the moments' error to the fitted features leads
``bounds.kinds.upper.identification``. X is the attack's span as a graph over the true one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from bounds.arrays import Array
from bounds.errors import UnsupportedBound
from bounds.estimator import RITZ_TOLERANCE, TensorAttack
from bounds.gaussian.tails import chaos
from bounds.kinds.upper.budget import Known, Shape, Spent, Step, run, solved
from bounds.kinds.upper.case import RADII, SpanCase, check_supported
from bounds.kinds.upper.fitted import FitTheorem
from bounds.kinds.upper.fluctuations import Fluctuations, fluctuations
from bounds.kinds.upper.plane import LEADING_ROWS, LEADING_SPAN, PlaneCase
from bounds.kinds.upper.products import Products, products
from bounds.kinds.upper.remainders import CoupledMoments, Coupling, MomentsError, Remainders, probe
from bounds.kinds.upper.sizes import Sizes, sizes
from bounds.kinds.upper.span import STEPS, SpanTheorem
from bounds.kinds.upper.split import SPLIT_STEPS, SplitTheorem
from bounds.setting import Setting

#: Expectations by the trapezoidal rule stop here: its nodes grow with a power of B.
MOST_FEATURES = 3


#: Spacing of its nodes, in units of an activation at unit norm; and for counting events, where values do not matter.
_STEP = {2: 0.1, 3: 0.3}


_COARSE = 1.5


_MOST_NODES = 500_000


#: The random steps of the proof, in its order; ``products`` keeps what later ones share.
IN_PLANE_STEPS: tuple[Step, ...] = (*STEPS, products, fluctuations, sizes, probe)


def in_plane_theorem(
    setting: Setting, attack: TensorAttack, noise_variance: float, delta: float
) -> InPlaneTheorem | SplitTheorem:
    """The theorem with its events counted, for the attack that it is. Raises ``UnsupportedBound`` for B > 3, and as the
    span theorem does."""
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
    known = solved(steps_of(attack), start, events, share)
    known[PlaneCase].check_grid()
    if attack.same_neuron == "split":
        return SplitTheorem.of(known)
    return InPlaneTheorem.of(known, math.log(events / share))


def steps_of(attack: TensorAttack) -> tuple[Step, ...]:
    """The random steps of the proof for this attack."""
    return SPLIT_STEPS if attack.same_neuron == "split" else IN_PLANE_STEPS


def start_of(
    setting: Setting, attack: TensorAttack, noise_variance: float, delta: float, step: float
) -> Known:
    """What the steps start from; ``step``: spacing of the grid."""
    span = SpanCase.of(setting, attack, noise_variance, delta, LEADING_SPAN)
    return Known.of(span, PlaneCase(span, step))


@lru_cache(maxsize=256)
def _events(shape: Shape) -> int:
    """How many small events the theorem uses: counted on a setting of that shape."""
    setting, attack, noise_variance = shape.example()
    return run(steps_of(attack), start_of(setting, attack, noise_variance, 0.05, _COARSE)).spent


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

    @cached_property
    def fit(self) -> FitTheorem:
        """What follows for the fit. Raises ``UnsupportedBound`` where the span theorem is vacuous."""
        remainders = self.coupled(self.graph).remainders()
        error = MomentsError(
            self.random_deviations(self.graph, remainders),
            sum(remainders.second.values()),
            sum(remainders.core.values()),
        )
        return FitTheorem(self.case, self.span, self.graph, error)
