"""The held-out certificate: how far features may be from the truth that explain neurons which they were not fitted to.

It takes what the server has. Proof: bounds/proofs/certificate.md, whose steps the names follow. Features are unit vectors
here, times the public norm n; q = g - ghat is what is missing of the truth's function, D^2 = E q^2 at the residuals that the
truth has, h^2 its mean of squares over the held-out neurons.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bounds import checks
from bounds.arrays import Array
from bounds.errors import UnsupportedBound
from bounds.estimator import moment_orders
from bounds.gaussian.activations import Activation
from bounds.kinds.certificate.anywhere import lines
from bounds.kinds.certificate.fourth import LARGEST_PLANE, kurtosis
from bounds.kinds.certificate.least_squares import Corrected, LeastSquares, Normal
from bounds.kinds.certificate.nearby import Explained, Nearby
from bounds.kinds.certificate.plane import narrowed
from bounds.kinds.certificate.tails import (
    LeftOver,
    Moments,
    Shape,
    by_fourth,
    by_slope,
    deviation_of_mean,
    left_over,
    shape_of,
    without_noise,
)

#: What the held-out neurons move a residual, over how far from it the residuals are that the reference is a function of: the
#: nearer these, the larger a share of the confidence they take.
_BLURS = (8, 512)

#: Orders of the polynomials up to which a difference is looked at.
_ORDERS = (4, 6, 8)

#: The share of the confidence that a step of least squares takes.
_STEP = 0.25

#: Rounds at most; one that gains less than this share is the last; the slope of q is
#: looked at again in the first ones.
_ROUNDS, _GAIN, _SLOPED = 300, 1e-4, 3

#: Signs of two features against those found; searches for two features at most, one that leaves more than this is the last.
_FLIPS, _SEARCHES, _SEARCHED = ((1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0)), 8, 0.9

_NO_SIGNS = UnsupportedBound("vacuous: the held-out neurons do not tell the features' signs")

#: Sines of the angles that the truth is supposed to be within, where others cannot be excluded; what must be left of them.
_BASINS, _CONTRACTED = (0.5, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05), 0.9

#: A line may be any above this sine; eigenvalues of a Gram matrix below this are zero; features up to which every
#: combination of slopes is tried.
_STEEPEST, _DEPENDENT, _ENDS = 0.999, 1e-9, 10


@dataclass(frozen=True, eq=False)
class HeldOut:
    """directions (B, d): unit features that were found without the held-out neurons; residuals (B,): theirs; norm: the
    features' public one. mean_square: of the observation less what these predict, over the ``held`` neurons of ``m``;
    sigma: standard deviation of the noise in it; blur: of that in the entries which they were found from, of the other
    neurons. largest_label: no label is larger in absolute value. normal: the equations of least squares on the held-out
    neurons, for a step from the features that were found."""

    directions: Array
    residuals: Array
    norm: float
    activation: Activation
    mean_square: float
    held: int
    m: int
    blur: float
    sigma: float = 0.0
    largest_label: float = 1.0
    normal: Normal | None = None

    def __post_init__(self) -> None:
        unit = checks.array("directions", self.directions, (None, None))
        object.__setattr__(self, "directions", unit / np.linalg.norm(unit, axis=1, keepdims=True))
        object.__setattr__(self, "residuals", checks.array("residuals", self.residuals, (len(unit),)))
        checks.integer("held", self.held, 1, checks.integer("m", self.m, 2))
        for name in ("norm", "mean_square", "sigma", "largest_label"):
            checks.real(name, getattr(self, name), 0.0)
        checks.integer("m - held", self.m - self.held, 1)
        checks.inside("blur", self.blur, math.inf)

    @property
    def B(self) -> int:
        return len(self.residuals)


@dataclass(frozen=True)
class HeldOutBound:
    """error: R of the found features, at most, wherever the truth is; None where that is not proved, and ``why``. near: the
    same, supposed that every feature's angle to what was found of it has at most the sine ``within``; None where neither is
    of use. corrected: after a step of least squares; None without its equations, or where ``error`` is.
    distance: D, at most, anywhere; mean_root: h, at most."""

    error: float | None
    why: str
    near: float | None
    within: float | None
    distance: float
    mean_root: float
    corrected: Corrected | None = None


def held_out_bound(found: HeldOut, delta: float) -> HeldOutBound:
    """With probability at least ``1 - delta`` over the held-out weights and the noise R is at most this.

    Raises ``UnsupportedBound`` where it is not proved: no bounded slope, held-out neurons that contradict the noise.
    """
    delta = checks.inside("delta", delta)
    if found.normal is None:
        return _HeldOutTheorem(found, delta).bound
    return _HeldOutTheorem(found, (1 - _STEP) * delta, _STEP * delta).bound


@dataclass(frozen=True)
class _Blur:
    """off: how far the residuals that the reference is a function of are from the truth's, at most; confidence: log(1 / p)
    of every event that speaks of a reference, all references that there can be together having p."""

    off: float
    confidence: float


@dataclass(frozen=True, eq=False)
class _HeldOutTheorem:
    """delta: of all but a step of least squares, which has ``step``."""

    found: HeldOut
    delta: float
    step: float = 0.0

    @cached_property
    def bound(self) -> HeldOutBound:
        norm, why = self.found.norm, ""
        known: Explained | None = None
        distance, mean_root = self.anywhere, self.mean_root
        try:
            known = self._known_anywhere()
        except UnsupportedBound as reason:
            why = str(reason)
        near, within = self._nearest()
        return HeldOutBound(
            None if known is None else norm * known.error,
            why,
            None if near is None else norm * near,
            within,
            distance,
            mean_root,
            None if known is None else self._corrected(known),
        )

    @cached_property
    def _squares(self) -> LeastSquares | None:
        found = self.found
        if found.normal is None:
            return None
        noisy, left = LeastSquares.events(found.B)
        return LeastSquares(
            found.directions,
            found.residuals,
            found.normal,
            self._shape,
            found.held,
            found.sigma,
            math.log(2 * noisy / self.step),
            math.log(2 * left / self.step) + self._references(self._largest_blur),
        )

    def _corrected(self, known: Explained) -> Corrected | None:
        """Features with their norm."""
        if self._squares is None:
            return None
        try:
            step = self._squares.corrected(known)
        except UnsupportedBound:
            return None
        return Corrected(self.found.norm * step.features, self.found.norm * step.error)

    def _nearest(self) -> tuple[float | None, float | None]:
        """From the widest angles that rounds narrow down."""
        for sine in _BASINS:
            sines = np.full(self.found.B, sine)
            settled = self._settled(Explained.start(sines, *self._residuals), self.anywhere)
            if np.all(settled.sines <= _CONTRACTED * sines):
                return settled.error, sine
        return None, None

    # --- steps 1 to 3: what the held-out neurons tell of D

    @cached_property
    def _shape(self) -> Shape:
        return shape_of(self.found.activation, self.found.norm)

    @property
    def _slope(self) -> float:
        return self._shape.steepest

    @cached_property
    def _confidence(self) -> float:
        """log(1 / p) for every single event of step 1: D takes half of delta, the noise a quarter, which is D's where there
        is none, these the rest."""
        return math.log(4 * (7 + len(_BLURS)) * self.found.B / self.delta)

    @cached_property
    def _blurs(self) -> tuple[_Blur, ...]:
        """From near the residuals to far from them, as far as the noise in the reference's entries carries."""
        return tuple(self._blurred(self._moved / parts) for parts in _BLURS)

    def _blurred(self, off: float) -> _Blur:
        far = math.sqrt(2 * self._confidence)
        size = min(off / far, self._largest_blur)
        share = (0.5 if self.found.sigma else 0.75) * self.delta / len(_BLURS)
        return _Blur(size * far, self._references(size) - math.log(share))

    @cached_property
    def _largest_blur(self) -> float:
        """Standard deviation of the residuals, at most, that the noise in the reference's entries can be taken for."""
        found, kept = self.found, self.found.m - self.found.held
        seen = self._unit.rms + self._slope * math.sqrt(2 * self._confidence / kept)
        return found.blur / (math.sqrt(found.B * kept) * seen)

    def _references(self, size: float) -> float:
        """What log(1 / p) an event has to have beyond its own, so that p is that of all references together."""
        reach = self._moved + size * math.sqrt(2 * self._confidence)
        return self.found.B * max(0.0, math.log(2 * reach / (math.sqrt(2 * math.pi) * size)))

    @cached_property
    def mean_root(self) -> float:
        """h, at most."""
        found = self.found
        return math.sqrt(without_noise(found.mean_square, found.sigma, found.held, math.log(4 / self.delta)))

    @cached_property
    def _moved(self) -> float:
        """How far held-out neurons move a residual from what the others give."""
        found, t = self.found, self._confidence
        mean = deviation_of_mean(found.activation, found.norm, self._slope, t / found.held)
        return mean * found.held / found.m

    @cached_property
    def _unit(self) -> Moments:
        return Moments.of(self.found.activation, self.found.norm)

    @cached_property
    def _seen(self) -> float:
        """Root mean square of sigma(w.x_i) over the held-out neurons, at most."""
        return self._unit.rms + self._slope * math.sqrt(2 * self._confidence / self.found.held)

    @cached_property
    def _residuals(self) -> tuple[float, float]:
        """Between these a residual lies."""
        found = self.found
        output = found.activation.coefficient(0, found.norm)
        off = found.largest_label + self._slope * math.sqrt(2 * self._confidence / found.m)
        return output - off, output + off

    @cached_property
    def _steepest(self) -> float:
        """The slope of ghat, at most: a convex function of the activation's slopes is largest at their ends."""
        found, shape = self.found, self._shape
        rough = self._slope * float(np.sum(np.abs(found.residuals)))
        if found.B > _ENDS:
            return rough
        weighted = found.residuals[:, None] * found.directions
        ends = itertools.product((shape.lowest, shape.highest), repeat=found.B)
        return min(rough, max(float(np.linalg.norm(np.array(e) @ weighted)) for e in ends))

    def _by_slope(self, sizes: Array, apart: float = math.inf) -> float:
        """D by the slope of q; sizes (B,): of the residuals; apart: slope of the truth's function less that of ghat's."""
        found, unit = self.found, self._unit
        least = []
        for blur in self._blurs:
            truth = min(self._slope * float(np.sum(sizes)), self._steepest + apart)
            slope = self._steepest + truth + self._slope * found.B * blur.off
            root = self.mean_root + found.B * blur.off * self._seen
            rate = blur.confidence / found.held
            least.append(math.sqrt(by_slope(root**2, slope, rate)) + found.B * blur.off * unit.rms)
        return min(least)

    def _by_known(self, known: Explained) -> float:
        """The same, of what is known."""
        apart = known.turned @ known.longer + np.sum(known.shifts(self.found.residuals))
        return self._by_slope(known.sizes, self._slope * float(apart))

    def _by_moment(self, model: Nearby, known: Explained, distance: float) -> float:
        """D by the fourth moment of q, which is small where q is; distance: D, at most."""
        left = LeftOver(*(float(known.sizes @ left_over(self._shape, known.sines, p)) for p in (2, 4)))
        return self._by_left(model, known, distance, left)

    def _by_left(self, model: Nearby, known: Explained, distance: float, left: LeftOver) -> float:
        """left: of q less its part of first order, at most."""
        found, unit = self.found, self._unit
        shifts = known.shifts(found.residuals)
        linear = [
            math.sqrt(found.B) * model.reach(known, distance) * model.longest(unit.shift, unit.turn),
            float(np.sum(np.sqrt(unit.shift * shifts**2 + unit.turn * known.turned**2))),
        ]
        if self._kurtosis is not None:
            linear.append(self._kurtosis**0.25 * (distance + left.second))
        size = min(linear) + left.fourth
        least = []
        for blur in self._blurs:
            root = self.mean_root + found.B * blur.off * self._seen
            # the difference in one residual is at most blur.off times sigma(w.x_i)
            whole = size + found.B * blur.off * unit.fourth
            rate = blur.confidence / found.held
            least.append(math.sqrt(by_fourth(root**2, whole, rate)) + found.B * blur.off * unit.rms)
        return min(least)

    @cached_property
    def _kurtosis(self) -> float | None:
        """``E q^4 / (E q^2)^2`` at most for q of first order; None for more features than it is computed for."""
        if self.found.B > LARGEST_PLANE:
            return None
        return kurtosis(self.found.activation, self.found.norm, self._directions)

    @cached_property
    def anywhere(self) -> float:
        """D, at most, whatever the features."""
        low, high = self._residuals
        sizes = np.full(self.found.B, max(-low, high))
        first = self._by_slope(sizes)
        if not self._nearby(2).same_signs(first):
            return first
        return min(first, self._by_slope(np.where(self.found.residuals < 0, max(-low, 0.0), max(high, 0.0))))

    # --- steps 4 to 6: from D to the features

    @cached_property
    def _directions(self) -> Array:
        """In an orthonormal basis of their span, (B, B)."""
        values, vectors = np.linalg.eigh(self.found.directions @ self.found.directions.T)
        if values[0] < _DEPENDENT:
            raise UnsupportedBound("vacuous: the features that were found are linearly dependent")
        return np.asarray(vectors * np.sqrt(values))

    def _nearby(self, most: int) -> Nearby:
        found = self.found
        powers = {
            k: found.activation.coefficient(k, found.norm) ** 2 / math.factorial(k) for k in range(most + 1)
        }
        return Nearby(self._directions, found.residuals, powers)

    def _lines(self) -> Array:
        found = self.found
        order = moment_orders(found.activation)[1]
        low, high = self._residuals
        start = lines(self._nearby(max(order, 4)), order, self.anywhere, max(-low, high))
        if np.max(start) >= _STEEPEST:
            raise UnsupportedBound(f"vacuous: {found.held} held-out neurons do not exclude other features")
        return start

    def _known_anywhere(self) -> Explained:
        """From the lines to signs, and to the features."""
        known, distance = Explained.start(self._lines(), *self._residuals), self.anywhere
        told = any(self._nearby(most).signs_are_told(known, distance) for most in _ORDERS)
        if self.found.B == 2:
            known, distance = self._in_plane(known, distance, told=told)
        elif not told:
            raise _NO_SIGNS
        known = self._settled(known, distance)
        return known if self._squares is None else self._squares.rounds(known)

    def _in_plane(self, known: Explained, distance: float, *, told: bool) -> tuple[Explained, float]:
        """Two features: by branch and bound, as long as that gains."""
        model = self._nearby(max(_ORDERS))
        for flip in _FLIPS[1:]:
            if not told and narrowed(model, known, distance, np.array(flip), self._shape) is not None:
                raise _NO_SIGNS
        for _ in range(_SEARCHES):
            last = known.error
            found = narrowed(model, known, distance, np.array(_FLIPS[0]), self._shape)
            if found is None:
                raise UnsupportedBound(
                    "no features explain the held-out neurons within what the noise allows"
                )
            known = found.known if self._squares is None else self._squares.rounds(found.known)
            distance = min(distance, self._by_known(known), self._by_left(model, known, distance, found.left))
            if known.error > _SEARCHED * last:
                break
        return known, distance

    def _settled(self, known: Explained, distance: float) -> Explained:
        """Rounds until they gain nothing, by the orders that serve best."""
        results = [self._rounds(self._nearby(most), known, distance) for most in _ORDERS]
        return min(results, key=lambda found: found.error)

    def _rounds(self, model: Nearby, known: Explained, distance: float) -> Explained:
        for count in range(_ROUNDS):
            last = known
            distance = min(distance, self._by_moment(model, known, distance))
            if count < _SLOPED:
                distance = min(distance, self._by_known(known))
            known = model.round(known, distance)
            if count > 3 and known.error >= (1 - _GAIN) * last.error:
                break
        return known
