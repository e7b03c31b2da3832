"""Weights of another scale and biases: the same problem in coordinates where they are standard Gaussian."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import correlated, labels

from attack import Observation, TwoLayerNet, matched_rmse, observe, tensor_attack
from attack.own.coordinates import Coordinates, rescaled, shifted
from bounds import ACTIVATIONS, Kind, NoDefense, evaluate

D, M, B = 16, 20_000, 2
X, Y = correlated(B, D, seed=3), labels(B)
SCALED_GELU = 0.7


def scaled_problem(scale: float, activation: str = "relu", seed: int = 0) -> tuple[TwoLayerNet, Observation]:
    """A network with weights N(0, scale^2), and what it gives away."""
    weights = TwoLayerNet.sample(D, M, activation, seed).weights
    assert weights is not None
    net = TwoLayerNet.from_weights(scale * weights, activation)
    return net, observe(NoDefense(), net, X, Y)


def test_scale_one_changes_nothing() -> None:
    net, observation = scaled_problem(1.0)
    new_net, new_observation, there = rescaled(net, observation, 1.0)
    assert new_net is net and new_observation is observation
    found = tensor_attack(observation, net)
    assert there.undo(found) is found


@pytest.mark.parametrize("scale", [0.14, 3.0])
def test_relu_gives_the_unscaled_attack_with_rescaled_residuals(scale: float) -> None:
    """ReLU is homogeneous: with weights s w the hidden layer is s sigma(w.x). A gradient made with the residuals r/s is
    then, entry by entry, the one of the unscaled network with r, and so is the attack's result, with residuals r/s."""
    net, observation = scaled_problem(1.0)
    before = tensor_attack(observation, net)
    assert net.weights is not None
    large = TwoLayerNet.from_weights(scale * net.weights, "relu")
    there_net, there_observation, there = rescaled(large, observation, scale)
    assert there_observation.norms == pytest.approx([scale] * B)
    after = there.undo(tensor_attack(there_observation, there_net))
    np.testing.assert_allclose(after.features, before.features, atol=1e-9)
    np.testing.assert_allclose(scale * after.residuals, before.residuals, atol=1e-9)


@pytest.mark.parametrize(("activation", "scale"), [("relu", 0.2), ("gelu", SCALED_GELU)])
def test_prediction_in_the_coordinates(activation: str, scale: float) -> None:
    """Measured over predicted root mean square: 8 trials, seeds 0 to 7, within 20 % (one trial scatters by about 15 %)."""
    errors = []
    for seed in range(8):
        net, observation = scaled_problem(scale, activation, seed)
        new_net, new_observation, there = rescaled(net, observation, scale)
        errors.append(matched_rmse(X, there.undo(tensor_attack(new_observation, new_net)).features))
    setting = Coordinates(scale).setting(X, Y, M, ACTIVATIONS[activation])
    predicted = evaluate(NoDefense(), setting).predicted
    assert predicted is not None
    assert math.sqrt(np.mean(np.square(errors))) / (predicted / scale) == pytest.approx(1.0, abs=0.2)


def test_a_bias_is_one_more_coordinate() -> None:
    """f and the gradient are the same numbers in both coordinates, and the attack's error is as predicted there.

    8 trials, seeds 0 to 7, within 30 %.
    """
    scale, mean, spread = 1.5, -0.2, 0.5
    there = Coordinates(scale, mean, spread)
    errors = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        W, b = scale * rng.standard_normal((M, D)), mean + spread * rng.standard_normal(M)
        hidden = ACTIVATIONS["relu"](X @ W.T + b)
        gradient = (hidden.mean(axis=1) - Y) @ hidden
        net = TwoLayerNet.from_weights(torch.from_numpy(W), "relu")
        seen = Observation(torch.from_numpy(gradient), B, (1.0, 1.0), NoDefense())
        new_net = there.network(net, torch.from_numpy(b))
        if seed == 0:
            same = new_net.output_gradient(torch.from_numpy(there.features(X)), torch.from_numpy(Y))[0]
            np.testing.assert_allclose(same, gradient, atol=1e-12)
        found = there.undo(tensor_attack(there.observation(seen), new_net))
        assert found.features.shape == (B, D)
        errors.append(matched_rmse(X, found.features))
    bound = evaluate(NoDefense(), there.setting(X, Y, M, ACTIVATIONS["relu"]))[Kind.PREDICTED]
    assert bound.value is not None
    assert math.sqrt(np.mean(np.square(errors))) / (bound.value / scale) == pytest.approx(1.0, abs=0.3)


def test_measured_coordinates() -> None:
    """The standard is taken for the standard; other scales are found to five standard errors (one draw, seed 0)."""
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(M, D, generator=generator, dtype=torch.float64)
    assert Coordinates.measured(W).standard
    found = Coordinates.measured(
        0.2 * W, 0.3 + 0.5 * torch.randn(M, generator=generator, dtype=torch.float64)
    )
    assert found.scale == pytest.approx(0.2, rel=5 / math.sqrt(2 * M * D))
    assert found.bias_mean == pytest.approx(0.3, abs=5 * 0.5 / math.sqrt(M))
    assert found.bias_scale == pytest.approx(0.5, rel=5 / math.sqrt(2 * M))
    constant = Coordinates.measured(W, torch.full((M,), 0.3, dtype=torch.float64))
    assert (constant.bias_mean, constant.bias_scale) == (pytest.approx(0.3), 0.0)
    assert Coordinates.measured(W, torch.zeros(M)).standard
    assert Coordinates.measured(W, scale=2.0).scale == 2.0


def test_a_shifted_activation_is_the_shifted_function() -> None:
    relu = shifted(ACTIVATIONS["relu"], 0.5)
    assert relu.kinks == (-0.5,)
    phi = math.exp(-1 / 8) / math.sqrt(2 * math.pi)  # c_2 = E delta(Z + 1/2)
    assert relu.coefficient(2) == pytest.approx(phi, abs=1e-10)
    assert relu.derivative is not None
    np.testing.assert_array_equal(relu.derivative(np.array([-0.6, 0.0])), [0.0, 1.0])
    assert shifted(relu, 0.0) is relu


@pytest.mark.parametrize(
    "arguments", [{"scale": 0.0}, {"scale": -1.0}, {"bias_scale": -1.0}, {"bias_mean": math.nan}]
)
def test_refusals(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Coordinates(**arguments)


def test_networks_that_cannot_be_rescaled() -> None:
    with pytest.raises(ValueError, match="hold its weights"):
        Coordinates(2.0).network(TwoLayerNet.sample(D, M, memory_budget=0))
    with pytest.raises(ValueError, match=r"bias must have shape \(m,\)"):
        Coordinates(1.0, 0.0, 1.0).network(TwoLayerNet.sample(D, M))
