"""Tail bounds with explicit constants: means of functions of Gaussian vectors, and weighted Gaussian sample covariances.

Proofs: bounds/proofs/two-lemmas.md. Numbers are exact up to quadrature; ``tests/test_concentration.py`` checks each
against simulation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy

from bounds.arrays import Array
from bounds.gaussian.quadrature import hermite

Envelope = Callable[[Array], Array]


_RADII = 600


_RATES = 60


#: Rates of the exponential moments on a grid, in units of the one that is best for a Gaussian mean.
_GRID_RATES = (0.15, 0.3, 0.45, 0.6, 0.72, 0.82, 0.9, 0.97)


#: What the trapezoidal rule may be off, relative, over its step squared: an exponential moment, an expectation.
_MOMENT_SLACK, _MEAN_SLACK = 2.0, 0.25


def radius(dimension: int, count: int, probability: float) -> float:
    """Radius that ``count`` standard Gaussian vectors all stay within, but for the given probability (union bound)."""
    return math.sqrt(float(scipy.special.chdtri(dimension, probability / count)))


def chi(dimension: int, probability: float) -> float:
    """What the norm of a standard Gaussian vector exceeds with the given probability; 0 for dimension 0."""
    return math.sqrt(float(scipy.special.chdtri(dimension, probability))) if dimension else 0.0


@lru_cache(maxsize=64)
def _radial_grid(dimension: int, start: float, end: float, count: int) -> tuple[Array, Array]:
    """Radii and the density of a standard Gaussian vector's norm at them; read-only."""
    s = np.linspace(start, end, count)
    # scipy.stats has this density too, and takes a second to import.
    half = dimension / 2
    constant = math.log(2) - math.log(2) * half - scipy.special.gammaln(half)
    density = np.asarray(np.exp(constant + scipy.special.xlogy(dimension - 1, s) - s**2 / 2))
    for values in (s, density):
        values.setflags(write=False)
    return s, density


@dataclass(frozen=True)
class Sample:
    """``count`` independent standard Gaussian vectors of the given dimension, all of norm at most ``limit``."""

    dimension: int
    count: int
    limit: float

    def mean_excess(
        self, envelope: Envelope, exponent: float, second: float | None = None, absolute: float | None = None
    ) -> float:
        """How far the sample mean of F(zeta_j) lies above E F, at most, but for probability ``exp(-exponent)``, on the event
        that no vector is longer than ``limit``.

        ``|F(zeta)| <= envelope(|zeta|)``, which does not fall; ``second >= E F^2``, or ``absolute >= E |F|``, or both.
        Lemma "Mean of a function with a radial envelope".
        """
        if second is None and absolute is None:
            raise ValueError("second or absolute must be given; got neither")
        s, density = _radial_grid(self.dimension, 0.0, self.limit, _RADII)
        c = np.asarray(envelope(s), dtype=float)
        inner = np.full_like(c, math.inf if second is None else second)
        if absolute is not None:
            inner = np.minimum(inner, c * absolute)
        top = float(c[-1])
        if top == 0.0:
            return 0.0
        scale = math.sqrt(max(float(np.min(inner[c >= 0.1 * top])), 1e-300))
        rates = np.geomspace(1e-3, 1e2, _RATES) * min(math.sqrt(exponent / self.count) / scale, 50.0 / top)
        # Psi(rate) = min over s0 of e^{rate c(s0)} inner(s0) + E[c^2 e^{rate c}; s0 < |zeta| <= limit]
        grown = np.exp(np.clip(np.outer(rates, c), None, 600.0))
        with np.errstate(
            over="ignore"
        ):  # a rate at which this is infinite is not the one that gives the least
            pieces = c**2 * grown * density
            steps = np.maximum(pieces[:, 1:], pieces[:, :-1]) * (s[1] - s[0])
            beyond = np.concatenate(
                [np.cumsum(steps[:, ::-1], axis=1)[:, ::-1], np.zeros((len(rates), 1))], axis=1
            )
            psi = np.min(grown * inner + beyond, axis=1)
        return float(np.min(rates * psi / 2 + exponent / (rates * self.count))) + self.tail(envelope)

    def tensor_mean(self, envelope: Envelope, exponent: float, second: float) -> float:
        """The norm of the sample mean of a tensor-valued F(zeta_j) of mean zero, at most, but for probability
        ``2 exp(-exponent)``, on that event; envelope, second: of the norm of F, as in ``mean_excess``. Lemma "Norm of a
        mean"."""
        beyond = self.tail(envelope)
        return self.mean_excess(lambda s: envelope(s) + beyond, exponent, second=second)

    def nonnegative_mean(self, envelope: Envelope, exponent: float, expectation: float) -> float:
        """Upper bound of the sample mean of an F >= 0 of at most the given expectation."""
        return expectation + self.mean_excess(envelope, exponent, absolute=expectation)

    def rms(self, envelope: Envelope, exponent: float, expectation: float) -> float:
        """Square root of ``nonnegative_mean``."""
        return math.sqrt(self.nonnegative_mean(envelope, exponent, expectation))

    def expectation(self, envelope: Envelope) -> float:
        """Upper Riemann sum of ``E envelope(|zeta|)``."""
        s, density = _radial_grid(self.dimension, 0.0, self.limit + 12.0, 8001)
        values = np.asarray(envelope(s)) * density
        return float(np.sum(np.maximum(values[1:], values[:-1])) * (s[1] - s[0]))

    def tail(self, envelope: Envelope) -> float:
        """E[envelope(|zeta|); |zeta| > limit]."""
        s, density = _radial_grid(self.dimension, self.limit, self.limit + 12.0, _RADII)
        values = np.asarray(envelope(s)) * density
        return float(np.sum(np.maximum(values[1:], values[:-1])) * (s[1] - s[0]))


@dataclass(frozen=True, eq=False)
class Ball:
    """The trapezoidal rule for E[F(z); |z| <= limit], z standard Gaussian, for functions given by their values.

    points (N, dimension), weights (N,); step: spacing; limit: radius of the ball that the rule covers; count: size of the
    sample whose means are bounded. Values are stacked: (K, N), one row for each function.
    """

    points: Array
    weights: Array
    step: float
    limit: float
    count: int

    @staticmethod
    def of(dimension: int, limit: float, count: int, step: float) -> Ball:
        """Every cell of the lattice that meets the ball is covered: what lies outside only adds to a bound."""
        reach = limit + step * math.sqrt(dimension) / 2
        half = math.ceil(reach / step)
        line = step * np.arange(-half, half + 1)
        z = np.stack([g.ravel() for g in np.meshgrid(*[line] * dimension, indexing="ij")], axis=1)
        square = np.sum(z * z, axis=1)
        z, square = z[square <= reach**2], square[square <= reach**2]
        weights = np.exp(-square / 2) * (step / math.sqrt(2 * math.pi)) ** dimension
        return Ball(z, weights, step, limit, count)

    @property
    def moment_slack(self) -> float:
        return 1 + _MOMENT_SLACK * self.step**2

    @property
    def mean_slack(self) -> float:
        return 1 + _MEAN_SLACK * self.step**2

    def mean_excess(self, values: Array, exponent: float, tail: Array, noise: Array | None = None) -> Array:
        """How far the sample mean of F(z_j) + N_j G(z_j) lies from E F on either side, at most, but for probability
        ``2 exp(-exponent)`` each: (K,), on the event that no z_j is longer than ``limit``.

        values: F; noise: G^2 times the variance of N; tail (K,): bounds of E[|F|; |z| > limit]. Lemma "Mean of a function
        given on a grid".
        """
        spread = np.zeros_like(values) if noise is None else noise
        best = np.full((2, len(values)), math.inf)
        whole, mean = float(np.sum(self.weights)), values @ self.weights
        scale = self._scale(values**2 @ self.weights + spread @ self.weights, exponent)
        for rate in _GRID_RATES:
            grown = np.exp(np.clip(rate * scale[:, None] * values, -300.0, 300.0))
            noisy = (
                1.0 if noise is None else np.exp(np.minimum((rate * scale[:, None]) ** 2 * spread / 2, 300.0))
            )
            for side, moment in enumerate((grown * noisy, noisy / grown)):
                sign = 1 - 2 * side
                psi = moment @ self.weights - whole - sign * rate * scale * mean
                bound = (self.moment_slack * np.maximum(psi, 0) + exponent / self.count) / (rate * scale)
                best[side] = np.minimum(best[side], bound)
        return np.asarray(best.max(axis=0) + tail)

    def nonnegative_mean(self, values: Array, exponent: float) -> Array:
        """Upper bounds of the sample means of F >= 0, but for probability ``exp(-exponent)`` each: (K,), on that event."""
        best = np.full(len(values), math.inf)
        whole, mean = float(np.sum(self.weights)), values @ self.weights
        scale = self._scale(values**2 @ self.weights, exponent)
        for rate in (0.02, 0.05, 0.1, *_GRID_RATES):
            grown = np.exp(np.minimum(rate * scale[:, None] * values, 300.0))
            psi = grown @ self.weights - whole - rate * scale * mean
            best = np.minimum(
                best, (self.moment_slack * np.maximum(psi, 0) + exponent / self.count) / (rate * scale)
            )
        return np.asarray(self.mean_slack * mean + best)

    def _scale(self, second: Array, exponent: float) -> Array:
        return np.asarray(np.sqrt(2 * exponent / (self.count * np.maximum(second, 1e-300))))

    def largest(self, values: Array) -> Array:
        """Bounds of ``max |F|`` over the ball: (K,), with what a polynomial of degree six may gain between the points."""
        slack = 1 + 6 * self.step * math.sqrt(self.points.shape[1]) / self.limit
        return np.asarray(slack * np.max(np.abs(values), axis=1))


def chevet(
    power: int, dimension: int, count: int, mean_weight: float, largest_weight: float, exponent: float
) -> float:
    """``sup over unit a of (1/m) sum_j w_j |a.u_j|^power``, at most, but for probability ``exp(-exponent)``; power >= 2.

    u_j, j = 1..m = count, independent standard Gaussian vectors of the given dimension; w_j >= 0 fixed, of at most the
    given mean and largest value. Lemma "Powers of linear forms".
    """
    moment = 2 ** (power / 2) * math.gamma((power + 1) / 2) / math.sqrt(math.pi)
    typical = (moment * mean_weight) ** (1 / power)
    edge = (largest_weight / count) ** (1 / power) * (math.sqrt(dimension) + math.sqrt(2 * exponent))
    return float((typical + edge) ** power)


def chaos(dimension: int, count: int, exponent: float) -> float:
    """``|(1/m^2) sum_jk (a_j.g_k)(u_j.u_k) - (n/m) mean(a.g)|`` over ``rms(a) rms(g)``, at most, but for probability
    ``2 exp(-exponent)``: fixed vectors a_j, g_k, independent standard Gaussian u_j in R^n. Lemma "Gaussian chaos"."""
    return (2 * math.sqrt(dimension * exponent) + 2 * exponent) / count


def hermite_norm(order: int, dimension: int) -> Envelope:
    """As a function of s, the largest Frobenius norm of the Hermite tensor ``He_order(z)``, z in R^dimension, ``|z| <= s``.

    ``He(R z)`` is ``He(z)`` rotated, so the norm depends on ``|z|`` alone: it is taken at ``s e_1``, where
    ``|He_k|^2 = sum_a C(k, a) He_{k-a}(s)^2 E_a``, E_a the squared norm of He_a(0) in the other dimensions.
    """
    rest = [_norm_at_zero(a, dimension - 1) for a in range(order + 1)]

    def squared(s: Array) -> Array:
        line = hermite(order, s)
        return np.asarray(sum(math.comb(order, a) * line[order - a] ** 2 * rest[a] for a in range(order + 1)))

    def norm(s: Array) -> Array:
        s = np.asarray(s, dtype=float)
        fine = np.linspace(0.0, max(float(s.max()), 1e-9), 4001)
        largest = np.maximum.accumulate(np.sqrt(squared(fine)))
        return np.asarray(np.interp(s, fine, largest))

    return norm


def _norm_at_zero(order: int, dimension: int) -> float:
    """``|He_order(0)|^2`` in the given dimension: a sum over multi-indices of even entries."""
    if order % 2:
        return 0.0
    if dimension == 0:
        return float(order == 0)
    # Generating function: sum over a_1 + ... + a_n = order of order!/prod a_i! prod He_{a_i}(0)^2, one dimension at a time.
    single = [float(scipy.special.hermitenorm(a)(0.0)) ** 2 / math.factorial(a) for a in range(order + 1)]
    total = np.zeros(order + 1)
    total[0] = 1.0
    for _ in range(dimension):
        total = np.convolve(total, single)[: order + 1]
    return float(total[order]) * math.factorial(order)


def covariance_deviation(
    dimension: int, count: int, root_mean_square: float, largest: float, exponent: float
) -> float:
    """``|(1/m) sum_j f_j (u_j u_j^T - I)|`` in operator norm, at most, but for probability ``4 exp(-exponent)``.

    ``u_j`` independent standard Gaussian vectors of R^dimension, j = 1..m = count, f_j fixed reals of the given root mean
    square (at most) and largest absolute value (at most). Lemma "Weighted sample covariance": for
    dimension n >> 1 and a flat f it is 2.22 rms(f) sqrt(n/m), where the truth is 2.
    """
    n = dimension
    if n == 0:
        return 0.0
    norm = root_mean_square * math.sqrt(count)
    if n == 1:
        return 2 * (norm * math.sqrt(exponent) + largest * exponent) / count
    # The mean of all directions, sum_j f_j (|u_j|^2 - n), has its own tail bound.
    everything = 2 * (norm * math.sqrt(n * exponent) + largest * exponent)
    best = math.inf
    for c2 in np.linspace(0.3, 0.95, 66):
        inside, mean_square = _cap(n, float(c2))
        k = exponent - inside
        cost = 2 * (norm * math.sqrt(k) + largest * k)
        rest = (1 - mean_square) / (n - 1)
        if mean_square > rest:
            best = min(best, (cost + rest * everything) / (mean_square - rest))
    return best / count


@lru_cache(maxsize=4096)
def _cap(n: int, c2: float) -> tuple[float, float]:
    """Logarithm of the uniform measure of the two opposite caps {s on the sphere in R^n: (s.e)^2 >= c2}, and the mean of
    (s.e)^2 over them.

    (s.e)^2 has the Beta(1/2, (n-1)/2) distribution; its tail by the hypergeometric series, which does not underflow.
    """
    a, x = (n - 1) / 2, 1 - c2

    def log_tail(b: float) -> float:
        series = float(scipy.special.hyp2f1(a + b, 1.0, a + 1, x))
        return (
            a * math.log(x)
            + b * math.log(c2)
            - math.log(a)
            - float(scipy.special.betaln(a, b))
            + math.log(series)
        )

    inside = log_tail(0.5)
    return inside, math.exp(log_tail(1.5) - inside) / n
