"""What a server is taken to know beside the gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attack.networks.modules import AnyActivation, activation_of
from attack.rows.sparse_recovery import slopes
from bounds import Activation, checks
from bounds.estimator import EQUAL_NORMS
from bounds.losses import Loss, loss_of


@dataclass(frozen=True, eq=False)
class Known:
    """What is not known is None. activation; B: number of features, 0 where it is to be found, and counted, whether it was;
    norms (B,): public norms of the features; scale: standard deviation of the weights' entries, which is measured where
    None; loss: one of ``bounds.losses``."""

    activation: Activation
    B: int
    norms: tuple[float, ...] | None = None
    scale: float | None = None
    loss: Loss | None = None
    counted: bool = False

    @staticmethod
    def of(
        batch_size: int | None = None,
        activation: AnyActivation | None = None,
        norms: Sequence[float] | None = None,
        *,
        scale: float | None = None,
        loss: str | None = None,
    ) -> Known:
        """From arguments as a user gives them; activation: that of a ``SharedGradient`` where one came with it, ReLU where
        None; batch_size: where None that of the norms, or to be found; loss: a name of ``bounds.losses.LOSSES``. Raises
        ``ValueError`` or ``TypeError``."""
        if batch_size is None:
            batch_size = 0 if norms is None else len(checks.array("norms", norms, (None,)))
        else:
            checks.integer("batch_size", batch_size, 1)
        B = int(batch_size)
        told = loss_of(loss)
        function = activation_of("relu" if activation is None else activation)
        if scale is not None and checks.real("scale", scale, 0.0) == 0.0:
            raise ValueError("scale must be positive; got 0")
        if norms is None:
            return Known(function, B, None, scale, told)
        public = checks.array("norms", norms, (None,))
        if len(public) != B:
            raise ValueError(f"norms must have B = {B} entries; got {len(public)}")
        if not np.all(public > 0):
            raise ValueError(f"norms must be positive; got {public.min():g}")
        return Known(function, B, tuple(public.tolist()), scale, told)

    @property
    def posed_norms(self) -> tuple[float, ...]:
        """The norms (B,) with which the problem is posed: 1 where they are not known."""
        return (1.0,) * self.B if self.norms is None else self.norms

    @property
    def to_model(self) -> float:
        """What the gradient is multiplied with to be that of the model's loss; 1 where the loss is not known."""
        return 1.0 if self.loss is None else self.loss.to_model(self.B)

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
    """Whether ``sigma(c z) = c sigma(z)`` for c > 0: ReLU, leaky ReLU of any slope, and their like."""
    if activation.kinks not in ((), (0.0,)):
        return False
    points, function = np.linspace(0.0, 30.0, 301), activation.function
    return all(
        np.allclose(function(side * points), points * function(np.array([side])), rtol=1e-12, atol=0.0)
        for side in (-1.0, 1.0)
    )


def recoverable(activation: Activation) -> bool:
    """Whether ``sparse_recovery`` covers it."""
    try:
        slopes(activation)
    except ValueError:
        return False
    return True
