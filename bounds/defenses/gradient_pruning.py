"""Gradient pruning: the entries that are smallest in absolute value are removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bounds.defense import Defense, param
from bounds.density import Thresholded
from bounds.law import Pruned
from bounds.setting import Setting


@dataclass(frozen=True)
class GradientPruning(Defense):
    """The fraction ``ratio`` of the entries that are smallest in absolute value is set to zero (by magnitude, over the
    whole gradient that is sent). A function of the entry that is not proportional to it: for two features or more an
    error of the tensor attack is left that no width removes; least squares on the entries that are kept has none. With
    ReLU the entries of neurons that no feature activates are zero anyway: up to their share, about ``2^-B``, pruning does
    nothing. Liu, Wang, Chen, Lei 2025 (arXiv 2402.09478) state no upper bound; FLOOR and PREDICTED are ours."""

    name: ClassVar[str] = "gradient_pruning"
    ratio: float = param(lo=0.0, hi=0.9999, off=0.0, grid=(0.5, 0.7, 0.9))

    def law(self, setting: Setting) -> Pruned:
        return Pruned(self.ratio)

    def density(self) -> Thresholded:
        return Thresholded(ratio=self.ratio)
