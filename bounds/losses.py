"""The losses of frameworks, as options: what each makes of the residuals f(x_i) - y_i.

A gradient holds ``dL/df_i``. For a squared loss that is ``(f_i - y_i)`` over ``to_model``, the number by which the gradient
is multiplied so that it is the one of the model's loss, half the sum of squares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bounds import checks


@dataclass(frozen=True)
class Loss:
    """A squared loss of one output. pytorch: how it is written there; half: of half the squares; mean: over the
    batch (and the outputs), or the sum."""

    name: str
    pytorch: str
    half: bool
    mean: bool

    def to_model(self, batch_size: int) -> float:
        """What makes of this loss's gradient that of half the sum of squares; exact for a batch of any size."""
        return (1.0 if self.half else 0.5) * (batch_size if self.mean else 1)


#: By name. The model's own is half-mse-sum.
LOSSES: Mapping[str, Loss] = {
    loss.name: loss
    for loss in (
        Loss("mse-mean", "nn.MSELoss()", half=False, mean=True),
        Loss("mse-sum", "nn.MSELoss(reduction='sum')", half=False, mean=False),
        Loss("half-mse-mean", "nn.MSELoss() / 2", half=True, mean=True),
        Loss("half-mse-sum", "nn.MSELoss(reduction='sum') / 2", half=True, mean=False),
    )
}

#: Losses that are known by name and not covered.
NOT_COVERED: Mapping[str, str] = {
    "cross-entropy": "nn.CrossEntropyLoss() is one of several outputs, which are not covered yet",
}

#: Names that leave a factor of 2 open, and what they may mean.
_AMBIGUOUS: Mapping[str, tuple[str, str]] = {
    "mean": ("mse-mean", "half-mse-mean"),
    "sum": ("mse-sum", "half-mse-sum"),
}


def loss_of(name: str | None) -> Loss | None:
    """The loss of that name; None for None. Raises ``ValueError`` for another name, one that is not covered, and one that
    does not say whether there is a factor of 1/2."""
    if name is None:
        return None
    checks.instance("loss", name, str)
    if name in NOT_COVERED:
        raise ValueError(
            f"loss must be a squared loss of one output ({', '.join(LOSSES)}); got {name}: {NOT_COVERED[name]}"
        )
    if name in _AMBIGUOUS:
        whole, half = (LOSSES[n] for n in _AMBIGUOUS[name])
        raise ValueError(
            f"loss must say whether there is a factor of 1/2: {whole.name} ({whole.pytorch}) or {half.name} "
            f"({half.pytorch}); got {name}"
        )
    return LOSSES[checks.choice("loss", name, tuple(LOSSES))]


def explained() -> str:
    """One line for a help text."""
    return "; ".join(f"{loss.name}: {loss.pytorch}" for loss in LOSSES.values())
