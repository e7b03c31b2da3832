"""First-order error of the tensor attack on the gradient of the first layer, ``dL/dW``, with its constants.

The rows ``G_j = (1/m) sum_i r_i sigma'(w_j.x_i) x_i`` lie in the span of the features, so without noise the span is exact
and the error is inside it alone, whatever d is. To first order in 1/sqrt(m), with ``c = sum_i r_i tau_i(z.u_i) u_i``,
``tau_i(t) = n_i sigma'(n_i t)``, and noise of standard deviation sigma on the entries as seen
(bounds/proofs/first-layer-gradient.md),

    E|e_perp,i|^2 = n_i^2 (d - B)/m * s^2 u_i.(C^-1 + s^2 C^-2) u_i,    C = E[c c^T],  s = m sigma,
    E|e_par,i|^2  = n_i^2 / m * sum_t E[(L_it[h_k, He_{k-1}(z)] + M_it[h_q, He_{q-1}(z)])^2] + white part of the noise,

where h_k is c, or for residualized moments c less its Hermite components of order below k - 1.

This is another observation than the gradient of the output weights (``unbiased.py``): neither formula says
anything about the other one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from bounds import checks
from bounds.arrays import Array
from bounds.errors import UnsupportedBound
from bounds.estimator import EQUAL_NORMS, TensorAttack, moment_orders
from bounds.gaussian.activations import ZERO, Activation
from bounds.gaussian.quadrature import hermite, plane_moments
from bounds.kinds.fit_model import solution_map
from bounds.kinds.pairs import inner_product, planes, product_moment
from bounds.kinds.supported import ILL_POSED, check_independent
from bounds.setting import Setting
from bounds.statement import BoundValue

#: Which function of the pair's coordinates an index of the table means: what enters the low moment, the core, the rows of G.
LOW, CORE, ROWS = range(3)


@dataclass(frozen=True)
class FirstLayerConstants:
    """``E|e_par,i|^2 = inplane_i/m`` without noise; with noise of standard deviation s/m on the entries as seen
    ``+ s^2 white_i/m``, and ``E|e_perp,i|^2 = (d - B)/m (s^2 linear_i + s^4 square_i)``. All
    (B,). ``weakest``: smallest eigenvalue of C; first order needs s^2 over it to be small beside sqrt(m/d)."""

    inplane: Array
    white: Array
    linear: Array
    square: Array
    weakest: float


def first_layer_constants(setting: Setting, attack: TensorAttack) -> FirstLayerConstants:
    """The constants of the prediction. Raises ``UnsupportedBound`` where ``first_layer_prediction`` does."""
    low, order = _orders(setting)
    directions, norms, residuals = setting.directions, setting.norms, setting.residuals
    c_low, c_core = (np.array([setting.activation.coefficient(k, n) for n in norms]) for k in (low, order))
    alpha = residuals * c_low
    check_independent(setting)
    table = _table(setting, attack.residualized, low, order)
    rows = np.zeros((setting.B, setting.B))  # E tau_i tau_k
    for i, k, _, moments in table:
        rows[i, k] = rows[k, i] = moments[ROWS, ROWS, 0, 0]
    covariance = directions.T @ (np.outer(residuals, residuals) * rows) @ directions
    linear = np.sum(directions.T * np.linalg.solve(covariance, directions.T), axis=0)
    square = np.sum(np.linalg.solve(covariance, directions.T) ** 2, axis=0)
    inplane, white = np.zeros(setting.B), np.zeros(setting.B)
    if setting.B > 1:
        left, right = solution_map(directions, alpha, c_core / c_low, (low, order), attack.weight(order, low))
        variance = (
            _second_moment(table, setting, LOW, LOW, left, left)
            + 2 * _second_moment(table, setting, LOW, CORE, left, right)
            + _second_moment(table, setting, CORE, CORE, right, right)
        )
        flat = math.factorial(low - 1) * inner_product(left, left) + math.factorial(
            order - 1
        ) * inner_product(right, right)
        inplane, white = (v.reshape(setting.B, setting.B - 1).sum(axis=1) for v in (variance, flat))
    inplane, white, linear, square = (norms**2 * v for v in (inplane, white, linear, square))
    return FirstLayerConstants(inplane, white, linear, square, float(np.linalg.eigvalsh(covariance)[0]))


def first_layer_prediction(
    setting: Setting, attack: TensorAttack | None = None, sigma: float = 0.0
) -> BoundValue:
    """PREDICTED for ``attack.first_layer_attack`` on ``dL/dW``, seen with noise of standard deviation ``sigma`` on every
    entry (of size 1/m): the root mean square over trials of R (sign-free for odd activations).

    Without noise the value does not depend on d, and for B = 1 it is exactly zero: the direction is that of every row.
    ``details``: "orthogonal" and "inplane" (the two parts of R), "K_par" (B-mean of m E|e_par|^2, noise included), "K_perp"
    (that of m/(d - B) E|e_perp|^2), and "noise_over_signal", s^2 over the weakest eigenvalue of C. ``attack.same_neuron``
    and ``attack.contraction`` play no part.

    Raises ``UnsupportedBound`` for an activation without a derivative or that the attack does not cover, a vanishing
    residual or coefficient, dependent features, an even core without signs (mu_1 = 0), several groups, and unequal norms
    with labels other than +-1 or an odd activation; ``ValueError`` or ``TypeError`` on bad input.
    """
    checks.instance("setting", setting, Setting)
    attack = TensorAttack() if attack is None else attack
    checks.instance("attack", attack, TensorAttack)
    spread = (setting.m * checks.real("sigma", sigma, 0.0)) ** 2
    found = first_layer_constants(setting, attack)
    K_par = float(np.mean(found.inplane + spread * found.white))
    K_perp = float(np.mean(spread * found.linear + spread**2 * found.square))
    inplane, orthogonal = K_par / setting.m, (setting.d - setting.B) * K_perp / setting.m
    details = {
        "orthogonal": math.sqrt(orthogonal),
        "inplane": math.sqrt(inplane),
        "K_perp": K_perp,
        "K_par": K_par,
    }
    return BoundValue(
        math.sqrt(orthogonal + inplane),
        "first-order root mean square error on the gradient of the first layer, constants by quadrature",
        (
            "w_j ~ N(0, I_d), a_j = 1/m, squared loss summed over the batch",
            "dL/dW is seen, the gradient of the output weights is not",
            "features linearly independent with known norms, no vanishing residual",
            "sigma' exists; mu_2 != 0 and mu_3 or mu_4 != 0, or (sign-free) mu_2 = 0 and mu_1, mu_3 != 0",
            "first order: exact as m grows with d and m sigma fixed",
        ),
        "bounds/proofs/first-layer-gradient.md (ours)",
        statistic="root mean square over trials of R",
        details=details | {"noise_over_signal": spread / found.weakest},
    )


def _orders(setting: Setting) -> tuple[int, int]:
    activation, norms = setting.activation, setting.norms
    if activation.derivative is None:
        raise UnsupportedBound(
            f"not proved: activation {activation.name!r} has no derivative to see dL/dW by"
        )
    try:
        low, order = moment_orders(activation)
    except ValueError as error:
        raise UnsupportedBound(f"not proved for this activation: {error}") from error
    if len(set(setting.groups)) > 1:
        raise UnsupportedBound("not proved: features in several groups")
    if setting.kappa > 1 / ILL_POSED:
        raise UnsupportedBound(f"ill-posed: a residual vanishes, r* = {setting.residuals.tolist()}")
    needed = (low, order) if order % 2 else (1, low, order)
    if min(abs(activation.coefficient(k, float(n))) for k in needed for n in norms) <= ZERO:
        raise UnsupportedBound(
            f"not proved: a Hermite coefficient of order {needed} vanishes at one of the norms {norms.tolist()}"
        )
    if np.ptp(norms) > EQUAL_NORMS * norms.max() and (low == 1 or np.any(np.abs(setting.labels) != 1)):
        raise UnsupportedBound(
            "not proved: with unequal norms labels must be +-1, by which norms are assigned, and mu_2 != 0"
        )
    return low, order


@lru_cache(maxsize=4096)
def _slope_moments(
    activation: Activation,
    residualized: bool,
    low: int,
    order: int,
    norms: tuple[float, float],
    cosine: float,
) -> Array:
    """``N[p, q, a, b]`` of the pair, p and q in (LOW, CORE, ROWS)."""
    derivative = activation.derivative
    assert derivative is not None
    if activation.homogeneous and norms != (1.0, 1.0):
        return norms[0] * norms[1] * _slope_moments(activation, residualized, low, order, (1.0, 1.0), cosine)

    def functions(norm: float) -> Callable[[Array], Array]:
        # E[tau He_l] = c_{l+1}: the Hermite components of tau are the activation's, shifted
        components = np.array([activation.coefficient(k + 1, norm) / math.factorial(k) for k in range(order)])

        def stack(t: Array) -> Array:
            raw = np.broadcast_to(norm * np.asarray(derivative(norm * t), dtype=float), t.shape)
            if not residualized:
                return np.stack([raw] * 3)
            parts = components[:, None] * hermite(order - 1, t.ravel())
            below = [parts[: k - 1].sum(axis=0).reshape(t.shape) for k in (low, order)]
            return np.stack([raw - below[0], raw - below[1], raw])

        return stack

    f_kinks, g_kinks = ([k / n for k in activation.kinks] for n in norms)
    f, g = (functions(n) for n in norms)
    return plane_moments(f, g, cosine, 2 * (order - 1), f_kinks, g_kinks, scale=max(norms))


#: For every pair i <= k: both numbers, an orthonormal basis of its plane (B, 2), and its moments.
_Table = list[tuple[int, int, Array, Array]]


def _table(setting: Setting, residualized: bool, low: int, order: int) -> _Table:
    norms = [float(n) for n in setting.norms]
    return [
        (
            i,
            k,
            plane,
            _slope_moments(
                setting.activation, residualized, low, order, (norms[i], norms[k]), round(cosine, 15)
            ),
        )
        for i, k, cosine, plane in planes(setting.directions)
    ]


def _second_moment(table: _Table, setting: Setting, p: int, q: int, left: Array, right: Array) -> Array:
    """``E[left_n[c_p, He_{a-1}(z)] right_n[c_q, He_{b-1}(z)]]`` (n,), symmetric tensors of orders a, b stacked on axis 0.

    ``left[u_i, ...]`` is a tensor of order a - 1, so that each pair of features gives plane integrals as before.
    """
    u, r = setting.directions, setting.residuals
    lefts, rights = ([np.tensordot(tensor, v, axes=([1], [0])) for v in u] for tensor in (left, right))
    total = np.zeros(left.shape[0])
    for i, k, plane, moments in table:
        total += r[i] * r[k] * product_moment(moments[p, q], plane, lefts[i], rights[k])
        if i != k:  # the other order: the core's function of feature i against the low moment's of feature k
            total += r[i] * r[k] * product_moment(moments[q, p], plane, rights[i], lefts[k])
    return total
