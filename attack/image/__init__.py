"""Attacks on pictures: the data sets they are measured on."""

from attack.image.datasets import (
    ImageBatch,
    load_cifar10_binary,
    load_cifar10_python,
    load_digits,
    load_images,
    load_mnist_idx,
    load_patches,
)
from attack.image.picture_set import PICTURE_SETS, PictureSet, cifar10_set, mnist_set, picture_set

__all__ = [
    "PICTURE_SETS",
    "ImageBatch",
    "PictureSet",
    "cifar10_set",
    "load_cifar10_binary",
    "load_cifar10_python",
    "load_digits",
    "load_images",
    "load_mnist_idx",
    "load_patches",
    "mnist_set",
    "picture_set",
]
