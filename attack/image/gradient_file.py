"""Gradients of a network on pictures, and its state, from a file; nothing in it is executed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from attack.own.files import MEMORY_LIMIT, opened_arrays
from attack.own.layers import GRADIENT_PREFIX

#: Of a network of two hundred layers with parameters, statistics and gradients there are fewer.
_MOST_ARRAYS = 4096


@dataclass(frozen=True, eq=False)
class GradientFile:
    """state: a state dict, empty where the file holds gradients only; gradients: by the names of the parameters."""

    state: dict[str, torch.Tensor]
    gradients: dict[str, torch.Tensor]


def read_image_gradients(path: str | Path, memory_limit: int = MEMORY_LIMIT) -> GradientFile:
    """From an .npz or .safetensors file with the gradient of each parameter as ``grad.NAME`` and, optional, the arrays of a
    state dict by their names.

    Names, types and sizes are judged before an array is unpacked. Raises ``ValueError`` for another ending, a file that
    cannot be read, holds no gradients, or takes more than ``memory_limit`` bytes in memory; ``TypeError`` for arrays that
    are not of real numbers; ``OSError`` where there is no file.
    """
    with opened_arrays(path, memory_limit, _MOST_ARRAYS) as stored:
        if not any(name.startswith(GRADIENT_PREFIX) for name in stored):
            raise ValueError(f"it must hold the gradient of NAME as {GRADIENT_PREFIX}NAME; it holds none")
        for name, array in stored.items():
            if array.itemsize is None:
                raise TypeError(f"{name[:100]} must hold real numbers; got {array.type_name[:100]}")
        needed = sum(array.size * (array.itemsize or 0) for array in stored.values())
        if needed > memory_limit:
            raise ValueError(f"its arrays take {needed} bytes in memory; memory_limit = {memory_limit} bytes")
        arrays = {name: array.read() for name, array in stored.items()}
    gradients = {
        n.removeprefix(GRADIENT_PREFIX): a for n, a in arrays.items() if n.startswith(GRADIENT_PREFIX)
    }
    return GradientFile({n: a for n, a in arrays.items() if not n.startswith(GRADIENT_PREFIX)}, gradients)
