"""What a server is taken to know beside the gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attack.rows.sparse_recovery import slopes
from bounds import Activation, checks, resolve_activation
from bounds.estimator import EQUAL_NORMS


@dataclass(frozen=True, eq=False)
class Known:
    """What is not known is None. activation; B: number of features; norms (B,): public norms of the features; scale:
    standard deviation of the weights' entries, which is measured where None; loss: "sum" or "mean" over the batch of half
    the squared error."""

    activation: Activation
    B: int
    norms: tuple[float, ...] | None = None
    scale: float | None = None
    loss: str | None = None

    @staticmethod
    def of(
        batch_size: int,
        activation: str | Activation = "relu",
        norms: Sequence[float] | None = None,
        *,
        scale: float | None = None,
        loss: str | None = None,
    ) -> Known:
        """From arguments as a user gives them. Raises ``ValueError`` or ``TypeError``."""
        B = checks.integer("batch_size", batch_size, 1)
        if loss is not None:
            checks.choice("loss", loss, ("sum", "mean"))
        function = resolve_activation(activation)
        if scale is not None and checks.real("scale", scale, 0.0) == 0.0:
            raise ValueError("scale must be positive; got 0")
        if norms is None:
            return Known(function, B, None, scale, loss)
        public = checks.array("norms", norms, (None,))
        if len(public) != B:
            raise ValueError(f"norms must have B = {B} entries; got {len(public)}")
        if not np.all(public > 0):
            raise ValueError(f"norms must be positive; got {public.min():g}")
        return Known(function, B, tuple(public.tolist()), scale, loss)

    @property
    def posed_norms(self) -> tuple[float, ...]:
        """The norms (B,) with which the problem is posed: 1 where they are not known."""
        return (1.0,) * self.B if self.norms is None else self.norms

    @property
    def summed(self) -> float:
        """What the gradient is multiplied with to be that of the loss summed over the batch; 1 where that is not known."""
        return float(self.B) if self.loss == "mean" else 1.0

    @property
    def equal_norms(self) -> bool:
        """Whether no label is needed to tell which feature has which norm."""
        norms = self.posed_norms
        return max(norms) - min(norms) <= EQUAL_NORMS * max(norms)

    @property
    def homogeneous(self) -> bool:
        """Whether the unit of the weights plays no part."""
        return homogeneous(self.activation)


def homogeneous(activation: Activation) -> bool:
    """Whether ``sigma(c z) = c sigma(z)`` for c > 0: ReLU, leaky ReLU and their like."""
    try:
        slopes(activation)
    except ValueError:
        return False
    return True
