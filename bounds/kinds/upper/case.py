"""What the proofs of the upper bound start from: the setting, one feature's function, the samples and their radii.

Nothing here is random. Notation of the proofs (bounds/proofs/span.md): ``z = U^T w`` and ``u`` are a weight's coordinates
inside and outside the features' span, of dimensions B and n = d - B; N is the noise, nu its standard deviation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from bounds.arrays import Array
from bounds.errors import UnsupportedBound
from bounds.estimator import EQUAL_NORMS, TensorAttack, core_order
from bounds.gaussian.quadrature import gaussian_rule
from bounds.gaussian.tails import Envelope, Sample, chi, hermite_norm, radius
from bounds.kinds.pairs import PairTable
from bounds.kinds.supported import check_independent, supported_orders
from bounds.kinds.upper.envelopes import FARTHEST, envelope, mixed_envelope
from bounds.setting import Setting

#: Shares of the failure probability: leading Gaussian vectors, radii; the rest goes to all the small terms together.
LEADING, RADII = 0.45, 0.03


#: What quadrature may be off, in units of ``E sigma^2 t^8``, t^8 being of the degree that moments of the core ask for. At
#: unit norm it is below 1e-12 for the built-in activations.
RESOLVED = 1e-4
#: Grids and panels grow with the features' norm: up to here their cost does not show.
LARGEST_NORM = 100.0


def check_supported(setting: Setting) -> None:
    """Raises ``UnsupportedBound`` where nothing is proved: unequal norms, an ill-posed setting, no orthogonal part."""
    norms = setting.norms
    if np.ptp(norms) > EQUAL_NORMS * norms.max():
        raise UnsupportedBound("not proved: norms must be equal")
    if norms.max() > LARGEST_NORM:
        raise UnsupportedBound(
            f"not computed: norms above {LARGEST_NORM:g} ask for too fine grids; got {norms.max():.3g}"
        )
    if supported_orders(setting)[0] != 2:
        raise UnsupportedBound("not proved for odd activations: the proof is about the second moment")
    if setting.d == setting.B:
        raise UnsupportedBound("not proved: d = B leaves no orthogonal part")
    check_independent(setting)
    check_variation(setting)


def check_variation(setting: Setting) -> None:
    """Raises ``UnsupportedBound`` where nothing is known of the activation between the points at which it is evaluated, or
    where it varies too fast for the rule by which expectations are computed."""
    activation, norm = setting.activation, float(setting.norms[0])
    if activation.variation is None:
        raise UnsupportedBound(
            f"not proved for this activation: its variation is not declared (what {activation.name} does between the points "
            f"at which it is evaluated: Activation(..., variation=Variation(...)))"
        )
    t, w = gaussian_rule([k / norm for k in activation.kinks], norm)
    power = float(w @ (activation.function(norm * t) * np.maximum(np.abs(t), 1.0) ** 4) ** 2)
    error = activation.variation.quadrature_error(norm)
    if not error <= RESOLVED * power:
        raise UnsupportedBound(
            f"not proved for this activation: {activation.name} is declared to vary so fast that expectations may be off by "
            f"{error / power:.2g} of E sigma^2 t^8 ({RESOLVED:g} is too much)"
        )


@dataclass(frozen=True)
class FeatureFunctions:
    """One feature's share of the gradient as a function of t = (unit direction).z: moments and envelopes. ``phi`` is what
    enters the moments: sigma (plain), or sigma less its mean c_0 and its linear part c_1 t (residualized).

    Where a mean of one feature's function is used for all of them, only the sum over features is bounded: the mean over
    features has the same expectation and envelope, and for a function of one coordinate Chernoff's bound by convexity."""

    variance: float  # of sigma
    parallel: float  # E (sigma - c_0)^2 t^2
    power: float  # E phi^2
    power_t: float  # E phi^2 t^2
    slope: float  # c_1
    centred: Envelope  # of sigma - c_0
    kept: Envelope  # of phi

    @staticmethod
    def of(setting: Setting, residualized: bool) -> FeatureFunctions:
        norm = float(setting.norms[0])
        activation = setting.activation
        c0, c1 = (activation.coefficient(k, norm) for k in (0, 1))
        kinks = [k / norm for k in activation.kinks]
        t, w = gaussian_rule(kinks, norm)
        centred = activation.function(norm * t) - c0
        kept = centred - c1 * t if residualized else centred + c0
        curvature = feature_curvature(setting)
        return FeatureFunctions(
            variance=float(w @ centred**2),
            parallel=float(w @ (centred * t) ** 2),
            power=float(w @ kept**2),
            power_t=float(w @ (kept * t) ** 2),
            slope=c1,
            centred=envelope(lambda x: activation.function(norm * x) - c0, kinks, curvature, norm / 3),
            kept=envelope(
                lambda x: activation.function(norm * x) - ((c0 + c1 * x) if residualized else 0.0),
                kinks,
                curvature,
                norm / 3,
            ),
        )


def feature_curvature(setting: Setting) -> Callable[[Array], Array]:
    """The second derivative of ``t -> sigma(norm t)`` between kinks, at most, for ``|t| <= s``: a function of s."""
    norm, variation = float(setting.norms[0]), setting.activation.variation
    if variation is None:
        raise UnsupportedBound("not proved for this activation: its variation is not declared")
    return lambda s: norm**2 * variation.derivative(2, norm * s)


@dataclass(frozen=True)
class Samples:
    """The neurons' Gaussian vectors, all within their radii: ``seen`` (z, N), ``joint`` (z, e) with e one more coordinate of
    u, and parts of these: one coordinate ``line`` of z, ``z``, ``e``. ``longest_u``: radius of the u. ``paired``: (z, N, e)
    with e B + 1 coordinates of u."""

    seen: Sample
    joint: Sample
    line: Sample
    z: Sample
    e: Sample
    longest_u: float
    paired: Sample

    @staticmethod
    def of(B: int, n: int, m: int, noisy: bool, share: float, parts: int = 1) -> Samples:
        """m neurons of each of the ``parts`` of the network, within the radii of all. Each radius that is used (three, or
        four with two parts) fails with probability ``share``."""
        seen = radius(B + noisy, parts * m, share)
        joint = radius(B + 1, parts * m, share)
        paired = radius(2 * B + 1 + noisy, m, share)
        if max(seen, joint, paired * (parts - 1)) > FARTHEST / 2:
            raise UnsupportedBound(f"not proved: some neurons may lie {seen:.1f} standard deviations out")
        return Samples(
            Sample(B + noisy, m, seen),
            Sample(B + 1, m, joint),
            Sample(1, m, seen),
            Sample(B, m, seen),
            Sample(1, m, joint),
            radius(n, parts * m, share),
            Sample(2 * B + 1 + noisy, m, paired),
        )


@dataclass(frozen=True, eq=False)
class SpanCase:
    """A setting with all that the span theorem's steps derive from it. ``leading``: share of the failure probability delta
    for the B leading events. Where the attack splits the neurons the setting's m is that of a half (``of``), and a mean
    over both is bounded as one over a half is."""

    setting: Setting
    attack: TensorAttack
    noise_variance: float
    delta: float
    leading: float = LEADING

    @staticmethod
    def of(
        setting: Setting, attack: TensorAttack, noise_variance: float, delta: float, leading: float = LEADING
    ) -> SpanCase:
        """Of the whole network's setting."""
        whole = SpanCase(setting, attack, noise_variance, delta, leading)
        return replace(whole, setting=setting.with_width(setting.m // whole.parts))

    @property
    def parts(self) -> int:
        """How many parts the attack splits the neurons into."""
        return 2 if self.attack.same_neuron == "split" else 1

    @property
    def B(self) -> int:
        return self.setting.B

    @property
    def m(self) -> int:
        return self.setting.m

    @property
    def n(self) -> int:
        """Dimension outside the span."""
        return self.setting.d - self.setting.B

    @property
    def nu(self) -> float:
        return math.sqrt(self.noise_variance)

    @property
    def residualized(self) -> bool:
        return self.attack.residualized

    @cached_property
    def norm(self) -> float:
        return float(self.setting.norms[0])

    @cached_property
    def order(self) -> int:
        """q, that of the core."""
        return core_order(self.setting.activation)

    @cached_property
    def functions(self) -> FeatureFunctions:
        return FeatureFunctions.of(self.setting, self.residualized)

    @cached_property
    def table(self) -> PairTable:
        """Exact second moments of what enters P (index 0) and T (index 1), without noise."""
        return PairTable.build(self.setting, self.residualized, (2, self.order), self.setting.directions)

    @cached_property
    def samples(self) -> Samples:
        share = RADII * self.delta / (2 + self.parts)
        return Samples.of(self.B, self.n, self.m, self.nu > 0, share, self.parts)

    @cached_property
    def leading_chi(self) -> float:
        """What none of the B leading Gaussian vectors exceeds in norm."""
        return chi(self.n, self.leading * self.delta / self.B)

    @cached_property
    def he2(self) -> Envelope:
        return hermite_norm(2, self.B)

    @cached_property
    def mixture(self) -> Envelope:
        """Envelope of ``sum r_i* phi_i``."""
        return self.mixed(self.functions.kept)

    def mixed(self, kept: Envelope) -> Envelope:
        """Envelope of ``sum r_i* f_i`` for functions f_i of one coordinate with the envelope ``kept``."""
        top = float(np.linalg.eigvalsh(self.setting.cosines)[-1])
        return mixed_envelope(np.abs(self.setting.residuals), kept, math.sqrt(top))

    def response(self, s: Array) -> Array:
        """Envelope of ``h° = sum r_i* phi_i + nu N``."""
        return self.mixture(s) + self.nu * s

    # --- A_*, the limit of the second moment in the span --------------------------------------------------------------

    @cached_property
    def limit(self) -> Array:
        """A_*, (B, B)."""
        directions = self.setting.directions
        alpha = self.setting.residuals * self.setting.activation.coefficient(2, self.norm)
        return np.asarray((directions.T * alpha) @ directions)

    @cached_property
    def sigma(self) -> float:
        """Its smallest singular value."""
        return float(np.min(np.abs(np.linalg.eigvalsh(self.limit))))

    @cached_property
    def inverse(self) -> Array:
        return np.asarray(np.linalg.inv(self.limit), dtype=np.float64)

    @cached_property
    def slopes(self) -> Array:
        """``a_i = A_*^-1 u_i``, rows."""
        return np.asarray(np.linalg.solve(self.limit, self.setting.directions.T).T)

    @cached_property
    def lengths(self) -> Array:
        """``|a_i|``, (B,)."""
        return np.asarray(np.linalg.norm(self.slopes, axis=1))

    @cached_property
    def inverse_power(self) -> float:
        """``E (h°)^2 |A_*^-1 z|^2``."""
        expected = float(np.sum(self.table.second_moment(0, 0, self.inverse, self.inverse)))
        return expected + self.noise_variance * float(np.sum(self.inverse**2))

    @cached_property
    def steepest_direction(self) -> float:
        """Smallest singular value of the matrix of unit directions."""
        return float(np.linalg.svd(self.setting.directions, compute_uv=False)[-1])
