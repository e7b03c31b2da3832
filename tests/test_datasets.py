"""Data sets: what a batch of pictures is, and that files which are not what they claim are told so."""

from __future__ import annotations

import gzip
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from attack.image.datasets import (
    ImageBatch,
    load_cifar10_binary,
    load_digits,
    load_images,
    load_mnist_idx,
    load_patches,
)

EMBEDDED = {"digits": (1797, (1, 8, 8)), "patches": (520, (3, 32, 32))}


# --- files


def idx_bytes(magic: int, array: np.ndarray) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.astype(np.uint8).tobytes()


def mnist_arrays(n: int = 12, height: int = 5, width: int = 7) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    return generator.integers(0, 256, (n, height, width)), generator.integers(0, 10, n)


def write_mnist(folder: Path, images: bytes | None = None, labels: bytes | None = None) -> tuple[Path, Path]:
    """A valid pair of idx files, or with the given bytes in place of one of them."""
    pictures, classes = mnist_arrays()
    paths = folder / "images-idx3-ubyte", folder / "labels-idx1-ubyte"
    paths[0].write_bytes(idx_bytes(2051, pictures) if images is None else images)
    paths[1].write_bytes(idx_bytes(2049, classes) if labels is None else labels)
    return paths


def cifar_rows(n: int = 9) -> np.ndarray:
    generator = np.random.default_rng(4)
    rows = generator.integers(0, 256, (n, 3073)).astype(np.uint8)
    rows[:, 0] = np.arange(n) % 10
    return rows


def write_cifar(folder: Path, data: bytes | None = None) -> Path:
    path = folder / "data_batch_1.bin"
    path.write_bytes(cifar_rows().tobytes() if data is None else data)
    return path


@pytest.fixture(params=["digits", "patches", "mnist", "cifar10"])
def loader(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., ImageBatch]:
    """Each of the four sources as a function of (B, seed, center, max_cosine)."""
    if request.param in EMBEDDED:
        return lambda B, seed, center=True, **rule: load_images(request.param, B, seed, center, **rule)
    if request.param == "mnist":
        paths = write_mnist(tmp_path)
        return lambda B, seed, center=True, **rule: load_mnist_idx(*paths, B, seed, center, **rule)
    path = write_cifar(tmp_path)
    return lambda B, seed, center=True, **rule: load_cifar10_binary(path, B, seed, center, **rule)


# --- what every batch is


@pytest.mark.parametrize("center", [True, False])
def test_a_batch_has_the_promised_form(loader: Callable[..., ImageBatch], center: bool) -> None:
    batch = loader(5, 0, center)
    channels, height, width = batch.shape
    D = channels * height * width
    assert batch.features.shape == (5, D)
    assert batch.features.dtype == np.float64
    assert batch.features.flags.c_contiguous
    np.testing.assert_allclose(np.linalg.norm(batch.features, axis=1), 1.0, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(batch.labels, [1, -1, 1, -1, 1])
    assert batch.labels.dtype == np.float64
    assert batch.classes.shape == batch.norms.shape == batch.indices.shape == (5,)
    assert len(set(batch.indices.tolist())) == 5
    assert (batch.norms > 0).all()
    assert batch.mean.shape == (D,)
    assert (np.ptp(batch.mean.reshape(channels, -1), axis=1) == 0).all(), "constant within a channel"
    assert (batch.mean > 0).all() if center else not batch.mean.any()


@pytest.mark.parametrize("center", [True, False])
def test_pictures_undo_the_features(loader: Callable[..., ImageBatch], center: bool) -> None:
    """Centred and raw features of one seed are the same pictures, and nothing is clipped on the way back."""
    batch, raw = loader(4, 1, center), loader(4, 1, False)
    expected = raw.features * raw.norms[:, None]
    pictures = batch.pictures(batch.features)
    assert pictures.shape == (4, *batch.shape)
    np.testing.assert_allclose(pictures.reshape(4, -1), expected, rtol=0, atol=1e-12)
    assert pictures.min() >= 0
    assert pictures.max() <= 1


def test_pictures_clip_what_leaves_the_range_of_pixels() -> None:
    batch = load_digits(2, 0)
    pictures = batch.pictures(-10 * batch.features)
    assert pictures.min() == 0
    assert pictures.max() == 1


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((3, 64)), "features must have shape (2, 64); got (3, 64)"),
        (np.zeros(64), "features must have shape (2, 64); got (64,)"),
        (np.full((2, 64), np.nan), "features must be finite; got 128"),
    ],
)
def test_pictures_reject_other_features(features: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        load_digits(2, 0).pictures(features)


# --- the choice


def test_a_seed_fixes_the_choice_and_another_changes_it(loader: Callable[..., ImageBatch]) -> None:
    first, again, other = loader(5, 7), loader(5, 7), loader(5, 8)
    np.testing.assert_array_equal(first.indices, again.indices)
    np.testing.assert_array_equal(first.features, again.features)
    assert first.indices.tolist() != other.indices.tolist()


def test_a_larger_batch_keeps_the_pictures_of_a_smaller_one(loader: Callable[..., ImageBatch]) -> None:
    np.testing.assert_array_equal(loader(8, 7).indices[:4], loader(4, 7).indices)


def largest_cosine(features: np.ndarray) -> float:
    return float(np.abs(features @ features.T - np.diag(np.diag(features @ features.T))).max())


def greedy(candidates: np.ndarray, limit: float, B: int) -> list[int]:
    """Positions of ``candidates`` that the rule takes, from the whole matrix of cosines."""
    cosines = np.abs(candidates @ candidates.T)
    taken: list[int] = []
    for i in range(len(candidates)):
        if len(taken) < B and all(cosines[i, j] <= limit for j in taken):
            taken.append(i)
    return taken


@pytest.mark.parametrize(("name", "center", "limit"), [("digits", True, 0.5), ("patches", False, 0.9)])
def test_near_copies_are_skipped_in_the_seeded_order(name: str, center: bool, limit: float) -> None:
    everything = load_images(name, EMBEDDED[name][0], 3, center)
    expected = everything.indices[greedy(everything.features, limit, 6)]
    batch = load_images(name, 6, 3, center, max_cosine=limit)
    np.testing.assert_array_equal(batch.indices, expected)
    assert expected.tolist() != everything.indices[:6].tolist(), "the rule had nothing to skip"
    assert largest_cosine(batch.features) <= limit < largest_cosine(everything.features[:6])


def test_a_cosine_of_one_skips_nothing(loader: Callable[..., ImageBatch]) -> None:
    batch, plain = loader(5, 7, max_cosine=1.0), loader(5, 7)
    np.testing.assert_array_equal(batch.indices, plain.indices)
    np.testing.assert_array_equal(batch.features, plain.features)


def test_the_seeded_choice_is_this_one() -> None:
    """What experiments were stated with: the choice of a seed is not to change."""
    assert load_digits(4, 13).indices.tolist() == [109, 1202, 298, 1281]
    assert load_patches(4, 13).indices.tolist() == [73, 37, 50, 322]


def test_files_obey_the_rule_too(loader: Callable[..., ImageBatch]) -> None:
    limit = 0.3
    assert largest_cosine(loader(8, 7, False).features) > limit
    with pytest.raises(
        ValueError, match=r"max_cosine must leave B = 8 pictures of \w+; 0.3 leaves [1-7] in the order"
    ):
        loader(8, 7, False, max_cosine=limit)  # raw pictures are never that far from parallel


def test_a_larger_batch_under_the_rule_keeps_the_smaller_one() -> None:
    np.testing.assert_array_equal(
        load_patches(8, 7, max_cosine=0.5).indices[:4], load_patches(4, 7, max_cosine=0.5).indices
    )


@pytest.mark.parametrize("value", [0.0, -0.5, 1.0001])
def test_the_largest_cosine_is_one(value: float) -> None:
    with pytest.raises(ValueError, match=rf"max_cosine must lie in \(0, 1\]; got {value}"):
        load_digits(2, 0, max_cosine=value)


@pytest.mark.parametrize("name", EMBEDDED)
def test_all_pictures_can_be_chosen(name: str) -> None:
    """The whole data set makes a batch, so none of them is blank and every index is reachable."""
    n, shape = EMBEDDED[name]
    batch = load_images(name, n, 0)
    assert sorted(batch.indices.tolist()) == list(range(n))
    assert batch.shape == shape


def test_digits_are_the_pictures_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits as sklearn_digits

    digits = sklearn_digits()
    batch = load_digits(6, 2)
    np.testing.assert_allclose(
        batch.pictures(batch.features)[:, 0], digits.images[batch.indices] / 16, rtol=0, atol=1e-12
    )
    np.testing.assert_array_equal(batch.classes, digits.target[batch.indices])
    np.testing.assert_allclose(batch.mean, digits.images.mean() / 16, rtol=1e-14)


def test_patches_are_disjoint_windows_of_the_photographs() -> None:
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    batch = load_patches(40, 2)
    assert set(batch.classes.tolist()) == {0, 1}
    pictures = batch.pictures(batch.features)
    for index, which, picture in zip(batch.indices, batch.classes, pictures, strict=True):
        photograph, cell = divmod(int(index), 13 * 20)
        row, column = divmod(cell, 20)
        window = photographs[photograph][32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
        assert which == photograph
        assert np.ptp(window, axis=(0, 1)).max() > 0, "a constant patch"
        np.testing.assert_allclose(picture, window.transpose(2, 0, 1) / 255, rtol=0, atol=1e-12)
    channels = np.stack(photographs).mean(axis=(0, 1, 2)) / 255
    np.testing.assert_allclose(batch.mean.reshape(3, -1), channels[:, None].repeat(1024, axis=1), rtol=1e-13)


def mean_cosine(batch: ImageBatch) -> float:
    n = len(batch.features)
    gram = batch.features @ batch.features.T
    return float((gram.sum() - n) / (n * (n - 1)))


def test_centring_lowers_the_cosine_between_digits() -> None:
    """Mean cosine over all pairs: 0.688 raw, 0.481 centred. Subtracting one grey value takes away the common
    brightness, not the shape that digits share."""
    n = EMBEDDED["digits"][0]
    assert mean_cosine(load_digits(n, 0, center=False)) == pytest.approx(0.688, abs=5e-4)
    assert mean_cosine(load_digits(n, 0, center=True)) == pytest.approx(0.481, abs=5e-4)


def test_centring_removes_the_cosine_between_patches() -> None:
    """Mean cosine over all pairs of patches: 0.780 raw, 0.024 centred."""
    n = EMBEDDED["patches"][0]
    assert mean_cosine(load_patches(n, 0, center=False)) == pytest.approx(0.780, abs=5e-4)
    assert mean_cosine(load_patches(n, 0, center=True)) == pytest.approx(0.024, abs=1.5e-3)


# --- files that are what they claim


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_mnist_reads_what_was_written(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    pictures, classes = mnist_arrays()
    paths = write_mnist(tmp_path, compress(idx_bytes(2051, pictures)), compress(idx_bytes(2049, classes)))
    batch = load_mnist_idx(*paths, 12, 0)
    assert batch.shape == (1, 5, 7)
    np.testing.assert_allclose(
        batch.pictures(batch.features)[:, 0], pictures[batch.indices] / 255, rtol=0, atol=1e-12
    )
    np.testing.assert_array_equal(batch.classes, classes[batch.indices])
    np.testing.assert_allclose(batch.mean, pictures.mean() / 255, rtol=1e-14)


def test_cifar10_reads_what_was_written(tmp_path: Path) -> None:
    rows = cifar_rows()
    batch = load_cifar10_binary(str(write_cifar(tmp_path)), 9, 0)
    expected = rows[batch.indices, 1:].reshape(9, 3, 32, 32) / 255
    np.testing.assert_allclose(batch.pictures(batch.features), expected, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(batch.classes, rows[batch.indices, 0])
    means = rows[:, 1:].reshape(9, 3, 1024).mean(axis=(0, 2)) / 255
    np.testing.assert_allclose(batch.mean.reshape(3, -1)[:, 0], means, rtol=1e-14)


# --- files that are not

PICTURES, CLASSES = mnist_arrays()
IMAGES_FILE, LABELS_FILE = idx_bytes(2051, PICTURES), idx_bytes(2049, CLASSES)
HUGE = struct.pack(">4I", 2051, 2**32 - 1, 2**32 - 1, 2**32 - 1)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (b"", "images_path must start with idx magic number 2051; got 0"),
        (LABELS_FILE, "images_path must start with idx magic number 2051; got 2049"),
        (
            b"\x89PNG\r\n\x1a\n" + IMAGES_FILE,
            "images_path must start with idx magic number 2051; got 2303741511",
        ),
        (IMAGES_FILE[:10], "images_path must have a header of 16 bytes; got 10"),
        (IMAGES_FILE[:-1], "images_path must hold the 420 bytes its header declares; got 419"),
        (IMAGES_FILE + b"\0", "images_path must hold the 420 bytes its header declares; got more"),
        (idx_bytes(2051, PICTURES[:0]), "images_path must declare 1..268435456 bytes of data; got 0×5×7"),
        (HUGE, "images_path must declare 1..268435456 bytes of data; got 4294967295×"),
        (gzip.compress(IMAGES_FILE, mtime=0)[:-9], "images_path must be an intact gzip file"),
        (gzip.compress(IMAGES_FILE, mtime=0)[:12] + b"\xff" * 99, "images_path must be an intact gzip file"),
        (
            gzip.compress(IMAGES_FILE[:-1], mtime=0),
            "images_path must hold the 420 bytes its header declares; got 419",
        ),
        (
            gzip.compress(IMAGES_FILE + b"\0", mtime=0),
            "images_path must hold the 420 bytes its header declares; got more",
        ),
        (gzip.compress(LABELS_FILE, mtime=0), "images_path must start with idx magic number 2051; got 2049"),
    ],
)
def test_mnist_rejects_other_images(tmp_path: Path, images: bytes, message: str) -> None:
    paths = write_mnist(tmp_path, images=images)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load_mnist_idx(*paths, 2, 0)
    assert "\n" not in str(caught.value)
    assert str(paths[0]) in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (IMAGES_FILE, "labels_path must start with idx magic number 2049; got 2051"),
        (LABELS_FILE[:-2], "labels_path must hold the 12 bytes its header declares; got 10"),
        (idx_bytes(2049, CLASSES[:7]), "labels_path must hold one label per picture, 12; got 7"),
        (
            idx_bytes(2049, np.where(np.arange(12) == 3, 10, CLASSES)),
            "labels_path must hold classes in 0..9; got 10 at position 3",
        ),
    ],
)
def test_mnist_rejects_other_labels(tmp_path: Path, labels: bytes, message: str) -> None:
    paths = write_mnist(tmp_path, labels=labels)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load_mnist_idx(*paths, 2, 0)
    assert str(paths[1]) in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "path must be CIFAR-10's binary format, a positive multiple of 3073 bytes; got 0"),
        (
            cifar_rows().tobytes()[:-1],
            "path must be CIFAR-10's binary format, a positive multiple of 3073 bytes; got 27656",
        ),
        (b"\x80\x04" + bytes(3071), "path must hold classes in 0..9; got 128 at position 0"),
        (
            bytes(3073) + b"\x0a" + bytes(3072),
            "path must hold classes in 0..9; got 10 at position 1",
        ),
    ],
)
def test_cifar10_rejects_other_files(tmp_path: Path, data: bytes, message: str) -> None:
    path = write_cifar(tmp_path, data)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load_cifar10_binary(path, 1, 0)
    assert str(path) in str(caught.value)


def test_a_file_beyond_all_sizes_is_not_read(tmp_path: Path) -> None:
    path = write_cifar(tmp_path)
    os.truncate(path, 3073 * 2**18)  # a hole: it takes no room
    with pytest.raises(ValueError, match="at most 268435456 bytes"):
        load_cifar10_binary(path, 1, 0)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    images, labels = write_mnist(tmp_path)
    missing = tmp_path / "nowhere"
    with pytest.raises(ValueError, match=r"images_path must be an existing regular file; got .*nowhere"):
        load_mnist_idx(missing, labels, 2, 0)
    with pytest.raises(ValueError, match=r"labels_path must be an existing regular file; got .*nowhere"):
        load_mnist_idx(images, missing, 2, 0)
    with pytest.raises(
        ValueError, match=f"path must be an existing regular file; got {re.escape(str(tmp_path))}"
    ):
        load_cifar10_binary(tmp_path, 2, 0)
    with pytest.raises(TypeError, match="path must be the path of a file; got 3"):
        load_cifar10_binary(3, 2, 0)  # type: ignore[arg-type]


def test_a_blank_picture_has_no_direction(tmp_path: Path) -> None:
    rows = cifar_rows(3)
    rows[1, 1:] = 0
    path = write_cifar(tmp_path, rows.tobytes())
    with pytest.raises(
        ValueError, match=re.escape("cifar10: a picture needs a positive norm; got 0 at indices [1]")
    ):
        load_cifar10_binary(path, 3, 0, center=False)
    assert load_cifar10_binary(path, 3, 0, center=True).norms.min() > 0


# --- other bad arguments


@pytest.mark.parametrize("B", [0, -1, 1798])
def test_the_batch_size_is_within_the_data_set(B: int) -> None:
    with pytest.raises(ValueError, match=f"B must be between 1 and 1797 .*; got {B}"):
        load_digits(B, 0)


@pytest.mark.parametrize("value", [2.0, "2", None, True])
def test_batch_size_and_seed_are_integers(value: object) -> None:
    with pytest.raises(TypeError, match="B must be an integer"):
        load_digits(value, 0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="seed must be an integer"):
        load_digits(2, value)  # type: ignore[arg-type]


def test_other_arguments_are_named_too() -> None:
    with pytest.raises(ValueError, match="seed must be at least 0; got -1"):
        load_digits(2, -1)
    with pytest.raises(TypeError, match="center must be True or False; got 1"):
        load_digits(2, 0, center=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="name must be one of digits, patches; got 'imagenet'"):
        load_images("imagenet", 2, 0)
