"""The losses of frameworks, as options: what each makes of the residuals f(x_i) - y_i.

A gradient holds ``dL/df_i``. For a squared loss that is ``(f_i - y_i)`` over ``to_model``, the number by which the gradient
is multiplied so that it is the one of the model's loss, half the sum of squares. For cross-entropy ``to_model`` makes of it
the probabilities less the one-hot label, ``softmax(f_i) - e_(y_i)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bounds import checks


@dataclass(frozen=True)
class Loss:
    """A squared loss, or cross-entropy of several outputs with classes as labels. pytorch: how it is written there; half: of
    half the squares; mean: over the batch (of squares over the outputs too), or the sum."""

    name: str
    pytorch: str
    half: bool
    mean: bool
    classes: bool = False

    def to_model(self, batch_size: int, outputs: int = 1) -> float:
        """What makes of this loss's gradient that of half the sum of squares, or of the sum of cross-entropies; exact for a
        batch of any size."""
        if self.classes:
            return float(batch_size) if self.mean else 1.0
        return (1.0 if self.half else 0.5) * (batch_size * outputs if self.mean else 1)


#: By name. The model's own is half-mse-sum.
LOSSES: Mapping[str, Loss] = {
    loss.name: loss
    for loss in (
        Loss("mse-mean", "nn.MSELoss()", half=False, mean=True),
        Loss("mse-sum", "nn.MSELoss(reduction='sum')", half=False, mean=False),
        Loss("half-mse-mean", "nn.MSELoss() / 2", half=True, mean=True),
        Loss("half-mse-sum", "nn.MSELoss(reduction='sum') / 2", half=True, mean=False),
        Loss("cross-entropy-mean", "nn.CrossEntropyLoss()", half=False, mean=True, classes=True),
        Loss(
            "cross-entropy-sum", "nn.CrossEntropyLoss(reduction='sum')", half=False, mean=False, classes=True
        ),
    )
}

#: Names that leave something open, what that is, and what they may mean.
_AMBIGUOUS: Mapping[str, tuple[str, str, str]] = {
    "mean": ("whether there is a factor of 1/2", "mse-mean", "half-mse-mean"),
    "sum": ("whether there is a factor of 1/2", "mse-sum", "half-mse-sum"),
    "cross-entropy": ("whether it is the mean or the sum", "cross-entropy-mean", "cross-entropy-sum"),
}


def loss_of(name: str | None) -> Loss | None:
    """The loss of that name; None for None. Raises ``ValueError`` for another name, and one that leaves a factor open."""
    if name is None:
        return None
    checks.instance("loss", name, str)
    if name in _AMBIGUOUS:
        what, *either = _AMBIGUOUS[name]
        one, other = (LOSSES[n] for n in either)
        raise ValueError(
            f"loss must say {what}: {one.name} ({one.pytorch}) or {other.name} ({other.pytorch}); got {name}"
        )
    return LOSSES[checks.choice("loss", name, tuple(LOSSES))]


def explained() -> str:
    """One line for a help text."""
    return "; ".join(f"{loss.name}: {loss.pytorch}" for loss in LOSSES.values())
