"""Tensors of a .safetensors file: the header first, then each tensor, copied once."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from attack.own.stored import MOST_ARRAYS, Stored, judge_names

#: A header may be no longer than this many bytes: five arrays need less than a thousand.
_HEADER = 2**20

#: Bytes of an entry in memory, by the format's name of a type: single and half precision are kept as float32.
_ITEMSIZE = {"F64": 8, "F32": 4, "F16": 4, "BF16": 4} | {f"{k}{n}": 8 for k in "IU" for n in (8, 16, 32, 64)}


@contextmanager
def opened_safetensors(path: Path, most: int = MOST_ARRAYS) -> Iterator[Mapping[str, Stored]]:
    """The tensors in a file, by name. Raises ``ValueError`` for one that is damaged or holds other tensors."""
    from safetensors import SafetensorError, safe_open

    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if not 2 <= length <= min(_HEADER, size - 8):
        raise ValueError(
            f"it declares a header of {length} bytes; between 2 and {min(_HEADER, size - 8)} are expected"
        )
    try:
        with safe_open(str(path), framework="pt") as tensors:
            names = list(tensors.keys())
            if len(names) > most:
                raise ValueError(f"it holds {len(names)} tensors; at most {most} are looked at")
            judge_names(names)
            slices = {name: tensors.get_slice(name) for name in names}
            yield {
                name: Stored(
                    tuple(part.get_shape()),
                    part.get_dtype(),
                    _ITEMSIZE.get(part.get_dtype()),
                    partial(tensors.get_tensor, name),
                )
                for name, part in slices.items()
            }
    except SafetensorError as error:
        raise ValueError(f"the file is damaged: {error}") from None
