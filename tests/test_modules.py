"""Modules of torch as activations: against torch's own values, autograd's derivatives, and quadrature on a fine grid."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from attack import TwoLayerNet, activation_of, observe, tensor_attack
from bounds import ACTIVATIONS, Kind, NoDefense, Setting, evaluate, resolve_activation
from bounds.gaussian.activations import activation_text

NAMED = {
    "relu": nn.ReLU(inplace=True),
    "leaky_relu": nn.LeakyReLU(),
    "gelu": nn.GELU(),
    "silu": nn.SiLU(),
    "softplus": nn.Softplus(),
    "tanh": nn.Tanh(),
    "sigmoid": nn.Sigmoid(),
    "elu": nn.ELU(),
}

WRITTEN = (
    nn.LeakyReLU(0.3),
    nn.GELU(approximate="tanh"),
    nn.Softplus(beta=2.5),
    nn.Softplus(beta=0.5, threshold=1),
    nn.ELU(alpha=0.5),
    nn.CELU(alpha=2),
    nn.SELU(),
    nn.LogSigmoid(),
    nn.Mish(),
    nn.Hardtanh(-0.5, 2),
    nn.ReLU6(),
    nn.Hardsigmoid(),
    nn.Hardswish(),
    nn.Softsign(),
    nn.Tanhshrink(),
    nn.Softshrink(0.4),
    nn.Hardshrink(0.7),
    nn.Threshold(0.2, -1.0),
    nn.Identity(),
    nn.PReLU(init=0.2),
    nn.RReLU().eval(),
)


class Wave(nn.Module):
    """A user's own: smooth, elementwise, with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(1.5))

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        return t + torch.sin(self.rate * t) ** 2


class Bent(nn.Module):
    """A kink that nobody is told of."""

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        return (t - 0.37).abs()


#: A fine grid that meets no kink of the above, for sums and for values; its ends hold all but 1e-30 of a Gaussian.
GRID = np.linspace(-12, 12, 200_002)


def torch_values(module: nn.Module, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values, and autograd's derivative."""
    inner = torch.tensor(t, requires_grad=True)
    outer = module.double()(inner.clone())
    outer.sum().backward()
    assert inner.grad is not None
    return outer.detach().numpy(), inner.grad.numpy()


@pytest.mark.parametrize("module", [*NAMED.values(), *WRITTEN, Wave()], ids=str)
def test_a_module_is_the_function_that_torch_computes(module: nn.Module) -> None:
    """Its Hermite coefficients by the trapezoidal rule, whose error at a kink or jump is that of one step."""
    found = activation_of(module)
    values, slopes = torch_values(module, GRID)
    np.testing.assert_allclose(
        found(GRID), values, rtol=1e-9, atol=3e-9
    )  # softplus is linear above its threshold
    assert found.derivative is not None
    np.testing.assert_allclose(found.derivative(GRID) * np.ones_like(GRID), slopes, rtol=1e-7, atol=3e-9)
    weights = np.exp(-(GRID**2) / 2) / math.sqrt(2 * math.pi) * (GRID[1] - GRID[0])
    jumps = isinstance(module, nn.Hardshrink | nn.Threshold) or getattr(module, "threshold", 20) < 20
    for k, hermite in enumerate((1, GRID, GRID**2 - 1, GRID**3 - 3 * GRID)):
        assert found.coefficient(k) == pytest.approx(
            np.sum(weights * hermite * values), abs=1e-4 if jumps else 1e-8
        )


def test_torchs_defaults_are_the_built_in_ones() -> None:
    for name, module in NAMED.items():
        assert activation_of(module) is ACTIVATIONS[name]
    assert activation_of("gelu") is ACTIVATIONS["gelu"]


@pytest.mark.parametrize("module", WRITTEN, ids=str)
def test_a_module_with_parameters_has_a_text_that_gives_it_back(module: nn.Module) -> None:
    found = activation_of(module)
    assert resolve_activation(activation_text(found)) is found is activation_of(module)


def test_a_network_takes_a_module_and_theory_says_where_it_ends() -> None:
    net = TwoLayerNet.sample(6, 2000, activation=nn.ELU(alpha=0.5), seed=1)
    X = torch.eye(6, dtype=torch.float64)[:1]
    W = torch.cat([block for _, block in net.blocks()])
    torch.testing.assert_close(net.hidden(X), nn.ELU(alpha=0.5)(X @ W.T), rtol=1e-13, atol=1e-14)
    assert TwoLayerNet.from_weights(W, nn.Tanh()).activation is ACTIVATIONS["tanh"]
    seen = observe(NoDefense(), net, X, torch.tensor([1.0]))
    error = float((tensor_attack(seen, net).features - X).norm())
    stated = evaluate(NoDefense(), Setting.orthonormal(6, 2000, 1, net.activation))
    assert stated.predicted is not None and 0 < error < 3 * stated.predicted < 0.5
    assert stated.upper is None and "variation is not declared" in stated[Kind.UPPER].why


def test_a_module_of_ones_own_is_taken_by_its_values_and_has_no_text() -> None:
    module = Wave()
    found = activation_of(module)
    before = found(np.array([1.0]))
    with torch.no_grad():
        module.rate.fill_(9.0)  # what theory computes with does not change under it
    assert found(np.array([1.0])) == before and found.variation is None
    with pytest.raises(ValueError, match="to be written; got 'Wave'"):
        activation_text(found)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Softmax(dim=-1), "activation Softmax must map every number for itself"),
        (nn.LayerNorm(7), "activation LayerNorm must map numbers to numbers; it raised"),
        (nn.Linear(7, 7), "activation Linear must map"),
        (Bent(), "activation 'Bent' must be smooth between its kinks"),
        (nn.PReLU(3), "activation PReLU must map"),
    ],
    ids=str,
)
def test_what_is_no_activation(module: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        activation_of(module)


def test_bounds_names_who_translates_a_module() -> None:
    with pytest.raises(TypeError, match=r"give attack.activation_of\(GELU"):
        Setting.orthonormal(5, 100, 1, nn.GELU())  # type: ignore[arg-type]
