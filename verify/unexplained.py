"""What errors of the size that theory predicts leave of a gradient unexplained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bounds import Activation, Setting, TensorAttack
from bounds.estimator import EQUAL_NORMS, moment_orders
from bounds.kinds.predicted.first_layer import first_layer_constants
from bounds.kinds.predicted.unbiased import first_order
from bounds.law import Unbiased

if TYPE_CHECKING:
    from attack.own.attack import GradientAttack

Array = NDArray[np.float64]

#: Draws and seed of the Gaussian averages in B dimensions: a relative accuracy of about 1 %.
DRAWS, SEED = 100_000, 11

#: Draws of the features' errors, and of Gaussians for each, for the share of dL/dW's power that they leave unexplained.
ERRORS, ROWS = 40, 2_000


def plug_in(attacked: GradientAttack, activation: Activation) -> Setting:
    """The setting with reconstructed features and residuals in place of the true ones, as the problem was posed."""
    from attack.own.coordinates import shifted

    function = shifted(activation, attacked.frame.posed.bias_mean)
    X = attacked.standard.features.cpu().numpy()
    norms = np.linalg.norm(X, axis=1)
    wide = np.array([function.coefficient(0, float(n)) for n in norms])
    labels = wide - attacked.standard.residuals.cpu().numpy()
    if np.ptp(norms) > EQUAL_NORMS * norms.max():  # theory speaks of labels +-1 there
        labels = np.where(labels < 0, -1.0, 1.0)
    return Setting.from_features(X, labels, attacked.neurons, function)


@dataclass(frozen=True)
class Unexplained:
    """Power of the gradient that errors of first-order size leave unexplained: ``quiet + of_noise s``, s the variance of
    noise on its entries."""

    quiet: float
    of_noise: float


def unexplained_power(setting: Setting, attack: TensorAttack) -> Unexplained:
    """What errors of first-order size leave unexplained.

    With errors e_i, ``g - sum_i r_i sigma(w.xhat_i) = sum_i r_i sigma'(w.x_i) w.e_i`` to first order. Orthogonal to the span
    ``E <e_i, e_l> = ((d - B)/m) n_i n_l E[(h^2 + s) q_i q_l]`` with ``q_i = z.A^-1 u_i``, or ``<Z_i, He_2(z)>`` where the
    third moment gives the span (bounds/proofs/unexplained-share.md, odd-activations.md), and w.e_i is independent of the
    span's part of w. Errors inside the span are smaller by 1/(d - B) in number, not in their constants: they are counted
    as independent of each other, orthogonal to their feature and of the size that first order gives them, which is two to
    four times what is left of them, as they compensate in part: it matters for d near B only. The noise itself (s) is left
    out. The averages are over ``DRAWS`` Gaussians in B dimensions.

    Raises ``UnsupportedBound`` where ``first_order`` does.
    """
    z = np.random.default_rng(SEED).standard_normal((DRAWS, setting.B))
    function, r, norms = setting.activation, setting.residuals, setting.norms
    u = z @ setting.directions.T
    hidden = function(u * norms)
    step = 1e-4 * norms
    slopes = (function(u * norms + step) - function(u * norms - step)) / (2 * step)
    h = hidden @ r
    if attack.residualized:
        c0, c1 = (np.array([function.coefficient(k, float(n)) for n in norms]) for k in (0, 1))
        h = h - (c0 + c1 * u) @ r
    q, white = _span_map(setting, z)
    share = (setting.d - setting.B) / setting.m * np.outer(norms * r, norms * r) * (slopes.T @ slopes / DRAWS)
    quiet = float(np.sum(share * ((q * (h**2)[:, None]).T @ q / DRAWS)))
    of_noise = float(np.sum(share * white))
    # In the span: none for B = 1.
    if setting.B > 1:
        silent = first_order(setting, attack).inplane
        noisy = first_order(setting, attack, Unbiased(setting.residuals, 1.0)).inplane - silent
        inside = (z**2).sum(axis=1, keepdims=True) - u**2  # |part of z orthogonal to u_i|^2
        weight = r**2 * np.mean(slopes**2 * inside, axis=0) / (setting.B - 1) / setting.m
        quiet += float(weight @ silent)
        of_noise += float(weight @ noisy)
    return Unexplained(quiet, of_noise)


def _span_map(setting: Setting, z: Array) -> tuple[Array, Array]:
    """q (N, B) of ``unexplained_power`` at the points z (N, B), and ``E[q_i q_l]`` (B, B)."""
    r, u = setting.residuals, setting.directions
    low = moment_orders(setting.activation)[0]
    order = 3 if low == 1 else 2
    strength = r * np.array([setting.activation.coefficient(order, float(n)) for n in setting.norms])
    if order == 2:
        a = np.linalg.pinv((u.T * strength) @ u) @ u.T
        return z @ a, a.T @ a
    unfolded = (u.T * strength) @ np.einsum("ia,ib->iab", u, u).reshape(len(u), -1)
    Z = (np.linalg.pinv(unfolded) @ u.T).T.reshape(len(u), *[len(u)] * 2)
    q = np.einsum("na,nb,iab->ni", z, z, Z, optimize=True) - np.einsum("iaa->i", Z)
    return q, 2 * np.einsum("iab,lab->il", Z, Z)


def unexplained_row_power(setting: Setting, attack: TensorAttack, sigma: float) -> float:
    """Share of dL/dW's power that errors of first-order size leave unexplained, with noise ``sigma`` on every entry.

    Inside the span only: outside it errors and noise are of one size, and the errors' share is smaller by 1/m. A guide, no
    first-order result: the features' errors are taken for independent of each other, while those of the fit compensate in
    part, and leave a quarter of this (smooth activations) to all of it (ReLU). Where the
    derivative jumps, as ReLU's does, the share grows as the errors and not as their squares, so it is measured: ``ERRORS``
    Gaussian errors of the predicted variance, orthogonal to each feature, on ``ROWS`` Gaussian neurons each.
    Raises ``UnsupportedBound`` where ``first_layer_prediction`` does.
    """
    constants = first_layer_constants(setting, attack)
    spread = (setting.m * sigma) ** 2
    B, u, n, r = setting.B, setting.directions, setting.norms, setting.residuals
    derivative = setting.activation.derivative
    assert derivative is not None  # first_layer_constants has seen to it
    sizes = np.sqrt((constants.inplane + spread * constants.white) / setting.m / max(B - 1, 1)) / n
    rng = np.random.default_rng(SEED)
    shares, powers = [], []
    for _ in range(ERRORS if B > 1 else 1):
        z = rng.standard_normal((ROWS, B))
        moved = rng.standard_normal((B, B)) * sizes[:, None]
        moved = u + moved - np.sum(moved * u, axis=1, keepdims=True) * u
        moved /= np.linalg.norm(moved, axis=1, keepdims=True)
        seen, found = (np.broadcast_to(derivative(z @ v.T * n), (ROWS, B)) * n for v in (u, moved))
        rows = (seen * r) @ u
        gram = (found.T @ found) * (moved @ moved.T)
        right = np.einsum("ji,jk,ik->i", found, rows, moved, optimize=True)
        fitted = (found * (np.linalg.pinv(gram, hermitian=True) @ right)) @ moved
        shares.append(float(np.mean(np.sum((rows - fitted) ** 2, axis=1))))
        powers.append(float(np.mean(np.sum(rows**2, axis=1))))
    noise = setting.d * spread
    return (float(np.mean(shares)) + noise) / (float(np.mean(powers)) + noise)
