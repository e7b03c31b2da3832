"""DP-SGD: clipping, then Gaussian noise in proportion to the clipping norm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import sympy as sp

from bounds.defense import Defense, choice, param, symbol
from bounds.density import Plain
from bounds.errors import UnsupportedBound
from bounds.law import Clipping, Unbiased
from bounds.setting import SIZES, Setting
from bounds.wide_limits import clipped_residuals, gradient_norm

#: Noise beyond this is not computed with: fourth powers of it still are floating-point numbers.
LARGEST = 1e75


@dataclass(frozen=True)
class DPSGD(Defense):
    """Clipping to ``max_norm`` = C (every sample's gradient, or the whole one), then noise of standard deviation
    ``noise_multiplier * max_norm`` on every entry of the sum, as in Abadi et al. 2016 and opacus (which divides the sum
    by the batch size afterwards: a scale that no attack sees). The norm is that of the gradient with respect to the
    output weights.

    Relative to the unclipped gradient the noise is ``sigma_eff = z max(C, |g|)``, ``|g| ~ sqrt(m E g^2)``: a fixed
    multiplier defends alike at every width. RATE: Liu, Wang, Chen, Lei 2025 (arXiv 2402.09478), with sigma_eff relative to
    the unclipped gradient in both forms.
    """

    name: ClassVar[str] = "dp_sgd"
    strength_name: ClassVar[str] = "noise_multiplier"
    max_norm: float = param(lo=1e-9, hi=math.inf, off=math.inf, grid=(1.0,))
    noise_multiplier: float = param(lo=0.0, hi=1e6, off=0.0, grid=(0.002, 0.01))
    per_sample: bool = choice(True)
    rate: ClassVar[sp.Expr | None] = SIZES["B"] + symbol("noise_multiplier") * sp.Max(
        symbol("max_norm"), SIZES["G"] * sp.sqrt(SIZES["m"])
    )
    rate_source: ClassVar[str] = "Liu, Wang, Chen, Lei, AISTATS 2025 (as summaries give it)"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.noise_multiplier > 0 and math.isinf(self.max_norm):
            raise ValueError(
                f"max_norm must be finite where noise_multiplier > 0; got inf with {self.noise_multiplier}"
            )

    def law(self, setting: Setting) -> Unbiased:
        off = math.isinf(self.max_norm)
        exact = self.noise_multiplier == 0 and (not self.per_sample or off)
        return Unbiased(
            clipped_residuals(setting, self.max_norm) if self.per_sample else setting.residuals,
            self.effective_noise(setting) ** 2,
            keeps_labels=off,
            inexact="" if exact else "the noise is relative to norms that fluctuate with the network",
            clipping=None if off else Clipping(self.max_norm, self.per_sample),
        )

    def density(self) -> Plain:
        return Plain(sigma=0.0 if self.noise_multiplier == 0 else self.noise_multiplier * self.max_norm)

    def effective_noise(self, setting: Setting) -> float:
        """Standard deviation of the noise on the scale of the gradient that it is added to.

        Whole gradient: ``z max(C, |g|)``, relative to the unclipped gradient. Per sample: ``z C`` on the sum of the clipped
        ones. Raises ``UnsupportedBound`` for noise whose square is no floating-point number.
        """
        if self.noise_multiplier == 0:
            return 0.0
        scale = self.max_norm if self.per_sample else max(self.max_norm, gradient_norm(setting))
        noise = self.noise_multiplier * scale
        if noise > LARGEST:
            raise UnsupportedBound(
                f"not computed: noise of standard deviation {noise:.3g}, above {LARGEST:g}"
            )
        return noise
