"""Matched errors against brute force."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers import correlated, rotation
from hypothesis import given
from hypothesis import strategies as st

from attack import matched_error, matched_rmse


def brute_force(X: np.ndarray, guess: np.ndarray, sign_free: bool) -> float:
    B = len(X)
    signs = list(itertools.product((1, -1), repeat=B)) if sign_free else [(1,) * B]
    return min(
        math.sqrt(np.mean(np.sum((X - np.array(s)[:, None] * guess[list(p)]) ** 2, axis=1)))
        for p in itertools.permutations(range(B))
        for s in signs
    )


@given(st.integers(1, 4), st.integers(0, 10_000), st.booleans(), st.floats(0.01, 3.0))
def test_against_all_permutations_and_signs(B: int, seed: int, sign_free: bool, noise: float) -> None:
    rng = np.random.default_rng(seed)
    X = correlated(B, 6, seed)
    guess = X[rng.permutation(B)] * rng.choice([-1, 1], (B, 1)) + noise * rng.standard_normal((B, 6))
    found = matched_error(X, guess, sign_free)
    assert found.rmse == pytest.approx(brute_force(X, guess, sign_free), rel=1e-12)
    assert found.rmse == pytest.approx(math.hypot(found.orthogonal, found.inplane), rel=1e-12)
    assert sorted(found.permutation) == list(range(B))
    matched = np.array(found.signs)[:, None] * guess[list(found.permutation)]
    assert math.sqrt(np.sum((X - matched) ** 2) / B) == pytest.approx(found.rmse, rel=1e-12)
    assert sign_free or set(found.signs) == {1}


@given(st.integers(0, 1000), st.randoms(use_true_random=False))
def test_order_and_rotation_do_not_matter(seed: int, random: Any) -> None:
    X, Q = correlated(3, 5, seed), rotation(5, seed)
    guess = X + 0.2 * np.random.default_rng(seed).standard_normal(X.shape)
    order = list(range(3))
    random.shuffle(order)
    one, other = matched_error(X, guess), matched_error(X @ Q, guess[order] @ Q)
    for part in ("rmse", "orthogonal", "inplane"):
        assert getattr(one, part) == pytest.approx(getattr(other, part), rel=1e-10)


def test_parts_of_a_known_error() -> None:
    """Shifts of 0.3 in the plane and of 0.4 across it."""
    X = correlated(2, 4)
    inside = X[0] - X[1] * (X[0] @ X[1])
    across = np.linalg.svd(X)[2][-1]
    guess = X.copy()
    guess[0] += 0.3 * inside / np.linalg.norm(inside)
    guess[1] += 0.4 * across
    found = matched_error(X, guess)
    assert found.inplane == pytest.approx(0.3 / math.sqrt(2), rel=1e-12)
    assert found.orthogonal == pytest.approx(0.4 / math.sqrt(2), rel=1e-12)
    assert found.rmse == pytest.approx(0.5 / math.sqrt(2), rel=1e-12)


def test_reference_values() -> None:
    X = correlated(3, 5)
    assert matched_rmse(X, np.zeros_like(X)) == pytest.approx(1, rel=1e-14)
    assert matched_rmse(X, X[[2, 0, 1]]) == 0
    assert matched_rmse(X, -X, sign_free=True) == 0
    assert matched_rmse(X, -X) > 0.5
    tiny = 1e-9 * np.eye(3, 5)
    assert matched_rmse(X, X + tiny) == pytest.approx(1e-9, rel=1e-5)  # no cancellation


def test_tensors_and_arrays_alike() -> None:
    X = correlated(2, 4)
    guess = X + 0.1
    expected = matched_rmse(X, guess)
    assert matched_rmse(torch.from_numpy(X), torch.from_numpy(guess)) == expected
    assert matched_rmse(torch.from_numpy(X).requires_grad_(), guess.tolist()) == expected


@pytest.mark.parametrize(
    ("X", "guess", "message"),
    [
        (
            np.ones((2, 3)),
            np.ones((3, 3)),
            r"reconstruction must have the shape of X, \(2, 3\); got \(3, 3\)",
        ),
        (np.ones(3), np.ones(3), r"X must have shape \(any, any\); got \(3,\)"),
        (np.ones((2, 3)), np.ones(3), r"reconstruction must have shape \(any, any\); got \(3,\)"),
        (np.ones((0, 3)), np.ones((0, 3)), r"X must have shape \(any, any\); got \(0, 3\)"),
        (np.ones((2, 3)), np.full((2, 3), np.nan), "reconstruction must be finite; got 6 values"),
        (np.full((2, 3), np.inf), np.ones((2, 3)), "X must be finite; got 6 values"),
    ],
)
def test_bad_input(X: Any, guess: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        matched_error(X, guess)
