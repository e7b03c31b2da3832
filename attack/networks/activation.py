"""Activations on tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from bounds import ACTIVATIONS, Activation

_NATIVE: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = MappingProxyType(
    {
        "relu": torch.relu,
        "leaky_relu": lambda t: torch.nn.functional.leaky_relu(t, 0.01),
        "gelu": torch.nn.functional.gelu,
        "silu": torch.nn.functional.silu,
        # torch's own softplus turns linear above its threshold 20: a jump of 2e-9
        "softplus": lambda t: torch.logaddexp(t, torch.zeros_like(t)),
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "z2z3": lambda t: t * t * (1 + t),
        "elu": torch.nn.functional.elu,
    }
)


def apply_activation(activation: Activation, t: torch.Tensor) -> torch.Tensor:
    """``activation`` elementwise. Built-in ones run natively on the tensor's device; user-supplied ones are NumPy functions
    and take the way through host memory."""
    if ACTIVATIONS.get(activation.name) is activation:
        return _NATIVE[activation.name](t)
    return through_numpy(activation.function, t)


def apply_derivative(activation: Activation, t: torch.Tensor) -> torch.Tensor:
    """The derivative of ``activation`` elementwise; ``ValueError`` for an activation without one."""
    if activation.derivative is None:
        raise ValueError(f"activation {activation.name!r} has no derivative; give it as a sympy expression")
    return through_numpy(activation.derivative, t)


def through_numpy(function: Callable[[Any], Any], t: torch.Tensor) -> torch.Tensor:
    values = np.asarray(function(t.detach().cpu().double().numpy()), dtype=float)
    if values.shape not in ((), tuple(t.shape)):  # a constant derivative may come as a scalar
        raise ValueError(
            f"the activation must keep the shape {tuple(t.shape)} of its argument; it gave {values.shape}"
        )
    return torch.from_numpy(np.broadcast_to(values, t.shape).copy()).to(device=t.device, dtype=t.dtype)
