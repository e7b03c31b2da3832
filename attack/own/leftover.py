"""What a reconstruction leaves of a gradient: rounding, noise, or the trace of another model."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from attack.own.coordinates import STANDARD_ERRORS
from attack.own.gradient import SharedGradient
from attack.own.precision import Precision

#: Roundings that add up in an entry, by its type: half precision is computed in single.
_ROUNDINGS: Mapping[str, float] = {"bfloat16": 1.5, "float16": 1.5, "float32": 4.0, "float64": 4.0}

#: The dimension from which longer sums add more.
_LONG = 16

#: Cells of equal weight into which the preactivations of a feature are divided, and the degree of polynomials in them.
_CELLS, _DEGREE = 16, 8


def rounding(shared: SharedGradient) -> float:
    """Share of the gradient's power that rounding may leave."""
    precision = Precision.of(shared.gradient, shared.bias_gradient)
    return max(1.0, shared.d / _LONG) * (_ROUNDINGS[precision.name] * 2 * precision.rounding) ** 2


def explained_by_cells(
    left: torch.Tensor, inside: torch.Tensor, weights: torch.Tensor | None = None
) -> float:
    """Share of the power of what is left (m, n) that functions of each feature's preactivations (m, B), times weights (m,),
    explain beyond chance: steps and polynomials. 0 within five standard errors of none. Independent noise depends on
    neither, nor do errors of the features across their span; another activation does, and an optimizer's update."""
    m, B = inside.shape
    power = float(left.square().sum())
    unknowns = B * (_CELLS - 1 + _DEGREE) + 1
    if m < 4 * unknowns or power == 0:
        return 0.0
    order = inside.argsort(dim=0).argsort(dim=0)
    cells = torch.nn.functional.one_hot(order * _CELLS // m, _CELLS).double().flatten(1)
    angles = torch.arccos((inside / inside.abs().amax(dim=0)).clamp(-1, 1))
    waves = torch.cat(
        [torch.cos(k * angles) for k in range(1, _DEGREE + 1)], dim=1
    )  # Chebyshev's polynomials
    design = torch.cat([cells, waves], dim=1)
    design = design if weights is None else weights[:, None] * design
    right = design.T @ left
    gram = torch.linalg.pinv(design.T @ design, hermitian=True)
    explained = float((right * (gram @ right)).sum()) / power
    chance, spread = unknowns / m, math.sqrt(2 * unknowns) / m
    return explained - chance if explained > chance + STANDARD_ERRORS * spread else 0.0
