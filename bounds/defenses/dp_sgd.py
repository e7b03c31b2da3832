"""DP-SGD: clipping, then Gaussian noise in proportion to the clipping norm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import sympy as sp

from bounds.defense import Defense, choice, param
from bounds.errors import UnsupportedBound
from bounds.kinds.stated import unbiased_bounds
from bounds.law import Unbiased
from bounds.setting import SYMBOLS, Setting
from bounds.statement import Bound
from bounds.wide_limits import clipped_residuals, gradient_norm

#: Noise beyond this is not computed with: fourth powers of it still are floating-point numbers.
LARGEST = 1e75


def effective_noise(defense: Any, setting: Setting) -> float:
    """Standard deviation of the noise on the scale of the gradient that it is added to.

    Whole gradient: ``z max(C, |g|)``, relative to the unclipped gradient. Per sample: ``z C`` on the sum of the clipped
    ones. Raises ``UnsupportedBound`` for noise whose square is no floating-point number.
    """
    if defense.noise_multiplier == 0:
        return 0.0
    scale = defense.max_norm if defense.per_sample else max(defense.max_norm, gradient_norm(setting))
    noise = float(defense.noise_multiplier * scale)
    if noise > LARGEST:
        raise UnsupportedBound(f"not computed: noise of standard deviation {noise:.3g}, above {LARGEST:g}")
    return noise


def _channel(defense: Any, setting: Setting) -> Unbiased:
    residuals = clipped_residuals(setting, defense.max_norm) if defense.per_sample else setting.residuals
    return Unbiased(
        residuals, effective_noise(defense, setting) ** 2, keeps_labels=math.isinf(defense.max_norm)
    )


def _rate_factor(defense: Any, setting: Setting) -> float:
    """B + sigma_eff with sigma_eff relative to the unclipped gradient in both forms."""
    if defense.noise_multiplier == 0:
        return setting.B
    return setting.B + defense.noise_multiplier * max(defense.max_norm, gradient_norm(setting))


def _variance(defense: Any) -> float:
    if defense.noise_multiplier == 0 and (not defense.per_sample or math.isinf(defense.max_norm)):
        return 0.0
    raise UnsupportedBound("not proved: the noise is relative to norms that fluctuate with the network")


@dataclass(frozen=True)
class DPSGD(Defense):
    """Clipping to ``max_norm`` = C (every sample's gradient, or the whole one), then noise of standard deviation
    ``noise_multiplier * max_norm`` on every entry of the sum, as in Abadi et al. 2016 and opacus (which divides the sum
    by the batch size afterwards: a scale that no attack sees). The norm is that of the gradient with respect to the
    output weights.

    Relative to the unclipped gradient the noise is ``sigma_eff = z max(C, |g|)``, ``|g| ~ sqrt(m E g^2)``: a fixed
    multiplier defends alike at every width. RATE: Liu, Wang, Chen, Lei 2025 (arXiv 2402.09478).
    """

    name: ClassVar[str] = "dp_sgd"
    strength_name: ClassVar[str] = "noise_multiplier"
    max_norm: float = param(lo=1e-9, hi=math.inf, off=math.inf, grid=(1.0,))
    noise_multiplier: float = param(lo=0.0, hi=1e6, off=0.0, grid=(0.002, 0.01))
    per_sample: bool = choice(True)
    bounds: ClassVar[tuple[Bound, ...]] = unbiased_bounds(
        _channel,
        SYMBOLS["B"]
        + SYMBOLS["noise_multiplier"] * sp.Max(SYMBOLS["max_norm"], SYMBOLS["G"] * sp.sqrt(SYMBOLS["m"])),
        _rate_factor,
        "Liu, Wang, Chen, Lei, AISTATS 2025 (as summaries give it)",
        exact_variance=_variance,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.noise_multiplier > 0 and math.isinf(self.max_norm):
            raise ValueError(
                f"max_norm must be finite where noise_multiplier > 0; got inf with {self.noise_multiplier}"
            )
