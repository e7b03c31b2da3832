"""Exact moments give exact components, above all when these are far from orthogonal."""

from __future__ import annotations

import numpy as np
import pytest
import tensorly
from helpers import Array, correlated, power, symmetric
from scipy import linalg
from scipy.optimize import linear_sum_assignment
from tensorly.decomposition import parafac

from attack.tensor.decompose import Decomposition, decompose


def components(B: int, cosine: float = 0.8, seed: int = 0) -> Array:
    return correlated(B, B, seed, cosine)


def moments(u: Array, alpha: Array, ratio: Array, order: int) -> tuple[Array, Array]:
    second = sum(a * power(v, 2) for a, v in zip(alpha, u, strict=True))
    core = sum(a * c * power(v, order) for a, c, v in zip(alpha, ratio, u, strict=True))
    return second, core


def run(
    second: Array, core: Array, ratio: Array, seed: int = 0, starts: int = 8, omega: float = 0.2
) -> Decomposition:
    return decompose(second, core, ratio, omega, starts, np.random.default_rng(seed))


def distance(found: Array, truth: Array, signed: bool) -> tuple[float, Array]:
    """Largest distance between matched directions (up to sign unless signed), and the matching."""
    gaps = np.linalg.norm(found[None] - truth[:, None], axis=2)
    if not signed:
        gaps = np.minimum(gaps, np.linalg.norm(found[None] + truth[:, None], axis=2))
    rows, columns = linear_sum_assignment(gaps**2)
    return float(gaps[rows, columns].max()), columns


def mixed(B: int) -> Array:
    return np.linspace(0.7, 1.4, B) * np.where(np.arange(B) % 2, -1.0, 1.0)


@pytest.mark.parametrize("order", [3, 4])
@pytest.mark.parametrize("B", [1, 2, 3, 4, 5, 8])
def test_exact_recovery_at_cosine_four_fifths(order: int, B: int) -> None:
    u, alpha, ratio = components(B), mixed(B), np.full(B, -0.8)
    found = run(*moments(u, alpha, ratio, order), ratio)
    worst, match = distance(found.directions, u, signed=order == 3)
    assert worst < 1e-6
    np.testing.assert_allclose(found.alpha[match], alpha, rtol=1e-5)
    assert found.misfit < 1e-12
    assert found.agreeing >= 1
    np.testing.assert_allclose(np.linalg.norm(found.directions, axis=1), 1, rtol=1e-12)


@pytest.mark.parametrize("order", [3, 4])
def test_equal_weights_need_the_core(order: int) -> None:
    """Orthonormal with equal weights: the second moment is the identity and says nothing."""
    u, ratio = components(3, 0.0), np.ones(3)
    found = run(*moments(u, np.ones(3), ratio, order), ratio)
    assert distance(found.directions, u, signed=order == 3)[0] < 1e-6


def dual_basis(second: Array, core: Array) -> Array:
    """The mistake to guard against: generalised eigenvectors of (M, P) taken for the components."""
    contracted = np.tensordot(core, np.random.default_rng(0).standard_normal(core.shape[2:]), core.ndim - 2)
    vectors = linalg.eig(contracted, second)[1].real.T
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("order", [3, 4])
def test_these_data_tell_the_dual_basis_from_the_basis(order: int) -> None:
    """A method that only works for orthonormal components is right there and off by more than 0.5 here."""
    for cosine, low, high in ((0.0, 0.0, 1e-6), (0.8, 0.5, 2.0)):
        u, ratio = components(3, cosine), np.ones(3)
        wrong = dual_basis(*moments(u, mixed(3), ratio, order))
        assert low <= distance(wrong, u, signed=False)[0] <= high
        right = run(*moments(u, mixed(3), ratio, order), ratio)
        assert distance(right.directions, u, signed=False)[0] < 1e-6


@pytest.mark.parametrize("order", [3, 4])
def test_unequal_ratios_in_the_order_of_the_guess(order: int) -> None:
    u, alpha, ratio = components(3, 0.5), mixed(3), np.array([0.5, 1.0, 1.6])
    near = u + 0.05 * np.random.default_rng(1).standard_normal(u.shape)
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    second, core = moments(u, alpha, ratio, order)
    found = decompose(second, core, ratio, 0.2, 8, np.random.default_rng(0), near)
    np.testing.assert_allclose(found.directions, u, atol=1e-6)
    np.testing.assert_allclose(found.alpha, alpha, rtol=1e-5)


def test_the_minimum_is_stationary_with_noise() -> None:
    """No small turn or change of weights improves the stated objective (evaluated here in full tensors)."""
    rng = np.random.default_rng(5)
    u, alpha, ratio, omega = components(3, 0.6), mixed(3), np.full(3, 0.9), 0.3
    second, core = moments(u, alpha, ratio, 4)
    second, core = second + 0.02 * symmetric(3, 2, rng), core + 0.02 * symmetric(3, 4, rng)
    found = run(second, core, ratio, omega=omega)

    def objective(weights: Array, directions: Array) -> float:
        two, four = moments(directions / np.linalg.norm(directions, axis=1, keepdims=True), weights, ratio, 4)
        return float(np.sum((second - two) ** 2) + omega * np.sum((core - four) ** 2))

    best = objective(found.alpha, found.directions)
    total = np.sum(second**2) + omega * np.sum(core**2)
    assert found.misfit == pytest.approx(best / total, rel=1e-9)
    assert best > 1e-6 * total
    for _ in range(200):
        a, b = 1e-4 * rng.standard_normal(3), 1e-4 * rng.standard_normal((3, 3))
        assert objective(found.alpha + a, found.directions + b) > best


def test_the_same_generator_gives_the_same_bits() -> None:
    u, ratio = components(4), np.ones(4)
    one, other = (run(*moments(u, mixed(4), ratio, 4), ratio, seed=7) for _ in range(2))
    np.testing.assert_array_equal(one.directions, other.directions)
    np.testing.assert_array_equal(one.alpha, other.alpha)
    assert (one.misfit, one.agreeing, one.starts) == (other.misfit, other.agreeing, 8)


def test_the_seed_does_not_matter_where_the_data_decide() -> None:
    u, ratio = components(4), np.ones(4)
    one, other = (run(*moments(u, mixed(4), ratio, 4), ratio, seed=s) for s in (1, 2))
    assert distance(one.directions, other.directions, signed=False)[0] < 1e-6


def test_moments_without_components_do_not_agree() -> None:
    """Symmetric tensors that are no sum of three powers leave a misfit: it must not be reported as a fit."""
    rng = np.random.default_rng(3)
    found = run(symmetric(3, 2, rng), symmetric(3, 4, rng), np.ones(3))
    assert found.misfit > 1e-3


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_against_tensorly(seed: int) -> None:
    """The core alone as a CP problem: tensorly's alternating least squares finds the same three directions."""
    u, alpha, ratio = components(3, 0.5, seed), mixed(3), np.ones(3)
    second, core = moments(u, alpha, ratio, 3)
    cp = parafac(tensorly.tensor(core), rank=3, n_iter_max=5000, tol=1e-15, init="svd", random_state=seed)
    other = np.asarray(cp.factors[0]).T
    other = other / np.linalg.norm(other, axis=1, keepdims=True)
    found = run(second, core, ratio, seed)
    assert distance(found.directions, other, signed=False)[0] < 1e-4
