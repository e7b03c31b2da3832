"""What a reconstruction leaves of a gradient: rounding, noise, or the trace of another model."""

from __future__ import annotations

import math

import torch

from attack.own.coordinates import STANDARD_ERRORS
from attack.own.gradient import SharedGradient

#: Types in which a gradient may have been computed, coarsest first.
_TYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)

#: Roundings that add up in an entry, and the dimension from which longer sums add more.
_ROUNDINGS, _LONG = 4.0, 16

#: Cells of equal weight into which the preactivations of a feature are divided.
_CELLS = 16


def rounding(shared: SharedGradient) -> float:
    """Share of the gradient's power that rounding may leave: that of the coarsest type that holds every entry, whatever the
    type of the array."""
    arrays = [v for v in (shared.gradient, shared.bias_gradient) if v is not None]
    held = next(t for t in _TYPES if all(_holds(t, v) for v in arrays))
    long = max(1.0, shared.d / _LONG)
    return float(long * (_ROUNDINGS * torch.finfo(held).eps) ** 2)


def _holds(kind: torch.dtype, values: torch.Tensor) -> bool:
    return bool((values.to(kind).to(values.dtype) == values).all())


def explained_by_cells(left: torch.Tensor, inside: torch.Tensor) -> float:
    """Share of the power of what is left (m,) that a sum of functions of each feature's preactivations (B, m) explains
    beyond chance, 0 within five standard errors of none. Independent noise depends on none, nor do errors of the features
    across their span; another activation does, and an optimizer's update."""
    B, m = inside.shape
    if m < 4 * _CELLS * B:
        return 0.0
    order = inside.argsort(dim=1).argsort(dim=1)
    cells = torch.nn.functional.one_hot(order * _CELLS // m, _CELLS).double()
    design = cells.permute(1, 0, 2).flatten(1)
    right = design.T @ left
    power = float(left @ left)
    if power == 0:
        return 0.0
    explained = float(right @ (torch.linalg.pinv(design.T @ design, hermitian=True) @ right)) / power
    unknowns = B * (_CELLS - 1) + 1
    chance = unknowns / m
    return explained - chance if explained > chance + STANDARD_ERRORS * math.sqrt(2 * unknowns) / m else 0.0
