"""Pictures as private features: a seeded choice of real pictures, centred and scaled to unit norm.

The sources (``attack.image.sources``): the 8×8 digits and the two photographs that scikit-learn carries, and files in the
MNIST idx and CIFAR-10 formats. Pixels are scaled to [0, 1]. With ``center=True`` each channel's mean over the whole
data set is subtracted, as the training pipelines of MNIST and CIFAR-10 do; with ``center=False`` the raw
pixels are kept, and since none of them is negative the features come out nearly parallel (small π_min), which
is hard for the attack. Every row is then divided by its norm, and the norm is treated as publicly known.

``max_cosine`` in (0, 1] keeps near-copies out of a batch: pictures are taken in the seeded random order, and
one whose feature has a larger |cosine| with a feature already taken is skipped. Tiles of sky in the
photographs are parallel up to a cosine of 0.99997, and such a pair says nothing about an attack. 1 skips
nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attack.image import sources
from attack.image.sources import Source
from attack.streams import numpy_generator
from bounds.checks import array, choice, integer, real
from bounds.setting import alternating

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """A private batch of n pictures as features of dimension D = C·H·W.

    Attributes:
        features: (n, D) float64, C-ordered, rows of unit norm; a row is a picture in (C, H, W) order.
        labels: (n,) float64, the regression labels +1, -1, +1, ... by position in the batch.
        classes: (n,) int64, the data set's own class of each picture (for patches: which photograph, 0 or 1).
        shape: (C, H, W) of one picture.
        mean: (D,) what was subtracted from each picture, constant within a channel; zeros if it was kept raw.
        norms: (n,) norms of the centred pictures before they were scaled to unit norm.
        indices: (n,) int64, the positions of the chosen pictures in the data set, all distinct.
        name: the data set's name.
    """

    features: FloatArray
    labels: FloatArray
    classes: IntArray
    shape: tuple[int, int, int]
    mean: FloatArray
    norms: FloatArray
    indices: IntArray
    name: str

    def pictures(self, features: ArrayLike) -> FloatArray:
        """Feature rows as pictures: undo the norm, add the mean back, clip to [0, 1].

        Args:
            features: (n, D), row i in the place of this batch's row i: a reconstruction is first brought into
                the batch's order with the permutation of the matched error. Rows are used as they are, of any
                norm.

        Returns:
            (n, C, H, W) float64 pixels in [0, 1].

        Raises:
            ValueError: another shape than ``self.features``, or values that are not finite.
        """
        rows = array("features", features, self.features.shape)
        pixels = rows * self.norms[:, None] + self.mean
        return np.clip(pixels, 0.0, 1.0).reshape(len(rows), *self.shape)


def load_digits(B: int, seed: int, center: bool = True, max_cosine: float = 1.0) -> ImageBatch:
    """B of the 1797 handwritten digits of scikit-learn: 8×8, one channel, D = 64, pixel values k/16.

    ``center`` subtracts the mean over all pixels of the data set. Source: the test part of the UCI data set
    *Optical Recognition of Handwritten Digits*, as ``sklearn.datasets.load_digits`` carries it.

    Raises:
        ValueError, TypeError: B outside 1..1797, a negative seed, max_cosine outside (0, 1] or leaving fewer
            than B pictures, or an argument of the wrong type.
    """
    return _batch(sources.digits(), B, seed, center, max_cosine)


def load_patches(B: int, seed: int, center: bool = True, max_cosine: float = 1.0) -> ImageBatch:
    """B of the 520 disjoint 32×32×3 patches of scikit-learn's two sample photographs, D = 3072.

    Each photograph (427×640) is cut into 13×20 patches from its top left corner, so two chosen patches never
    share a pixel; no patch is constant. ``classes`` tells the photograph. ``center`` subtracts each channel's
    mean over all pixels of both photographs. Source: ``sklearn.datasets.load_sample_images``.

    Raises:
        ValueError, TypeError: B outside 1..520, a negative seed, max_cosine outside (0, 1] or leaving fewer
            than B patches, or an argument of the wrong type.
    """
    return _batch(sources.patches(), B, seed, center, max_cosine)


def load_mnist_idx(
    images_path: str | os.PathLike[str],
    labels_path: str | os.PathLike[str],
    B: int,
    seed: int,
    center: bool = True,
    max_cosine: float = 1.0,
) -> ImageBatch:
    """B pictures of a pair of files in MNIST's idx format, plain or gzip-compressed: one channel, D = H·W.

    The format: big-endian 32-bit integers (magic number, 2051 for images, 2049 for labels; count; for images
    rows and columns), then one unsigned byte per pixel or label. ``center`` subtracts the mean of all pixels.

    Raises:
        ValueError: a file that is missing or unreadable, or is not what it claims (magic number, declared
            size against length, counts that differ, a label outside 0..9); B outside 1..count; seed below 0;
            max_cosine outside (0, 1] or leaving fewer than B pictures.
        TypeError: an argument of the wrong type.
    """
    return _batch(sources.mnist_idx(images_path, labels_path), B, seed, center, max_cosine)


def load_cifar10_binary(
    path: str | os.PathLike[str], B: int, seed: int, center: bool = True, max_cosine: float = 1.0
) -> ImageBatch:
    """B pictures of one file in CIFAR-10's binary format: 32×32×3, D = 3072.

    The format has no header: rows of 3073 bytes, a class in 0..9, then 1024 bytes each of red, green, blue.
    ``center`` subtracts each channel's mean over the file.

    Raises:
        ValueError: a file that is missing or unreadable, whose length is not a positive multiple of 3073, or
            with a class outside 0..9; B outside 1..count; a negative seed; max_cosine outside (0, 1] or
            leaving fewer than B pictures.
        TypeError: an argument of the wrong type.
    """
    return _batch(sources.cifar10_binary(path), B, seed, center, max_cosine)


def load_cifar10_python(
    path: str | os.PathLike[str], B: int, seed: int, center: bool = True, max_cosine: float = 1.0
) -> ImageBatch:
    """B pictures of one file of CIFAR-10's python version (``data_batch_1``), which is read without being unpickled.

    ``center`` subtracts each channel's mean over the file. Raises as ``load_cifar10_binary`` does, for a file that is not
    that.
    """
    return _batch(sources.cifar10_python(path), B, seed, center, max_cosine)


_EMBEDDED: dict[str, Callable[[int, int, bool, float], ImageBatch]] = {
    "digits": load_digits,
    "patches": load_patches,
}


def load_images(name: str, B: int, seed: int, center: bool = True, max_cosine: float = 1.0) -> ImageBatch:
    """The data set ``name`` among those that need no file: "digits" or "patches".

    Raises:
        ValueError, TypeError: an unknown name, or as the data set's own function says.
    """
    return _EMBEDDED[choice("name", name, tuple(_EMBEDDED))](B, seed, center, max_cosine)


def _batch(source: Source, B: int, seed: int, center: bool, max_cosine: float) -> ImageBatch:
    """Choose B pictures and make features of them.

    A larger B with the same seed and ``max_cosine`` keeps the pictures of a smaller one and adds to them.
    """
    name, pictures, scale = source.name, source.pictures, source.full
    B = integer("B", B, 1, len(pictures), f"pictures in {name}")
    if not isinstance(center, bool):
        raise TypeError(f"center must be True or False; got {center!r}")
    if not 0 < real("max_cosine", max_cosine) <= 1:
        raise ValueError(f"max_cosine must lie in (0, 1]; got {max_cosine}")

    channels, height, width = pictures.shape[1:]
    mean = np.repeat(source.mean / scale if center else np.zeros(channels), height * width)
    order = numpy_generator(seed, "data").permutation(len(pictures)).astype(np.int64)
    if max_cosine < 1:
        order = _spread(source, mean, order, B, max_cosine)
    if len(order) < B:
        raise ValueError(
            f"max_cosine must leave B = {B} pictures of {name}; "
            f"{max_cosine} leaves {len(order)} in the order of seed {seed}"
        )
    indices = order[:B]
    rows = pictures[indices].reshape(B, -1) / scale - mean
    norms = np.linalg.norm(rows, axis=1)
    if not norms.all():
        blank = indices[norms == 0].tolist()
        raise ValueError(f"{name}: a picture needs a positive norm; got 0 at indices {blank} of the data set")
    return ImageBatch(
        features=np.ascontiguousarray(rows / norms[:, None]),
        labels=np.array(alternating(B)),
        classes=np.asarray(source.classes)[indices].astype(np.int64),
        shape=(channels, height, width),
        mean=mean,
        norms=norms,
        indices=indices,
        name=name,
    )


def _spread(source: Source, mean: FloatArray, order: IntArray, B: int, max_cosine: float) -> IntArray:
    """The first B of ``order``, or as many as there are, with |cosine| <= max_cosine between all features."""
    chosen: list[int] = []
    features = np.empty((B, mean.size))
    for index in order.tolist():
        row = source.pictures[index].reshape(-1) / source.full - mean
        # A blank picture has no direction: it is taken here as it is, and refused with the chosen ones.
        feature = row / (np.linalg.norm(row) or 1.0)
        if np.abs(features[: len(chosen)] @ feature).max(initial=0.0) <= max_cosine:
            features[len(chosen)] = feature
            chosen.append(index)
            if len(chosen) == B:
                break
    return np.array(chosen, dtype=np.int64)
