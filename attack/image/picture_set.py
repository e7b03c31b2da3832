"""Pictures with classes, to train networks on and to attack: pixels in [0, 1], a selection by stated seed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray

from attack.image import sources
from attack.image.sources import Source
from attack.streams import numpy_generator
from bounds import checks

#: Of red, green and blue in grey (ITU-R BT.601).
_GREY = (0.299, 0.587, 0.114)

#: Classes that a photograph's patches have by their height in it.
_BANDS = 5


@dataclass(frozen=True, eq=False)
class PictureSet:
    """images (n, C, H, W) float32, pixels in [0, 1]; labels (n,) int64 in 0..classes - 1; indices (n,): positions in the
    data set ``name``."""

    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor
    classes: int
    name: str

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a picture, (C, H, W)."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def mean(self) -> tuple[float, ...]:
        """Of each channel: what networks normalise by."""
        return tuple(self.images.mean(dim=(0, 2, 3)).tolist())

    @property
    def std(self) -> tuple[float, ...]:
        """The standard deviation of each channel."""
        return tuple(self.images.std(dim=(0, 2, 3)).tolist())

    def at(self, positions: torch.Tensor) -> PictureSet:
        """The pictures at these positions of this set, (k,) integers."""
        return PictureSet(
            self.images[positions], self.labels[positions], self.indices[positions], self.classes, self.name
        )

    def chosen(self, B: int, seed: int, *, distinct: bool = False) -> PictureSet:
        """B pictures at random, a larger B adding to those of a smaller one; distinct: no two of one class.

        Raises ``ValueError`` or ``TypeError`` for a B below 1 or above the number of pictures (of classes that there are),
        and for a negative seed.
        """
        order = numpy_generator(seed, "data").permutation(len(self))
        if distinct:
            first = np.unique(self.labels.numpy()[order], return_index=True)[1]
            order = order[np.sort(first)]
        what = f"classes of {self.name}" if distinct else f"pictures in {self.name}"
        checks.integer("B", B, 1, len(order), what)
        return self.at(torch.from_numpy(order[:B]))

    def parted(self, held_out: float, seed: int) -> tuple[PictureSet, PictureSet]:
        """The set in two disjoint ones, in random order: all but a fraction ``held_out`` in (0, 1) of it, and that."""
        share = checks.inside("held_out", held_out)
        order = torch.from_numpy(numpy_generator(seed, "parts").permutation(len(self)))
        kept = len(self) - round(share * len(self))
        checks.integer("held_out", kept, 1, len(self) - 1, "pictures that are left, of all")
        return self.at(order[:kept]), self.at(order[kept:])


def mnist_set(images_path: str | os.PathLike[str], labels_path: str | os.PathLike[str]) -> PictureSet:
    """All pictures of a pair of files in MNIST's idx format, plain or gzip-compressed; raises as
    ``attack.image.sources.mnist_idx`` does."""
    return _of_source(sources.mnist_idx(images_path, labels_path))


def cifar10_set(path: str | os.PathLike[str]) -> PictureSet:
    """All pictures of one file of CIFAR-10, binary or python version (a pickle, told by its first byte, and never
    unpickled); raises as ``attack.image.sources.cifar10_binary`` and ``cifar10_python`` do."""
    file = sources.regular_file("path", path)
    with file.open("rb") as stream:
        start = stream.read(1)
    return _of_source(sources.cifar10_python(file) if start == b"\x80" else sources.cifar10_binary(file))


def _of_source(source: Source) -> PictureSet:
    return _set(
        source.name,
        np.divide(source.pictures, source.full, dtype=np.float32),
        source.classes,
        sources.CLASSES,
    )


def _set(name: str, images: NDArray[np.floating], labels: NDArray[np.integer], classes: int) -> PictureSet:
    return PictureSet(
        torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32)),
        torch.from_numpy(np.asarray(labels).astype(np.int64)),
        torch.arange(len(images)),
        classes,
        name,
    )


def _digits(side: int) -> PictureSet:
    """The 1797 digits of scikit-learn, of 8 x 8, or resampled bilinearly (pixel centres aligned, so that none leaves
    [0, 1])."""
    found = _of_source(sources.digits())
    images = torch.nn.functional.interpolate(
        found.images, size=(side, side), mode="bilinear", align_corners=False
    )
    return PictureSet(images, found.labels, found.indices, found.classes, f"digits-{side}")


def _photograph_patches(side: int, grey: bool) -> PictureSet:
    """Disjoint patches of scikit-learn's two photographs. A class is a photograph and the height in it, in five bands from
    top to bottom: 0 to 4 the first, 5 to 9 the second."""
    whole = sources.photographs()
    pictures = np.tensordot(_GREY, whole, axes=(0, 1))[:, None] / 255 if grey else whole / 255
    cut = sources.tiles(pictures, side)
    count, down, across = cut.shape[:3]
    photograph, row, _ = np.meshgrid(np.arange(count), np.arange(down), np.arange(across), indexing="ij")
    labels = _BANDS * photograph + row * _BANDS // down
    name = f"patches-{side}-{'grey' if grey else 'colour'}"
    return _set(name, cut.reshape(-1, *cut.shape[3:]).clip(0, 1), labels.reshape(-1), count * _BANDS)


#: Sets that need no file.
PICTURE_SETS: Mapping[str, Callable[[], PictureSet]] = MappingProxyType(
    {
        "digits-8": lambda: _digits(8),
        "digits-16": lambda: _digits(16),
        "patches-16-grey": lambda: _photograph_patches(16, grey=True),
        "patches-32-grey": lambda: _photograph_patches(32, grey=True),
        "patches-16-colour": lambda: _photograph_patches(16, grey=False),
        "patches-32-colour": lambda: _photograph_patches(32, grey=False),
    }
)


def picture_set(name: str) -> PictureSet:
    """The set of that name, a key of ``PICTURE_SETS``; ``ValueError`` for another name."""
    return PICTURE_SETS[checks.choice("name", name, tuple(PICTURE_SETS))]()
