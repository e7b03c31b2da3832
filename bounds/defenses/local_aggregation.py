"""Local aggregation: the server sees the sum of the gradients of several local steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import sympy as sp

from bounds.arrays import Array
from bounds.defense import Defense, choice, param
from bounds.density import Plain
from bounds.errors import UnsupportedBound
from bounds.law import Unbiased
from bounds.setting import SIZES, Setting
from bounds.wide_limits import assigned, raw_gram


@dataclass(frozen=True)
class LocalAggregation(Defense):
    """``steps`` local gradient steps of rate ``lr_times_m/m`` on both layers; the server sees the sum of the gradients
    with respect to the output weights, which is the difference of the weights over the rate. ``batches``: ``"same"``
    batch at every step, or ``"different"`` ones (``Setting.groups``; features in turn unless given): then all features
    are in the observation and B counts them all. RATE: Liu, Wang, Chen, Lei 2025 (arXiv 2402.09478)."""

    name: ClassVar[str] = "local_aggregation"
    steps: int = param(lo=1, hi=10_000, off=1, grid=(5,), integer=True)
    lr_times_m: float = param(lo=0.0, hi=1e3, off=0.0, grid=(0.1,))
    batches: str = choice("same", "different")
    rate: ClassVar[sp.Expr | None] = SIZES["B"]
    rate_source: ClassVar[str] = "Liu, Wang, Chen, Lei, AISTATS 2025 (as summaries give it)"

    def law(self, setting: Setting) -> Unbiased:
        still = self.steps == 1 or self.lr_times_m == 0
        return Unbiased(
            self.effective_residuals(setting),
            keeps_labels=self.steps == 1,
            inexact="" if still else "the residuals move from step to step",
        )

    def density(self) -> Plain:
        return Plain(moves=self.steps * self.lr_times_m if self.steps > 1 else 0.0)

    def effective_residuals(self, setting: Setting) -> Array:
        """The residuals with which each feature enters the sum, in the wide limit.

        A step of rate ``lr_times_m/m`` on the output weights moves ``f(x_i)`` by ``-lr_times_m sum_l K_il r_l``,
        ``K_il = E sigma(w.x_i) sigma(w.x_l)``; first-layer weights move by O(1/m^2) each and do not count. Same batch:
        ``sum_{k < K} (I - lr K)^k r*``. Different batches: ``r^(k) = r*_k - lr sum_{s < k} K_ks r^(s)``.

        Raises ``UnsupportedBound`` where the iteration is not stable (``lr_times_m`` times the largest eigenvalue of K is 2
        or more).
        """
        rate, steps, r = self.lr_times_m, self.steps, setting.residuals
        if steps == 1:
            return r
        kernel = rate * raw_gram(setting)
        largest = float(np.linalg.eigvalsh(kernel)[-1])
        if largest >= 2:
            raise UnsupportedBound(
                f"not stable: lr_times_m times the kernel's largest eigenvalue is {largest:.3g}, not below 2"
            )
        if self.batches == "same":
            total, current = np.zeros_like(r), r
            for _ in range(steps):
                total, current = total + current, current - kernel @ current
            return total
        when = np.array(assigned(setting.groups, steps, "steps"))
        found = np.zeros_like(r)
        for k in range(steps):
            now, before = when == k, when < k
            found[now] = r[now] - kernel[np.ix_(now, before)] @ found[before]
        return found
