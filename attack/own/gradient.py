"""A gradient that a user brings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from attack.arrays import real_tensor

#: Names of the arrays, in a file as here.
REQUIRED, OPTIONAL = ("weight", "gradient"), ("bias", "output_weight", "bias_gradient")


@dataclass(frozen=True, eq=False)
class SharedGradient:
    """What a server holds: weight (m, d); gradient, (m,) for dL/da or (m, d) for dL/dW; bias (m,); output_weight (m,);
    bias_gradient (m,): dL/db, which dL/dW needs where the biases vary.

    The network is ``f(x) = sum_j output_weight_j sigma(w_j.x + bias_j)``, output weights 1/m where they are not given.
    Float32 or float64 CPU tensors. Make one with ``from_arrays`` or ``read_gradient``.
    """

    weight: torch.Tensor
    gradient: torch.Tensor
    bias: torch.Tensor | None = None
    output_weight: torch.Tensor | None = None
    bias_gradient: torch.Tensor | None = None

    @staticmethod
    def from_arrays(
        weight: Any,
        gradient: Any,
        bias: Any | None = None,
        output_weight: Any | None = None,
        bias_gradient: Any | None = None,
    ) -> SharedGradient:
        """From arrays or tensors of any framework. Vectors may come as (1, m) or (m, 1), as a linear layer has them.

        Raises ``TypeError`` for what is not a dense array of real numbers, ``ValueError`` for masked entries and a weight
        that is not a matrix; every further misfit is a finding of ``check_gradient``.
        """
        W = real_tensor("weight", weight)
        if W.ndim != 2 or 0 in W.shape:
            raise ValueError(f"weight must have shape (m, d); got {tuple(W.shape)}")
        vectors = {"bias": bias, "output_weight": output_weight, "bias_gradient": bias_gradient}
        found = {k: None if v is None else _flat(real_tensor(k, v), W) for k, v in vectors.items()}
        return SharedGradient(W, _flat(real_tensor("gradient", gradient), W), **found)

    @property
    def m(self) -> int:
        return int(self.weight.shape[0])

    @property
    def d(self) -> int:
        return int(self.weight.shape[1])

    @property
    def arrays(self) -> Mapping[str, torch.Tensor]:
        """The arrays that are there, by name."""
        named = {name: getattr(self, name) for name in (*REQUIRED, *OPTIONAL)}
        return {name: value for name, value in named.items() if value is not None}


def _flat(value: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return value.reshape(flat_shape(tuple(value.shape), len(weight)))


def flat_shape(shape: tuple[int, ...], m: int) -> tuple[int, ...]:
    """(1, m) and (m, 1) as (m,); with d = 1 an (m, 1) gradient would be both: it is taken as dL/da."""
    return (m,) if shape in ((1, m), (m, 1)) else shape


def misfits(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """What is wrong with the arrays' shapes, that of ``weight`` being (m, d)."""
    m, d = shapes["weight"]
    found = []
    shape = shapes["gradient"]
    if shape not in ((m,), (m, d)):
        turned = " (the weight looks transposed)" if shape in ((d,), (d, m)) else ""
        found.append(f"gradient must have shape (m,) = ({m},) or (m, d) = ({m}, {d}); got {shape}{turned}")
    for name in OPTIONAL:
        if name in shapes and shapes[name] != (m,):
            found.append(f"{name} must have shape ({m},); got {shapes[name]}")
    return tuple(found)
