"""All bounds of the literature on one setting, as named arrays over the noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from bounds import checks
from bounds.arrays import Array
from bounds.errors import UnsupportedBound
from bounds.kinds.published.entropy import entropy_bound_on_r
from bounds.kinds.published.robustness import robustness_bound
from bounds.kinds.published.unbiased import fisher_bound, hcr_bound, renyi_bound
from bounds.setting import Setting


@dataclass(frozen=True)
class Published:
    """One bound on the mean of R^2 over networks and noise. ``any_attack``: of every attacker, under the prior of
    ``bounds.kinds.published.spheres``; else of unbiased ones only, at every x."""

    words: str
    source: str
    any_attack: bool
    mean_square: Callable[[Setting, Array, float], Array]


#: Every bound of the literature that is read on additive noise.
PUBLISHED: Mapping[str, Published] = {
    "fisher": Published(
        "Fisher information loss",
        "Hannun, Guo, van der Maaten 2021; Guo et al. 2022 (arXiv 2201.12383)",
        False,
        fisher_bound,
    ),
    "hcr": Published(
        "Hammersley-Chapman-Robbins", "arXiv 2404.02866; Guo et al. 2022 (arXiv 2201.12383)", False, hcr_bound
    ),
    "renyi": Published("Rényi DP", "Guo et al. 2022 (arXiv 2201.12383)", False, renyi_bound),
    "robustness": Published(
        "reconstruction robustness",
        "Balle, Cherubin, Hayes 2022 (arXiv 2201.04845); Hayes et al. 2023 (arXiv 2302.07225)",
        True,
        robustness_bound,
    ),
    "entropy": Published(
        "entropy of the sphere",
        "after the entropy bound for zCDP; bounds/proofs/published.md",
        True,
        entropy_bound_on_r,
    ),
}


def published_bounds(setting: Setting, sigmas: Array, *, max_norm: float = math.inf) -> dict[str, Array]:
    """Root mean square of R, at least, for each of ``PUBLISHED`` and noise of standard deviation ``sigmas`` (n,) on
    every entry of dL/da: arrays (n,). ``max_norm``: what each sample's gradient is clipped to first (DP-SGD). A
    bound that is not proved for the activation (its slope is not bounded) or with clipping is left out. Those of
    unbiased attackers may exceed 1.

    Raises ``ValueError`` or ``TypeError`` for noise or a norm that is not positive.
    """
    noise = checks.array("sigmas", sigmas, (None,))
    if np.any(noise <= 0):
        raise ValueError(f"sigmas must be positive; got {checks.shown(noise.min())}")
    clip = checks.real("max_norm", max_norm, 1e-9, infinite=True)
    found = {}
    for name, bound in PUBLISHED.items():
        try:
            found[name] = np.sqrt(bound.mean_square(setting, noise, clip))
        except UnsupportedBound:
            continue
    return found
