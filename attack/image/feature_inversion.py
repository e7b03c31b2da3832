"""Pictures from the features of the attacked layer: the second stage of every attack that finds features first."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from attack.image.adam import minimise
from attack.image.feature_matching import cosine_mismatch, squared_mismatch
from attack.image.head_gradient import on_pixels, pictures_of
from attack.image.inversion import Progress
from attack.networks.image.network import ImageNetwork
from attack.streams import normal
from bounds import checks

#: Standard deviation of the pixels of a start around .5.
_SPREAD = 0.1


@dataclass(frozen=True)
class FeatureInversion:
    """Adam on pixels in [0, 1] from noise around grey, its step fading as a cosine, on the mismatch of features plus ``tv``
    times the total variation (mean absolute difference of neighbours, as Kariyappa et al. 2023 have it, whose settings are
    step .1, tv .1 and 25,000 iterations). The best iterate of the best start."""

    iterations: int = 1_000
    step: float = 0.05
    tv: float = 1e-3
    starts: int = 1

    def __post_init__(self) -> None:
        checks.integer("iterations", self.iterations, 1)
        checks.integer("starts", self.starts, 1)
        checks.real("step", self.step, 0.0)
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
    invert, if lengths are known. Raises ``ValueError`` on features of another dimension.
    """
    if features.ndim != 2 or features.shape[1] != network.d or not len(features):
        raise ValueError(f"features must have shape (k, d_f = {network.d}); got {tuple(features.shape)}")
    wanted = features.to(network.device, network.dtype)
    mismatch = squared_mismatch if sized else cosine_mismatch
    if sized and on_pixels(network):
        images = pictures_of(network, wanted)
        return FeaturePictures(images, mismatch(network.features(images), wanted, weights), 0, None)

    def objective(images: torch.Tensor) -> torch.Tensor:
        value = mismatch(network.features(images), wanted, weights).sum()
        return value + settings.tv * len(wanted) * total_variation(images) if settings.tv else value

    found = []
    for start in range(settings.starts):
        noise = normal(
            (len(wanted), *network.shape),
            seed,
            "pictures",
            start,
            device=network.device,
            dtype=network.dtype,
        )
        found.append(
            minimise(
                objective,
                (0.5 + _SPREAD * noise).clamp(0, 1),
                iterations=settings.iterations,
                step=settings.step,
                box=(0.0, 1.0),
                progress=progress,
            )
        )
    kept = min(range(len(found)), key=lambda i: found[i].value)
    images = found[kept].point
    with torch.no_grad():
        left = mismatch(network.features(images), wanted)
    return FeaturePictures(images, left, sum(one.iterations for one in found), kept)


def total_variation(images: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of pixels (n, C, H, W) and their neighbours, below plus beside."""
    down, beside = images[..., 1:, :] - images[..., :-1, :], images[..., :, 1:] - images[..., :, :-1]
    return down.abs().mean() + beside.abs().mean()
