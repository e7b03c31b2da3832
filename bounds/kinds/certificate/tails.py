"""What a mean of squares over Gaussian neurons tells of its expectation: tails for functions of bounded slope.

Proof: bounds/proofs/certificate.md, steps 1 to 3. ``t`` is the logarithm of one over the probability that a step may fail
with, ``count`` the number of neurons.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import scipy

from bounds.arrays import Array
from bounds.errors import UnsupportedBound
from bounds.gaussian.activations import ACTIVATIONS, Activation
from bounds.gaussian.quadrature import gaussian_rule


@dataclass(frozen=True)
class Shape:
    """How an activation bends: its derivative lies between lowest and highest, jumps by ``jump`` at 0 and has elsewhere a
    derivative of at most ``bend`` in absolute value."""

    lowest: float
    highest: float
    jump: float
    bend: float

    @property
    def steepest(self) -> float:
        return max(-self.lowest, self.highest)


# The derivatives of GELU and SiLU are 1/2 plus an odd function. GELU: its second derivative (2 - t^2) phi(t) is largest at
# 0 and vanishes at sqrt 2, where the derivative is Phi(t) + t phi(t) < 1.12905. SiLU: the derivative is largest, 1.09984,
# at 2.3994, and the second one, 1/2, at 0. tanh: |2 t (1 - t^2)| <= 4 / 3^1.5, t the value; sigmoid: an eighth of that.
#: The built-in activations whose slope is bounded.
SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "relu": Shape(0.0, 1.0, 1.0, 0.0),
        "leaky_relu": Shape(0.01, 1.0, 0.99, 0.0),
        "gelu": Shape(-0.12905, 1.12905, 0.0, 0.7979),
        "silu": Shape(-0.09985, 1.09985, 0.0, 0.5),
        "softplus": Shape(0.0, 1.0, 0.0, 0.25),
        "elu": Shape(0.0, 1.0, 0.0, 1.0),
        "tanh": Shape(0.0, 1.0, 0.0, 0.7699),
        "sigmoid": Shape(0.0, 0.25, 0.0, 0.0963),
    }
)


def shape_of(activation: Activation, norm: float) -> Shape:
    """That of ``sigma(norm t)``. Raises ``UnsupportedBound`` for an activation that is not built in, or whose slope is not
    bounded."""
    if ACTIVATIONS.get(activation.name) is not activation or activation.name not in SHAPES:
        raise UnsupportedBound(f"not proved for {activation.name!r}: no bound of its slope is known")
    unit = SHAPES[activation.name]
    return Shape(norm * unit.lowest, norm * unit.highest, norm * unit.jump, norm**2 * unit.bend)


@dataclass(frozen=True)
class Moments:
    """Of s = sigma(norm Z): rms its root mean square, fourth that of s^2; shift, turn: ``E (a s + b s' N)^4 <= (shift a^2 +
    turn b^2)^2``, N another standard normal number."""

    rms: float
    fourth: float
    shift: float
    turn: float

    @staticmethod
    def of(activation: Activation, norm: float) -> Moments:
        slope = activation.derivative
        if slope is None:
            raise UnsupportedBound(f"not proved for {activation.name!r}: it has no derivative")
        x, w = gaussian_rule(
            [k / norm for k in activation.kinks], norm, lambda t: activation.function(norm * t)
        )
        s, ds = activation.function(norm * x), norm * slope(norm * x)
        value, turned, both = float(w @ s**4), 3 * float(w @ ds**4), 6 * float(w @ (s * ds) ** 2)
        more = math.sqrt(max(1.0, both / (2 * math.sqrt(value * turned))))
        return Moments(
            math.sqrt(float(w @ s**2)), value**0.25, more * math.sqrt(value), more * math.sqrt(turned)
        )


@dataclass(frozen=True)
class LeftOver:
    """Roots of the second and of the fourth moment of what the derivative leaves of q, at most."""

    second: float
    fourth: float


def left_over(shape: Shape, sines: Array, power: int) -> Array:
    """``(E |.|^power)^(1/power)``, power 2 or 4, of what the derivative leaves of ``sigma(w.x)`` for an x turned by these
    sines, at most."""
    less, angle = 1 - np.sqrt(1 - sines**2), np.arcsin(sines)
    normal = {2: 1.0, 4: 3**0.25}[power], {2: 3**0.5, 4: 105**0.25}[power]
    wedge = {2: np.sqrt(2 * angle**3 / (3 * math.pi)), 4: (8 / (5 * math.pi)) ** 0.25 * angle**1.25}[power]
    return np.asarray(normal[0] * shape.steepest * less + normal[1] * shape.bend * less + shape.jump * wedge)


def left_over_mean(shape: Shape, sines: Array, count: int, t: float) -> Array:
    """The same as ``left_over`` for the root mean square over ``count`` neurons, at most: three events each."""
    less, angle = 1 - np.sqrt(1 - sines**2), np.arcsin(sines)
    length = 1 + math.sqrt(2 * t / count)
    fourth = 3**0.25 + math.sqrt(2 * t) / count**0.25
    deviation = np.sqrt(16 * angle**5 / (5 * math.pi) * t / count) + 2 * angle**2 * t / count
    wedge = np.sqrt(2 * angle**3 / (3 * math.pi) + deviation)
    return np.asarray(length * shape.steepest * less + fourth**2 * shape.bend * less + shape.jump * wedge)


def deviation_of_mean(activation: Activation, norm: float, slope: float, rate: float) -> float:
    """How far the mean of sigma(norm Z_j) is from its expectation, at most: by the slope, or by Bernstein's inequality."""
    x, w = gaussian_rule([k / norm for k in activation.kinks], norm, lambda t: activation.function(norm * t))
    s = activation.function(norm * x)
    variance = float(w @ s**2) - float(w @ s) ** 2
    # E |s(Z) - E s|^p <= slope^p E |Z - Z'|^p; for p = 3 by those of p = 2 and 4
    scales = [2 / 6 * math.sqrt(variance * 12 * slope**4) / variance]
    for p in range(4, 61):
        moment = slope**p * 2**p * math.gamma((p + 1) / 2) / math.sqrt(math.pi)
        scales.append((2 * moment / (math.factorial(p) * variance)) ** (1 / (p - 2)))
    return min(slope * math.sqrt(2 * rate), math.sqrt(2 * variance * rate) + max(scales) * rate)


def without_noise(mean_square: float, sigma: float, count: int, t: float) -> float:
    """At most the mean of q_j^2, from that of ``(q_j + sigma N_j)^2``: the lower tail of a noncentral chi-square (Birge
    2001, Lemma 8.1). Raises ``UnsupportedBound`` where so small a mean has no such probability whatever q is."""
    rate = t / count
    inside = 4 * sigma**2 * rate - sigma**2 + 2 * mean_square
    if inside < 0:
        raise UnsupportedBound(
            f"the held-out neurons are {mean_square:.3g} off in mean square, less than noise of standard deviation {sigma:g}"
        )
    root = 2 * sigma * math.sqrt(rate) + math.sqrt(inside)
    return max(0.0, (root**2 - sigma**2) / 2)


#: Exponents, over the square of the slope, at which the tail is evaluated: every one gives a valid bound.
_EXPONENTS = np.geomspace(1e-4, 1e8, 400)


def by_slope(mean_square: float, slope: float, rate: float) -> float:
    """At most ``E q^2``, for a function q of ``slope`` at most with this mean of squares; ``rate`` = t / count.

    Of all such q with a given ``E q^2`` the mean of squares is most easily too small for ``slope (Z - a)_+``.
    """
    seen = mean_square / slope**2

    def missing(a: float) -> float:
        return float(np.max(-_EXPONENTS * seen - _log_laplace(a))) - rate

    low, high = -60.0, 12.0
    if missing(low) < 0:
        raise UnsupportedBound(f"vacuous: {1 / rate:.3g} neurons for each unit of confidence are too few")
    if missing(high) >= 0:
        return slope**2 * _square(high)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if missing(middle) >= 0 else (low, middle)
    return slope**2 * _square(low)


def by_fourth(mean_square: float, fourth: float, rate: float) -> float:
    """At most ``E q^2``, for a q with this mean of squares and ``E q^4 <= fourth^4``: the mean is most easily too
    small where q^2 has two values, one of them 0."""
    if fourth == 0:
        return 0.0
    seen = mean_square / fourth**2
    if seen >= 1:
        return fourth**2

    def missing(share: float) -> float:
        return (
            float(scipy.special.rel_entr(seen * share, share**2))
            + float(scipy.special.rel_entr(1 - seen * share, 1 - share**2))
            - rate
        )

    low, high = seen, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if missing(middle) >= 0 else (middle, high)
    return fourth**2 * high


def _log_laplace(a: float) -> Array:
    """``log E exp(-s (Z - a)_+^2)`` at the exponents s."""
    wide = np.sqrt(1 + 2 * _EXPONENTS)
    below = scipy.special.log_ndtr(a)
    above = -_EXPONENTS * a**2 / wide**2 - np.log(wide) + scipy.special.log_ndtr(-a / wide)
    return np.asarray(np.logaddexp(below, above))


def _square(a: float) -> float:
    """``E (Z - a)_+^2``."""
    x, w = scipy.special.roots_laguerre(40)
    if a > 2:  # free of cancellation: the density beyond a is that at a, times exp(-a u - u^2/2)
        u = x / a
        return float(w @ (u**2 * np.exp(-(u**2) / 2))) / a * math.exp(-(a**2) / 2) / math.sqrt(2 * math.pi)
    density = math.exp(-(a**2) / 2) / math.sqrt(2 * math.pi)
    return (1 + a**2) * float(scipy.special.ndtr(-a)) - a * density
