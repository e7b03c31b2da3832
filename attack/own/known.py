"""What a server is taken to know beside the gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attack.networks.modules import AnyActivation, activation_of
from attack.rows.sparse_recovery import slopes
from bounds import Activation, checks
from bounds.estimator import EQUAL_NORMS


@dataclass(frozen=True, eq=False)
class Known:
    """activation; norms (B,): public norms of the features; scale: standard deviation of the weights' entries, None where it
    is measured; loss: "sum" or "mean" over the batch."""

    activation: Activation
    norms: tuple[float, ...]
    scale: float | None = None
    loss: str = "sum"

    @staticmethod
    def of(
        batch_size: int,
        activation: AnyActivation = "relu",
        norms: Sequence[float] | None = None,
        *,
        scale: float | None = None,
        loss: str = "sum",
    ) -> Known:
        """From arguments as a user gives them; norms are 1 where None. Raises ``ValueError`` or ``TypeError``."""
        B = checks.integer("batch_size", batch_size, 1)
        checks.choice("loss", loss, ("sum", "mean"))
        function = activation_of(activation)
        if scale is not None and checks.real("scale", scale, 0.0) == 0.0:
            raise ValueError("scale must be positive; got 0")
        if norms is None:
            return Known(function, (1.0,) * B, scale, loss)
        public = checks.array("norms", norms, (None,))
        if len(public) != B:
            raise ValueError(f"norms must have B = {B} entries; got {len(public)}")
        if not np.all(public > 0):
            raise ValueError(f"norms must be positive; got {public.min():g}")
        return Known(function, tuple(public.tolist()), scale, loss)

    @property
    def B(self) -> int:
        return len(self.norms)

    @property
    def equal_norms(self) -> bool:
        """Whether no label is needed to tell which feature has which norm."""
        return max(self.norms) - min(self.norms) <= EQUAL_NORMS * max(self.norms)

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
