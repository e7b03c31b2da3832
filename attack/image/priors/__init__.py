"""Untrained networks as priors of pictures: an attack searches for their weights instead of pixels."""

from attack.image.priors.decoder import DeepDecoder
from attack.image.priors.generated import Generated
from attack.image.priors.unet import UNet

__all__ = ["DeepDecoder", "Generated", "UNet"]
