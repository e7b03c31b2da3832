"""From moments in the span to signed directions: decomposition, norms, signs."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import scipy
import torch

from attack.networks.activation import apply_activation
from attack.networks.two_layer import TwoLayerNet
from attack.stream import total
from attack.streams import numpy_generator
from attack.tensor.decompose import Decomposition, decompose
from bounds import TensorAttack
from bounds.estimator import EQUAL_NORMS
from bounds.gaussian.activations import ZERO

#: With unequal norms, a label further than this from +-1 makes their assignment doubtful.
LABEL_DOUBT = 0.25


#: Signs count as known if the second best choice of them leaves this many times the squared residual of the best one.
CLEAR_SIGNS = 2.0


#: Residuals below this fraction of the gradient's power are rounding: no choice is better than another there.
ROUNDING = 1e-9


#: Signs are searched among all 2^B choices up to this B, and reported as unknown beyond.
MANY_SIGNS = 10


def coefficients(net: TwoLayerNet, order: int, norms: np.ndarray) -> np.ndarray:
    return np.array([net.activation.coefficient(order, float(n)) for n in norms])


def fit_moments(
    net: TwoLayerNet,
    public: tuple[float, ...],
    low: np.ndarray,
    core: np.ndarray,
    attack: TensorAttack,
    seed: int,
) -> tuple[Decomposition, np.ndarray, tuple[str, ...]]:
    """The decomposition of the low moment and the core, the norm of each of its components (out of the public ones), and
    warnings."""
    norms = np.array(public)
    weight = attack.weight(core.ndim, low.ndim)

    def run(norms: np.ndarray, guess: np.ndarray | None = None) -> Decomposition:
        ratio = coefficients(net, core.ndim, norms) / coefficients(net, low.ndim, norms)
        generator = numpy_generator(seed, "starts", 1)
        return decompose(low, core, ratio, weight, attack.starts, generator, guess)

    if np.ptp(norms) <= EQUAL_NORMS * norms.max():
        return run(norms), norms, ()
    # Unequal norms: fit with a common ratio, give each component the norm that brings its label nearest to +-1, fit again.
    first = run(np.full_like(norms, norms.mean()))
    residuals = first.alpha[:, None] / coefficients(net, low.ndim, norms)
    if low.ndim % 2:  # known up to a sign
        residuals = np.stack([residuals, -residuals])
    distance = np.abs(np.abs(coefficients(net, 0, norms) - residuals) - 1)
    distance = distance.min(axis=0) if low.ndim % 2 else distance
    rows, columns = scipy.optimize.linear_sum_assignment(distance)
    assigned = norms[columns]
    again = run(assigned, first.directions)
    # The second fit has one start; how far its starts agree is known from the first.
    fitted = dataclasses.replace(
        again, agreeing=first.agreeing, starts=first.starts, complex_starts=first.complex_starts
    )
    worst = float(distance[rows, columns].max())
    warnings = (
        (f"norms assigned by labels that are up to {worst:.2f} away from +-1",) if worst > LABEL_DOUBT else ()
    )
    return fitted, assigned, warnings


def signed_directions(
    net: TwoLayerNet, fitted: Decomposition, first: torch.Tensor, norms: np.ndarray, orders: tuple[int, int]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Directions with the sign that the first moment ``sum_i r_i c_1 u_i`` gives (an odd core has fixed it already, or, with
    an odd low moment, leaves the sign of a residual together with its feature's)."""
    low, order = orders
    if order % 2:
        return fitted.directions, ()
    linear = coefficients(net, 1, norms)
    if np.min(np.abs(linear)) <= ZERO:
        return fitted.directions, ("signs are not identified: mu_1 = 0",)
    residuals = fitted.alpha / coefficients(net, low, norms)
    weights = np.linalg.lstsq(fitted.directions.T, first.cpu().numpy(), rcond=None)[0]
    signs = np.where(weights * residuals * linear < 0, -1.0, 1.0)
    return fitted.directions * signs[:, None], ()


def signs_by_fit(
    net: TwoLayerNet, gradient: torch.Tensor, features: torch.Tensor
) -> tuple[torch.Tensor, bool]:
    """Signs (B,) of the features, and whether they stay unknown (all +1 then).

    Moments of odd order know (x, r) and (-x, -r) only together. Which of the 2^B choices is right is told by the residual
    that least squares of g on ``sigma(s_i W xhat_i)`` leaves: an exact tie for an odd activation, a constant's worth of
    difference for one that is odd up to a constant (sigmoid), and a difference of its own for any other. The best choice
    is taken if the second leaves ``CLEAR_SIGNS`` times as much. Noise adds the same to both, so it makes signs unknown, not
    wrong. One pass over W and 2^B systems of size B; beyond B = ``MANY_SIGNS`` signs are not searched.
    """
    B = features.shape[0]
    ones = torch.ones(B, device=features.device, dtype=torch.float64)
    if B > MANY_SIGNS:
        return ones, True
    guesses = features.to(net.dtype)

    def kernel(rows: slice, W: torch.Tensor) -> torch.Tensor:
        inside = guesses @ W.T
        hidden = apply_activation(net.activation, torch.cat([inside, -inside])).double()
        columns = torch.cat([hidden, gradient[rows].double()[None]])
        return columns @ columns.T

    seen = total(net, kernel).cpu().numpy()
    flipped = np.array(list(itertools.product((0, 1), repeat=B)))
    index = np.arange(B) + B * flipped
    right = seen[index, -1]
    fitted = np.linalg.pinv(seen[index[:, :, None], index[:, None, :]], hermitian=True) @ right[:, :, None]
    power = float(seen[-1, -1])
    left = np.maximum(power - np.sum(right * fitted[:, :, 0], axis=1), 0.0) + ROUNDING * power
    best, second = np.argsort(left, kind="stable")[:2]
    if not left[second] > CLEAR_SIGNS * left[best]:
        return ones, True
    return torch.from_numpy(1.0 - 2.0 * flipped[best]).to(features.device), False
