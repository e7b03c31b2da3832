"""State evolution: its posteriors against sums over a fine grid, and its fixed points against known ones."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers import Array

from bounds import ACTIVATIONS
from bounds.density import Clamped, Density, Dithered, Erased, Masked, Plain, Rounded, Signs, Thresholded
from bounds.errors import UnsupportedBound
from bounds.gaussian.lines import LARGEST_B, frame, lines
from bounds.kinds.limit.entries import drawn, sampled
from bounds.kinds.limit.state_evolution import gains, mean_information, state_evolution

RELU = ACTIVATIONS["relu"]
C = 1 / np.sqrt(2 * np.pi)
RESIDUALS = np.array([C - 1, C + 1])

#: Every density, with noise: then the points resolve it, and no blur is added.
NOISY = (
    Plain(sigma=0.4),
    Erased(sigma=0.4, p=0.3),
    Thresholded(sigma=0.4, ratio=0.5),
    Rounded(sigma=0.4, step=0.7),
    Dithered(sigma=0.4, step=0.7),
    Signs(sigma=0.4),
    Clamped(sigma=0.4, limit=0.6),
    Masked(sigma=0.4, p=0.3),
)


def problem(B: int, density: Density, seed: int = 0, n: int = 24) -> tuple[Array, Array, Array]:
    """What is seen (n,), omega (n, B), V (B, B), features and their forecasts in general position."""
    normal = np.random.default_rng(seed).standard_normal((n, 3 * B + 1))
    V = (np.array([[0.5, 0.15], [0.15, 0.3]]) if B == 2 else np.eye(1) * 0.4)[:B, :B]
    omega = 0.7 * normal[:, :B]
    z = omega + normal[:, B : 2 * B] @ np.linalg.cholesky(V).T
    seen = drawn(density, RESIDUALS[-B:] * np.maximum(z, 0), normal[:, 2 * B :])
    return seen, omega, V


def brute_force(density: Density, seen: Array, omega: Array, V: Array, points: int = 121) -> Array:
    """g_out by the mean over a fine grid, entry by entry (a threshold is of all entries, which stay together)."""
    B = omega.shape[1]
    axis = np.linspace(-6, 6, points if B == 2 else 2001)
    xi = np.stack(np.meshgrid(*[axis] * B, indexing="ij"), axis=-1).reshape(-1, B)
    root = np.linalg.cholesky(V)
    top, mass, first = np.full(len(seen), -np.inf), np.zeros(len(seen)), np.zeros_like(omega)
    for part in np.array_split(xi, max(1, len(xi) // 2000)):
        z = omega[:, None] + part @ root.T
        parts = (RESIDUALS[-B:] * np.maximum(z, 0)).reshape(-1, B)
        log = density.log_density(np.repeat(seen, len(part)), parts).reshape(len(seen), -1)
        log = log - np.sum(part**2, axis=1) / 2
        new = np.maximum(top, log.max(axis=1))
        p, old = np.exp(log - new[:, None]), np.exp(top - new)
        mass, first, top = mass * old + p.sum(axis=1), first * old[:, None] + p @ part, new
    return np.linalg.solve(root.T, (first / mass[:, None]).T).T


@pytest.mark.parametrize("B", [1, 2])
@pytest.mark.parametrize("density", NOISY, ids=lambda density: type(density).__name__)
def test_posteriors_are_those_of_a_fine_grid(density: Density, B: int) -> None:
    """24 entries, seed 0. What differs is the kinks between points (14 lines of 40): 2 per cent of the size of g would be
    too much, a density that is told wrongly makes more than 10."""
    seen, omega, V = problem(B, density)
    wanted = brute_force(density, seen, omega, V)
    scale = np.sqrt(np.mean(wanted**2))
    found = gains(seen, omega, V, RESIDUALS[-B:], RELU, density)
    assert np.sqrt(np.mean((found - wanted) ** 2)) < 0.02 * scale
    other = dataclasses.replace(density, sigma=2 * density.sigma)
    wrong = gains(seen, omega, V, RESIDUALS[-B:], RELU, other)
    assert np.sqrt(np.mean((wrong - wanted) ** 2)) > 0.05 * scale


def test_lines_have_the_moments_of_the_normal_distribution() -> None:
    for B in range(1, LARGEST_B + 1):
        nodes = lines(B, 40)
        mean = nodes.weights @ nodes.points
        second = (nodes.weights[:, None] * nodes.points).T @ nodes.points
        np.testing.assert_allclose(mean, 0, atol=1e-12)
        np.testing.assert_allclose(second, np.eye(B), atol=1e-12)
        fourth = nodes.weights @ nodes.points**4
        # a grid to the density at its edge, 128 Sobol points to their discrepancy
        np.testing.assert_allclose(fourth, 3.0, rtol=0.03 if B <= 3 else 0.4)


@pytest.mark.parametrize("B", [1, 2, 4])
def test_a_frame_has_the_covariance_and_runs_with_the_residuals(B: int) -> None:
    root = np.random.default_rng(3).standard_normal((B, B))
    V, r = root @ root.T, np.random.default_rng(4).standard_normal(B)
    M = frame(V, r)
    np.testing.assert_allclose(M @ M.T, V, atol=1e-12)
    part = M[:, 0] * np.sign(r) / np.sqrt(np.diag(V))
    np.testing.assert_allclose(part, part[0])
    assert part[0] > 0


@pytest.mark.parametrize(("sigma", "alpha", "error"), [(1.0, 20.0, 0.488), (0.5, 100.0, 0.110)])
def test_known_fixed_points(sigma: float, alpha: float, error: float) -> None:
    """Computed before by other code. 1024 quasi-random entries: about .003."""
    found = state_evolution(alpha, np.eye(2), RESIDUALS, RELU, Plain(sigma=sigma), draws=2**10)
    assert found.converged
    assert found.error == pytest.approx(error, abs=0.005)


def test_with_many_neurons_it_is_cramer_rao() -> None:
    """``G - Q -> I^-1 / alpha`` with I_il = r_i r_l E sigma'(z_i) sigma'(z_l) / sigma^2: for ReLU and G = I a half on the
    diagonal and a quarter beside. Seen at alpha = 10 000 to 2 per cent (4096 entries, and terms of order 1/alpha)."""
    found = state_evolution(1e4, np.eye(2), RESIDUALS, RELU, Plain(sigma=0.5), draws=2**12)
    information = np.outer(RESIDUALS, RESIDUALS) * np.array([[0.5, 0.25], [0.25, 0.5]]) / 0.25
    limit = np.sqrt(np.trace(np.linalg.inv(information)) / 1e4 / 2)
    assert found.error == pytest.approx(limit, rel=0.02)


def test_a_mask_that_is_seen_takes_neurons_away_and_nothing_else() -> None:
    """Half of the entries erased: half of the information, whatever is believed. 4096 entries, half of which are masked:
    3 per cent; a mask that were not seen, entries of 0 taken for values, would tell far more."""
    V = np.array([[0.3, 0.05], [0.05, 0.1]])
    erased, whole = (
        mean_information(
            np.eye(2), V, RESIDUALS, RELU, density, sampled(np.eye(2), RESIDUALS, RELU, density, 2**10), 24
        )
        for density in (Erased(sigma=0.5, p=0.5), Plain(sigma=0.5))
    )
    np.testing.assert_allclose(np.diag(erased), np.diag(whole) / 2, rtol=0.06)


def test_bad_input_is_refused() -> None:
    good = (10.0, np.eye(2), RESIDUALS, RELU, Plain(sigma=1.0))
    with pytest.raises(ValueError, match="alpha"):
        state_evolution(-1.0, *good[1:])
    with pytest.raises(ValueError, match="gram must be positive definite"):
        state_evolution(10.0, np.ones((2, 2)), *good[2:])
    with pytest.raises(ValueError, match="gram - overlap must be positive definite"):
        state_evolution(*good, overlap=2 * np.eye(2))
    with pytest.raises(ValueError, match="B must be"):
        state_evolution(10.0, np.eye(LARGEST_B + 1), np.ones(LARGEST_B + 1), *good[3:])
    with pytest.raises(UnsupportedBound, match="Density"):
        state_evolution(*good[:4], Density())
