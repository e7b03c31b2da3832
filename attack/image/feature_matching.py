"""How far the features of a picture are from features that are known: the term that ties pictures to the attacked layer."""

from __future__ import annotations

import torch

#: Squared lengths below this count as none.
_TINY = 1e-30


def cosine_mismatch(
    found: torch.Tensor, wanted: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """``w_i (1 - cos^2)`` (B,) of features found (B, d_f) and wanted (B, d_f), row by row: blind to a factor, and to its
    sign (Liu, Wang, Chen, Lei 2025); weights (B,), 1 where None: how far each feature is trusted."""
    inner = (found * wanted).sum(dim=1)
    powers = found.square().sum(dim=1) * wanted.square().sum(dim=1)
    return _weighted(1 - inner.square() / powers.clamp_min(_TINY), weights)


def squared_mismatch(
    found: torch.Tensor, wanted: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """``w_i |found - wanted|^2 / |wanted|^2`` (B,): for features that are known with their lengths."""
    off = (found - wanted).square().sum(dim=1)
    return _weighted(off / wanted.square().sum(dim=1).clamp_min(_TINY), weights)


def _weighted(values: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    return values if weights is None else weights * values
