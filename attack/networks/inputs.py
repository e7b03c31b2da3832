"""Features and labels as a network takes them, checked before any computation."""

from __future__ import annotations

from typing import Any

import torch

from attack.arrays import real_tensor


def checked_features(X: Any, d: int, m: int) -> torch.Tensor:
    """``X`` as a finite (B, d) tensor of float32 or float64 on the CPU, off any graph, no row zero.

    ``ValueError`` or ``TypeError`` if it is not one, or if B is not in 1..d and below m.
    """
    X = real_tensor("X", X)
    if X.ndim != 2 or X.shape[1] != d:
        raise ValueError(f"X must have shape (B, d = {d}); got {tuple(X.shape)}")
    if not 1 <= X.shape[0] <= d or X.shape[0] >= m:
        raise ValueError(f"X must have 1 <= B <= d = {d} rows and B < m = {m}; got B = {X.shape[0]}")
    norms = torch.linalg.vector_norm(X.double(), dim=1)
    if not (torch.isfinite(norms).all() and (norms > 0).all()):
        raise ValueError(f"X must have finite rows of positive norm; got norms {norms.tolist()}")
    return X


def checked_labels(y: Any, B: int) -> torch.Tensor:
    """``y`` as B finite float64 labels on the CPU; ``ValueError`` or ``TypeError`` if it is not that."""
    labels = real_tensor("y", y).double()
    if tuple(labels.shape) != (B,):
        raise ValueError(f"y must have shape (B,) = ({B},); got {tuple(labels.shape)}")
    if not torch.isfinite(labels).all():
        raise ValueError(f"y must be finite; got {int((~torch.isfinite(labels)).sum())} values that are not")
    return labels
