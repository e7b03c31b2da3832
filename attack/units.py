"""Units of a gradient as powers of two: taken out before anything is squared, put back at the end.

No attack depends on the unit of the gradient, but squares of numbers beyond 1e154 are infinite and below 1e-162 zero, and
in single precision far earlier. A power of two changes no bit of a number."""

from __future__ import annotations

import math

import torch

#: Gradients whose largest entry lies between these keep their unit.
ORDINARY = (1e-12, 1e12)


def shift(values: torch.Tensor, by: int) -> torch.Tensor:
    """``values 2^by``, the same tensor for 0. In two steps, as the factor itself may be outside the type's range."""
    half = by // 2
    return values if by == 0 else values * 2.0**half * 2.0 ** (by - half)


def gradient_unit(gradient: torch.Tensor) -> int:
    """The power of two, as its exponent, over which the gradient has entries up to 1; 0 where they are ordinary, or zero."""
    smallest, largest = torch.aminmax(gradient)
    top = max(-float(smallest), float(largest))
    return 0 if top == 0 or ORDINARY[0] < top < ORDINARY[1] else math.frexp(top)[1]
