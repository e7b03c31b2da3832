"""What state evolution needs of a defense in a setting: residuals, and an entry's density with numbers that concentrate."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from bounds.arrays import Array
from bounds.defense import Defense
from bounds.density import Density, Erased, Plain, Thresholded
from bounds.errors import UnsupportedBound
from bounds.gaussian.activations import Activation
from bounds.gaussian.lines import LARGEST_B
from bounds.gaussian.normals import normals
from bounds.kinds.limit.entries import Censored, drawn, known
from bounds.kinds.supported import dependent
from bounds.law import Unbiased
from bounds.setting import Setting

#: Entries whose sizes a threshold is a quantile of (a power of 2): known to a part of about 1/sqrt(their number).
_MANY = 2**17


@dataclass(frozen=True, eq=False)
class Channel:
    """``alpha`` entries per dimension, each drawn from ``density`` of ``sum_i r_i sigma(z_i)``, z ~ N(0, gram).

    gram (B, B) positive definite, residuals r (B,)."""

    alpha: float
    gram: Array
    residuals: Array
    activation: Activation
    density: Density

    @staticmethod
    def of(defense: Defense, setting: Setting) -> Channel:
        """Of what the server sees. A law that couples entries does so by numbers that concentrate, and these are put in
        their place: residuals after clipping and local steps, noise over the factor of clipping, the threshold of pruning.
        One mask for the batch takes neurons away, and nothing else.

        Raises ``UnsupportedBound`` for B above ``LARGEST_B``, dependent features, a defense without a density or a law.
        """
        if setting.B > LARGEST_B:
            raise UnsupportedBound(
                f"not computed: posteriors are sums over points in B dimensions, for B up to {LARGEST_B}; B is {setting.B}"
            )
        if dependent(setting.gram):
            raise UnsupportedBound(
                "not computed: the features are linearly dependent, and their Gram matrix singular"
            )
        law, density = defense.law(setting), defense.density()
        residuals = setting.residuals
        if isinstance(law, Unbiased):
            residuals = law.residuals
            density = (
                replace(density, sigma=math.sqrt(law.variance)) if isinstance(density, Plain) else density
            )
        alpha = setting.m / setting.d
        if isinstance(density, Erased):
            alpha, density = (1 - density.p) * alpha, Plain(sigma=density.sigma)
        whole = Channel(alpha, setting.gram, residuals, setting.activation, density)
        return replace(whole, density=whole.censored(density)) if isinstance(density, Thresholded) else whole

    def censored(self, density: Thresholded) -> Density:
        """Pruning with the threshold of infinitely many entries."""
        B, noise = len(self.residuals), Plain(sigma=density.sigma)
        normal = normals(2 * B + 1, _MANY)
        z = normal[:, :B] @ np.linalg.cholesky(self.gram).T
        sizes = np.abs(drawn(noise, self.residuals * self.activation(z), normal[:, B:]))
        threshold = float(np.quantile(sizes, density.ratio))
        return (
            Censored(sigma=density.sigma, threshold=threshold) if min(threshold, density.ratio) > 0 else noise
        )

    @property
    def told(self) -> Array:
        """Which features leave a trace (B,)."""
        return known(self.residuals)

    @property
    def exchangeable(self) -> bool:
        """Whether two features enter alike, so that what finds neither from the other may be a saddle."""
        r, G = self.residuals, self.gram
        near = [
            abs(r[i] - r[k]) <= 1e-6 * np.max(np.abs(r)) and abs(G[i, i] - G[k, k]) <= 1e-6 * G[i, i]
            for i in range(len(r))
            for k in range(i)
        ]
        return any(near)
