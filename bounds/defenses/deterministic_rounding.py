"""Deterministic rounding: entries rounded to the nearest multiple of a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bounds.arrays import Array
from bounds.defense import Defense, param
from bounds.defenses.stochastic_rounding import FINEST
from bounds.density import Density, Plain, Rounded
from bounds.law import Elementwise
from bounds.setting import Setting


@dataclass(frozen=True)
class DeterministicRounding(Defense):
    """Every entry goes to the nearest multiple of ``step`` (halves to the even one). A function of g alone that is not
    proportional to it: for two features or more an error remains at every width."""

    name: ClassVar[str] = "deterministic_rounding"
    step: float = param(lo=0.0, hi=1e6, off=0.0, grid=(1.0, 3.0))

    def law(self, setting: Setting) -> Elementwise:
        return Elementwise(_rounded, _squared, unbiased=self.step <= FINEST, parameters=(self.step,))

    def density(self) -> Density:
        return Rounded(step=self.step) if self.step > FINEST else Plain()


def _rounded(g: Array, step: float) -> Array:
    return np.asarray(step * np.round(g / step)) if step > FINEST else g


def _squared(g: Array, step: float) -> Array:
    return _rounded(g, step) ** 2
