"""The network: gradients against autograd, weights that no way of holding them changes, streams that never meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sympy as sp
import torch
from helpers import correlated

from attack import Observation, TwoLayerNet, observe
from attack.networks.activation import _NATIVE, apply_activation, apply_derivative
from attack.streams import normal, numpy_generator
from bounds import ACTIVATIONS, GradientNoise, resolve_activation

D, M = 7, 300
X = torch.from_numpy(correlated(3, D, norms=(1.0, 0.7, 1.3)))
Y = torch.tensor([1.0, -1.0, 0.3], dtype=torch.float64)
z = sp.Symbol("z")

TORCH: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "leaky_relu": lambda t: torch.where(t > 0, t, 0.01 * t),
    "gelu": lambda t: t * (1 + torch.erf(t / 2**0.5)) / 2,
    "silu": lambda t: t / (1 + torch.exp(-t)),
    "softplus": lambda t: torch.log1p(torch.exp(t)),
    "tanh": torch.tanh,
    "sigmoid": lambda t: 1 / (1 + torch.exp(-t)),
    "z2z3": lambda t: t**2 + t**3,
    "elu": lambda t: torch.where(t > 0, t, torch.exp(t) - 1),
    "user": lambda t: torch.relu(t) + torch.sin(t) ** 2,
}


def activation_of(name: str) -> Any:
    return resolve_activation(sp.Max(z, 0) + sp.sin(z) ** 2) if name == "user" else ACTIVATIONS[name]


def autograd(net: TwoLayerNet, name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of 1/2 sum_i (f(x_i) - y_i)^2, f = sum_j a_j sigma(w_j.x), and the residuals."""
    W = torch.cat([block for _, block in net.blocks()]).clone().requires_grad_()
    a = torch.full((net.m,), 1 / net.m, dtype=torch.float64, requires_grad=True)
    residuals = TORCH[name](X @ W.T) @ a - Y
    (residuals.square().sum() / 2).backward()
    assert a.grad is not None and W.grad is not None
    return a.grad, W.grad, residuals.detach()


def test_the_reference_covers_every_activation() -> None:
    assert set(TORCH) == {*ACTIVATIONS, "user"}


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize("budget", [0, 10**9])
def test_gradients_against_autograd(name: str, budget: int) -> None:
    net = TwoLayerNet.sample(D, M, activation_of(name), seed=5, memory_budget=budget)
    outer, inner, residuals = autograd(net, name)
    gradient, found = net.output_gradient(X, Y)
    torch.testing.assert_close(gradient, outer, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(found, residuals, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(net.forward(X), residuals + Y, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(net.first_layer_gradient(X, Y), inner, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_native_activations_are_the_theory_s(name: str) -> None:
    t = torch.linspace(-30, 30, 241, dtype=torch.float64)
    expected = ACTIVATIONS[name](t.numpy())
    np.testing.assert_allclose(
        apply_activation(ACTIVATIONS[name], t).numpy(), expected, rtol=1e-12, atol=1e-14
    )
    single = apply_activation(ACTIVATIONS[name], t.float())
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), expected, rtol=1e-5, atol=1e-5)


#: Where derivatives are compared: kinks from both sides and at either zero, and far out, where naive formulas overflow.
PLACES = torch.cat(
    [
        torch.linspace(-30, 30, 241, dtype=torch.float64),
        torch.tensor([0.0, -0.0, 1e-300, -1e-300, 700.0, -700.0, 800.0, -800.0], dtype=torch.float64),
    ]
)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_native_derivatives_are_the_theory_s(name: str) -> None:
    """Those that run on an accelerator, here on the CPU; the kinks' values exactly."""
    native, table = _NATIVE[name].derivative, ACTIVATIONS[name].derivative
    assert table is not None
    expected = table(PLACES.numpy())
    np.testing.assert_allclose(native(PLACES).numpy(), expected, rtol=1e-11, atol=1e-14)
    at_kinks = np.isin(PLACES.numpy(), ACTIVATIONS[name].kinks)
    assert np.array_equal(native(PLACES).numpy()[at_kinks], expected[at_kinks])
    near = PLACES[PLACES.abs() <= 30]
    single = native(near.float())
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), table(near.float().double().numpy()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_derivatives_against_autograd(name: str, dtype: torch.dtype) -> None:
    t = torch.linspace(-3, 3, 60, dtype=torch.float64).requires_grad_()
    (expected,) = torch.autograd.grad(TORCH[name](t).sum(), t)
    found = apply_derivative(activation_of(name), t.detach().to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected.to(dtype), rtol=1e-5, atol=1e-6)


# --- weights ----------------------------------------------------------------------------------------------------------

WIDE = 3000  # d = 700: blocks of 512 rows, so six of them, the last one cut


def weights(d: int = 700, m: int = WIDE, **more: Any) -> torch.Tensor:
    return torch.cat([block for _, block in TwoLayerNet.sample(d, m, **more).blocks()])


def test_there_are_several_blocks() -> None:
    net = TwoLayerNet.sample(700, WIDE, memory_budget=0)
    rows = [r for r, _ in net.blocks()]
    assert net.weights is None
    assert len(rows) == 6
    assert [r.start for r in rows[1:]] == [r.stop for r in rows[:-1]]
    assert (rows[0].start, rows[-1].stop) == (0, WIDE)
    assert TwoLayerNet.sample(700, WIDE).weights is not None


@pytest.mark.parametrize("chunk", [1, 7, 521, 1031, 10_007])
def test_regenerated_weights_are_the_held_ones(chunk: int) -> None:
    assert torch.equal(weights(seed=3), weights(seed=3, memory_budget=0, chunk=chunk))


def test_rows_do_not_depend_on_the_width() -> None:
    assert torch.equal(weights(seed=3)[:1111], weights(seed=3, m=1111))
    assert torch.equal(weights(seed=3)[:1111], weights(seed=3, m=1111, memory_budget=0))


def test_rows_do_not_depend_on_the_number_of_threads() -> None:
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(weights(seed=3, memory_budget=0))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


def test_a_pass_may_be_left_early_and_repeated() -> None:
    net = TwoLayerNet.sample(700, WIDE, seed=3, memory_budget=0)
    _, first = next(iter(net.blocks()))
    assert torch.equal(first, weights(seed=3)[: len(first)])
    assert torch.equal(torch.cat([b for _, b in net.blocks()]), weights(seed=3))


def test_weights_are_standard_normal() -> None:
    """2.1 million entries, seed 3: mean, variance and fourth moment within 5 standard errors (1/sqrt(N) times 1, sqrt 2,
    sqrt 96); blocks uncorrelated likewise. A factor 1.01 in the scale is off by 14 of them."""
    W = weights(seed=3).numpy().ravel()
    error = 5 / np.sqrt(W.size)
    assert abs(W.mean()) < error
    assert abs(np.mean(W**2) - 1) < np.sqrt(2) * error
    assert abs(np.mean(W**4) - 3) < np.sqrt(96) * error
    block = 512 * 700
    assert abs(np.mean(W[:block] * W[block : 2 * block])) < 5 / np.sqrt(block)


def test_seeds_differ() -> None:
    assert not torch.equal(weights(seed=3), weights(seed=4))


def test_equal_seeds_for_noise_and_weights_do_not_meet() -> None:
    """100 000 normals each under one seed: correlations within 5 standard errors of zero. The same stream would give 1."""
    n = 100_000
    streams = {"weights": (0,), "noise": (), "masks": (), "starts": (0,)}
    drawn = [
        normal((n,), 9, p, *keys, device="cpu", dtype=torch.float64).numpy() for p, keys in streams.items()
    ]
    correlation = np.corrcoef(drawn)
    assert np.max(np.abs(correlation - np.eye(len(drawn)))) < 5 / np.sqrt(n)


def test_observed_noise_is_not_the_weights() -> None:
    """d = 1, m = 100 000, equal seeds: the noise on the gradient against the weights, within 5 standard errors."""
    net = TwoLayerNet.sample(1, 100_000, seed=4)
    quiet, noisy = (
        observe(GradientNoise(sigma=s), net, [[1.0]], [-1.0], seed=4).gradient for s in (0.0, 1.0)
    )
    assert net.weights is not None
    correlation = np.corrcoef((noisy - quiet).numpy(), net.weights[:, 0].numpy())[0, 1]
    assert abs(correlation) < 5 / np.sqrt(net.m)


def test_streams_depend_on_every_key() -> None:
    draws = [
        numpy_generator(s, p, *k).random()
        for s in (0, 1)
        for p in ("a", "b")
        for k in ((), (0,), (1,), (0, 1))
    ]
    assert len(set(draws)) == len(draws)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_is_kept(dtype: torch.dtype) -> None:
    net = TwoLayerNet.sample(D, M, seed=5, dtype=dtype)
    gradient, _ = net.output_gradient(X, Y)
    assert {net.hidden(X).dtype, gradient.dtype, net.first_layer_gradient(X, Y).dtype} == {dtype}
    assert observe(GradientNoise(sigma=1.0), net, X, Y).gradient.dtype == dtype
    double = TwoLayerNet.from_weights(torch.cat([b for _, b in net.blocks()]).double())
    torch.testing.assert_close(gradient.double(), double.output_gradient(X, Y)[0], rtol=1e-5, atol=1e-6)


def test_from_weights_keeps_what_it_is_given() -> None:
    given = torch.randn(M, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    net = TwoLayerNet.from_weights(given, "gelu")
    assert (net.d, net.m, net.activation.name) == (D, M, "gelu")
    assert torch.equal(torch.cat([b for _, b in net.blocks()]), given)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: TwoLayerNet.sample(0, 10), ValueError, "d must be between 1 and 10+; got 0"),
        (lambda: TwoLayerNet.sample(3, -1), ValueError, "m must be between 1 and 10+; got -1"),
        (lambda: TwoLayerNet.sample(3, True), TypeError, "m must be an integer; got True"),
        (lambda: TwoLayerNet.sample(3, 10.0), TypeError, "m must be an integer; got 10.0"),
        (lambda: TwoLayerNet.sample(3, 10, seed=-1), ValueError, "seed must be at least 0; got -1"),
        (lambda: TwoLayerNet.sample(3, 10, seed=1.5), TypeError, "seed must be an integer; got 1.5"),
        (lambda: TwoLayerNet.sample(3, 10, chunk=0), ValueError, "chunk must be at least 1; got 0"),
        (
            lambda: TwoLayerNet.sample(3, 10, memory_budget=-1),
            ValueError,
            "memory_budget must be at least 0; got -1",
        ),
        (lambda: TwoLayerNet.sample(3, 10, dtype=torch.float16), ValueError, "dtype must be .*float16"),
        (lambda: TwoLayerNet.sample(3, 10, "swish"), ValueError, "activation must be one of.*'swish'"),
        (
            lambda: TwoLayerNet.from_weights(torch.zeros(3)),
            ValueError,
            r"weights must have shape \(m, d\); got \(3,\)",
        ),
        (
            lambda: TwoLayerNet.from_weights(torch.full((3, 2), torch.nan)),
            ValueError,
            "weights must be finite",
        ),
        # The dtype is checked in sample() alone: integer weights pass here and fail deep inside torch.
        (
            lambda: TwoLayerNet.from_weights(torch.ones(9, 2, dtype=torch.int64)),
            ValueError,
            "weights.*float.*int64",
        ),
    ],
)
def test_bad_networks(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (X[0], r"X must have shape \(B, d = 7\); got \(7,\)"),
        (X[:, :5], r"X must have shape \(B, d = 7\); got \(3, 5\)"),
        (X[:0], "1 <= B <= d = 7.*got B = 0"),
        (torch.ones(8, 7), "1 <= B <= d = 7.*got B = 8"),
        (X * torch.nan, "X must have finite rows of positive norm"),
    ],
)
def test_bad_features(features: torch.Tensor, message: str) -> None:
    net = TwoLayerNet.sample(D, M)
    for call in (net.features, net.hidden, lambda f: observe(GradientNoise(), net, f, Y)):
        with pytest.raises(ValueError, match=message):
            call(features)


EXOTIC = {
    "a sparse tensor": lambda t: t.to_sparse(),
    "without data": lambda t: t.to("meta"),
    "a nested tensor": lambda t: torch.nested.nested_tensor([t[0], t[0, :2]]),
    "type torch.bool": lambda t: t > 0,
    "type torch.complex128": lambda t: t + 0j,
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("what", EXOTIC)
def test_what_is_no_dense_array_of_numbers(what: str) -> None:
    """Features, weights and gradients: refused in one line, before any computation."""
    net, strange = TwoLayerNet.sample(D, M), EXOTIC[what](X)
    for name, call in (
        ("X", lambda: observe(GradientNoise(), net, strange, Y)),
        ("weights", lambda: TwoLayerNet.from_weights(strange)),
        ("gradient", lambda: Observation(strange, 1, (1.0,), GradientNoise())),
    ):
        with pytest.raises((TypeError, ValueError), match=rf"^{name}.*must.*\b{what.split()[-1]}") as caught:
            call()
        assert len(str(caught.value).splitlines()) == 1


def test_masked_features_are_refused() -> None:
    masked = np.ma.masked_array(X.numpy(), mask=X.numpy() > 0.5)
    with pytest.raises(ValueError, match="X must have no masked entries"):
        observe(GradientNoise(), TwoLayerNet.sample(D, M), masked, Y)


def test_more_features_than_neurons() -> None:
    with pytest.raises(ValueError, match="B < m = 3; got B = 3"):
        TwoLayerNet.sample(D, 3).hidden(X)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"defense": "none"}, TypeError, "defense must be a Defense.*'none'"),
        ({"defense": GradientNoise}, TypeError, "defense must be a Defense"),
        ({"y": Y[:2]}, ValueError, r"y must have shape \(B,\) = \(3,\); got \(2,\)"),
        ({"y": Y / 0}, ValueError, "y must be finite"),
        ({"seed": -1}, ValueError, "seed must be at least 0; got -1"),
        ({"seed": True}, TypeError, "seed must be an integer; got True"),
        ({"groups": [0, 1]}, ValueError, "groups must have B = 3 entries; got 2"),
    ],
)
def test_bad_observations(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {"defense": GradientNoise(), "net": TwoLayerNet.sample(D, M), "X": X, "y": Y} | arguments
    with pytest.raises(error, match=message):
        observe(**given)


def test_an_observation_says_no_more_than_the_server_knows() -> None:
    net = TwoLayerNet.sample(D, M)
    seen = observe(GradientNoise(), net, X, Y)
    assert set(vars(seen)) == {"gradient", "batch_size", "norms", "defense"}
    np.testing.assert_allclose(seen.norms, (0.7, 1.0, 1.3))  # sorted: not in the order of the features
    again = observe(GradientNoise(), net, X.flip(0), Y.flip(0))
    torch.testing.assert_close(seen.gradient, again.gradient, rtol=1e-12, atol=1e-14)


def test_features_may_be_lists_of_numbers() -> None:
    """Lists must not be rounded to single precision on the way."""
    net = TwoLayerNet.sample(D, M)
    one, other = (observe(GradientNoise(), net, x, y).gradient for x, y in ((X, Y), (X.tolist(), Y.tolist())))
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
