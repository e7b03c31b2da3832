"""Rows of a shared gradient on the scale of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from attack.own.coordinates import Coordinates

if TYPE_CHECKING:
    from attack.own.gradient import SharedGradient


#: Singular values of the rows below this fraction of the largest count as zero: rounding in single precision leaves less.
RANK_TOLERANCE = 1e-6


#: Output weights below this fraction of their root mean square carry nothing but rounding: their rows are left out.
NEGLIGIBLE = 1e-3


def carrying(shared: SharedGradient) -> torch.Tensor:
    """Which neurons have an output weight by which their row can be divided: booleans (m,)."""
    if shared.output_weight is None:
        return torch.ones(shared.m, dtype=torch.bool)
    size = shared.output_weight.double().abs()
    return size > NEGLIGIBLE * float(size.square().mean().sqrt())


def scaled_rows(shared: SharedGradient, there: Coordinates) -> torch.Tensor:
    """``(s G_j, t dL/db_j)``, (m, d) or, with biases of positive spread, (m, d + 1).

    Raises ``ValueError`` where the biases are one more coordinate and there is no dL/db.
    """
    rows = shared.gradient if there.scale == 1.0 else there.scale * shared.gradient
    if not there.bias_scale:
        return rows
    if shared.bias_gradient is None:
        raise ValueError(_no_bias_gradient(there))
    return torch.cat([rows, there.bias_scale * shared.bias_gradient.to(rows)[:, None]], dim=1)


def _no_bias_gradient(there: Coordinates) -> str:
    return (
        f"bias_gradient, dL/db of shape (m,), must be given with dL/dW: biases of standard deviation "
        f"{there.bias_scale:.3g} are one more coordinate of the features; got None"
    )
