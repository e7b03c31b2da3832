"""Files that nobody should send: a result, or one line that says what is wrong, in bounded memory and time."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import time_limit
from safetensors.numpy import save

from attack import read_gradient
from verify import cli

MIB = 2**20


# --- files: judged by their headers -----------------------------------------------------------------------------------


def header(shape: Any, descr: Any = "<f8", fortran: Any = False) -> bytes:
    text = repr({"descr": descr, "fortran_order": fortran, "shape": shape}).encode("latin1")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def archive(path: Path, method: int = zipfile.ZIP_DEFLATED, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", method, compresslevel=1) as target:
        for name, content in members.items():
            target.writestr(f"{name}.npy", content)
    return path


def peak(call: Callable[[], Any]) -> tuple[str, float]:
    """The one line with which ``call`` refuses, and the MiB it took."""
    tracemalloc.start()
    try:
        with time_limit(20), pytest.raises((ValueError, TypeError)) as stop:
            call()
        return str(stop.value), tracemalloc.get_traced_memory()[1] / MIB
    finally:
        tracemalloc.stop()


ZEROS = bytes(64 * MIB)
SMALL = {"weight": header((4, 2)) + bytes(64), "gradient": header((4,)) + bytes(32)}


@pytest.mark.parametrize(
    ("members", "words"),
    [
        (SMALL | {"junk": header((2**23,)) + ZEROS}, "unknown: junk"),
        (SMALL | {"weight": header((2**23,)) + ZEROS}, r"weight must have shape (m, d); got (8388608,)"),
        (SMALL | {"weight": header((2**20, 8)) + ZEROS}, "gradient must have shape (m,) = (1048576,)"),
        (SMALL | {"bias": header((2**23,)) + ZEROS}, "bias must have shape (4,); got (8388608,)"),
        (
            SMALL | {"bias": header((4,)) + ZEROS},
            "declares 32 bytes of data, shape (4,) of float64; the archive says",
        ),
        (
            SMALL | {"bias": header((2**26,), "|b1") + ZEROS},
            "bias must be a dense array of real numbers; got values of",
        ),
        (
            {"weight": header((2**20, 8)) + ZEROS, "gradient": header((2**20,)) + bytes(8 * MIB)},
            "take 75497472 bytes in memory; memory_limit = 67108864 bytes",
        ),
    ],
)
def test_a_small_archive_does_not_unpack_to_a_large_one(
    tmp_path: Path, members: dict[str, bytes], words: str
) -> None:
    """64 MiB of zeros in an archive of some hundred kilobytes: refused for 4 MiB of memory."""
    path = archive(tmp_path / "bomb.npz", **members)
    assert path.stat().st_size < 2 * MIB
    line, used = peak(lambda: read_gradient(path, memory_limit=64 * MIB))
    assert words in line and "\n" not in line and used < 4


def test_an_archive_costs_what_its_arrays_take(tmp_path: Path) -> None:
    """8 MiB of weights, double or single precision, transposed or not, packed or not: no second copy."""
    path = tmp_path / "mine.npz"
    for dtype, order in (("f8", "C"), (">f8", "F"), ("f4", "F")):
        weight = np.asarray(np.random.default_rng(0).standard_normal((2**17, 8)), dtype=dtype, order=order)
        (np.savez_compressed if dtype == "f4" else np.savez)(
            path, weight=np.round(weight), gradient=weight[:, 0]
        )
        tracemalloc.start()
        found = read_gradient(path)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        np.testing.assert_array_equal(found.weight, np.round(weight))
        assert used < 1.15 * found.weight.numpy().nbytes + 4 * MIB


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x93XUMPY\x01\x00" + bytes(90), "is no NumPy array of version 1 to 3"),
        (b"\x93NUMPY\x09\x00" + bytes(90), "is no NumPy array of version 1 to 3"),
        (b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31), "must have a header of at most 10000 bytes"),
        (header((-1, 2)), "must have a shape of non-negative integers; its header says (-1, 2)"),
        (header((True, 2)), "must have a shape of non-negative integers"),
        (header(7), "must have a shape of non-negative integers; its header says 7"),
        (header((4, 2), fortran="maybe"), "must have fortran_order True or False"),
        (header((4, 2), descr="<q9"), "must have a header with descr, fortran_order and shape"),
        (header((4, 2), descr=None), "must have a header with descr, fortran_order and shape"),
        (b"\x93NUMPY\x01\x00" + struct.pack("<H", 4000) + b"(" * 4000, "it cannot be read"),
        (
            header((4, 2)) + bytes(63),
            "declares 64 bytes of data, shape (4, 2) of float64; the archive says 63",
        ),
        (header((10**9, 10**9)), "declares 8000000000000000000 bytes of data"),
        (header((4, 2), descr="|O") + bytes(64), "pickled Python objects, which are never loaded"),
        (header((4, 2), descr="<c16") + bytes(128), "got values of type complex128"),
        (header((4, 2), descr="<M8[s]") + bytes(64), "got values of type datetime64[s]"),
        (header((4, 2), descr="<U2") + bytes(64), "got values of type <U2"),
        (header((4, 2), descr=[("a", "<f8")]) + bytes(64), "got values of type [('a', '<f8')]"),
    ],
)
def test_headers_that_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    line, _ = peak(lambda: read_gradient(archive(tmp_path / "a.npz", **(SMALL | {"weight": content}))))
    assert words in line and "\n" not in line


def _encrypted(data: bytes) -> bytes:
    at = data.index(b"PK\x01\x02")
    return data[: at + 8] + b"\x01" + data[at + 9 :]


@pytest.mark.parametrize(
    ("method", "change", "words"),
    [
        (zipfile.ZIP_BZIP2, lambda data: data, "compressed by method 12; stored or deflated is expected"),
        (zipfile.ZIP_STORED, _encrypted, "weight.npy is encrypted"),
        (zipfile.ZIP_STORED, lambda data: data[:-30], "the archive is damaged"),
        (zipfile.ZIP_STORED, lambda data: data.replace(bytes(32), b"\x01" * 32), "Bad CRC-32"),
        # a directory that claims 2 GiB
        (zipfile.ZIP_STORED, lambda data: data[:-10] + struct.pack("<I", 2**31) + data[-6:], "damaged"),
    ],
)
def test_archives_that_are_refused(
    tmp_path: Path, method: int, change: Callable[[bytes], bytes], words: str
) -> None:
    path = archive(tmp_path / "a.npz", method, **SMALL)
    path.write_bytes(change(path.read_bytes()))
    line, used = peak(lambda: read_gradient(path))
    assert words in line and "\n" not in line and used < 4


def test_names_twice_and_many(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "w") as target:
        for name in ("weight", "gradient", "weight"):
            target.writestr(f"{name}.npy", SMALL[name])
    with pytest.raises(ValueError, match="each array once; weight is there more than once"):
        read_gradient(path)
    archive(path, **SMALL, **{f"layer\n{i}": b"" for i in range(20)})
    with pytest.raises(ValueError, match=r"unknown: 'layer\\n0', .* and 15 more"):
        read_gradient(path)
    archive(path, **{f"a{i}": b"" for i in range(100)})
    with pytest.raises(ValueError, match="holds 100 arrays; at most 64"):
        read_gradient(path)


def tensors(head: Any, data: bytes = b"") -> bytes:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(shape: list[int], start: int, stop: int, dtype: str = "F64") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (struct.pack("<Q", 2**40) + b"{}", "declares a header of 1099511627776 bytes"),
        (tensors(b"{" * 4000), "damaged"),
        (tensors({"weight": 5}), "damaged"),
        (tensors({"weight": tensor([4, 2], 0, 64), "gradient": tensor([4], 64, 999)}, bytes(96)), "damaged"),
        (tensors({"weight": tensor([4, 2], 0, 64), "gradient": tensor([5], 64, 96)}, bytes(96)), "damaged"),
        (tensors({"weight": tensor([4, 2], 0, 64), "grad": tensor([4], 64, 96)}, bytes(96)), "unknown: grad"),
        (
            tensors({"weight": tensor([4, 2], 0, 64), "gradient": tensor([4], 64, 68, "BOOL")}, bytes(68)),
            "BOOL",
        ),
        (
            tensors({"weight": tensor([4, 2], 0, 64), "gradient": tensor([2, 2], 64, 96)}, bytes(96)),
            "must have shape",
        ),
    ],
)
def test_tensors_that_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    line, used = peak(lambda: read_gradient(tmp_path / "a.safetensors"))
    assert words in line and "\n" not in line and used < 4


def test_the_memory_limit_of_tensors(tmp_path: Path) -> None:
    """Half precision is held as single precision: 12 entries, 48 bytes; limits that are none are refused."""
    content = tensors(
        {"weight": tensor([4, 2], 0, 16, "BF16"), "gradient": tensor([4], 16, 24, "F16")}, bytes(24)
    )
    (tmp_path / "a.safetensors").write_bytes(content)
    assert read_gradient(tmp_path / "a.safetensors", 48).weight.dtype == torch.float32
    with pytest.raises(ValueError, match="take 48 bytes in memory; memory_limit = 47 bytes"):
        read_gradient(tmp_path / "a.safetensors", 47)
    with pytest.raises(ValueError, match="memory_limit must be at least 1"):
        read_gradient(tmp_path / "a.safetensors", 0)


def _npy() -> bytes:
    target = io.BytesIO()
    np.save(target, np.zeros((9, 3)))
    return target.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "a.npz",
            _npy(),
            "it is a single NumPy array (.npy); expected a zip archive of arrays, as numpy.savez",
        ),
        (
            "a.npz",
            b"garbage" * 99,
            "it is nothing known (it begins with b'garbagegarbagega'); expected a zip archive",
        ),
        ("a.npz", b"", "it is empty"),
        ("a.npz", pickle.dumps({"weight": 1}), "it is a Python pickle, which is never loaded"),
        ("a.npz", tensors({}), "it is a file of safetensors"),
        ("a.safetensors", b"\x89HDF\r\n\x1a\n", "it is an HDF5 file; expected named tensors"),
        (
            "a.safetensors",
            b"PK\x03\x04" + bytes(99),
            "it is a zip archive, as .npz is; expected named tensors",
        ),
    ],
)
def test_a_message_says_what_the_file_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as stop:
        read_gradient(tmp_path / name)
    assert words in str(stop.value)
    assert not any(word in str(stop.value) for word in ("allow_pickle", "unsafe", "\n"))


def test_a_checkpoint_is_no_archive_of_arrays(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"missing: weight, gradient, unknown: .*pkl \(not .npy\)"):
        read_gradient(tmp_path / "a.npz")


def test_the_command_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An array that is not of real numbers is bad input, exit code 2, and no failed attack."""
    np.savez(tmp_path / "a.npz", weight=np.ones((9, 2)) > 0, gradient=np.ones(9))
    with pytest.raises(SystemExit) as stop:
        cli.main(["attack", "gradient", "--file", str(tmp_path / "a.npz"), "--B", "1"])
    line = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and "got values of type bool" in line and "\n" not in line


# --- anything ---------------------------------------------------------------------------------------------------------


def _file(kind: str, rng: np.random.Generator) -> bytes:
    given = {"weight": rng.standard_normal((40, 3)), "gradient": rng.standard_normal(40)}
    if kind == "safetensors":
        return save(given)
    target = io.BytesIO()
    (np.savez if rng.integers(2) else np.savez_compressed)(target, **given)
    return target.getvalue()


def _mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """One to three changes: bits, bytes, cuts, insertions, sizes, digits of a header."""
    out = bytearray(data)
    for kind in rng.integers(0, 7, rng.integers(1, 4)):
        at, length = int(rng.integers(0, max(len(out), 1))), int(rng.integers(1, 50))
        if not out:
            break
        if kind == 0:
            out[at] = int(rng.integers(0, 256))
        elif kind == 1:
            out[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 2:
            del out[at:]
        elif kind == 3:
            out[at:at] = rng.bytes(length)
        elif kind == 4:
            del out[at : at + length]
        elif kind == 5:
            out[at : at + 4] = struct.pack("<I", int(rng.choice([0, 1, 2**20, 2**31 - 1, 2**32 - 1])))
        else:
            digits = [i for i, c in enumerate(out[:400]) if 48 <= c < 58] or [at]
            out[int(rng.choice(digits))] = int(rng.integers(48, 58))
    return bytes(out)


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_mutated_files(tmp_path: Path, kind: str) -> None:
    """200 files of a kilobyte (seeds 0 to 199): arrays, or one line, for at most 8 MiB and within 20 seconds in all."""
    refused = 0
    tracemalloc.start()
    try:
        with time_limit(20):
            for seed in range(200):
                rng = np.random.default_rng(seed)
                path = tmp_path / f"a.{kind}"
                path.write_bytes(_mutated(_file(kind, rng), rng))
                try:
                    assert read_gradient(path).weight.ndim == 2
                except (ValueError, TypeError, OSError) as error:
                    refused += 1
                    assert "\n" not in str(error) and len(str(error)) < 700, seed
        assert refused > 100 and tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()
