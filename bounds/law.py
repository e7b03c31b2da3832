"""What a defense does to the gradient, as far as theory needs to know: its law.

Let the server see ``gtilde_j``, a function of the neurons' coordinates ``z_1, ..., z_m`` in the span and independent
randomness. Given all z the parts of the weights outside the span stay independent Gaussians, so the span is found with an
error that depends on the channel only through ``E[gtilde | z]`` and ``E[gtilde^2 | z]`` (bounds/proofs/channel-theorem.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from bounds.arrays import Array


@dataclass(frozen=True)
class Clipping:
    """The vector of the entries, or every sample's own, times ``min(1, max_norm/|.|)``."""

    max_norm: float
    per_sample: bool


@dataclass(frozen=True, eq=False)
class Unbiased:
    """``gtilde_j = c (sum_i r_i sigma(w_j.x_i) + eps_j)`` for some c > 0, up to what does not matter at first order, with
    ``E[eps | z] = 0`` and ``E[eps^2 | z] = variance + sum_il masking_il sigma_i sigma_l``.

    residuals (B,): r, which a defense may change; masking (B, B) symmetric positive semidefinite. ``keeps_labels``: c and
    r are those of the undefended gradient, so that the attack can read labels off, by which it assigns unequal norms.
    ``inexact``: why the above is not exact with the undefended residuals and independent Gaussian eps (what is proved of
    every width needs that); empty where it is. ``clipping``: what is done to the clean entries before anything is added,
    where that is all that is not exact.
    """

    residuals: Array
    variance: float = 0.0
    masking: Array | None = None
    keeps_labels: bool = True
    inexact: str = (
        "the law does not say that the defense adds independent Gaussian noise and does nothing else"
    )
    clipping: Clipping | None = None


@dataclass(frozen=True)
class Elementwise:
    """``gtilde_j = h(g_j, xi_j)`` for independent xi: ``mean(g, *parameters) = E h``, ``second(g, *parameters) = E h^2``,
    elementwise on arrays g.

    unbiased: ``mean(g) = c g``. Else the components of the moments are no longer the features, and for B >= 2 an error of
    the tensor attack is left that no width removes. Laws with the same functions and equal parameters are equal, and what
    is computed of one (a fit that may take seconds) is kept for the other; functions made inside ``law`` are new each time.
    """

    mean: Callable[..., Array]
    second: Callable[..., Array]
    unbiased: bool
    parameters: tuple[float, ...] = ()


@dataclass(frozen=True)
class Pruned:
    """``gtilde_j = y_j`` where ``|y_j|`` is among the largest, else 0, of ``y_j = g_j + sigma N_j``, N independent standard
    normal: the fraction ``ratio`` of the entries is removed."""

    ratio: float
    sigma: float = 0.0

    @property
    def unbiased(self) -> bool:
        return self.ratio == 0


#: What theory speaks about; a defense names the one that it has as the return type of its ``law``.
Law: TypeAlias = Unbiased | Elementwise | Pruned
