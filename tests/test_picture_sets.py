"""Pictures with classes: what a set is, how it is chosen from, and files of CIFAR-10's python version."""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from test_datasets import cifar_rows, mnist_arrays, write_cifar, write_mnist

from attack.image import (
    PICTURE_SETS,
    cifar10_set,
    load_cifar10_binary,
    load_cifar10_python,
    mnist_set,
    picture_set,
)

SIZES = {
    "digits-8": (1797, (1, 8, 8)),
    "digits-16": (1797, (1, 16, 16)),
    "patches-16-grey": (2080, (1, 16, 16)),
    "patches-32-grey": (520, (1, 32, 32)),
    "patches-16-colour": (2080, (3, 16, 16)),
    "patches-32-colour": (520, (3, 32, 32)),
}


@pytest.mark.parametrize("name", PICTURE_SETS)
def test_a_set_has_pixels_and_classes(name: str) -> None:
    found = picture_set(name)
    assert (len(found), found.shape) == SIZES[name]
    assert found.images.dtype == torch.float32 and found.labels.dtype == torch.int64
    assert found.images.min() >= 0 and found.images.max() <= 1 and found.images.std() > 0.1
    assert found.labels.unique().tolist() == list(range(found.classes)) and found.classes == 10
    assert len(found.mean) == len(found.std) == found.shape[0]
    assert found.indices.tolist() == list(range(len(found)))


def test_what_resampling_and_cutting_do() -> None:
    small, large = picture_set("digits-8"), picture_set("digits-16")
    torch.testing.assert_close(
        large.images.mean(dim=(1, 2, 3)), small.images.mean(dim=(1, 2, 3)), rtol=0.05, atol=0
    )
    # the centre of pixel 2 of sixteen lies a quarter of a pixel before that of pixel 1 of eight
    rows = 0.25 * small.images[:, :, 0] + 0.75 * small.images[:, :, 1]
    torch.testing.assert_close(large.images[:, :, 2, 2], 0.25 * rows[..., 0] + 0.75 * rows[..., 1])
    colour, grey = picture_set("patches-32-colour"), picture_set("patches-32-grey")
    weighted = (colour.images * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=1, keepdim=True)
    torch.testing.assert_close(grey.images, weighted, rtol=0, atol=1e-6)
    # 13 rows of 20 patches in five bands, the second photograph after the first
    assert colour.labels[:260].reshape(13, 20)[:, 0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 4, 4]
    assert torch.equal(colour.labels[260:], colour.labels[:260] + 5)


def test_a_seed_chooses() -> None:
    found = picture_set("digits-8")
    one, more, other = found.chosen(4, 3), found.chosen(8, 3), found.chosen(4, 4)
    assert torch.equal(one.indices, more.indices[:4]) and not torch.equal(one.indices, other.indices)
    assert torch.equal(one.images, found.images[one.indices]) and torch.equal(
        one.labels, found.labels[one.indices]
    )
    every = found.chosen(10, 3, distinct=True)
    assert sorted(every.labels.tolist()) == list(range(10))
    assert torch.equal(found.chosen(3, 3, distinct=True).indices, every.indices[:3])
    assert len(set(more.labels.tolist())) < 8, "without being asked, classes repeat"
    with pytest.raises(ValueError, match="B must be between 1 and 10"):
        found.chosen(11, 3, distinct=True)
    with pytest.raises(ValueError, match="B must be between 1 and 1797"):
        found.chosen(1798, 3)
    with pytest.raises(ValueError, match="name must be one of"):
        picture_set("digits")


def test_parts_are_disjoint() -> None:
    found = picture_set("digits-8")
    train, held = found.parted(0.25, 1)
    assert len(held) == 449 and len(train) == 1348
    assert sorted([*train.indices.tolist(), *held.indices.tolist()]) == list(range(1797))
    for share in (0.0, 1.0, -1):
        with pytest.raises(ValueError, match="held_out"):
            found.parted(share, 1)
    with pytest.raises(ValueError, match="held_out"):
        found.chosen(2, 1).parted(0.01, 1)


# --- CIFAR-10's python version --------------------------------------------------------------------------------------------


def text(value: bytes) -> bytes:
    """A text as Python 2 pickles it, by its length."""
    return (
        b"U" + bytes([len(value)]) + value
        if len(value) < 256
        else b"T" + struct.pack("<i", len(value)) + value
    )


def python_two(rows: np.ndarray) -> bytes:
    """The instructions in which the files that are distributed are written: Python 2's cPickle, protocol 2."""
    n = len(rows)
    labels = b"]q\x05(" + b"".join(b"K" + bytes([label]) for label in rows[:, 0]) + b"e"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00"
        + b"\x85q\tU\x01bq\n\x87q\x0bRq\x0c(K\x01"
        + b"K"
        + bytes([n])
        + b"M"
        + struct.pack("<H", 3072)
        + b"\x86q\rcnumpy\ndtype\nq\x0eU\x02u1q\x0fK\x00K\x01\x87q\x10Rq\x11(K\x03U\x01|q\x12NNN"
        + b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        + b"\x89"
        + text(rows[:, 1:].tobytes())
        + b"q\x13tb"
    )
    names = b"]q\x15(" + b"".join(text(b"cat_s_%06d.png" % i) for i in range(n)) + b"e"
    return (
        b"\x80\x02}q\x01("
        + text(b"batch_label")
        + text(b"training batch 1 of 5")
        + text(b"labels")
        + labels
        + text(b"data")
        + array
        + text(b"filenames")
        + names
        + b"u."
    )


def content(rows: np.ndarray) -> dict[bytes, object]:
    return {b"labels": [int(label) for label in rows[:, 0]], b"data": rows[:, 1:].copy()}


def write(folder: Path, data: bytes) -> Path:
    path = folder / "data_batch_1"
    path.write_bytes(data)
    return path


def test_both_versions_of_cifar_are_one_set(tmp_path: Path) -> None:
    rows = cifar_rows()
    binary = cifar10_set(write_cifar(tmp_path))
    assert np.array_equal(binary.images.numpy().reshape(9, -1), (rows[:, 1:] / 255).astype(np.float32))
    written = python_two(rows)
    theirs = pickle.loads(written, encoding="bytes")  # what is written here is what Python reads
    assert np.array_equal(theirs[b"data"], rows[:, 1:]) and theirs[b"labels"] == rows[:, 0].tolist()
    for data in (written, *(pickle.dumps(content(rows), protocol) for protocol in (3, 4))):
        path = write(tmp_path, data)
        found = cifar10_set(path)
        assert torch.equal(found.images, binary.images) and torch.equal(found.labels, binary.labels)
        batch, other = load_cifar10_python(path, 4, 1), load_cifar10_binary(write_cifar(tmp_path), 4, 1)
        assert np.array_equal(batch.features, other.features) and np.array_equal(batch.classes, other.classes)


class Call:
    """Runs when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.mkdir, (str(self.marker),)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    data = pickle.dumps({b"data": Call(marker)}, 3)
    with pytest.raises(ValueError, match=r"the name posix\.mkdir, which such a file does not need"):
        cifar10_set(write(tmp_path, data))
    assert not marker.exists()
    pickle.loads(data)
    assert marker.exists(), "the file was harmless, so nothing was shown"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x02", "python version"),
        (b"\x80\x02]q\x01.", "something else than a dictionary"),
        (b"\x80\x02}q\x01.", "has nothing"),
        (b"\x80\x02u.", "takes what it has not put"),
        (b"\x80\x02}K\x01K\x02s.", "keys are no texts"),
        (b"\x80\x02}h\x07.", "takes what it has not put"),
        (b"\x80\x02}(U\x01a]e.", "entries of no list"),
        (pickle.dumps({"data": 1.5}, 3), "instruction BINFLOAT"),
        (pickle.dumps({"data": np.zeros((2, 3072))}, 3), "a call of something else"),
        (
            pickle.dumps({"data": np.zeros((3072, 2), np.uint8, order="F"), "labels": [1, 2]}, 3),
            "by rows|of shape",
        ),
        (pickle.dumps({"data": np.zeros((2, 3071), np.uint8), "labels": [1, 2]}, 3), "of shape"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}, 3), "n labels"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1, 10]}, 3), "in 0..9"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1, -1]}, 3), "in 0..9"),
        (python_two(cifar_rows())[:-200], "python version"),
        (python_two(cifar_rows()).replace(b"K\x09M\x00\x0c\x86", b"K\x08M\x00\x0c\x86"), "shape is another"),
        (b"\x80\x02" + b"N" * 1_000_001 + b".", "more than 1000000 instructions"),
    ],
)
def test_other_pickles_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cifar10_set(write(tmp_path, data))


def test_too_large_a_pickle_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, python_two(cifar_rows()))
    monkeypatch.setattr("attack.image.sources._MAX_PICKLE", path.stat().st_size - 1)
    with pytest.raises(ValueError, match="at most"):
        cifar10_set(path)


def test_mnist_is_a_set_too(tmp_path: Path) -> None:
    pictures, classes = mnist_arrays()
    found = mnist_set(*write_mnist(tmp_path))
    assert np.array_equal(found.images.numpy()[:, 0], (pictures / 255).astype(np.float32))
    assert found.labels.tolist() == classes.tolist()
