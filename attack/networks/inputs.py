"""Features and labels as a network takes them, checked before any computation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def checked_features(X: Any, d: int, m: int) -> torch.Tensor:
    """``X`` as a finite real (B, d) tensor off any graph, no row zero.

    ``ValueError`` or ``TypeError`` if it is not one, or if B is not in 1..d and below m.
    """
    X = _real_tensor("X", X)
    if X.ndim != 2 or X.shape[1] != d:
        raise ValueError(f"X must have shape (B, d = {d}); got {tuple(X.shape)}")
    if not 1 <= X.shape[0] <= d or X.shape[0] >= m:
        raise ValueError(f"X must have 1 <= B <= d = {d} rows and B < m = {m}; got B = {X.shape[0]}")
    norms = torch.linalg.vector_norm(X.double(), dim=1)
    if not (torch.isfinite(norms).all() and (norms > 0).all()):
        raise ValueError(f"X must have finite rows of positive norm; got norms {norms.tolist()}")
    return X


def checked_labels(y: Any, B: int) -> torch.Tensor:
    """``y`` as B finite float64 labels; ``ValueError`` or ``TypeError`` if it is not that."""
    labels = _real_tensor("y", y).double()
    if tuple(labels.shape) != (B,):
        raise ValueError(f"y must have shape (B,) = ({B},); got {tuple(labels.shape)}")
    if not torch.isfinite(labels).all():
        raise ValueError(f"y must be finite; got {int((~torch.isfinite(labels)).sum())} values that are not")
    return labels


def _real_tensor(name: str, value: Any) -> torch.Tensor:
    try:
        # through float64, as torch would read a list as float32
        given = value if isinstance(value, torch.Tensor) else torch.from_numpy(np.array(value))
        tensor: torch.Tensor = given.detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be an array of real numbers; got {value!r}") from error
    if tensor.dtype == torch.bool or tensor.is_complex():
        raise TypeError(f"{name} must be an array of real numbers; got values of type {tensor.dtype}")
    return tensor
