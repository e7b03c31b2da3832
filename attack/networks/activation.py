"""Activations and their derivatives on tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from bounds import ACTIVATIONS, Activation

_Map = Callable[[torch.Tensor], torch.Tensor]

#: Slope of the built-in leaky ReLU left of zero.
_LEAK = 0.01

#: Half the step of central differences.
_STEP = 1e-5


@dataclass(frozen=True)
class _Native:
    """A built-in activation and its derivative as operations of torch, on any device and in either precision.

    At a kink the derivative is the left one, as in the table of ``bounds``.
    """

    function: _Map
    derivative: _Map


def _step(t: torch.Tensor) -> torch.Tensor:
    return (t > 0).to(t.dtype)


def _gelu_derivative(t: torch.Tensor) -> torch.Tensor:
    return torch.special.ndtr(t) + t * (torch.exp(-(t**2) / 2) / (2 * torch.pi) ** 0.5)


def _silu_derivative(t: torch.Tensor) -> torch.Tensor:
    s = torch.sigmoid(t)
    return s * (1 + t * (1 - s))


def _sigmoid_derivative(t: torch.Tensor) -> torch.Tensor:
    s = torch.sigmoid(t)
    return s * (1 - s)


_NATIVE: Mapping[str, _Native] = MappingProxyType(
    {
        "relu": _Native(torch.relu, _step),
        "leaky_relu": _Native(
            lambda t: torch.nn.functional.leaky_relu(t, _LEAK),
            lambda t: torch.full_like(t, _LEAK).masked_fill(t > 0, 1.0),
        ),
        "gelu": _Native(torch.nn.functional.gelu, _gelu_derivative),
        "silu": _Native(torch.nn.functional.silu, _silu_derivative),
        # torch's own softplus turns linear above its threshold 20: a jump of 2e-9
        "softplus": _Native(lambda t: torch.logaddexp(t, torch.zeros_like(t)), torch.sigmoid),
        "tanh": _Native(torch.tanh, lambda t: 1 - torch.tanh(t) ** 2),
        "sigmoid": _Native(torch.sigmoid, _sigmoid_derivative),
        "z2z3": _Native(lambda t: t * t * (1 + t), lambda t: 2 * t + 3 * t**2),
        "elu": _Native(
            torch.nn.functional.elu, lambda t: torch.where(t > 0, 1.0, torch.exp(torch.clamp(t, max=0.0)))
        ),
    }
)


def apply_activation(activation: Activation, t: torch.Tensor) -> torch.Tensor:
    """``activation`` elementwise. Built-in ones run natively on the tensor's device; user-supplied ones are NumPy functions
    and take the way through host memory."""
    if ACTIVATIONS.get(activation.name) is activation:
        return _NATIVE[activation.name].function(t)
    return through_numpy(activation.function, t)


def apply_derivative(activation: Activation, t: torch.Tensor) -> torch.Tensor:
    """The derivative of ``activation`` elementwise, on the tensor's device for built-in ones: natively on an accelerator,
    and on the CPU, where a tensor is an array at no cost, by the function that theory integrates.

    Raises ``ValueError`` for an activation without one.
    """
    require_derivative(activation)
    if t.device.type != "cpu" and ACTIVATIONS.get(activation.name) is activation:
        return _NATIVE[activation.name].derivative(t)
    assert activation.derivative is not None
    return through_numpy(activation.derivative, t)


def slopes_of(activation: Activation, t: torch.Tensor) -> torch.Tensor:
    """The derivative of any ``activation`` elementwise, by central differences where it has none of its own."""
    if activation.derivative is not None:
        return apply_derivative(activation, t)
    return (apply_activation(activation, t + _STEP) - apply_activation(activation, t - _STEP)) / (2 * _STEP)


def require_derivative(activation: Activation) -> None:
    """``ValueError`` for an activation without a derivative, before a pass over the weights finds that out."""
    if activation.derivative is None:
        raise ValueError(f"activation {activation.name!r} has no derivative; give it as a sympy expression")


def differentiable(activation: Activation, t: torch.Tensor) -> torch.Tensor:
    """``activation`` elementwise, so that autograd knows its derivative; that of an activation without one is asked for
    only by a backward pass, which then raises ``ValueError``."""
    if ACTIVATIONS.get(activation.name) is activation:
        return apply_activation(activation, t)
    applied: torch.Tensor = _Elementwise.apply(t, activation)
    return applied


class _Elementwise(torch.autograd.Function):
    """An activation given as NumPy functions, with the derivative that autograd cannot find by itself."""

    @staticmethod
    def forward(ctx: Any, t: torch.Tensor, activation: Activation) -> torch.Tensor:
        ctx.save_for_backward(t)
        ctx.activation = activation
        return apply_activation(activation, t)

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor, None]:
        (t,) = ctx.saved_tensors
        return upstream[0] * apply_derivative(ctx.activation, t), None


def through_numpy(function: Callable[[Any], Any], t: torch.Tensor) -> torch.Tensor:
    values = np.asarray(function(t.detach().cpu().double().numpy()), dtype=float)
    if values.shape not in ((), tuple(t.shape)):  # a constant derivative may come as a scalar
        raise ValueError(
            f"the activation must keep the shape {tuple(t.shape)} of its argument; it gave {values.shape}"
        )
    return torch.from_numpy(np.broadcast_to(values, t.shape).copy()).to(device=t.device, dtype=t.dtype)
