"""Arrays of an .npz file: the directory first, then every array's own header, then its data in pieces.

``numpy.load`` unpacks what the archive holds and judges after: a few megabytes of zeros become gigabytes. Formats:
numpy.lib.format (version 1 to 3), PKWARE's APPNOTE 6.3.
"""

from __future__ import annotations

import ast
import io
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import torch

from attack.own.stored import MOST_ARRAYS, Stored, judge_names

#: Data is unpacked in pieces of this many bytes; the archive's directory and an array's header may be no longer.
_PIECE, _DIRECTORY, _HEADER = 2**20, 2**20, 10_000

#: What a damaged archive makes zipfile raise.
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    UnicodeDecodeError,
    OverflowError,
    IndexError,
)

#: Bytes of the length of a header, by the format's version, and the header's encoding.
_VERSIONS: Mapping[bytes, tuple[str, str]] = {
    b"\x01\x00": ("<H", "latin1"),
    b"\x02\x00": ("<I", "latin1"),
    b"\x03\x00": ("<I", "utf8"),
}


class _Pieces(io.BufferedReader):
    """A file that gives no more than a piece at once: a directory that claims gigabytes is refused."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > max(_PIECE, _DIRECTORY):
            raise ValueError(f"its directory takes {size} bytes; at most {_DIRECTORY} are read")
        return super().read(size)


@contextmanager
def opened_npz(path: Path, most: int = MOST_ARRAYS) -> Iterator[Mapping[str, Stored]]:
    """The arrays in an archive, by name. Raises ``ValueError`` for one that is damaged, encrypted, or holds other arrays."""
    try:
        with _Pieces(io.FileIO(path)) as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len(members) > most:
                raise ValueError(f"it holds {len(members)} arrays; at most {most} are looked at")
            judge_names([_array_name(member.filename) for member in members])
            yield {_array_name(member.filename): _stored(archive, member) for member in members}
    except _DAMAGED as error:
        raise ValueError(f"the archive is damaged: {error}") from None
    except OSError as error:  # an offset outside the file
        raise ValueError(f"the archive is damaged or cannot be read: {error.strerror}") from None


def _array_name(member: str) -> str:
    return member.removesuffix(".npy") if member.endswith(".npy") else f"{member} (not .npy)"


def _stored(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Stored:
    """The array's header; its length must agree with what the directory says."""
    name = member.filename
    if member.flag_bits & 0x1:
        raise ValueError(f"{name} is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(
            f"{name} is compressed by method {member.compress_type}; stored or deflated is expected"
        )
    with archive.open(member) as file:
        dtype, shape, fortran = _header(name, file)
        start = file.tell()
    if dtype.hasobject:
        raise ValueError(
            f"{name} holds pickled Python objects, which are never loaded; real numbers are expected"
        )
    if dtype.kind not in "iuf":
        return Stored(shape, str(dtype), None, lambda: torch.empty(0))
    declared, held = math.prod(shape) * dtype.itemsize, member.file_size - start
    if declared != held:
        raise ValueError(
            f"{name} declares {declared} bytes of data, shape {shape} of {dtype}; the archive says {held}"
        )
    kept = np.dtype(np.float32 if dtype == np.float32 else np.float64)

    def read() -> torch.Tensor:
        with archive.open(member) as file:
            file.read(start)
            values = np.empty(shape, dtype=kept, order="F" if fortran else "C")
            _fill(name, (values.T if fortran else values).reshape(-1), file, dtype)
            return torch.from_numpy(values)

    return Stored(shape, str(dtype), kept.itemsize, read)


def _header(name: str, file: IO[bytes]) -> tuple[np.dtype, tuple[int, ...], bool]:
    """Type, shape, and whether the first axis is the fastest."""
    magic = file.read(8)
    if magic[:6] != b"\x93NUMPY" or magic[6:] not in _VERSIONS:
        raise ValueError(f"{name} is no NumPy array of version 1 to 3: it begins with {magic!r}")
    form, encoding = _VERSIONS[magic[6:]]
    length = file.read(struct.calcsize(form))
    if len(length) < struct.calcsize(form) or struct.unpack(form, length)[0] > _HEADER:
        raise ValueError(f"{name} must have a header of at most {_HEADER} bytes")
    try:
        raw = ast.literal_eval(file.read(struct.unpack(form, length)[0]).decode(encoding).strip())
        descr, fortran, shape = raw["descr"], raw["fortran_order"], raw["shape"]
        dtype = np.dtype(descr if isinstance(descr, str) else [tuple(field) for field in descr])
    except (ValueError, TypeError, SyntaxError, KeyError, RecursionError, MemoryError, IndexError):
        raise ValueError(
            f"{name} must have a header with descr, fortran_order and shape; it cannot be read"
        ) from None
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 32:
        raise ValueError(
            f"{name} must have a shape of non-negative integers; its header says {str(shape)[:100]}"
        )
    if not isinstance(fortran, bool):
        raise ValueError(
            f"{name} must have fortran_order True or False; its header says {str(fortran)[:100]}"
        )
    return dtype, shape, fortran


def _fill(name: str, values: np.ndarray, file: IO[bytes], dtype: np.dtype) -> None:
    """Data into the flat ``values``, piece by piece; ``ValueError`` unless it has exactly that length."""
    count = _PIECE // dtype.itemsize
    for at in range(0, len(values), count):
        wanted = min(count, len(values) - at)
        piece = file.read(wanted * dtype.itemsize)
        if len(piece) < wanted * dtype.itemsize:
            raise ValueError(
                f"{name} ends after {at * dtype.itemsize + len(piece)} bytes of {len(values) * dtype.itemsize}"
            )
        with np.errstate(over="ignore"):  # beyond float64: infinite, and found to be so
            values[at : at + wanted] = np.frombuffer(piece, dtype=dtype)
    if file.read(1):  # the end also checks the sum of the data
        raise ValueError(f"{name} goes on after its {len(values) * dtype.itemsize} bytes")
