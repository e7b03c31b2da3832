"""Bounds of the literature on reconstruction, read on noise on dL/da (bounds/proofs/published.md).

``published_bounds``: all of them in one setting. The statements themselves, for other observations too: on unbiased ones
``fisher_information_loss`` with ``information_trace`` of one network, and ``hammersley_chapman_robbins``; on all attackers
``entropy_bound`` (``ball_entropy``: of the uniform prior) and ``sphere_bound``, and what privacy leaves of success:
``gaussian_blow_up`` for Gaussian noise, ``zcdp_success``, ``dp_success``. Noise for privacy: ``noise_for_dp``, by the least
``multiplier`` or, as rates have it, ``classical_multiplier``.
"""

from bounds.kinds.published.entropy import ball_entropy, entropy_bound, sphere_bound
from bounds.kinds.published.privacy import classical_multiplier, multiplier, noise_for_dp
from bounds.kinds.published.robustness import dp_success, gaussian_blow_up, zcdp_success
from bounds.kinds.published.together import PUBLISHED, Published, published_bounds
from bounds.kinds.published.unbiased import (
    fisher_information_loss,
    hammersley_chapman_robbins,
    information_trace,
)

__all__ = [
    "PUBLISHED",
    "Published",
    "ball_entropy",
    "classical_multiplier",
    "dp_success",
    "entropy_bound",
    "fisher_information_loss",
    "gaussian_blow_up",
    "hammersley_chapman_robbins",
    "information_trace",
    "multiplier",
    "noise_for_dp",
    "published_bounds",
    "sphere_bound",
    "zcdp_success",
]
