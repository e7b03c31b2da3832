"""Where pictures come from: data that scikit-learn carries, and files of MNIST and CIFAR-10, as bytes with classes."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from attack.image.opcodes import arrays_of_pickle

ByteArray = NDArray[np.uint8]
Number = TypeVar("Number", np.uint8, np.float64)

PATCH = 32
"""Side of a patch of the sample photographs, in pixels."""

#: Classes of every source but ``patches``.
CLASSES = 10

#: Bytes of pictures in a file at most, which are four times as many as numbers: no header and no file may make us allocate
#: without limit. MNIST has 47 million, CIFAR-10 altogether 184 million.
_MAX_BYTES = 2**28
_CIFAR_SHAPE = (3, 32, 32)

#: A file of CIFAR-10's python version has 31 million bytes.
_MAX_PICKLE = 2**26


@dataclass(frozen=True, eq=False)
class Source:
    """n pictures (n, C, H, W) of bytes, of which ``full`` is full intensity; classes (n,); mean (C,) of each channel over
    the whole data set, in the bytes' units."""

    name: str
    pictures: ByteArray
    classes: NDArray[np.integer]
    full: int
    mean: NDArray[np.float64]


def digits() -> Source:
    """The 1797 handwritten digits of scikit-learn: 8×8, one channel, pixel values k/16.

    Source: the test part of the UCI data set *Optical Recognition of Handwritten Digits*, as
    ``sklearn.datasets.load_digits`` carries it.
    """
    from sklearn.datasets import load_digits as sklearn_digits

    found = sklearn_digits()
    return _source("digits", found.images.astype(np.uint8)[:, None], found.target, 16)


def photographs() -> ByteArray:
    """The two sample photographs of scikit-learn, (2, 3, 427, 640)."""
    from sklearn.datasets import load_sample_images

    found: ByteArray = np.stack(load_sample_images().images).transpose(0, 3, 1, 2)
    return found


def tiles(pictures: NDArray[Number], side: int) -> NDArray[Number]:
    """Pictures (n, C, H, W) cut from the top left corner into disjoint patches: (n, rows, columns, C, side, side)."""
    count, channels, height, width = pictures.shape
    down, across = height // side, width // side
    cut = pictures[:, :, : down * side, : across * side].reshape(count, channels, down, side, across, side)
    return cut.transpose(0, 2, 4, 1, 3, 5)


def patches() -> Source:
    """The 520 disjoint 32×32×3 patches of the two photographs, each cut into 13×20 from its top left corner; no patch is
    constant. Classes tell the photograph; the mean is that of all pixels of both."""
    whole = photographs()
    cut = tiles(whole, PATCH)
    classes = np.repeat(np.arange(len(cut)), cut.shape[1] * cut.shape[2])
    return Source("patches", cut.reshape(-1, *cut.shape[3:]), classes, 255, _channel_mean(whole))


def mnist_idx(images_path: str | os.PathLike[str], labels_path: str | os.PathLike[str]) -> Source:
    """A pair of files in MNIST's idx format, plain or gzip-compressed.

    The format: big-endian 32-bit integers (magic number, 2051 for images, 2049 for labels; count; for images
    rows and columns), then one unsigned byte per pixel or label. Raises ``ValueError`` for a file that is missing or
    unreadable, or is not what it claims (magic number, declared size against length, counts that differ, a label outside
    0..9), ``TypeError`` for what is no path.
    """
    images_file = regular_file("images_path", images_path)
    labels_file = regular_file("labels_path", labels_path)
    images = _read_idx("images_path", images_file, magic=2051, rank=3)
    labels = _read_idx("labels_path", labels_file, magic=2049, rank=1)
    if len(images) != len(labels):
        raise ValueError(
            f"labels_path must hold one label per picture, {len(images)}; got {len(labels)} in {labels_file}"
        )
    _check_classes("labels_path", labels_file, labels)
    return _source("mnist", images[:, None], labels, 255)


def cifar10_binary(path: str | os.PathLike[str]) -> Source:
    """A file in CIFAR-10's binary format, which has no header: rows of 3073 bytes, a class in 0..9, then 1024 bytes each of
    red, green, blue.

    Raises ``ValueError`` for a file that is missing or unreadable, larger than 256 MiB, whose length is not a positive
    multiple of 3073, or with a class outside 0..9; ``TypeError`` for what is no path.
    """
    file = regular_file("path", path)
    row = 1 + math.prod(_CIFAR_SHAPE)
    size = file.stat().st_size
    if size == 0 or size % row:
        raise ValueError(
            f"path must be CIFAR-10's binary format, a positive multiple of {row} bytes; got {size} in {file}"
        )
    if size > _MAX_BYTES:
        raise ValueError(f"path must be a file of at most {_MAX_BYTES} bytes; got {size} in {file}")
    with _open("path", file) as stream:
        rows = np.frombuffer(stream.read(), dtype=np.uint8).reshape(-1, row)
    _check_classes("path", file, rows[:, 0])
    return _source("cifar10", rows[:, 1:].reshape(-1, *_CIFAR_SHAPE), rows[:, 0], 255)


def cifar10_python(path: str | os.PathLike[str]) -> Source:
    """A file of CIFAR-10's python version (``data_batch_1``, unpacked): a pickle of a dictionary with ``data``, (n, 3072)
    bytes, and ``labels``. It is never unpickled: ``attack.image.opcodes`` reads the few instructions of such a file, and
    nothing in it is executed.

    Raises ``ValueError`` for a file that is missing, unreadable, larger than 64 MiB, or anything else than that;
    ``TypeError`` for what is no path.
    """
    file = regular_file("path", path)
    size = file.stat().st_size
    if size > _MAX_PICKLE:
        raise ValueError(f"path must be a file of at most {_MAX_PICKLE} bytes; got {size} in {file}")
    with _open("path", file) as stream:
        try:
            found = arrays_of_pickle(stream.read())
        except ValueError as error:
            raise ValueError(f"path must be CIFAR-10's python version; {error} in {file}") from None
    data, labels = found.get("data"), found.get("labels")
    row = math.prod(_CIFAR_SHAPE)
    if (
        not isinstance(data, np.ndarray)
        or data.ndim != 2
        or data.shape[1] != row
        or not isinstance(labels, list)
        or not 0 < len(data) == len(labels)
    ):
        raise ValueError(
            f"path must hold data of shape (n, {row}) and n labels (CIFAR-10's data_batch files do); got neither or one "
            f"only in {file}, which has {', '.join(sorted(found)) or 'nothing'}"
        )
    if not all(type(label) is int and 0 <= label < 256 for label in labels):
        raise ValueError(f"path must hold labels in 0..{CLASSES - 1}; got others in {file}")
    classes = np.array(labels, dtype=np.uint8)
    _check_classes("path", file, classes)
    return _source("cifar10", data.reshape(-1, *_CIFAR_SHAPE), classes, 255)


def _source(name: str, pictures: ByteArray, classes: NDArray[np.integer], full: int) -> Source:
    return Source(name, pictures, classes, full, _channel_mean(pictures))


def _channel_mean(pictures: ByteArray) -> NDArray[np.float64]:
    """Mean of each channel over all of the (n, C, H, W) pictures, in the pictures' own units: (C,)."""
    return pictures.mean(axis=(0, 2, 3), dtype=np.float64)


def _check_classes(argument: str, file: Path, classes: ByteArray) -> None:
    wrong = np.flatnonzero(classes >= CLASSES)
    if len(wrong):
        found = f"{classes[wrong[0]]} at position {wrong[0]}"
        raise ValueError(f"{argument} must hold classes in 0..{CLASSES - 1}; got {found} in {file}")


def regular_file(argument: str, path: str | os.PathLike[str]) -> Path:
    """The path of a file that is there; ``TypeError`` or ``ValueError`` otherwise."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"{argument} must be the path of a file; got {path!r}")
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"{argument} must be an existing regular file; got {file}")
    return file


def _open(argument: str, file: Path) -> BufferedReader:
    try:
        return file.open("rb")
    except OSError as error:
        raise ValueError(f"{argument} must be a readable file; got {file} ({error.strerror})") from None


def _read_idx(argument: str, file: Path, *, magic: int, rank: int) -> ByteArray:
    """The array of a plain or gzip-compressed idx file of unsigned bytes with ``rank`` dimensions."""
    with _open(argument, file) as raw:
        # Told by content, whatever the name: a plain idx file starts with two zero bytes.
        compressed = raw.peek(2)[:2] == b"\x1f\x8b"
        try:
            return _parse_idx(argument, file, gzip.GzipFile(fileobj=raw) if compressed else raw, magic, rank)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{argument} must be an intact gzip file; got {file} ({error})") from None


def _parse_idx(
    argument: str, file: Path, stream: BufferedReader | gzip.GzipFile, magic: int, rank: int
) -> ByteArray:
    length = 4 * (1 + rank)
    header = stream.read(length)
    found = int.from_bytes(header[:4], "big")
    if found != magic:
        raise ValueError(f"{argument} must start with idx magic number {magic}; got {found} in {file}")
    if len(header) < length:
        raise ValueError(f"{argument} must have a header of {length} bytes; got {len(header)} in {file}")
    shape = struct.unpack(f">{rank}I", header[4:])
    declared = math.prod(shape)
    if not 1 <= declared <= _MAX_BYTES:
        sizes = "×".join(map(str, shape))
        raise ValueError(f"{argument} must declare 1..{_MAX_BYTES} bytes of data; got {sizes} in {file}")
    data = stream.read(declared + 1)  # one more than declared, to notice a file that is too long
    if len(data) != declared:
        got = str(len(data)) if len(data) < declared else "more"
        raise ValueError(
            f"{argument} must hold the {declared} bytes its header declares; got {got} in {file}"
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)
