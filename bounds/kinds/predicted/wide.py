"""What the constants of first order depend on: a setting at every d and m, and what of a law enters them, by content.

Constants are made once for each of these and kept, whatever sizes they are asked for at. They are computed from the key
alone, in the setting of smallest sizes, so that nothing that is not in the key can enter them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bounds.arrays import Array
from bounds.gaussian.activations import Activation
from bounds.law import Unbiased
from bounds.setting import Setting

#: How many constants are kept, of each kind; one takes a few kilobytes.
KEPT = 1024


@dataclass(frozen=True)
class Wide:
    """A setting but for d and m (its groups are in the law): Gram matrix and labels as bytes, to be hashed."""

    gram: bytes
    labels: bytes
    activation: Activation

    @staticmethod
    def of(setting: Setting) -> Wide:
        return Wide(setting.gram.tobytes(), setting.labels.tobytes(), setting.activation)

    def setting(self) -> Setting:
        labels = _array(self.labels)
        size = len(labels)
        return Setting(size, size + 1, _array(self.gram).reshape(size, size), labels, self.activation)


@dataclass(frozen=True)
class UnbiasedContent:
    """What of an unbiased law enters the constants: it may depend on d, m and groups of the setting that it was made for."""

    residuals: bytes
    variance: float
    masking: bytes | None

    @staticmethod
    def of(law: Unbiased) -> UnbiasedContent:
        masking = None if law.masking is None else np.asarray(law.masking, dtype=float).tobytes()
        return UnbiasedContent(np.asarray(law.residuals, dtype=float).tobytes(), float(law.variance), masking)

    def law(self) -> Unbiased:
        residuals = _array(self.residuals)
        size = len(residuals)
        masking = None if self.masking is None else _array(self.masking).reshape(size, size)
        return Unbiased(residuals, self.variance, masking)


def _array(content: bytes) -> Array:
    return np.frombuffer(content, dtype=float)


def read_only(*arrays: Array) -> None:
    """For what is kept: a caller that writes into it gets an error."""
    for array in arrays:
        array.setflags(write=False)
