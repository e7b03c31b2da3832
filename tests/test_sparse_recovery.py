"""Exact recovery from the gradient of the first layer of a piecewise linear activation, and where it is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import sympy as sp
import torch
from helpers import correlated, labels

from attack import (
    FirstLayerObservation,
    ReconstructionError,
    TwoLayerNet,
    matched_error,
    observe_first_layer,
    sparse_recovery,
)
from attack.rows.sparse_recovery import slopes
from bounds import ACTIVATIONS, Activation, GradientNoise, NoDefense, resolve_activation


def seen(
    B: int = 2, d: int = 12, m: int = 5000, activation: Any = "relu", seed: int = 0, **more: Any
) -> tuple[np.ndarray, FirstLayerObservation, TwoLayerNet]:
    X = correlated(B, d, seed, **more)
    net = TwoLayerNet.sample(d, m, activation, seed=seed)
    return X, observe_first_layer(NoDefense(), net, torch.from_numpy(X), labels(B)), net


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
@pytest.mark.parametrize("B", [1, 2, 5, 8])
def test_recovery_is_exact(B: int, activation: str) -> None:
    """Three networks each: features with their signs, residuals and labels."""
    for seed in range(3):
        X, observation, net = seen(B, activation=activation, seed=seed)
        found = sparse_recovery(observation, net, B, seed)
        match = matched_error(X, found.features)
        assert match.rmse < 1e-8
        order = list(match.permutation)
        np.testing.assert_allclose(found.labels[order], labels(B), atol=1e-8)
        residuals = net.output_gradient(torch.from_numpy(X), torch.from_numpy(labels(B)))[1]
        np.testing.assert_allclose(found.residuals[order], residuals, atol=1e-8)
        assert found.diagnostics.status == "ok" and found.diagnostics.agreeing == B


def test_any_size_that_gives_both_sides_serves() -> None:
    """m = 60 neurons, d = B = 3, and features close to each other (cosine 0.95)."""
    for m, d, cosine in ((60, 3, 0.4), (2000, 3, 0.95)):
        X, observation, net = seen(3, d, m, cosine=cosine)
        assert matched_error(X, sparse_recovery(observation, net).features).rmse < 1e-8


@pytest.mark.parametrize(
    ("B", "d", "cosine", "m", "alone"),
    [(2, 12, 0.99, 60, 15), (2, 12, 0.999, 500, 15), (2, 12, 0.999999, 5000, 10), (3, 3, 0.4, 15, 20)],
)
def test_features_that_would_give_another_gradient_are_never_returned(
    B: int, d: int, cosine: float, m: int, alone: int
) -> None:
    """Few neurons between two features: their patterns' difference has two values as well. 30 networks each (seeds 0 to 29):
    whatever is returned is right (before: 3 to 10 of 30 wrong), and at least ``alone`` of them are solved."""
    solved = 0
    for seed in range(30):
        X = np.linalg.cholesky(np.full((B, B), cosine) + (1 - cosine) * np.eye(B))
        X = X @ np.linalg.qr(np.random.default_rng(seed).standard_normal((d, B)))[0].T
        net = TwoLayerNet.sample(d, m, "relu", seed=seed)
        observation = observe_first_layer(NoDefense(), net, torch.from_numpy(X), [1.0, -1.0, 0.5][:B])
        try:
            found = sparse_recovery(observation, net, B, seed, max_samples=5000)
        except ReconstructionError as error:
            assert error.diagnostics.status == "failed"
            continue
        solved += 1
        assert matched_error(X, found.features).rmse < 1e-6
    assert solved >= alone


def test_a_vanishing_residual_is_no_obstacle() -> None:
    """A residual of 1e-4 of the other's: the tensor attack would see noise, here it is a number like any other."""
    X, _, net = seen(2)
    y = torch.tensor([1.0, float(net.forward(torch.from_numpy(X))[1]) - 1e-4], dtype=torch.float64)
    found = sparse_recovery(observe_first_layer(NoDefense(), net, torch.from_numpy(X), y), net)
    assert matched_error(X, found.features).rmse < 1e-8


def test_unequal_norms_are_assigned_by_the_labels() -> None:
    X, observation, net = seen(3, norms=(1.0, 1.6, 0.7))
    found = sparse_recovery(observation, net)
    assert matched_error(X, found.features).rmse < 1e-8
    y = torch.tensor([0.3, 0.2, 2.5])
    doubtful = sparse_recovery(observe_first_layer(NoDefense(), net, torch.from_numpy(X), y), net)
    assert doubtful.diagnostics.status == "suspect"
    assert "norms assigned by labels" in doubtful.diagnostics.warnings[0]


def test_a_slope_of_your_own() -> None:
    z = sp.Symbol("z")
    X, observation, net = seen(3, activation=sp.Piecewise((2 * z, z > 0), (-z / 2, True)))
    assert matched_error(X, sparse_recovery(observation, net).features).rmse < 1e-8


def test_too_few_samples_are_told() -> None:
    _, observation, net = seen(8)
    with pytest.raises(
        ReconstructionError, match=r"of 8 features found after 20 samples.*max_samples = 20"
    ) as caught:
        sparse_recovery(observation, net, max_samples=20)
    assert caught.value.diagnostics.status == "failed" and caught.value.diagnostics.starts == 20


def test_noise_that_is_not_declared_is_no_result() -> None:
    _, observation, net = seen()
    noise = (
        1e-6
        * observation.gradient.std()
        * torch.randn(
            observation.gradient.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
        )
    )
    with pytest.raises(ReconstructionError, match=r"not of rank 2|0 of 2 features|unexplained"):
        sparse_recovery(
            dataclasses.replace(observation, gradient=observation.gradient + noise), net, max_samples=2000
        )


@pytest.mark.parametrize("activation", sorted(set(ACTIVATIONS) - {"relu", "leaky_relu"}))
def test_other_activations_are_refused(activation: str) -> None:
    _, observation, net = seen(m=50, activation=activation)
    with pytest.raises(ValueError, match=f"activation must be linear on both sides of a kink.*{activation}"):
        sparse_recovery(observation, net)


def test_slopes() -> None:
    assert slopes(ACTIVATIONS["relu"]) == (0.0, 1.0)
    assert slopes(ACTIVATIONS["leaky_relu"]) == (0.01, 1.0)
    even = Activation("abs", np.abs, np.sign, kinks=(0.0,))
    with pytest.raises(ValueError, match=r"\|low\| < \|high\|; got 'abs' with slopes -1, 1"):
        slopes(even)
    z = sp.Symbol("z")
    with pytest.raises(ValueError, match="no jump"):  # labels use that sigma(n t) = n sigma(t)
        slopes(resolve_activation(sp.Piecewise((z + 1, z > 0), (0, True))))


@pytest.mark.parametrize(
    ("changes", "arguments", "error", "message"),
    [
        ({"defense": GradientNoise(sigma=0.1)}, {}, ValueError, r"free of noise \(sigma = 0\).*sigma=0.1"),
        ({"gradient": torch.ones(5000, 12)}, {}, ValueError, "gradient must be float64.*float32"),
        ({}, {"batch_size": 3}, ValueError, "batch_size must be the observation's, 2; got 3"),
        ({}, {"max_samples": 0}, ValueError, "max_samples must be at least 1; got 0"),
        ({}, {"seed": -1}, ValueError, "seed must be at least 0; got -1"),
        ({}, {"net": TwoLayerNet.sample(12, 10)}, ValueError, r"shape \(m, d\) = \(10, 12\)"),
    ],
)
def test_bad_input(
    changes: dict[str, Any], arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    _, observation, net = seen()
    with pytest.raises(error, match=message):
        sparse_recovery(
            **({"observation": dataclasses.replace(observation, **changes), "net": net} | arguments)
        )
