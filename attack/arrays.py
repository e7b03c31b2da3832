"""Arrays and tensors of any kind as what the attack computes with: dense float32 or float64 tensors on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

#: What an array that cannot be converted may raise: ``NotImplementedError`` is a ``RuntimeError``.
_REFUSALS = (TypeError, ValueError, RuntimeError, AttributeError, OverflowError, BufferError, IndexError)

#: What a tensor may be that is no dense array of numbers: how it is told, and its name.
_EXOTIC = (
    (lambda t: t.is_nested, "a nested tensor"),
    (lambda t: t.layout != torch.strided, "a sparse tensor"),
    (lambda t: t.is_meta, "a tensor without data (device meta)"),
    (lambda t: t.is_quantized, "a quantized tensor"),
    (lambda t: t.is_complex() or t.dtype == torch.bool, None),  # named by its dtype
)


def real_tensor(name: str, value: Any) -> torch.Tensor:
    """``value`` off its graph and device: float32 if it is that or half precision in torch, else float64.

    Raises ``TypeError`` for what is not a dense array of real numbers, ``ValueError`` for masked entries.
    """
    if isinstance(value, torch.Tensor):
        return _of_tensor(name, value)
    parts = value if isinstance(value, (list, tuple)) else (value,)
    masked = [part for part in parts if isinstance(part, np.ma.MaskedArray)]
    hidden, entries = sum(map(np.ma.count_masked, masked)), sum(part.size for part in masked)
    if hidden:
        raise ValueError(f"{name} must have no masked entries; got {hidden} of {entries} masked")
    try:
        if hasattr(value, "detach"):  # tensors of other libraries
            value = value.detach().cpu()
        raw = np.asarray(value)
    except _REFUSALS:
        raise _not_real(name, type(value).__name__) from None
    if raw.dtype.kind not in "iuf":
        raise _not_real(name, _described(value, raw))
    with np.errstate(over="ignore"):  # beyond float64: infinite, and found to be so
        return torch.from_numpy(np.array(raw, dtype=np.float32 if raw.dtype == np.float32 else np.float64))


def require_dense(name: str, value: torch.Tensor) -> None:
    """``TypeError`` unless a tensor is dense, has data and holds real numbers; wherever it is, it stays there."""
    for is_so, what in _EXOTIC:
        if is_so(value):
            raise _not_real(name, what or f"values of type {value.dtype}")


def _of_tensor(name: str, value: torch.Tensor) -> torch.Tensor:
    require_dense(name, value)
    try:
        tensor = value.detach().cpu().resolve_neg().as_subclass(torch.Tensor)
        single = tensor.dtype in (torch.float16, torch.bfloat16, torch.float32)
        tensor = tensor.float() if single else tensor.double()
        tensor.numpy()  # a tensor that only pretends to have data, inside a tracer, has none to show
    except _REFUSALS:
        raise _not_real(name, f"a {type(value).__name__} of type {value.dtype}") from None
    return tensor


def _described(value: Any, raw: np.ndarray) -> str:
    if raw.ndim == 0 and raw.dtype.kind == "O":
        return type(value).__name__
    return f"values of type {raw.dtype}"[:100]


def _not_real(name: str, got: str) -> TypeError:
    return TypeError(f"{name} must be a dense array of real numbers; got {got}")
