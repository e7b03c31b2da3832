"""Modules of torch as activations that theory can compute with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import sympy as sp
import torch
from torch import nn

from bounds import Activation, resolve_activation
from bounds.gaussian.activations import Z

#: What stands for an activation: a name or an expression (as text or of sympy), a callable on arrays, a module of torch.
AnyActivation: TypeAlias = str | Activation | sp.Expr | nn.Module | Callable[[Any], Any]

#: Above this torch's softplus, beta times its argument, is linear by default: 2e-9 / beta from the smooth function.
_LINEAR = 20.0

_POSITIVE, _NEGATIVE = sp.Max(Z, 0), sp.Min(Z, 0)


def _leaky(slope: float) -> str | sp.Expr:
    return {0.0: "relu", 0.01: "leaky_relu"}.get(slope, _POSITIVE + slope * _NEGATIVE)


def _exponential(alpha: float, scale: float = 1) -> sp.Expr:
    """``alpha (exp(z/scale) - 1)`` left of zero, z right of it."""
    return _POSITIVE + alpha * (sp.exp(_NEGATIVE / scale) - 1)


def _smooth_relu(beta: float = 1) -> sp.Expr:
    """``log(1 + exp(beta z)) / beta``, where nothing overflows."""
    return _POSITIVE + sp.log(1 + sp.exp(-beta * sp.Abs(Z))) / beta


def _softplus(beta: float, threshold: float) -> str | sp.Expr:
    if threshold < _LINEAR:
        return sp.Piecewise((Z, beta * Z > threshold), (_smooth_relu(beta), True))
    return "softplus" if beta == 1 else _smooth_relu(beta)


def _clipped(lo: float, hi: float) -> sp.Expr:
    return sp.Piecewise((lo, lo > Z), (Z, hi > Z), (hi, True))


#: The function of every module of torch that is one of a single number, by the module's class.
_FUNCTIONS: Mapping[type[nn.Module], Callable[[Any], str | sp.Expr]] = MappingProxyType(
    {
        nn.ReLU: lambda module: "relu",
        nn.LeakyReLU: lambda module: _leaky(module.negative_slope),
        nn.RReLU: lambda module: _leaky((module.lower + module.upper) / 2),
        nn.GELU: lambda module: (
            "gelu"
            if module.approximate == "none"
            else Z * (1 + sp.tanh(sp.sqrt(2 / sp.pi) * (Z + 0.044715 * Z**3))) / 2
        ),
        nn.SiLU: lambda module: "silu",
        nn.Softplus: lambda module: _softplus(module.beta, module.threshold),
        nn.ELU: lambda module: "elu" if module.alpha == 1 else _exponential(module.alpha),
        nn.CELU: lambda module: _exponential(module.alpha, module.alpha),
        nn.SELU: lambda module: 1.0507009873554805 * _exponential(1.6732632423543772),
        nn.Tanh: lambda module: "tanh",
        nn.Sigmoid: lambda module: "sigmoid",
        nn.LogSigmoid: lambda module: _NEGATIVE - sp.log(1 + sp.exp(-sp.Abs(Z))),
        nn.Mish: lambda module: Z * sp.tanh(_smooth_relu()),
        nn.Hardtanh: lambda module: _clipped(module.min_val, module.max_val),
        nn.ReLU6: lambda module: _clipped(0, 6),
        nn.Hardsigmoid: lambda module: _clipped(-3, 3) / 6 + sp.Rational(1, 2),
        nn.Hardswish: lambda module: sp.Piecewise((0, Z < -3), (Z * (Z + 3) / 6, Z < 3), (Z, True)),
        nn.Softsign: lambda module: Z / (1 + sp.Abs(Z)),
        nn.Tanhshrink: lambda module: Z - sp.tanh(Z),
        nn.Softshrink: lambda module: Z - _clipped(-module.lambd, module.lambd),
        nn.Hardshrink: lambda module: sp.Piecewise((Z, sp.Abs(Z) > module.lambd), (0, True)),
        nn.Threshold: lambda module: sp.Piecewise((Z, module.threshold < Z), (module.value, True)),
        nn.Identity: lambda module: Z,
    }
)


def activation_of(activation: AnyActivation) -> Activation:
    """The ``Activation`` that a module of torch stands for, or whatever ``bounds.resolve_activation`` takes.

    torch's own activations become the built-in ones, or expressions with their parameters, as they are now and as ``eval()``
    leaves them; ``PReLU`` with one slope too. Any other module that maps a number to a number is taken as a smooth function
    in double precision, with autograd's derivative: no UPPER is stated for it, and it cannot be written to records.
    Raises ``ValueError`` for a module that is not elementwise, not smooth, or a function that theory does not cover.
    """
    if not isinstance(activation, nn.Module):
        return resolve_activation(activation)
    if type(activation) is nn.PReLU and activation.weight.numel() == 1:
        return resolve_activation(_leaky(activation.weight.item()))
    function = _FUNCTIONS.get(type(activation))
    return resolve_activation(_by_values(activation) if function is None else function(activation))


def _by_values(module: nn.Module) -> Activation:
    quiet = copy.deepcopy(module).cpu().double().eval().requires_grad_(False)

    def function(t: Any) -> Any:
        with torch.no_grad():
            return quiet(torch.tensor(np.asarray(t, dtype=float))).numpy()

    def derivative(t: Any) -> Any:
        inner = torch.tensor(np.asarray(t, dtype=float), requires_grad=True)
        return torch.autograd.grad(quiet(inner).sum(), inner)[0].numpy()

    name = type(module).__name__
    _require_elementwise(name, function)
    return Activation(name, function, derivative)


def _require_elementwise(name: str, function: Callable[[Any], Any]) -> None:
    """``ValueError`` unless every number is mapped for itself."""
    probe = np.linspace(-3, 3, 7)
    try:
        whole, parts = function(probe), [function(probe[i : i + 1]) for i in range(len(probe))]
        same = whole.shape == probe.shape and np.allclose(
            whole, np.concatenate(parts), rtol=1e-12, atol=1e-14
        )
        same = same and np.array_equal(function(probe), whole)
    except Exception as error:  # a module may raise anything
        raise ValueError(f"activation {name} must map numbers to numbers; it raised {error}") from error
    if not same:
        raise ValueError(
            f"activation {name} must map every number for itself, always to the same; it does not"
        )
