"""One trial: fresh pictures, a fresh network, what the server sees, one attack on it, the errors."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from bounds import Defense, checks, serial
from verify.images.point import PARTS, ImagePoint
from verify.images.record import ImageRecord, eight_bits
from verify.measure.conditions import limited, present
from verify.origin import own

if TYPE_CHECKING:
    import torch

    from attack.image.observed import ImageObservation
    from attack.image.picture_set import PictureSet
    from attack.networks.image.network import ImageNetwork

#: Pictures of so many first trials are kept, of what is reported.
KEPT = 1


def run_image_trial(
    point: ImagePoint, trial: int, seed: int, device: str = "cpu", threads: int = 1
) -> ImageRecord:
    """Trial number ``trial`` under ``seed``: pictures, weights, noise and starts are those of ``trial`` whatever the point,
    so that rivals and defenses are compared on the same ones. Every exception but ``InversionError`` propagates."""
    checks.integer("trial", trial, 0)
    own("attack")
    import torch

    from attack.image.inversion import InversionError, invert
    from attack.image.metrics import image_errors, in_order

    place = torch.device(device)
    with limited(threads):
        number = trial_seed(seed, trial, point.part)
        images, labels, observation = observed(point, number, place)
        network = observation.network
        reason, guesses = "", None
        try:
            found = invert(observation, point.attack, labels=labels if point.told else None, seed=number)
            guesses, diagnostics = found.images, found.diagnostics
        except InversionError as error:
            reason, diagnostics = str(error), error.diagnostics
        errors = image_errors(images, guesses)
        ordered = in_order(images, guesses, errors.order)
        values = {
            "mse": errors.mse,
            "psnr": errors.psnr,
            "ssim": errors.ssim,
            "feature_error": feature_errors(network, images, ordered),
        }
    kept = None
    if trial < KEPT and point.part == "reported" and not reason:
        kept = eight_bits(torch.stack([images.cpu(), ordered.cpu()]))
    told = serial.plain(diagnostics.to_dict())
    del told["seconds"]  # no rerun has them again
    return ImageRecord(
        point.to_dict(),
        seed,
        trial,
        reason,
        values,
        kept,
        told,
        present(place.type, threads),
    )


def observed(
    point: ImagePoint, seed: int, device: str | torch.device, pictures: PictureSet | None = None
) -> tuple[torch.Tensor, torch.Tensor, ImageObservation]:
    """The private pictures (B, C, H, W) on the device, their labels (B,), and what the server sees of them: pictures,
    weights and noise from one seed, whose streams are separate. Other pictures to choose from, if given, than the point's,
    on which the network is trained too if it is.
    """
    from attack.image.observed import observe_images

    others = pictures
    if pictures is None:
        pictures, others = half(point.data, point.part), half(point.data, _OTHER[point.part])
    private = pictures.chosen(point.B, seed)
    network = point.network.build(pictures, seed, device, others=others)
    images = private.images.to(network.device, network.dtype)
    seen = observe_images(
        point.defense, network, images, private.labels, seed=seed,
        groups=groups_of(point.defense, point.B), scope=point.scope, relative=point.relative,
    )  # fmt: skip
    return images, private.labels, seen


#: The part on which a network may have been trained, by the one that is attacked.
_OTHER = dict(zip(PARTS, reversed(PARTS), strict=True))


@lru_cache(maxsize=8)
def half(data: str, part: str) -> PictureSet:
    """The pictures of that set that are for this part: two halves that have none in common."""
    from attack.image.picture_set import picture_set

    reported, tuning = picture_set(data).parted(0.5, seed=0)
    return reported if part == "reported" else tuning


def trial_seed(seed: int, trial: int, part: str = "reported") -> int:
    """The seed of everything in a trial, whose streams are separate; tuning has other networks and other noise."""
    state = np.random.SeedSequence([seed, trial, *([] if part == "reported" else [1])]).generate_state(
        1, np.uint32
    )
    return int(state[0])


def feature_errors(network: ImageNetwork, images: torch.Tensor, found: torch.Tensor) -> tuple[float, ...]:
    """``1 - cos^2`` of what the attacked layer receives of the private pictures and of those found, picture by picture."""
    import torch

    with torch.no_grad():
        z, other = (network.features(x.to(network.device, network.dtype)).double() for x in (images, found))
    cosine = torch.nn.functional.cosine_similarity(z, other, dim=1)
    return tuple((1 - cosine.square()).clamp(0, 1).tolist())


def groups_of(defense: Defense, B: int) -> tuple[int, ...] | None:
    """Which client, or local batch, has each of B pictures, in turn; None where all are together."""
    told: Any = defense
    parties = getattr(told, "clients", 1)
    if getattr(told, "batches", "") == "different":
        parties = told.steps
    return tuple(i % parties for i in range(B)) if B > 1 and parties > 1 else None
