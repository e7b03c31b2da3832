"""Attacks on pictures: the data sets they are measured on."""

from attack.image.datasets import (
    ImageBatch,
    load_cifar10_binary,
    load_digits,
    load_images,
    load_mnist_idx,
    load_patches,
)

__all__ = [
    "ImageBatch",
    "load_cifar10_binary",
    "load_digits",
    "load_images",
    "load_mnist_idx",
    "load_patches",
]
