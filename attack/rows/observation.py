"""What the server sees of the first layer's gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from attack.client import Network
from attack.observation import Observed, observed
from bounds import Defense


@dataclass(frozen=True, eq=False)
class FirstLayerObservation(Observed):
    """One observed gradient with respect to the first layer's weights (a deep network's last hidden layer's): (m, d), with
    rows ``G_j = (1/m) sum_i r_i sigma'(w_j.x_i) x_i``. Entries are of size 1/m, and so is the noise, the rounding step or
    the limit that matters: a defense acts on the entries as seen."""

    layer = "hidden"
    axes = ("m", "d")
    attacks = "attack.rows"


def observe_first_layer(
    defense: Defense,
    net: Network,
    X: Any,
    y: Any,
    seed: int = 1,
    groups: Sequence[int] | None = None,
    *,
    norms: Sequence[float] | None = None,
) -> FirstLayerObservation:
    """What the server sees of ``dL/dW`` for the features ``X`` (B, d) with labels ``y`` (B,) under ``defense``; arguments as
    of ``observe``. Of a deep network it is the last hidden layer's gradient, (m, n), whose features are what that layer
    receives.

    ``GradientNoise(sigma)`` adds noise of standard deviation sigma to every one of the m d entries as they are seen, that
    is to numbers of size 1/m: the same sigma means far more here than on the gradient of the output weights. Clipping
    takes the norm over all of them, pruning the smallest of all. Raises ``ValueError`` or ``TypeError`` on bad input and
    for an activation without a derivative.
    """
    return observed(FirstLayerObservation, defense, net, X, y, seed=seed, groups=groups, norms=norms)
