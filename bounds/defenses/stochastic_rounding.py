"""Stochastic rounding: entries rounded at random to a multiple of a step, without bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from bounds.arrays import Array
from bounds.defense import Defense, param
from bounds.kinds.predicted.elementwise import elementwise_bounds
from bounds.kinds.rate import rate_bound
from bounds.law import Elementwise
from bounds.setting import SYMBOLS, Setting
from bounds.statement import Bound

#: A step below this is finer than the entries' own rounding: nothing is rounded.
FINEST = 1e-12


def _channel(defense: Any, setting: Setting) -> Elementwise:
    step = defense.step

    def second(g: Array) -> Array:
        if step <= FINEST:
            return g**2
        part = np.mod(g / step, 1.0)
        return np.asarray(g**2 + step**2 * part * (1 - part))

    return Elementwise(lambda g: g, second, unbiased=True)


@dataclass(frozen=True)
class StochasticRounding(Defense):
    """Every entry goes to one of the two multiples of ``step`` around it, with probabilities that keep its mean (QSGD,
    Alistarh et al. 2017, with a fixed scale): ``E[g^2 | z]`` grows by ``step^2 f (1 - f)``, f the fractional part of
    g/step, at most ``step^2/4``. RATE (ours): as independent noise of standard deviation ``step``."""

    name: ClassVar[str] = "stochastic_rounding"
    step: float = param(lo=0.0, hi=1e6, off=0.0, grid=(1.0, 4.0))
    bounds: ClassVar[tuple[Bound, ...]] = (
        rate_bound(
            SYMBOLS["B"] + SYMBOLS["step"],
            lambda defense, setting: setting.B + defense.step,  # type: ignore[attr-defined]
            "ours: the variance added is at most step^2/4",
        ),
        *elementwise_bounds(_channel),
    )
