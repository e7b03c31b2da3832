"""The same computations on an accelerator: against the CPU's at the same weights, and against the formulas written out.

``pytest -m gpu``. Blocks are larger there and sums are taken in another order, so that numbers agree to rounding.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clients import CASES, Case, case, expected, members
from helpers import correlated, labels

from attack import (
    Observation,
    TwoLayerNet,
    matched_rmse,
    observe,
    observe_first_layer,
    reconstruct,
    sparse_recovery,
)
from attack.networks.activation import apply_activation, apply_derivative
from attack.networks.deep import DeepNet
from attack.rows.observation import FirstLayerObservation
from attack.stream import gathered, total
from bounds import ACTIVATIONS, GradientNoise, NoDefense, TensorAttack

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
DEVICE = "cuda"


def both(d: int, m: int, activation: str = "relu", seed: int = 3) -> tuple[TwoLayerNet, TwoLayerNet]:
    """The same weights on the CPU and on the device."""
    net = TwoLayerNet.sample(d, m, activation, seed)
    assert net.weights is not None
    return net, TwoLayerNet.from_weights(net.weights.to(DEVICE), activation)


# --- stream -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_passes(dtype: torch.dtype) -> None:
    weights = torch.randn(200_000, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    near, far = (TwoLayerNet.from_weights(weights.to(device, dtype)) for device in ("cpu", DEVICE))
    v = torch.linspace(-1, 1, 40, dtype=dtype)
    sums, rows = [], []
    for net in (near, far):
        u = v.to(net.device)
        sums.append(total(net, lambda rows, W, u=u: (W.double().T @ W.double(), (W @ u).double().sum())))
        rows.append(gathered(net, lambda rows, W, u=u: W @ u))
    assert {t.device.type for t in (*sums[1], rows[1])} == {DEVICE}
    assert {t.dtype for t in sums[1]} == {torch.float64} and rows[1].dtype == dtype
    single = dtype == torch.float32
    for a, b in zip((*sums[0], rows[0]), (*sums[1], rows[1]), strict=True):
        scale = float(a.abs().max())
        torch.testing.assert_close(b.cpu(), a, rtol=0, atol=(1e-4 if single else 1e-11) * scale)


def test_weights_drawn_in_every_pass_are_those_that_are_held() -> None:
    held, drawn = (
        TwoLayerNet.sample(700, 150_000, seed=3, device=DEVICE, dtype=torch.float32, memory_budget=b)
        for b in (2**31, 0)
    )
    assert drawn.weights is None and held.weights is not None
    assert len(list(drawn.blocks())) > 1
    assert torch.equal(held.weights, gathered(drawn, lambda rows, W: W))
    one, other = (total(net, lambda rows, W: W.T @ W[:, :3]) for net in (held, drawn))
    assert torch.equal(one, other)


# --- activations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivatives_stay_there(name: str) -> None:
    """Built-in ones to rounding, exactly at the kinks."""
    t = torch.cat([torch.linspace(-30, 30, 241), torch.tensor([0.0, -0.0])]).double()
    activation = ACTIVATIONS[name]
    assert activation.derivative is not None
    for dtype, tolerance in ((torch.float64, 1e-14), (torch.float32, 1e-6)):
        given = t.to(DEVICE, dtype)
        found, values = apply_derivative(activation, given), apply_activation(activation, given)
        assert found.device.type == values.device.type == DEVICE and found.dtype == values.dtype == dtype
        seen = given.cpu().double().numpy()
        np.testing.assert_allclose(
            found.cpu(), activation.derivative(seen), rtol=10 * tolerance, atol=tolerance
        )
        np.testing.assert_allclose(values.cpu(), activation(seen), rtol=10 * tolerance, atol=tolerance)
    kinks = torch.tensor(activation.kinks, dtype=torch.float64, device=DEVICE)
    at_kinks = apply_derivative(activation, kinks).cpu().numpy()
    assert np.array_equal(at_kinks, activation.derivative(kinks.cpu().numpy()))


def test_a_function_of_one_s_own_takes_the_way_through_the_host() -> None:
    near, far = (TwoLayerNet.sample(6, 40, lambda t: t / (1 + abs(t)), device=d) for d in ("cpu", DEVICE))
    t = torch.linspace(-3, 3, 20, dtype=torch.float64)
    found = apply_activation(far.activation, t.to(DEVICE))
    assert found.device.type == DEVICE
    torch.testing.assert_close(found.cpu(), apply_activation(near.activation, t), rtol=1e-15, atol=0)


# --- clients and channels ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    return {name: case(name, DEVICE) for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_every_defense_on_every_client(cases: dict[str, Case], name: str) -> None:
    """Against the formulas written out on the CPU, at the device's weights and with the device's random streams."""
    found, written = cases[name], cases[name].written
    for defense in members(written.size):
        seen, wanted = found.observe(defense).gradient, expected(defense, written)
        assert seen.device.type == DEVICE
        assert torch.equal(seen, found.observe(defense).gradient), defense  # the same seed, the same bits
        atol = 1e-10 * float(wanted.abs().max())
        torch.testing.assert_close(
            seen.cpu(), wanted, rtol=1e-9, atol=atol, msg=lambda m, d=defense: f"{d}: {m}"
        )


def test_noise_of_the_first_layer_is_standard() -> None:
    """2 000 000 entries, sigma = .3: mean and variance within 5 standard errors."""
    net = TwoLayerNet.sample(100, 20_000, device=DEVICE)
    X = torch.eye(100, dtype=torch.float64)[:2]
    clean, noisy = (
        observe_first_layer(d, net, X, [1.0, -1.0]).gradient for d in (NoDefense(), GradientNoise(0.3))
    )
    noise = (noisy - clean) / 0.3
    count = noise.numel()
    assert abs(float(noise.mean())) < 5 / count**0.5
    assert abs(float(noise.square().mean()) - 1) < 5 * (2 / count) ** 0.5


# --- attacks ----------------------------------------------------------------------------------------------------------


def moved(seen: Observation | FirstLayerObservation) -> Observation | FirstLayerObservation:
    """The observation as another device has it."""
    return type(seen)(seen.gradient.to(DEVICE), seen.batch_size, seen.norms, seen.defense)


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh"])
@pytest.mark.parametrize("moments", ["residualized", "plain"])
def test_the_same_features_from_the_same_gradient(activation: str, moments: str) -> None:
    """To 1e-6, far below the error of the attack: the span is found to 1e-4 on both, by the same iteration."""
    near, far = both(30, 30_000, activation)
    X, y = torch.from_numpy(correlated(2, 30)), torch.from_numpy(labels(2))
    for seen in (
        observe(GradientNoise(0.05), near, X, y),
        observe_first_layer(GradientNoise(1e-7), near, X, y),
    ):
        there = moved(seen)
        one, other = (
            reconstruct(s, net, 2, TensorAttack(moments)) for s, net in ((seen, near), (there, far))
        )
        assert other.features.device.type == DEVICE
        assert matched_rmse(one.features, other.features.cpu(), sign_free=activation == "tanh") < 1e-6
        assert matched_rmse(X, one.features, sign_free=activation == "tanh") > 1e-5


def test_observed_there_and_here() -> None:
    near, far = both(30, 30_000)
    X, y = torch.from_numpy(correlated(3, 30)), torch.from_numpy(labels(3))
    for watch in (observe, observe_first_layer):
        one, other = (watch(NoDefense(), net, X, y).gradient for net in (near, far))
        torch.testing.assert_close(other.cpu(), one, rtol=1e-10, atol=1e-12 * float(one.abs().max()))


def test_exact_recovery() -> None:
    _, far = both(20, 3000)
    X, y = torch.from_numpy(correlated(3, 20)), torch.from_numpy(labels(3))
    found = sparse_recovery(observe_first_layer(NoDefense(), far, X, y), far)
    assert found.features.device.type == DEVICE
    assert matched_rmse(X, found.features.cpu()) < 1e-8


def test_a_deep_network() -> None:
    """Behind two carry layers: the same error as of the two-layer network on the device."""
    _, two = both(20, 20_000)
    X, y = torch.from_numpy(correlated(2, 20)), torch.from_numpy(labels(2))
    deep = DeepNet.carrying(two, 2)
    found = reconstruct(observe(NoDefense(), deep, X, y), deep.reduced())
    flat = reconstruct(observe(NoDefense(), two, X, y), two)
    assert matched_rmse(flat.features.cpu(), found.features.cpu()) < 1e-6
