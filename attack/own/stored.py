"""An array in a file, as its header declares it, and how to read it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from attack.own.gradient import OPTIONAL, REQUIRED, held_shape, misfits
from attack.own.layers import GRADIENT_PREFIX, TwoLayers

#: A file with more arrays than this is not looked into.
MOST_ARRAYS = 64


@dataclass(frozen=True)
class Stored:
    """shape and type_name as declared; itemsize: bytes of an entry in memory, None where entries are no real numbers;
    read: unpacks the array. Raises ``ValueError`` where it is not what its header declares."""

    shape: tuple[int, ...]
    type_name: str
    itemsize: int | None
    read: Callable[[], torch.Tensor]

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


def judge_names(names: Sequence[str]) -> None:
    """``ValueError`` unless these are names of arrays of a shared gradient, each once and none missing, or those of a state
    dict and its gradients, which ``as_fields`` judges."""
    missing = [name for name in REQUIRED if name not in names]
    unknown = sorted(set(names) - {*REQUIRED, *OPTIONAL})
    if (missing or unknown) and not _of_state_dict(names):
        raise ValueError(
            f"file must hold the arrays {', '.join(REQUIRED)} and may hold {', '.join(OPTIONAL)}; "
            f"missing: {_listed(missing)}, unknown: {_listed(unknown)}. Or a state dict, with the gradient of NAME as "
            f"{GRADIENT_PREFIX}NAME"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"file must hold each array once; {', '.join(twice)} is there more than once")


def as_fields(stored: Mapping[str, Stored]) -> Mapping[str, Stored]:
    """The arrays of a shared gradient by their names here, where a file holds them as a state dict and its gradients."""
    if not _of_state_dict(tuple(stored)):
        return stored
    gradients = [name.removeprefix(GRADIENT_PREFIX) for name in stored if name.startswith(GRADIENT_PREFIX)]
    shapes = {name: array.shape for name, array in stored.items() if not name.startswith(GRADIENT_PREFIX)}
    foreign = [name for name in gradients if name not in shapes]
    if foreign:
        raise ValueError(f"file must hold the parameter of every gradient; missing: {_listed(foreign)}")
    chosen = TwoLayers.of(shapes).fields(gradients, shapes=shapes)
    return {
        field: stored[GRADIENT_PREFIX + name if is_gradient else name]
        for field, (is_gradient, name) in chosen.items()
    }


def _of_state_dict(names: Sequence[str]) -> bool:
    return any(name.startswith(GRADIENT_PREFIX) for name in names)


def judge_headers(stored: Mapping[str, Stored], memory_limit: int) -> None:
    """``TypeError`` for entries that are no real numbers, ``ValueError`` for shapes that do not fit each other and for more
    than ``memory_limit`` bytes in memory."""
    for name, array in stored.items():
        if array.itemsize is None:
            raise TypeError(
                f"{name} must be a dense array of real numbers; got values of type {array.type_name[:100]}"
            )
    shape = stored["weight"].shape
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"weight must have shape (m, d); got {shape}")
    size = (shape[0], shape[1])
    shapes = {name: array.shape for name, array in stored.items()}
    found = misfits({name: held_shape(name, shapes) for name in stored} | {"weight": size})
    if found:
        raise ValueError("; ".join(found))
    needed = sum(array.size * (array.itemsize or 0) for array in stored.values())
    if needed > memory_limit:
        raise ValueError(f"its arrays take {needed} bytes in memory; memory_limit = {memory_limit} bytes")


def _listed(names: Sequence[str], most: int = 5) -> str:
    shown = [name if name.isidentifier() and len(name) <= 40 else ascii(name[:40]) for name in names[:most]]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(shown) or "none") + more
