"""The ways to write pictures as variables of a search, by name, with their sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from attack.image.pictures import Picture, Pixels
from attack.image.priors import DeepDecoder, Generated, UNet
from attack.networks.image.network import ImageNetwork
from bounds import checks

PIXELS = "pixels"


def _pixels(network: ImageNetwork, batch_size: int, start: str, boxed: bool) -> Picture:
    return Pixels(network, batch_size, start, boxed)


def _unet(network: ImageNetwork, batch_size: int, start: str, boxed: bool) -> Picture:
    module = UNet(network.shape, batch_size)
    return Generated(network, batch_size, module, module.inputs)


def _decoder(network: ImageNetwork, batch_size: int, start: str, boxed: bool) -> Picture:
    module = DeepDecoder(network.shape, batch_size)
    return Generated(network, batch_size, module, module.inputs)


#: Of a network, the number of pictures, and for pixels where they start and whether they are kept in [0, 1].
PICTURES: Mapping[str, Callable[[ImageNetwork, int, str, bool], Picture]] = MappingProxyType(
    {PIXELS: _pixels, "unet": _unet, "decoder": _decoder}
)


def check_picture(spec: Any, *of_pixels: str) -> None:
    """``ValueError`` unless ``picture`` of a specification, a dataclass, is a key of ``PICTURES``, and the options named are
    left as they are by default where pictures are not pixels, as they mean nothing there."""
    checks.choice("picture", spec.picture, tuple(PICTURES))
    if spec.picture == PIXELS:
        return
    for field in dataclasses.fields(spec):
        value = getattr(spec, field.name)
        if field.name in of_pixels and value != field.default:
            raise ValueError(
                f"{field.name} must be {field.default!r} with picture={spec.picture!r}, as it is an option of pixels alone; "
                f"got {value!r}"
            )
