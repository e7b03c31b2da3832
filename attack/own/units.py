"""Units of a shared gradient as powers of two: taken out before anything is squared, put back at the end.

The attack does not depend on the unit of the gradient, nor, for a homogeneous activation, on that of the weights, but
squares of numbers beyond 1e154 are infinite and below 1e-162 zero. A power of two changes no bit of a number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from attack.units import shift


@dataclass(frozen=True)
class Units:
    """Exponents of two: the problem that is solved has features ``x / 2^norms``, weights and biases ``W / 2^weights`` and
    ``b / 2^(weights + norms)``, the gradient over ``2^gradient``, the output weights over ``2^output_weight``, residuals
    over ``2^residuals`` and outputs f(x) over ``2^outputs``."""

    weights: int = 0
    norms: int = 0
    gradient: int = 0
    output_weight: int = 0
    residuals: int = 0
    outputs: int = 0


def exponent(size: float) -> int:
    """The nearest power of two, as its exponent; 0 for a size of zero. A size near 1 has exponent 0."""
    return round(math.log2(size)) if size > 0 else 0


def root_mean_square(values: torch.Tensor) -> float:
    """Of finite entries, without overflow or underflow. No copy for numbers whose squares are ordinary."""
    smallest, largest = torch.aminmax(values)
    top = max(-float(smallest), float(largest))
    if top == 0:
        return 0.0
    unit = 0 if 1e-100 < top < 1e100 else math.frexp(top)[1]
    norm = float(
        torch.linalg.vector_norm(shift(values.double(), -unit) if unit else values, dtype=torch.float64)
    )
    return math.ldexp(norm / math.sqrt(values.numel()), unit)
