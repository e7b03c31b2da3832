"""The span theorem: how far the features may lie from the attack's span, with every constant.

Proof: bounds/proofs/span.md, whose steps the names follow. It is about the attack as implemented: the linear part and the
span are estimated on the same neurons. It takes the setting alone. Symbols: ``P = [[A, C^T], [C, D]]`` is the attack's
second moment in the basis (span, rest), ``A_*`` the limit of A; ``h = h^z - beta p`` what the attack multiplies w w^T - I
with, ``h°`` its limit in the span, ``beta p_j`` the removed linear part outside it, ``p_j = v.u_j`` for a unit vector v.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from bounds.arrays import Array
from bounds.errors import UnsupportedBound
from bounds.estimator import MIN_GAP, RITZ_TOLERANCE, TensorAttack
from bounds.gaussian.symmetric import symmetric_basis
from bounds.gaussian.tails import covariance_deviation
from bounds.kinds.pairs import PairTable
from bounds.kinds.supported import check_entries
from bounds.kinds.upper.budget import Known, Shape, Step, Tally, run, solved
from bounds.kinds.upper.case import LEADING, RADII, SpanCase, check_supported
from bounds.setting import Setting

#: max |a^2 b| over a^2 + b^2 = 1.
_SQUARE_TIMES = 2 / (3 * math.sqrt(3))


# --- step 1: residuals, mean and linear part --------------------------------------------------------------------------


@dataclass(frozen=True)
class LinearPart:
    """Errors of the gradient's mean and linear part: ``mean`` e_0; ``slope`` e_1, of the linear part in the span;
    ``outside`` beta, the length of what lies outside; ``rotation`` kappa_0, how much of the gradient's own direction a
    rotation of the neurons brings into p."""

    mean: float = 0.0
    slope: float = 0.0
    outside: float = 0.0
    rotation: float = 0.0


@dataclass(frozen=True)
class FirstMoment:
    """``residual`` tau: largest ``|f(x_i) - E f(x_i)|``; ``linear``; ``removed``: the same, zero where the attack removes
    nothing; ``rms_phi``, ``rms_z``: sample root mean squares of one feature's function and of ``|z|``."""

    residual: float
    linear: LinearPart
    removed: LinearPart
    rms_phi: float
    rms_z: float


def first_moment(known: Known, tally: Tally) -> FirstMoment:
    """Step 1."""
    case = known[SpanCase]
    f, samples, B = case.functions, case.samples, case.B
    residual = samples.line.mean_excess(f.centred, tally.spend(2 * B), second=f.variance)
    linear = _linear_part(case, residual, tally)
    return FirstMoment(
        residual,
        linear,
        linear if case.residualized else LinearPart(),
        rms_phi=samples.line.rms(lambda s: f.kept(s) ** 2, tally.spend(), f.power),
        rms_z=samples.z.rms(lambda s: s**2, tally.spend(), float(B)),
    )


def _linear_part(case: SpanCase, residual: float, tally: Tally) -> LinearPart:
    f, samples, B, m = case.functions, case.samples, case.B, case.m
    target = case.setting.residuals
    strength = float(np.sum(np.abs(target)))
    total_r = strength + B * residual
    mean = total_r * residual
    along = samples.line.mean_excess(
        lambda s: f.centred(s) * s + abs(f.slope), tally.spend(2 * B), second=f.parallel - f.slope**2
    )
    across = samples.z.mean_excess(
        lambda s: f.centred(s) * s, tally.spend(2 * B * (B - 1)), second=f.variance
    )
    slope = total_r * math.sqrt(along**2 + (B - 1) * across**2)
    if case.nu:
        mean += case.nu * tally.normal(2) / math.sqrt(m)
        slope += math.sqrt(B) * samples.seen.mean_excess(
            lambda s: case.nu * s**2 / 2, tally.spend(2 * B), second=case.noise_variance
        )
    slope += mean * tally.chi(B) / math.sqrt(m)
    raw = PairTable.build(case.setting, False, (2, case.order), case.setting.directions)
    one = np.ones(1)
    expected = float(np.sum(target)) * case.setting.activation.coefficient(0, case.norm)
    variance = max(0.0, float(raw.second_moment(0, 0, one, one)[0]) - expected**2) + case.noise_variance
    gamma = samples.seen.rms(lambda s: (strength * f.centred(s) + case.nu * s) ** 2, tally.spend(), variance)
    gamma += residual * B * samples.line.rms(lambda s: f.centred(s) ** 2, tally.spend(), f.variance)
    length = tally.chi(case.n)
    return LinearPart(mean, slope, gamma * length / math.sqrt(m), length + tally.normal(2))


# --- steps 2 and 3: A, the second moment in the span ------------------------------------------------------------------


@dataclass(frozen=True)
class SecondMoment:
    """``shift``: ``|A - A_*|`` in Frobenius norm."""

    shift: float


def second_moment(known: Known, tally: Tally) -> SecondMoment:
    """Steps 2 and 3: A - A_* entry by entry, and what residuals, mean and linear part add."""
    case, first = known[SpanCase], known[FirstMoment]
    samples, he2, B = case.samples, case.he2, case.B
    basis = symmetric_basis(B)
    k = len(basis)
    second = case.table.second_moment(0, 0, basis, basis) + 2 * case.noise_variance
    entries = [
        samples.seen.mean_excess(lambda s: case.response(s) * he2(s), tally.spend(2), second=float(v))
        for v in second
    ]
    squares = samples.z.rms(lambda s: he2(s) ** 2, tally.spend(), B * (B + 1.0))
    total = math.sqrt(float(np.sum(np.square(entries)))) + first.residual * B * first.rms_phi * squares
    if case.residualized:
        removed = first.removed
        total += removed.mean * math.sqrt(k) * samples.z.mean_excess(he2, tally.spend(2 * k), second=2.0)
        triple = samples.z.mean_excess(lambda s: s * he2(s), tally.spend(2 * B * k), second=10.0)
        total += removed.slope * math.sqrt(B * k) * triple
        total += removed.outside * squares / math.sqrt(case.m) * (1 + tally.normal() + removed.rotation)
    return SecondMoment(total)


# --- step 4: C, the cross block, Gaussian given z ---------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class CrossBlock:
    """C = C_z - C_b, C_b the share of the removed linear part outside the span. ``leading`` (B,): ``|C_z a_i|``;
    ``coupling``: ``|C_z A_*^-1|`` in Frobenius norm; ``bent``: ``|C_b a|`` for unit a; ``rest``: root mean square of
    ``(h^z - h°)(z.a)`` for unit a."""

    leading: Array
    coupling: float
    bent: float
    rest: float


def cross_block(known: Known, tally: Tally) -> CrossBlock:
    """Step 4."""
    case, first = known[SpanCase], known[FirstMoment]
    m, n = case.m, case.n
    rest = _rest(case, first, tally)
    expected = case.table.second_moment(0, 0, case.slopes, case.slopes)
    expected = expected + case.noise_variance * case.lengths**2
    sizes = [
        weighted_rms(case, rest, tally, size=float(k), expectation=float(v))
        for k, v in zip(case.lengths, expected, strict=True)
    ]
    whole = weighted_rms(case, rest, tally, size=1 / case.sigma, expectation=case.inverse_power)
    return CrossBlock(
        leading=np.array(sizes) * case.leading_chi / math.sqrt(m),
        coupling=whole * (math.sqrt(n) + tally.normal()) / math.sqrt(m),
        bent=_bent(case, first.removed, tally) if case.residualized else 0.0,
        rest=rest,
    )


def _rest(case: SpanCase, first: FirstMoment, tally: Tally) -> float:
    f, z = case.functions, case.samples.z
    moved = z.rms(lambda s: (f.kept(s) * s) ** 2, tally.spend(), f.power_t + (case.B - 1) * f.power)
    total = first.residual * case.B * moved
    if case.residualized:
        quartic = z.rms(lambda s: s**4, tally.spend(), case.B * (case.B + 2.0))
        total += first.removed.mean * first.rms_z + first.removed.slope * quartic
    return total


def weighted_rms(case: SpanCase, rest: float, tally: Tally, *, size: float, expectation: float) -> float:
    """Sample root mean square of ``h^z (z.a)``, ``|a| = size``, given ``E (h°)^2 (z.a)^2``."""
    main = case.samples.seen.rms(lambda s: (case.response(s) * s * size) ** 2, tally.spend(), expectation)
    return main + size * rest


def _bent(case: SpanCase, removed: LinearPart, tally: Tally) -> float:
    m, rho, kappa0, joint = case.m, case.samples.seen.limit, removed.rotation, case.samples.joint
    crossed = math.sqrt(case.B) * joint.mean_excess(
        lambda s: _SQUARE_TIMES * s**3, tally.spend(2 * case.B), second=3.0
    )
    crossed += (2 * kappa0 * rho * (1 + tally.normal()) + kappa0**2 * rho) / m
    spread = joint.rms(lambda s: s**4 / 4, tally.spend(), float(case.B)) + kappa0 * rho / math.sqrt(m)
    return removed.outside * (crossed + spread * (math.sqrt(case.n) + tally.normal()) / math.sqrt(m))


# --- step 5: D, the noise ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NoiseBlock:
    """``edge``: ``|D|`` in operator norm; ``rms``, ``largest``: of h^z; ``rms_p``, ``largest_p``: of p."""

    edge: float
    rms: float
    largest: float
    rms_p: float
    largest_p: float


def noise_block(known: Known, tally: Tally) -> NoiseBlock:
    """Step 5: D is a weighted sample covariance, less the share of the removed linear part."""
    case, first = known[SpanCase], known[FirstMoment]
    samples, removed, m, n = case.samples, first.removed, case.m, case.n
    one = np.ones(1)
    expected = float(case.table.second_moment(0, 0, one, one)[0]) + case.noise_variance
    rms = samples.seen.rms(lambda s: case.response(s) ** 2, tally.spend(), expected)
    rms += first.residual * case.B * first.rms_phi + removed.mean + removed.slope * first.rms_z
    rho = samples.seen.limit
    farthest = np.array([rho])
    moved = first.residual * case.B * case.functions.kept(farthest)
    largest = float((case.response(farthest) + moved)[0] + removed.mean + removed.slope * rho)
    # Given the gradient, p is a standard normal vector but along one direction: whatever the attack removes.
    kappa0 = first.linear.rotation
    rms_p, largest_p = 1 + (tally.normal() + kappa0) / math.sqrt(m), samples.joint.limit + kappa0
    edge = covariance_deviation(n, m, rms, largest, tally.spend(4))
    if case.parts == 2:
        tally.spend(4)  # the gap is judged by the other half's mean of h^2: the same bounds of its parts
    if case.residualized:
        cubic = samples.e.mean_excess(lambda s: s**3, tally.spend(2), second=15.0)
        cubic += tally.normal(2) / math.sqrt(m)
        t = tally.spend(2)
        cubic += 3 * kappa0 * (2 * math.sqrt(t) + 2 * t) / m
        cubic += (3 * kappa0**2 * tally.normal(2) + kappa0**3) / m
        quartic = math.sqrt(samples.e.rms(lambda s: s**4, tally.spend(), 3.0)) + kappa0 * m**-0.25
        flat = covariance_deviation(n - 1, m, rms_p, largest_p, tally.spend(4))
        edge += removed.outside * (
            cubic + quartic**2 * tally.chi(n - 1) / math.sqrt(m) + flat + largest_p / m
        )
    return NoiseBlock(edge, rms, largest, rms_p, largest_p)


#: The random steps of the proof, in its order.
STEPS: tuple[Step, ...] = (first_moment, second_moment, cross_block, noise_block)


# --- step 6: the dominant subspace ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SpanBound:
    """With probability at least ``1 - delta`` the attack returns a result, and the distance of x_i from its span is at most
    ``features[i]``. ``graph``: norm of the span as a graph over the true one. ``parts``: named sizes, all relative to the
    weakest eigenvalue of A but for ``leading``, the first-order part of the bound (root mean square)."""

    features: Array
    graph: float
    parts: Mapping[str, float]

    @property
    def rmse(self) -> float:
        """Root mean square over the features."""
        return math.sqrt(float(np.mean(self.features**2)))


@dataclass(frozen=True)
class Blocks:
    """Of the matrix whose exact eigenvectors the span step returns: ``shift`` ``|A - A_*|``; ``graph`` ``|Y|`` with
    Y = C A^-1; ``floor``, the smallest singular value of A at least; ``off`` ``|D - Y A Y^T|``; ``ritz``: what the step's
    tolerance adds to every block, and is in these."""

    shift: float
    graph: float
    floor: float
    off: float
    ritz: float


@dataclass(frozen=True, eq=False)
class SpanTheorem:
    """The numbers of the proof, and what follows from them. ``blocks`` and ``bound`` raise ``UnsupportedBound`` where m is
    too small. ``events``: how many each step used."""

    case: SpanCase
    first: FirstMoment
    second: SecondMoment
    cross: CrossBlock
    noise: NoiseBlock
    events: Mapping[str, int]

    @staticmethod
    def of(known: Known) -> SpanTheorem:
        return SpanTheorem(
            known[SpanCase],
            known[FirstMoment],
            known[SecondMoment],
            known[CrossBlock],
            known[NoiseBlock],
            known.events,
        )

    @cached_property
    def blocks(self) -> Blocks:
        exact = self._blocks(0.0)
        # Rayleigh-Ritz: V is exact for P - E V^T - V E^T, with |E| at most this.
        weakest = (self.case.sigma + exact.shift) * (1 + exact.graph**2) + exact.off
        return self._blocks(math.sqrt(self.case.B) * RITZ_TOLERANCE * weakest)

    def _blocks(self, ritz: float) -> Blocks:
        case, m, sigma = self.case, self.case.m, self.case.sigma
        shift = self.second.shift + ritz
        if shift >= sigma:
            raise UnsupportedBound(
                f"vacuous: m = {m} is too small, the second moment in the span may be off by {shift / sigma:.2f} times "
                f"its weakest eigenvalue"
            )
        floor = sigma - shift
        graph = (self.cross.coupling + (self.cross.bent + ritz) / sigma) / (1 - shift / sigma)
        seen = self.cross.leading + (self.cross.bent + ritz) * case.lengths  # |C a_i|
        graph = self._tightened(graph, seen, shift * case.lengths)
        off = self.noise.edge + ritz + (float(np.linalg.norm(case.limit, 2)) + shift) * graph**2
        if floor <= 2 * off:
            raise UnsupportedBound(
                f"vacuous: m = {m} is too small, the noise of the second moment may reach {off / floor:.2f} times its "
                f"weakest eigenvalue (less than 0.5 is needed)"
            )
        return Blocks(shift, graph, floor, off, ritz)

    def _tightened(self, size: float, known: Array, slope: Array) -> float:
        """A bound of ``|M|`` for a matrix with ``|M u_i| <= known_i + slope_i |M|``, from a bound that is known: M is
        ``[M u_1, ..., M u_B]`` times the inverse of the directions. Every round gives a bound from the last one."""
        for _ in range(30):
            size = min(size, float(np.linalg.norm(known + slope * size)) / self.case.steepest_direction)
        return size

    @cached_property
    def bound(self) -> SpanBound:
        """Perturbation of the dominant subspace."""
        case, blocks, sigma = self.case, self.blocks, self.case.sigma
        graph, floor, off = blocks.graph, blocks.floor, blocks.off
        sine = graph * (floor - off) / (floor - 2 * off)
        cosine = math.sqrt(max(0.0, 1 - sine**2))
        if sine >= 0.7 or graph * sine / cosine >= 0.5:
            raise UnsupportedBound(
                f"vacuous: m = {case.m} is too small, the span may be off by an angle of sine {sine:.2f} "
                f"(0.7 is too much)"
            )
        self._check_gap(blocks)
        gain = 1 / (1 - graph * sine / cosine)  # at most 2, so that off * gain < floor
        tangent = min(sine / cosine, graph / (1 - off * gain / floor))
        lengths = case.lengths
        known = (
            self.cross.leading + (self.cross.bent + blocks.ritz + graph * blocks.shift) * lengths
        )  # |Y u_i|
        slope = off * gain * lengths / (1 - blocks.shift / sigma)
        tangent = self._tightened(tangent, known, slope)
        parts = {
            "shift": blocks.shift / sigma,
            "edge": self.noise.edge / sigma,
            "bent": self.cross.bent / sigma,
            "leading": case.norm * math.sqrt(float(np.mean(self.cross.leading**2))),
        }
        return SpanBound(case.norm * (known + slope * tangent), tangent, parts)

    def _check_gap(self, blocks: Blocks) -> None:
        """Raises ``UnsupportedBound`` unless the attack sees its gap between signal and noise."""
        case = self.case
        power = self.noise.rms + self.first.removed.outside * self.noise.rms_p
        seen = power * (2 * math.sqrt(case.n / case.m) + 3 * math.sqrt(2 / case.m))
        if blocks.floor - blocks.off < MIN_GAP * max(blocks.off, seen):
            raise UnsupportedBound(
                f"vacuous: m = {case.m} is too small, the attack may see no gap between signal and noise"
            )


# --- the whole --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _events(steps: tuple[Step, ...], shape: Shape) -> int:
    """How many small events the steps use: counted on a setting of that shape."""
    setting, attack, noise_variance = shape.example()
    return run(steps, Known.of(SpanCase.of(setting, attack, noise_variance, 0.05))).spent


def solved_steps(
    steps: tuple[Step, ...], setting: Setting, attack: TensorAttack, noise_variance: float, delta: float
) -> Known:
    """The numbers of the steps, the failure probability split evenly over their events. Raises ``UnsupportedBound`` where
    nothing is proved."""
    check_supported(setting)
    check_entries(attack)
    case = SpanCase.of(setting, attack, noise_variance, delta)
    events = _events(steps, Shape.of(setting, attack, noise_variance))
    return solved(steps, Known.of(case), events, (1 - LEADING - RADII) * delta)


def span_theorem(setting: Setting, attack: TensorAttack, noise_variance: float, delta: float) -> SpanTheorem:
    """The theorem for any B. Raises ``UnsupportedBound`` where it is not proved."""
    return SpanTheorem.of(solved_steps(STEPS, setting, attack, noise_variance, delta))
