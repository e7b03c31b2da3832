"""``RowAttack``: exact recovery of batches for which samples of rows are too many, and what it refuses."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Array, correlated, labels
from sklearn.datasets import load_digits
from torch import nn

from attack import (
    FirstLayerObservation,
    Known,
    ReconstructionError,
    SharedGradient,
    TwoLayerNet,
    matched_error,
    matched_rmse,
    observe,
    observe_first_layer,
    reconstruct,
)
from attack.rows.patterns import Rows, solve
from bounds import NoDefense, RowAttack, evaluate
from bounds.setting import Setting
from verify.confidence import assess


def random_features(B: int, d: int, seed: int) -> Array:
    X = np.random.default_rng(seed).standard_normal((B, d))
    return np.asarray(X / np.linalg.norm(X, axis=1)[:, None])


def raw_digits(B: int, seed: int) -> Array:
    """Handwritten digits with their mean: cosines of .5 to .9."""
    pictures = load_digits().data
    X = pictures[np.random.default_rng(seed).permutation(len(pictures))[:B]]
    return np.asarray(X / np.linalg.norm(X, axis=1)[:, None])


def seen(
    X: Array, m: int, activation: str = "relu", seed: int = 0
) -> tuple[FirstLayerObservation, TwoLayerNet]:
    net = TwoLayerNet.sample(X.shape[1], m, activation, seed=seed)
    return observe_first_layer(NoDefense(), net, torch.from_numpy(X), labels(len(X))), net


@pytest.mark.parametrize(
    ("B", "d", "m", "activation"),
    [(2, 12, 500, "relu"), (6, 20, 300, "leaky_relu"), (16, 40, 1000, "relu"), (32, 100, 5000, "relu")],
)
def test_components_are_exact(B: int, d: int, m: int, activation: str) -> None:
    """Two networks each (seeds 0 and 1): features with their signs, residuals and labels."""
    for seed in range(2):
        X = random_features(B, d, seed)
        observation, net = seen(X, m, activation, seed)
        found = reconstruct(observation, net, attack=RowAttack(method="ica"))
        match = matched_error(X, found.features)
        assert match.rmse < 1e-10
        order = list(match.permutation)
        np.testing.assert_allclose(found.labels[order], labels(B), atol=1e-9)
        residuals = net.output_gradient(torch.from_numpy(X), torch.from_numpy(labels(B)))[1]
        np.testing.assert_allclose(found.residuals[order], residuals, atol=1e-9)
        seen_by = found.diagnostics
        assert seen_by.status == "ok" and seen_by.method == "ica" and seen_by.agreeing == B
        assert seen_by.starts is not None and B <= seen_by.starts <= 10 * B


@pytest.mark.parametrize(("B", "method"), [(4, "ica"), (4, "auto"), (8, "ica"), (12, "auto"), (24, "ica")])
def test_strongly_correlated_features_are_exact(B: int, method: str) -> None:
    """Digits with their mean kept, whose patterns are far from independent (mean cosine .6 to .9; seeds 0 and 1)."""
    for seed in range(2):
        X = raw_digits(B, seed)
        assert (X @ X.T).mean() > 0.6
        found = reconstruct(*seen(X, 2000, seed=seed), attack=RowAttack(method=method))
        assert matched_rmse(X, found.features) < 1e-9
        assert found.diagnostics.method == ("search" if method == "auto" and B <= 8 else "ica")


def test_independent_components_alone_are_not_enough() -> None:
    """The repair has something to do: with no more starts than components the digits are not solved (seed 0)."""
    observation, net = seen(raw_digits(8, 0), 2000)
    with pytest.raises(
        ReconstructionError, match=r"of 8 features found after 8 starts.*\(max_starts = 8\)"
    ) as caught:
        reconstruct(observation, net, attack=RowAttack(method="ica", max_starts=8))
    assert caught.value.diagnostics.status == "failed" and caught.value.diagnostics.starts == 8


def test_the_other_search_serves_where_the_first_has_not_enough() -> None:
    X = random_features(8, 20, 0)
    observation, net = seen(X, 1000)
    found = reconstruct(
        observation, net, attack=RowAttack(max_samples=512)
    )  # 4 * 2^7: a third of what is needed
    assert found.diagnostics.method == "ica" and matched_rmse(X, found.features) < 1e-10
    X = random_features(9, 20, 0)
    observation, net = seen(X, 1000)
    found = reconstruct(observation, net, attack=RowAttack(max_starts=3))
    assert found.diagnostics.method == "search" and matched_rmse(X, found.features) < 1e-10


def test_one_corrupted_row_is_no_result() -> None:
    """Not even where the corrupted row stays in the features' span (seed 0)."""
    X = random_features(6, 20, 0)
    observation, net = seen(X, 500)
    gradient = observation.gradient.clone()
    gradient[7] = 1.3 * gradient[7] if gradient[7].any() else gradient[8]
    with pytest.raises(ReconstructionError, match=r"every row|of 6 features found") as caught:
        reconstruct(
            dataclasses.replace(observation, gradient=gradient),
            net,
            attack=RowAttack(max_samples=5000, max_starts=200),
        )
    assert re.search(r"samples of rows .* and 200 starts", str(caught.value))


@pytest.mark.parametrize("told", [11, 13])
def test_another_number_of_features_is_no_result(told: int) -> None:
    X = random_features(12, 30, 0)
    observation, net = seen(X, 1000)
    wrong = dataclasses.replace(observation, batch_size=told, norms=(1.0,) * told)
    with pytest.raises(ReconstructionError, match=f"not of rank {told}"):
        reconstruct(wrong, net, attack=RowAttack(max_samples=1000, max_starts=100))


def test_noise_is_refused() -> None:
    X = random_features(12, 30, 0)
    observation, net = seen(X, 1000)
    noise = torch.randn(observation.gradient.shape, generator=torch.Generator().manual_seed(0)).double()
    noisy = observation.gradient + 1e-6 * observation.gradient.std() * noise
    with pytest.raises(ReconstructionError, match=r"not of rank 12|of 12 features found"):
        reconstruct(dataclasses.replace(observation, gradient=noisy), net, attack=RowAttack(max_samples=9000))


def test_too_few_neurons_are_told() -> None:
    """Whatever is returned from 3 B neurons is right, and what is not solved is said to be failed (10 networks, seeds 0 to
    9: some of each)."""
    solved = failed = 0
    for seed in range(10):
        X = correlated(10, 12, seed, cosine=0.5)
        observation, net = seen(X, 36, seed=seed)
        try:
            found = reconstruct(observation, net, attack=RowAttack(method="ica", max_starts=300))
        except ReconstructionError as error:
            assert error.diagnostics.status == "failed" and "too few neurons" in str(error)
            failed += 1
            continue
        solved += 1
        assert matched_rmse(X, found.features) < 1e-8
    assert failed and solved + failed == 10


def test_patterns_of_other_features_fail_the_test() -> None:
    """The test that every search ends in: with one neuron on the wrong side, or two patterns exchanged for their
    difference, there is no solution."""
    rng = np.random.default_rng(0)
    neurons, scaled = rng.standard_normal((300, 3)), rng.standard_normal((3, 3))
    active = neurons @ scaled.T > 0
    problem = Rows(active @ scaled, neurons, (0.0, 1.0), 1e-6)
    assert solve(problem, active) is not None
    wrong = active.copy()
    wrong[0, 0] ^= True
    assert solve(problem, wrong) is None
    assert solve(problem, np.column_stack([active[:, 0] ^ active[:, 1], active[:, 1:]])) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "spear"}, "method must be one of auto, search, ica; got 'spear'"),
        ({"max_samples": 0}, "max_samples must be at least 1; got 0"),
        ({"max_starts": 0}, "max_starts must be at least 1; got 0"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RowAttack(**options)


@pytest.mark.parametrize(("B", "digits"), [(12, True), (30, False)])
def test_a_shared_gradient_of_many_features_is_exact(B: int, digits: bool) -> None:
    """A module of default initialisation and one output: norms come with its biases, also where least squares on the model
    has too many unknowns to test them (B = 30)."""
    X = torch.from_numpy(
        5 * raw_digits(B, 0) if digits else np.random.default_rng(0).standard_normal((B, 40))
    )
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(X.shape[1], 2000), nn.ReLU(), nn.Linear(2000, 1)).double()
    y = torch.linspace(-1, 1, B, dtype=torch.float64)
    nn.MSELoss()(net(X)[:, 0], y).backward()
    mine = SharedGradient.from_module(net)
    found = assess(mine, Known.of(B, mine.activation, loss="mse-mean"))
    assert (
        found.confidence.status == "ok" and found.attacked is not None and found.attacked.labels is not None
    )
    assert found.attacked.search is not None and "starts of alternating projections" in found.attacked.search
    match = matched_error(X, found.attacked.features)
    assert match.rmse < 1e-9 and found.attacked.norms == "gradient"
    np.testing.assert_allclose(found.attacked.labels[list(match.permutation)], y, atol=1e-9)


def test_it_has_no_code_for_the_output_weights() -> None:
    net = TwoLayerNet.sample(10, 100)
    X = random_features(2, 10, 0)
    with pytest.raises(TypeError, match=r"attack must be one that has code for this Observation .*RowAttack"):
        reconstruct(observe(NoDefense(), net, X, [1.0, -1.0]), net, attack=RowAttack())


def test_theory_states_nothing_of_it() -> None:
    """It is exact or has no result: there is no error to bound, and nothing is borrowed from another attack."""
    found = evaluate(
        NoDefense(), Setting.orthonormal(d=10, m=1000, B=2, activation="relu"), attack=RowAttack()
    )
    assert found.predicted is None and found.upper is None and found.rate_scale is None
