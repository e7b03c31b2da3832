"""Noise, then pruning: the smallest of the noisy entries are removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bounds.defense import Defense, param
from bounds.density import Thresholded
from bounds.law import Pruned
from bounds.setting import Setting


@dataclass(frozen=True)
class NoisyPruning(Defense):
    """Gaussian noise of standard deviation ``sigma`` on every entry, then the fraction ``ratio`` of the entries that are
    smallest in absolute value is set to zero (over the whole gradient that is sent): of these the server knows that they are
    below the threshold. ``sigma=0`` is ``GradientPruning``, ``ratio=0`` is ``GradientNoise``.

    LOWER is that of the noise: what is sent is a function of the noisy gradient (C13 asks for the entries that are kept,
    whose information is no bound). Noise carries entries over the threshold either way, so that the entry expected bends
    otherwise than under pruning alone: the tensor attack's floor is lower where much is pruned (ReLU, two orthonormal
    features, noise of .5: .117 for .158 at ratio .7), and higher where little is (.039 for .030 at .5).
    """

    name: ClassVar[str] = "noisy_pruning"
    strength_name: ClassVar[str] = "ratio"
    sigma: float = param(lo=0.0, hi=1e6, off=0.0, grid=(0.5,), words="standard deviation of the noise σ")
    ratio: float = param(lo=0.0, hi=0.9999, off=0.0, grid=(0.5, 0.8))

    def law(self, setting: Setting) -> Pruned:
        return Pruned(self.ratio, self.sigma)

    def density(self) -> Thresholded:
        return Thresholded(sigma=self.sigma, ratio=self.ratio)
