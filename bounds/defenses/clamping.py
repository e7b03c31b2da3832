"""Elementwise clamping: entries cut off at a largest absolute value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bounds.arrays import Array
from bounds.defense import Defense, param
from bounds.density import Clamped, Density, Plain
from bounds.law import Elementwise
from bounds.setting import Setting


@dataclass(frozen=True)
class Clamping(Defense):
    """Every entry is cut to ``[-limit, limit]``. A function of g alone that is not proportional to it: for two features
    or more an error remains at every width."""

    name: ClassVar[str] = "clamping"
    limit: float = param(lo=1e-9, hi=math.inf, off=math.inf, grid=(0.5, 2.0))

    def law(self, setting: Setting) -> Elementwise:
        return Elementwise(_clamped, _squared, unbiased=math.isinf(self.limit), parameters=(self.limit,))

    def density(self) -> Density:
        return Plain() if math.isinf(self.limit) else Clamped(limit=self.limit)


def _clamped(g: Array, limit: float) -> Array:
    return np.asarray(np.clip(g, -limit, limit))


def _squared(g: Array, limit: float) -> Array:
    return _clamped(g, limit) ** 2
