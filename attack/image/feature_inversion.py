"""Pictures from the features of the attacked layer: the second stage of every attack that finds features first."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from attack.image.feature_matching import cosine_mismatch, squared_mismatch
from attack.image.head_gradient import on_pixels, pictures_of
from attack.image.inversion import InversionDiagnostics, InversionError, Progress
from attack.image.objective import total_variation
from attack.image.optimise import best_start, by_autograd, check_search
from attack.image.pictures import STARTS, Pixels
from attack.networks.image.network import ImageNetwork
from bounds import checks


@dataclass(frozen=True)
class FeatureInversion:
    """Descent on normalised pixels, kept in [0, 1], on the mismatch of features plus ``tv`` times the total variation (mean
    absolute difference of neighbours), as Kariyappa et al. 2023 have it; step, schedule and tv are theirs, who make 25,000
    iterations. The other options are those of ``attack.image.matching.ImageMatching``."""

    iterations: int = 1_000
    step: float = 0.1
    tv: float = 0.1
    starts: int = 1
    start: str = "grey"
    optimiser: str = "adam"
    schedule: str = "cosine"
    warmup: int = 0
    keep: str = "best"

    def __post_init__(self) -> None:
        check_search(self)
        checks.choice("start", self.start, tuple(STARTS))
        checks.real("tv", self.tv, 0.0)


@dataclass(frozen=True, eq=False)
class FeaturePictures:
    """images (k, C, H, W) in the features' order; mismatch (k,): what is left of the features; iterations: in all;
    start_kept: index of the one that was kept, None where pixels are the features."""

    images: torch.Tensor
    mismatch: torch.Tensor
    iterations: int
    start_kept: int | None


def invert_features(
    network: ImageNetwork,
    features: torch.Tensor,
    settings: FeatureInversion,
    *,
    sized: bool,
    weights: torch.Tensor | None = None,
    seed: int = 2,
    progress: Progress | None = None,
) -> FeaturePictures:
    """Pictures of features (k, d_f); sized: whether their lengths are known, else each is known up to a factor.

    weights (k,): how far each is trusted against the prior. An attacked layer on the pixels themselves leaves nothing to
    invert, if lengths are known. Raises ``ValueError`` on features of another dimension, ``InversionError`` where no start
    has a finite value.
    """
    if features.ndim != 2 or features.shape[1] != network.d or not len(features):
        raise ValueError(f"features must have shape (k, d_f = {network.d}); got {tuple(features.shape)}")
    wanted = features.to(network.device, network.dtype)
    mismatch = squared_mismatch if sized else cosine_mismatch
    if sized and on_pixels(network):
        images = pictures_of(network, wanted)
        return FeaturePictures(images, mismatch(network.features(images), wanted, weights), 0, None)

    picture = Pixels(network, len(wanted), settings.start)

    def objective(normalised: torch.Tensor) -> torch.Tensor:
        images = network.pixels(normalised)
        value = mismatch(network.features(images), wanted, weights).sum()
        return value + settings.tv * len(wanted) * total_variation(normalised) if settings.tv else value

    starts = (picture.start(seed, index) for index in range(settings.starts))
    best = best_start(by_autograd(objective), starts, settings, limits=picture.limits(), progress=progress)
    if not best.finite:
        reason = "no start of the pictures of features gives a finite value: the step may be too large"
        told = InversionDiagnostics("failed", (reason,), iterations=best.iterations, starts=best.starts)
        raise InversionError(reason, told)
    images = picture.images(best.found.variables).detach().clamp(0.0, 1.0)
    with torch.no_grad():
        left = mismatch(network.features(images), wanted)
    return FeaturePictures(images, left, best.iterations, best.index)
