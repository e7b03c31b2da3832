"""Stochastic rounding: entries rounded at random to a multiple of a step, without bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import sympy as sp

from bounds.arrays import Array
from bounds.defense import Defense, param, symbol
from bounds.density import Density, Dithered, Plain
from bounds.law import Elementwise
from bounds.setting import SIZES, Setting

#: A step below this is finer than the entries' own rounding: nothing is rounded.
FINEST = 1e-12


@dataclass(frozen=True)
class StochasticRounding(Defense):
    """Every entry goes to one of the two multiples of ``step`` around it, with probabilities that keep its mean (QSGD,
    Alistarh et al. 2017, with a fixed scale): ``E[g^2 | z]`` grows by ``step^2 f (1 - f)``, f the fractional part of
    g/step. That is at most ``step^2/4``, and at most ``step |g|``: beyond the entries' own size G a step adds noise like its
    square root. RATE (ours): as independent noise of standard deviation ``step/sqrt(1 + step/G)``, which is of both
    orders."""

    name: ClassVar[str] = "stochastic_rounding"
    step: float = param(lo=0.0, hi=1e6, off=0.0, grid=(1.0, 4.0))
    rate: ClassVar[sp.Expr | None] = SIZES["B"] + symbol("step") / sp.sqrt(1 + symbol("step") / SIZES["G"])
    rate_source: ClassVar[str] = "ours: the variance added is at most step^2/4 and at most step |g|"

    def law(self, setting: Setting) -> Elementwise:
        return Elementwise(_mean, _second, unbiased=True, parameters=(self.step,))

    def density(self) -> Density:
        return Dithered(step=self.step) if self.step > FINEST else Plain()


def _mean(g: Array, step: float) -> Array:
    return g


def _second(g: Array, step: float) -> Array:
    if step <= FINEST:
        return g**2
    part = np.mod(g / step, 1.0)
    return np.asarray(g**2 + step**2 * part * (1 - part))
