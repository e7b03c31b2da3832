"""A gradient that a user brings: arrays from any framework, or a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attack.own.findings import Finding
from bounds import checks

#: Names of the arrays in a file.
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

        Raises ``TypeError`` for what is not a real array, ``ValueError`` for a weight that is not a matrix; every further
        misfit is a finding of ``check_gradient``.
        """
        W = _tensor("weight", weight)
        if W.ndim != 2 or 0 in W.shape:
            raise ValueError(f"weight must have shape (m, d); got {tuple(W.shape)}")
        vectors = {"bias": bias, "output_weight": output_weight, "bias_gradient": bias_gradient}
        found = {k: None if v is None else _vector(_tensor(k, v), W) for k, v in vectors.items()}
        return SharedGradient(W, _vector(_tensor("gradient", gradient), W), **found)

    @property
    def m(self) -> int:
        return int(self.weight.shape[0])

    @property
    def d(self) -> int:
        return int(self.weight.shape[1])


def _tensor(name: str, value: Any) -> torch.Tensor:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    if isinstance(value, torch.Tensor):
        tensor = value
    else:
        try:
            raw = np.asarray(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"{name} must be an array of real numbers; got {type(value).__name__}") from error
        if raw.dtype.kind not in "iuf":
            raise TypeError(f"{name} must be an array of real numbers; got values of type {raw.dtype}")
        tensor = torch.from_numpy(np.array(raw, dtype=np.float32 if raw.dtype == np.float32 else float))
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"{name} must be an array of real numbers; got values of type {tensor.dtype}")
    half = tensor.dtype in (torch.float16, torch.bfloat16)
    return tensor.float() if half or tensor.dtype == torch.float32 else tensor.double()


def _vector(value: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(1, m) and (m, 1) as (m,); with d = 1 an (m, 1) gradient would be both: it is taken as dL/da."""
    return (
        value.reshape(-1) if value.ndim == 2 and 1 in value.shape and value.numel() == len(weight) else value
    )


def read_gradient(path: str | Path) -> SharedGradient:
    """From an .npz or .safetensors file with arrays ``weight``, ``gradient`` and, optional, ``bias``, ``output_weight``
    and ``bias_gradient``.

    Nothing in the file is executed (no pickles). Raises ``ValueError`` for another ending, a file that cannot be read, and
    missing or unknown arrays; ``OSError`` where there is no file.
    """
    path = Path(path)
    readers: Mapping[str, Callable[[Path], dict[str, Any]]] = {".npz": _npz, ".safetensors": _safetensors}
    if path.suffix not in readers:
        raise ValueError(f"file must end in {' or '.join(readers)}; got {path.name}")
    if not path.is_file():
        raise FileNotFoundError(f"file must exist; got {path}")
    try:
        arrays = readers[path.suffix](path)
    except Exception as error:  # each format has its own kinds
        raise ValueError(f"file {path.name} cannot be read as {path.suffix}: {error}") from error
    missing = [name for name in REQUIRED if name not in arrays]
    unknown = sorted(set(arrays) - {*REQUIRED, *OPTIONAL})
    if missing or unknown:
        raise ValueError(
            f"file must hold the arrays {', '.join(REQUIRED)} and may hold {', '.join(OPTIONAL)}; "
            f"missing: {', '.join(missing) or 'none'}, unknown: {', '.join(unknown) or 'none'}"
        )
    return SharedGradient.from_arrays(**arrays)


def _npz(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(str(path)))


def _errors(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(f for f in findings if f.level == "error")


def _norms(norms: Sequence[float] | None, B: int) -> tuple[float, ...]:
    public = (1.0,) * B if norms is None else tuple(float(n) for n in norms)
    if len(public) != B:
        raise ValueError(f"norms must have B = {B} entries; got {len(public)}")
    for n in public:
        if checks.real("norms", n, 0.0) == 0.0:
            raise ValueError("norms must be positive; got 0")
    return public
