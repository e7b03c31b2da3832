"""How near found pictures are to the true ones, without an oracle's order: each is matched by the Hungarian method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import scipy
import torch

from attack.arrays import real_tensor

#: What stands for a picture that an attack did not find.
GREY = 0.5

#: An error below the resolution of floats counts as this many decibels, so that means stay finite.
HIGHEST_PSNR = 100.0

#: Shortest side that SSIM's Gaussian window of 11 pixels can mirror.
_SHORTEST = 6


@dataclass(frozen=True)
class ImageErrors:
    """Of each of B true pictures, in their order: ``mse``, ``psnr`` (dB, at most 100) and ``ssim`` (Gaussian window, sigma
    1.5), pixels in [0, 1]; ``order``: which found picture it is matched with, None where there is none, so that grey (.5)
    stands for it; ``failed``: how many of these there are."""

    mse: tuple[float, ...]
    psnr: tuple[float, ...]
    ssim: tuple[float, ...]
    order: tuple[int | None, ...]

    @property
    def failed(self) -> int:
        return sum(index is None for index in self.order)

    @property
    def mean_psnr(self) -> float:
        return sum(self.psnr) / len(self.psnr)


def image_errors(truth: Any, found: Any) -> ImageErrors:
    """Errors of found pictures (n, C, H, W), n >= 0, of the true ones (B, C, H, W) under the matching with the least sum of
    squared errors; None found: all failed. Found pixels are cut to [0, 1]; pictures beyond B that match none are left out.

    Raises ``ValueError`` or ``TypeError`` for other shapes, true pixels outside [0, 1], values that are not finite, sides
    below 6 pixels.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    true = _checked("truth", truth)
    if not len(true) or min(true.shape[2:]) < _SHORTEST:
        raise ValueError(
            f"truth must be B >= 1 pictures with sides of at least {_SHORTEST} pixels; got {tuple(true.shape)}"
        )
    if float(true.min()) < 0 or float(true.max()) > 1:
        raise ValueError(
            f"truth must have pixels in [0, 1]; got [{float(true.min()):.4g}, {float(true.max()):.4g}]"
        )
    guess = true[:0] if found is None else _checked("found", found).clamp(0.0, 1.0)
    if guess.shape[1:] != true.shape[1:]:
        raise ValueError(
            f"found must have pictures of shape {tuple(true.shape[1:])}; got {tuple(guess.shape[1:])}"
        )
    costs = (true[:, None] - guess[None]).square().flatten(2).mean(dim=2)
    pairs = dict(zip(*(side.tolist() for side in scipy.optimize.linear_sum_assignment(costs)), strict=True))
    order = tuple(pairs.get(i) for i in range(len(true)))
    matched = in_order(true, guess, order)
    psnr = peak_signal_noise_ratio(matched, true, data_range=1.0, reduction="none", dim=(1, 2, 3))
    ssim = structural_similarity_index_measure(matched, true, data_range=1.0, reduction="none")
    return ImageErrors(
        mse=tuple((matched - true).square().flatten(1).mean(dim=1).tolist()),
        psnr=tuple(psnr.clamp(max=HIGHEST_PSNR).reshape(-1).tolist()),
        ssim=tuple(torch.as_tensor(ssim).reshape(-1).tolist()),
        order=order,
    )


def in_order(truth: torch.Tensor, found: torch.Tensor | None, order: Sequence[int | None]) -> torch.Tensor:
    """The found pictures that belong to the true ones (B, C, H, W), in their order: grey where there is none."""
    blank = torch.full_like(truth[0], GREY)
    return torch.stack([blank if i is None or found is None else found[i].to(truth) for i in order])


def _checked(name: str, value: Any) -> torch.Tensor:
    pictures = real_tensor(name, value).double()
    if pictures.ndim != 4:
        raise ValueError(f"{name} must have shape (B, C, H, W); got {tuple(pictures.shape)}")
    if not torch.isfinite(pictures).all():
        raise ValueError(f"{name} must be finite; got values that are not")
    return pictures
