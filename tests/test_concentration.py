"""The two lemmas behind the proved upper bound, against simulation; every comparison has a control that must fail."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from bounds.gaussian.tails import Sample, _cap, chi, covariance_deviation, hermite_norm, radius

PROBABILITY = 0.02
EXPONENT = -math.log(PROBABILITY)


def violations(excesses: list[float], limit: float) -> int:
    return sum(e > limit for e in excesses)


@pytest.mark.parametrize("power", [1, 2, 4, 5])
def test_mean_of_a_radial_power(power: int) -> None:
    """F = |z|^p in the plane, 400 means of 500 (seed 1). The lemma allows 2 % to lie above (and the radius 0.5 %): 10 of
    400; more than 20 has probability 0.2 %. Control: an eighth of the excess is exceeded too often."""
    rng = np.random.default_rng(1)
    lengths = np.linalg.norm(rng.standard_normal((400, 500, 2)), axis=2)
    expectation, second = (2 ** (k / 2) * math.gamma(1 + k / 2) for k in (power, 2 * power))
    sample = Sample(2, 500, radius(2, 500, 0.005))
    excesses = list(np.mean(lengths**power, axis=1) - expectation)
    exact = sample.mean_excess(lambda s: s**power, EXPONENT, second=second)
    crude = sample.nonnegative_mean(lambda s: s**power, EXPONENT, expectation) - expectation
    for limit in (exact, crude):
        assert violations(excesses, limit) <= 20
    # The second moment, not the variance, enters: about twice the truth for p = 1, more for heavy tails.
    assert violations(excesses, exact / 8) > 20


def test_mean_of_a_signed_function() -> None:
    """F = He_3(z_1) + z_2, mean zero, both tails: 600 means of 1000 (seed 2). Each tail may hold 2 % and 0.5 %: 30 of 1200;
    more than 50 has probability 1e-3."""
    rng = np.random.default_rng(2)
    z = rng.standard_normal((600, 1000, 2))
    means = np.mean(z[..., 0] ** 3 - 3 * z[..., 0] + z[..., 1], axis=1)
    sample = Sample(2, 1000, radius(2, 1000, 0.005))
    limit = sample.mean_excess(lambda s: s**3 + 3 * s, EXPONENT, second=7.0)
    assert violations(list(np.concatenate([means, -means])), limit) <= 50
    assert violations(list(np.concatenate([means, -means])), limit / 6) > 50
    # Never below what the central limit theorem asks for, and not far above it where m is large.
    normal = math.sqrt(2 * EXPONENT * 7.0)
    for count, most in ((10**4, 2.5), (10**8, 1.05)):
        found = Sample(2, count, radius(2, count, 0.005)).mean_excess(
            lambda s: s**3 + 3 * s, EXPONENT, second=7.0
        )
        assert 1.0 <= found * math.sqrt(count) / normal <= most


def test_mean_needs_a_moment() -> None:
    with pytest.raises(ValueError, match="second or absolute"):
        Sample(2, 100, 5.0).mean_excess(lambda s: s, 3.0)
    assert Sample(2, 100, 5.0).mean_excess(lambda s: 0 * s, 3.0, second=0.0) == 0.0


def test_radius_and_norm_quantiles() -> None:
    """2000 samples of 50 vectors in R^3 (seed 3), 10 % may hold a longer one: 200; 155 to 245 has probability 99.9 %."""
    rng = np.random.default_rng(3)
    longest = np.linalg.norm(rng.standard_normal((2000, 50, 3)), axis=2).max(axis=1)
    assert 155 <= int(np.sum(longest > radius(3, 50, 0.1))) <= 245
    assert chi(7, 0.01) == pytest.approx(stats.chi(7).isf(0.01))
    assert chi(0, 0.01) == 0.0


@pytest.mark.parametrize(("n", "c2"), [(2, 0.5), (3, 0.6), (10, 0.4)])
def test_caps(n: int, c2: float) -> None:
    """Measure and mean square of a pair of caps: 10^6 points (seed 4), four standard errors."""
    s = np.random.default_rng(4).standard_normal((10**6, n))
    square = s[:, 0] ** 2 / np.sum(s**2, axis=1)
    log_inside, mean_square = _cap(n, c2)
    inside = math.exp(log_inside)
    hit = square >= c2
    assert abs(hit.mean() - inside) <= 4 * math.sqrt(inside * (1 - inside) / 10**6)
    assert abs(square[hit].mean() - mean_square) <= 4 * square[hit].std() / math.sqrt(hit.sum())


@pytest.mark.parametrize(("n", "m"), [(1, 300), (2, 400), (6, 1000), (40, 2000)])
def test_weighted_sample_covariance(n: int, m: int) -> None:
    """300 draws (seed 5) of sum f_j (u_j u_j^T - I)/m with weights of both signs: 8 % may exceed, 24; more than 40 has
    probability 1e-3. Control: a quarter of the bound is exceeded too often."""
    rng = np.random.default_rng(5)
    f = rng.standard_normal(m) * np.linspace(0.2, 1.0, m)
    norms = []
    for _ in range(300):
        u = rng.standard_normal((m, n))
        norms.append(float(np.linalg.norm((u.T * f) @ u / m - f.mean() * np.eye(n), 2)))
    bound = covariance_deviation(n, m, math.sqrt(np.mean(f**2)), np.abs(f).max(), EXPONENT)
    assert violations(norms, bound) <= 40
    assert violations(norms, bound / 4) > 60


def test_weighted_sample_covariance_comes_near_the_truth() -> None:
    """Flat weights and n large: 2.22 times rms(f) sqrt(n/m), where the semicircle's edge is at 2."""
    n, m = 3000, 10**8
    assert 2.0 < covariance_deviation(n, m, 1.0, 1.0, 5.0) / math.sqrt(n / m) < 2.25
    assert covariance_deviation(0, 10, 1.0, 1.0, 5.0) == 0.0


@pytest.mark.parametrize(("order", "dimension"), [(1, 3), (2, 1), (2, 3), (3, 2), (4, 2), (4, 3), (5, 2)])
def test_hermite_norms(order: int, dimension: int) -> None:
    """Brute force: every entry of He_k(z) is a product of Hermite polynomials of the coordinates."""
    rng = np.random.default_rng(6)
    norm = hermite_norm(order, dimension)
    seen = 0.0
    for length in np.linspace(0.05, 4.0, 80):
        direction = rng.standard_normal(dimension)
        z = length * direction / np.linalg.norm(direction)
        entries = [
            math.prod(
                float(np.polynomial.hermite_e.hermeval(z[k], [0.0] * index.count(k) + [1.0]))
                for k in range(dimension)
            )
            for index in itertools.product(range(dimension), repeat=order)
        ]
        seen = max(seen, math.sqrt(sum(e * e for e in entries)))
        assert float(norm(np.array([length]))[0]) >= seen * (1 - 1e-6)
    assert float(norm(np.array([4.0]))[0]) == pytest.approx(seen, rel=1e-3)
