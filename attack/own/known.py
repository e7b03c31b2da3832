"""What a server is taken to know beside the gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attack.own.gradient import SharedGradient
from attack.rows.sparse_recovery import slopes
from bounds import Activation, checks, resolve_activation
from bounds.estimator import EQUAL_NORMS
from bounds.losses import MODEL, Loss, loss_of


@dataclass(frozen=True, eq=False)
class Known:
    """activation; norms (B,): public norms of the features; scale: standard deviation of the weights' entries, None where it
    is measured; loss: None where it is not told, and taken for the model's."""

    activation: Activation
    norms: tuple[float, ...]
    scale: float | None = None
    loss: Loss | None = None

    @staticmethod
    def of(
        batch_size: int,
        activation: str | Activation = "relu",
        norms: Sequence[float] | None = None,
        *,
        scale: float | None = None,
        loss: str | None = None,
    ) -> Known:
        """From arguments as a user gives them; norms are 1 where None. Raises ``ValueError`` or ``TypeError``."""
        B = checks.integer("batch_size", batch_size, 1)
        told = loss_of(loss)
        function = resolve_activation(activation)
        if scale is not None and checks.real("scale", scale, 0.0) == 0.0:
            raise ValueError("scale must be positive; got 0")
        if norms is None:
            return Known(function, (1.0,) * B, scale, told)
        public = checks.array("norms", norms, (None,))
        if len(public) != B:
            raise ValueError(f"norms must have B = {B} entries; got {len(public)}")
        if not np.all(public > 0):
            raise ValueError(f"norms must be positive; got {public.min():g}")
        return Known(function, tuple(public.tolist()), scale, told)

    @property
    def B(self) -> int:
        return len(self.norms)

    @property
    def to_model(self) -> float:
        """What makes of the gradient that of the model's loss."""
        return (MODEL if self.loss is None else self.loss).to_model(self.B)

    @property
    def equal_norms(self) -> bool:
        """Whether no label is needed to tell which feature has which norm."""
        return max(self.norms) - min(self.norms) <= EQUAL_NORMS * max(self.norms)

    @property
    def homogeneous(self) -> bool:
        """Whether the unit of the weights plays no part."""
        return homogeneous(self.activation)


def activation_of(shared: SharedGradient, told: str | Activation | None) -> Activation:
    """The activation that is told, else the one that came with the arrays, else ReLU. ``ValueError`` where those two
    differ."""
    came = shared.activation
    if told is None:
        return resolve_activation("relu") if came is None else came
    function = resolve_activation(told)
    if came is not None and came is not function:
        raise ValueError(
            f"activation must be {came.name}, which came with the gradient, or not given; got {function.name}"
        )
    return function


def homogeneous(activation: Activation) -> bool:
    """Whether ``sigma(c z) = c sigma(z)`` for c > 0: ReLU, leaky ReLU and their like."""
    try:
        slopes(activation)
    except ValueError:
        return False
    return True
