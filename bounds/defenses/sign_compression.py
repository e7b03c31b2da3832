"""Sign compression: only the sign of every entry is sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bounds.arrays import Array
from bounds.defense import Defense
from bounds.density import Signs
from bounds.law import Elementwise
from bounds.setting import Setting


@dataclass(frozen=True)
class SignCompression(Defense):
    """The server sees ``sign(g_j)``, 0 for 0 (signSGD, Bernstein et al. 2018). With ReLU and one feature nothing of it is
    left in the second moment: ``E 1{Z > 0}(Z^2 - 1) = 0``."""

    name: ClassVar[str] = "sign_compression"
    has_off: ClassVar[bool] = False

    def law(self, setting: Setting) -> Elementwise:
        return Elementwise(np.sign, _occupied, unbiased=False)

    def density(self) -> Signs:
        return Signs()


def _occupied(g: Array) -> Array:
    return np.asarray(np.sign(g) ** 2)
