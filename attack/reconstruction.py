"""What an attack returns, and how sure it may be of itself."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Diagnostics:
    """How sure the attack may be of itself.

    status: "ok", "suspect" (see warnings) or "failed". gap: weakest eigenvalue of the span over the edge of the noise.
    misfit: objective of the fit over the squared norm of its data. agreeing: starts that ended at the same solution.
    passes: passes over the weights. sign_free: each feature is known up to its sign only, its residual with it, and its
    label not at all (odd activations: (x, r) and (-x, -r) give the same gradient).
    """

    status: str
    warnings: tuple[str, ...]
    gap: float
    eigenvalues: tuple[float, ...]
    noise_edge: float
    passes: int
    misfit: float | None = None
    agreeing: int | None = None
    starts: int | None = None
    complex_starts: int | None = None
    sign_free: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a record."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}


class ReconstructionError(RuntimeError):
    """The attack has no result to return; ``diagnostics`` say what it saw."""

    def __init__(self, reason: str, diagnostics: Diagnostics) -> None:
        super().__init__(reason)
        self.diagnostics = diagnostics


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """features (B, d), residuals (B,), labels (B,), in no particular order, and diagnostics.

    Float64, on the network's device. residuals are those that the gradient as it was sent is made of, and labels are f(x)
    less these: a defense that rescales residuals (clipping, several local steps) or bends entries (pruning, rounding to
    the nearest, clamping) moves both, and directions tell nothing of that.
    """

    features: torch.Tensor
    residuals: torch.Tensor
    labels: torch.Tensor
    diagnostics: Diagnostics
