"""A result in the units of the arrays as they came, from the one in the frame's."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from attack.networks.activation import apply_activation
from attack.own.frame import Frame
from attack.own.gradient import SharedGradient
from attack.own.known import Known
from attack.units import shift

#: Rows in one pass.
_BLOCK = 16_384


def given(
    shared: SharedGradient, known: Known, frame: Frame, features: torch.Tensor, residuals: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Features, residuals and labels in the units of the arrays from those in the frame's."""
    forward = torch.zeros(known.B, dtype=torch.float64)
    for rows, inside in _inside(shared, frame, features):
        hidden = apply_activation(known.activation, inside).double()
        forward += (hidden * _output_weights(shared, frame, rows)).sum(dim=1)
    residuals = shift(residuals, frame.units.residuals)
    labels = None if known.loss is None else shift(forward, frame.units.outputs) - residuals
    if labels is not None and shared.output_bias is not None:
        labels = labels + shared.output_bias.double()
    return shift(features, frame.units.norms), residuals, labels


def _inside(
    shared: SharedGradient, frame: Frame, features: torch.Tensor
) -> Iterator[tuple[slice, torch.Tensor]]:
    """One pass over W: rows and ``W xhat + b`` (B, rows) in the frame's units."""
    units = frame.units
    guesses = features.to(shared.weight.dtype)
    for start in range(0, shared.m, _BLOCK):
        rows = slice(start, start + _BLOCK)
        inside = guesses @ shift(shared.weight[rows], -units.weights).T
        if shared.bias is not None:
            inside = inside + shift(shared.bias[rows], -units.weights - units.norms)
        yield rows, inside


def _output_weights(shared: SharedGradient, frame: Frame, rows: slice) -> torch.Tensor | float:
    unit = -frame.units.output_weight
    if shared.output_weight is None:
        return math.ldexp(1 / shared.m, unit)
    return shift(shared.output_weight[rows].double(), unit)
