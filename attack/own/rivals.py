"""Which other activations would explain a gradient as well, with other norms: what a fit to rounding does not exclude.

``sigmoid'(z) = tanh'(z/2)/4``: from dL/dW alone nobody tells one from the other. Of small preactivations every smooth
activation shows no more than its first Taylor coefficients, which norms and residuals can imitate.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from attack.networks.activation import apply_activation, slopes_of
from attack.own.models import Arrays
from bounds import ACTIVATIONS, Activation

_Map = Callable[[torch.Tensor], torch.Tensor]

#: Neurons on which activations are compared, factors of a norm that are tried, Gauss-Newton steps from the best of them.
_NEURONS, _FACTORS, _STEPS = 300, tuple(5.0 ** (i / 15) for i in range(-15, 16)), 20

#: Half the step of central differences.
_STEP = 1e-5


def rivals(
    arrays: Arrays, activation: Activation, features: torch.Tensor, *, allowed: float, least: float
) -> tuple[str, ...]:
    """Names of activations that leave at most the share ``allowed`` of what ``activation`` makes of each of the features
    (B, d), in the frame's units, though the norm of one of them then differs by more than its fraction ``least``.

    dL/db beside dL/dW gives norms as a ratio, whatever the activation: there are none.
    """
    rows = arrays.gradient.ndim == 2
    if rows and arrays.bias_gradient is not None:
        return ()
    some = arrays.first(min(arrays.count, _NEURONS))
    shift = torch.zeros(some.count, dtype=torch.float64) if some.bias is None else some.bias
    inside = some.everywhere(features)
    found = []
    for rival in ACTIVATIONS.values():
        if rival.name == activation.name:
            continue
        own, other = (_map(a, rows) for a in (activation, rival))
        factors: list[float] = []
        for z in inside.T:
            factor = _imitated(other, own(z), z - shift, shift, allowed)
            if factor is None:
                break
            factors.append(factor)
        if len(factors) == len(features) and max(abs(k - 1) for k in factors) > least:
            found.append(rival.name)
    return tuple(found)


def _map(activation: Activation, rows: bool) -> _Map:
    return lambda t: slopes_of(activation, t) if rows else apply_activation(activation, t)


def _imitated(
    other: _Map, values: torch.Tensor, inner: torch.Tensor, shift: torch.Tensor, allowed: float
) -> float | None:
    """The factor k with which ``c other(k inner + shift)`` is nearest to the values; None where that leaves too much."""
    power = float(values.square().sum())

    def left(k: float) -> tuple[float, float]:
        column = other(k * inner + shift)
        c = float(column @ values) / max(float(column @ column), torch.finfo(column.dtype).tiny)
        return float((values - c * column).square().sum()), c

    factor = min(_FACTORS, key=lambda k: left(k)[0])
    for _ in range(_STEPS):
        remains, c = left(factor)
        if remains <= allowed * power:
            return factor
        t = factor * inner + shift
        slope = c * inner * (other(t + _STEP) - other(t - _STEP)) / (2 * _STEP)
        columns = torch.stack([other(t), slope], dim=1)
        step = torch.linalg.pinv(columns) @ (values - c * columns[:, 0])
        moved = max(-0.2 * factor, min(0.2 * factor, float(step[1])))
        if abs(moved) < 1e-12 * factor:
            return None
        factor += moved
    return None
