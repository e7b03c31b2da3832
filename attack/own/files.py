"""A shared gradient from a file, which is judged by its headers before an array in it is unpacked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from attack.own.gradient import SharedGradient
from attack.own.npz_file import opened_npz
from attack.own.safetensors_file import opened_safetensors
from attack.own.stored import MOST_ARRAYS, Stored, as_fields, judge_headers
from bounds import checks

#: The arrays of a file may take this many bytes in memory unless another limit is given.
MEMORY_LIMIT = 8 * 2**30

#: What a file may be that is none of those that are read, by its first bytes.
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\x93NUMPY", "a single NumPy array (.npy)"),
    (b"PK\x03\x04", "a zip archive, as .npz is"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\x80\x02", "a Python pickle, which is never loaded"),
    (b"\x80\x03", "a Python pickle, which is never loaded"),
    (b"\x80\x04", "a Python pickle, which is never loaded"),
    (b"\x80\x05", "a Python pickle, which is never loaded"),
)

#: Endings of what torch.save writes, and what to write instead.
_PICKLED = (".pt", ".pth", ".ckpt", ".bin", ".pkl")
_EXPORT = (
    "pickles are never loaded: write net.state_dict() | {'grad.' + n: p.grad for n, p in net.named_parameters()} with "
    "safetensors.torch.save_file"
)


@dataclass(frozen=True)
class _Format:
    """open: the arrays in a file by name, each judged by its header, if they are no more than a number;
    expected: what such a file is."""

    open: Callable[[Path, int], AbstractContextManager[Mapping[str, Stored]]]
    fits: Callable[[bytes], bool]
    expected: str


_FORMATS: Mapping[str, _Format] = {
    ".npz": _Format(
        opened_npz,
        lambda head: head[:4] == b"PK\x03\x04",
        "a zip archive of arrays, as numpy.savez writes it",
    ),
    ".safetensors": _Format(
        opened_safetensors,
        lambda head: head[8:9] == b"{",
        "named tensors, as safetensors.torch.save_file writes them",
    ),
}


def read_gradient(path: str | Path, memory_limit: int = MEMORY_LIMIT) -> SharedGradient:
    """From an .npz or .safetensors file with arrays ``weight``, ``gradient`` and, optional, ``bias``, ``output_weight``,
    ``bias_gradient`` and ``output_bias``; or with the parameters of a PyTorch network of two linear layers by the names of
    its state dict, and their gradients as ``grad.NAME`` (that of the first layer where there is one).

    Nothing in the file is executed (no pickles). Names, types, shapes and sizes are judged before an array is unpacked, so
    that a file costs no more memory than the arrays that it may hold: ``memory_limit`` bytes at most. Raises ``ValueError``
    for another ending, a file that cannot be read, missing, unknown or too large arrays and shapes that do not fit;
    ``TypeError`` for arrays that are not of real numbers; ``OSError`` where there is no file.
    """
    with opened_arrays(path, memory_limit) as opened:
        stored = as_fields(opened)
        judge_headers(stored, memory_limit)
        return SharedGradient.from_arrays(**{name: array.read() for name, array in stored.items()})


@contextmanager
def opened_arrays(
    path: str | Path, memory_limit: int = MEMORY_LIMIT, most: int = MOST_ARRAYS
) -> Iterator[Mapping[str, Stored]]:
    """The arrays of such a file by name, at most ``most`` of them, to be judged before they are read; what is raised within
    as ``ValueError`` or ``TypeError`` gets the file's name. Raises as ``read_gradient`` does."""
    path = Path(path)
    checks.integer("memory_limit", memory_limit, 1)
    if path.suffix not in _FORMATS:
        pickled = f"; {_EXPORT}" if path.suffix in _PICKLED else ""
        raise ValueError(f"file must end in {' or '.join(_FORMATS)}; got {path.name}{pickled}")
    if not path.is_file():
        raise FileNotFoundError(f"file must exist; got {path}")
    kind = _FORMATS[path.suffix]
    with path.open("rb") as file:
        head = file.read(16)
    if not kind.fits(head):
        raise ValueError(
            f"file {path.name} cannot be read as {path.suffix}: it is {_described(head)}; expected {kind.expected}"
        )
    try:
        with kind.open(path, most) as opened:
            yield opened
    except (ValueError, TypeError) as error:
        what = " ".join(str(error).split())[:500]
        kind_of = TypeError if isinstance(error, TypeError) else ValueError
        raise kind_of(f"file {path.name}: {what}") from None
    except MemoryError:
        raise ValueError(f"file {path.name} cannot be read: its arrays do not fit in memory") from None


def _described(head: bytes) -> str:
    if not head:
        return "empty"
    for signature, what in _SIGNATURES:
        if head.startswith(signature):
            return what
    if head[8:9] == b"{":
        return "a file of safetensors"
    return f"nothing known (it begins with {head!r})"
