"""First-order error of the tensor attack, with its constants, for channels that leave the gradient unbiased.

To first order in 1/sqrt(m), with U an orthonormal basis of the span and z = U^T w (derivation: paper_notes.md),

    E|e_perp,i|^2 = |x_i|^2 (d - B)/m * E[s (z.A^-1 u_i)^2],
    E|e_par,i|^2  = |x_i|^2 / m * sum_t E[(h_2 <L_it, He_2(z)> + h_q <M_it, He_q(z)>)^2]

(odd activations: in place of ``z.A^-1 u_i`` ``<Z_i, He_2(z)>`` with Z the pseudo-inverse of the core's unfolding, and the
first moment in place of the second in the fit). Here ``u_i`` are unit directions in the span,
``A = sum_i r_i c_2 u_i u_i^T``, ``h_k`` is the (residualized) gradient entry that enters the k-th moment,
``s = E[h_2^2 | z]``, and L, M are the rows of the least-squares solution map of the fit in B dimensions. Every expectation
is a sum over pairs of features of Gaussian integrals in the plane of the pair: the product formula of Hermite polynomials
turns the B-dimensional integral into contractions, so no grid of n^B points appears.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, reduce

import numpy as np
import sympy as sp

from bounds.activations import ZERO, Activation
from bounds.bound import Bound, Kind, UnsupportedBound
from bounds.channel import Unbiased
from bounds.defense import Defense
from bounds.quadrature import Array, hermite, plane_moments
from bounds.setting import SYMBOLS, Setting
from bounds.tensor_attack import EQUAL_NORMS, TensorAttack, moment_orders

#: Residuals below this fraction of the largest leave no usable trace of their sample.
ILL_POSED = 1e-6
#: And residuals below this are zero but for rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class FirstOrder:
    """Constants per feature, (B,): ``E|e_perp,i|^2 = (d - B)/m orthogonal_i`` and ``E|e_par,i|^2 = inplane_i/m``.

    ``noise``: the edge of the noise of the moment that gives the span over its weakest direction is
    ``noise * sqrt((d - B)/m)``. First order needs this to be small too.
    """

    orthogonal: Array
    inplane: Array
    noise: float


def supported_orders(setting: Setting, residuals: Array | None = None) -> tuple[int, int]:
    """Orders of the fit's two moments; ``UnsupportedBound`` where the attack does not apply or a coefficient or a residual
    vanishes (those of the setting unless others are given)."""
    try:
        orders = moment_orders(setting.activation)
    except ValueError as error:
        raise UnsupportedBound(f"not proved for this activation: {error}") from error
    sizes = np.abs(setting.residuals if residuals is None else residuals)
    if not sizes.min() > max(ILL_POSED * sizes.max(), _ROUNDING):
        shown = (setting.residuals if residuals is None else residuals).tolist()
        raise UnsupportedBound(f"ill-posed: a residual vanishes, r* = {shown}")
    norms = setting.norms
    if min(abs(setting.activation.coefficient(k, float(n))) for k in orders for n in norms) <= ZERO:
        raise UnsupportedBound(
            f"not proved: a Hermite coefficient vanishes at one of the norms {norms.tolist()}"
        )
    return orders


def first_order(setting: Setting, attack: TensorAttack, channel: Unbiased | None = None) -> FirstOrder:
    """The constants for an observation through an unbiased channel (None: of the gradient as it is).

    Raises ``UnsupportedBound`` for a setting that is ill-posed (a residual that vanishes, features that are linearly
    dependent), an activation this attack does not cover or gives no signs for, ``same_neuron="ignored"`` (its bias
    is not in the formula) or a random contraction. With unequal norms the constants are those of a correct assignment of
    norms.
    """
    check_estimator(attack)
    channel = Unbiased(setting.residuals) if channel is None else channel
    low, order = supported_orders(setting, channel.residuals)
    if low == 1 and attack.contraction != "first_moment":
        raise UnsupportedBound(
            "not proved for a random contraction: the constant depends on the vector drawn"
        )
    directions, norms = setting.directions, setting.norms
    check_independent(setting)
    c_1, c_low, c_q = (
        np.array([setting.activation.coefficient(k, n) for n in norms]) for k in (1, low, order)
    )
    if order % 2 == 0 and np.min(np.abs(c_1)) <= ZERO:
        raise UnsupportedBound("not proved: mu_1 = 0, so features are found up to their sign only")
    alpha = channel.residuals * c_low
    moments = _Moments.of(setting, attack.residualized, (low, order), channel)
    if low == 2:
        orthogonal, noise = _second_moment_span(directions, alpha, moments)
    else:
        orthogonal, noise = _unfolded_span(directions, channel.residuals * c_q, moments)
    # In-plane part: rows of the pseudo-inverse of the fit's Jacobian.
    rows_low, rows_q = _solution_map(directions, alpha, c_q / c_low, (low, order), attack.weight(order, low))
    inplane = np.zeros(setting.B)
    if setting.B > 1:
        squares = (
            moments.second(0, 0, rows_low, rows_low)
            + 2 * moments.second(0, 1, rows_low, rows_q)
            + moments.second(1, 1, rows_q, rows_q)
        )
        inplane = squares.reshape(setting.B, setting.B - 1).sum(axis=1)
    return FirstOrder(norms**2 * orthogonal, norms**2 * inplane, noise)


def _second_moment_span(directions: Array, alpha: Array, moments: _Moments) -> tuple[Array, float]:
    """Orthogonal constants of unit features and the noise over the weakest eigenvalue: ``s (z.a)^2`` with a = A^-1 u_i."""
    second = (directions.T * alpha) @ directions
    if np.linalg.cond(second) > 1e12:
        raise UnsupportedBound("ill-posed: the features are linearly dependent")
    a = np.asarray(np.linalg.solve(second, directions.T).T)
    orthogonal = moments.second(0, 0, a, a)
    one: Array = np.ones(1)
    power = float(moments.second(0, 0, one, one)[0])
    return orthogonal, 2 * math.sqrt(power) / float(np.min(np.abs(np.linalg.eigvalsh(second))))


def _unfolded_span(directions: Array, strength: Array, moments: _Moments) -> tuple[Array, float]:
    """The same for the span from the unfolding ``Y = sum_i strength_i u_i vec(u_i u_i^T)^T`` of the third moment:
    ``s <Z_i, He_2(z)>^2`` with vec Z_i = Y^+ u_i."""
    size = len(strength)
    squares = np.einsum("ia,ib->iab", directions, directions).reshape(size, -1)
    unfolded = (directions.T * strength) @ squares
    Z = (np.linalg.pinv(unfolded) @ directions.T).T.reshape(size, size, size)
    orthogonal = moments.second(1, 1, Z, Z)
    # The unfolding's own noise couples to an error of the span through h z: trace over an orthonormal basis.
    basis = np.identity(size)
    power = float(moments.second(1, 1, basis, basis).sum())
    return orthogonal, 2 * math.sqrt(power) / float(np.linalg.svd(unfolded)[1][-1])


def scattered(setting: Setting, k_perp: float, k_par: float, noise: float) -> tuple[float, dict[str, float]]:
    """The first-order variance ``((d - B) K_perp + K_par)/m`` of R, and its parts by name. noise: as in ``FirstOrder``."""
    n, m = setting.d - setting.B, setting.m
    perp, par = n * k_perp / m, k_par / m
    return perp + par, {
        "orthogonal": math.sqrt(perp),
        "inplane": math.sqrt(par),
        "K_perp": k_perp,
        "K_par": k_par,
        "noise_over_signal": noise * math.sqrt(n / m),
    }


def predicted_bound(channel: Callable[[Defense, Setting], Unbiased]) -> Bound:
    """PREDICTED for a defense with an unbiased channel."""

    def numeric(
        defense: Defense, setting: Setting, attack: TensorAttack, delta: float
    ) -> tuple[float, dict[str, float]]:
        seen = channel(defense, setting)
        check_norms(setting, seen.keeps_labels)
        constants = first_order(setting, attack, seen)
        k_perp, k_par = float(constants.orthogonal.mean()), float(constants.inplane.mean())
        variance, parts = scattered(setting, k_perp, k_par, constants.noise)
        sizes = np.abs(seen.residuals)
        # Kappa: the spread of the residuals as the server sees them.
        return math.sqrt(variance), parts | {"kappa": float(sizes.max() / sizes.min())}

    d, m, size, k_perp, k_par = (SYMBOLS[name] for name in ("d", "m", "B", "K_perp", "K_par"))
    return Bound(
        kind=Kind.PREDICTED,
        statement="first-order root mean square error, constants by quadrature",
        source="paper_notes.md, 'First-order error' (ours)",
        statistic="root mean square over trials of R (up to signs where the attack reports them as unknown)",
        assumptions=(
            "w_j ~ N(0, I_d), a_j = 1/m, squared loss summed over the batch",
            "features linearly independent with known norms, no vanishing residual",
            "mu_1, mu_2 != 0 and mu_3 or mu_4 != 0, or mu_2 = 0 and mu_1, mu_3 != 0; sigma of polynomial growth",
            "with unequal norms: labels +-1, and the assignment of norms by them correct",
            "first order: exact as m grows with d fixed; before, off by terms that grow with R and noise_over_signal",
        ),
        numeric=numeric,
        symbolic=sp.sqrt(((d - size) * k_perp + k_par) / m),
    )


def check_estimator(attack: TensorAttack) -> None:
    """``UnsupportedBound`` for an estimator whose bias is not in the formulas."""
    if attack.same_neuron != "leave_one_out":
        raise UnsupportedBound(
            "not proved: with same_neuron='ignored' a bias of order d/m is not part of the formula"
        )


def check_independent(setting: Setting) -> None:
    """``UnsupportedBound`` for features that are linearly dependent."""
    if np.linalg.eigvalsh(setting.cosines)[0] < 1e-12:
        raise UnsupportedBound(
            f"ill-posed: the features are linearly dependent, pi_min = {setting.pi_min:.3g}"
        )


def check_norms(setting: Setting, keeps_labels: bool = True) -> None:
    """``UnsupportedBound`` where the attack cannot tell which feature has which norm."""
    norms = setting.norms
    if np.ptp(norms) > EQUAL_NORMS * norms.max() and not (
        keeps_labels and np.all(np.abs(setting.labels) == 1)
    ):
        raise UnsupportedBound(
            "not proved: with unequal norms labels must be +-1, and left readable by the defense: norms are assigned by them"
        )


def raw_gram(setting: Setting) -> Array:
    """``E sigma(w.x_i) sigma(w.x_l)``, (B, B)."""
    gram = np.zeros((setting.B, setting.B))
    for i, k, cosine, _ in planes(setting.directions):
        norms = (float(setting.norms[i]), float(setting.norms[k]))
        gram[i, k] = gram[k, i] = _plane_moments(setting.activation, False, (2, 4), norms, round(cosine, 15))[
            1, 1, 0, 0
        ]
    return gram


def _inner(left: Array, right: Array) -> Array:
    return np.asarray(np.sum((left * right).reshape(left.shape[0], -1), axis=1))


def _power(vector: Array, order: int) -> Array:
    return reduce(np.multiply.outer, [vector] * order)


def _solution_map(
    directions: Array, alpha: Array, ratio: Array, orders: tuple[int, int], weight: float
) -> tuple[Array, Array]:
    """How the fitted unit directions move with the moments: tensors L (K, B, ..., B), M (K, B, ..., B), K = B (B - 1).

    The fit minimises ``|P - sum alpha_i u_i^k|^2 + weight |T - sum alpha_i ratio_i u_i^q|^2`` over alpha and unit u, (k, q)
    the ``orders``. At an exact fit its solution map is the pseudo-inverse of the Jacobian (Gauss-Newton is exact there). Row
    i (B - 1) + t gives the displacement of u_i along its t-th tangent direction, per unit of (dP, dT).
    """
    size = alpha.size
    low, order = orders
    root = math.sqrt(weight)

    def stacked(low_moment: Array, core: Array) -> Array:
        return np.concatenate([low_moment.ravel(), root * core.ravel()])

    def tangent(u: Array, t: Array, k: int) -> Array:
        return sum(
            (reduce(np.multiply.outer, [t if s == slot else u for s in range(k)]) for slot in range(k)),
            0 * _power(u, k),
        )

    weights = [stacked(_power(u, low), c * _power(u, order)) for u, c in zip(directions, ratio, strict=True)]
    moves = [
        a * stacked(tangent(u, t, low), c * tangent(u, t, order))
        for u, a, c in zip(directions, alpha, ratio, strict=True)
        for t in np.linalg.svd(u[None, :])[2][1:]
    ]
    jacobian = np.stack(weights + moves, axis=1)
    q, r = np.linalg.qr(jacobian)
    rows = np.linalg.solve(r, q.T)[size:]
    split = size**low
    return rows[:, :split].reshape(-1, *(size,) * low), root * rows[:, split:].reshape(-1, *(size,) * order)


@lru_cache(maxsize=4096)
def _plane_moments(
    activation: Activation,
    residualized: bool,
    orders: tuple[int, int],
    norms: tuple[float, float],
    cosine: float,
) -> Array:
    """Moments of the pair: index [p, q] with 0 the function that enters the low moment, 1 the one of the core."""
    low, order = orders

    def functions(norm: float) -> Callable[[Array], Array]:
        c0, c1, c2 = (activation.coefficient(k, norm) for k in range(3))

        def stack(t: Array) -> Array:
            raw = activation.function(norm * t)
            once = raw - c0 - c1 * t
            if low == 1:  # the first moment is that of the centred gradient in any case
                return np.stack([raw - c0, once if residualized else raw])
            if not residualized:
                return np.stack([raw, raw])
            return np.stack([once, once - c2 / 2 * hermite(2, t)[2]])

        return stack

    f_kinks, g_kinks = ([k / n for k in activation.kinks] for n in norms)
    f, g = (functions(n) for n in norms)
    return plane_moments(f, g, cosine, 2 * order, f_kinks, g_kinks, scale=max(norms))


@dataclass(frozen=True)
class _PairTable:
    """``h_p h_q = sum_il r_i r_l tau_p,i tau_q,l`` split over pairs: (weight, basis of the pair's plane (B, 2), moments)."""

    pairs: tuple[tuple[float, Array, Array], ...]

    @staticmethod
    def build(
        setting: Setting,
        residualized: bool,
        orders: tuple[int, int],
        directions: Array,
        weights: Array | None = None,
    ) -> _PairTable:
        """weights (B, B) symmetric: of the pairs; ``r_i r_l`` unless given."""
        weights = np.outer(setting.residuals, setting.residuals) if weights is None else weights
        table = []
        for i, k, cosine, plane in planes(directions):
            norms = (float(setting.norms[i]), float(setting.norms[k]))
            moments = _plane_moments(setting.activation, residualized, orders, norms, round(cosine, 15))
            if i != k:
                moments = moments + moments.swapaxes(0, 1)
            table.append((float(weights[i, k]), plane, moments))
        return _PairTable(tuple(table))

    def second_moment(self, p: int, q: int, left: Array, right: Array) -> Array:
        """``E[h_p h_q He_a(left_n) He_b(right_n)]`` for symmetric tensors stacked on axis 0: shape (n,)."""
        total = np.zeros(left.shape[0])
        for weight, plane, moments in self.pairs:
            total += weight * product_moment(moments[p, q], plane, left, right)
        return total


@dataclass(frozen=True)
class _Moments:
    """Second moments of what the server sees, times Hermite polynomials of z: gradient, masking and noise."""

    gradient: _PairTable
    masking: _PairTable | None
    variance: float

    @staticmethod
    def of(setting: Setting, residualized: bool, orders: tuple[int, int], channel: Unbiased) -> _Moments:
        def table(residualized: bool, weights: Array) -> _PairTable:
            return _PairTable.build(setting, residualized, orders, setting.directions, weights)

        gradient = table(residualized, np.outer(channel.residuals, channel.residuals))
        masking = None if channel.masking is None else table(False, channel.masking)
        return _Moments(gradient, masking, channel.variance)

    def second(self, p: int, q: int, left: Array, right: Array) -> Array:
        """``E[h_p h_q He_a(left_n) He_b(right_n)]`` (n,), h with all its randomness; indices as in ``_PairTable``."""
        total = self.gradient.second_moment(p, q, left, right)
        # The same random part enters both moments, whatever is taken off their mean.
        if self.masking is not None:
            total = total + self.masking.second_moment(1, 1, left, right)
        if self.variance and left.ndim == right.ndim:
            total = total + self.variance * math.factorial(left.ndim - 1) * _inner(left, right)
        return total


def planes(directions: Array) -> Iterator[tuple[int, int, float, Array]]:
    """``(i, k, cosine, orthonormal basis (B, 2) of the plane)`` for every pair i <= k of unit directions (B, B); the basis
    starts along feature i. Raises ``UnsupportedBound`` for parallel ones."""
    for i, k in itertools.combinations_with_replacement(range(len(directions)), 2):
        cosine = 1.0 if i == k else float(np.clip(directions[i] @ directions[k], -1.0, 1.0))
        across = directions[k] - cosine * directions[i]
        length = np.linalg.norm(across)
        if i != k and length < 1e-12:
            raise UnsupportedBound("ill-posed: two features are parallel")
        yield i, k, cosine, np.column_stack([directions[i], across / length if i != k else 0 * across])


def product_moment(moments: Array, plane: Array, left: Array, right: Array) -> Array:
    """``E[f g He_a(left_n) He_b(right_n)]`` (n,) for f, g that depend on w through a plane, and symmetric tensors stacked on
    axis 0. ``moments[s, t] = E[f g He_s(z_1) He_t(z_2)]`` in the coordinates of ``plane`` (B, 2).

    Product formula: ``He_a(L) He_b(M) = sum_k k! C(a, k) C(b, k) He_{a+b-2k}(L x_k M)``, x_k contracting k slots.
    """
    a, b = left.ndim - 1, right.ndim - 1
    total = np.zeros(left.shape[0])
    lefts, rights = _contractions(left, plane), _contractions(right, plane)
    for k in range(min(a, b) + 1):
        factor = math.factorial(k) * math.comb(a, k) * math.comb(b, k)
        grid = _symmetric_grid(moments, a - k, b - k)
        total += factor * np.einsum("nix,niy,xy->n", lefts[a - k], rights[b - k], grid, optimize=True)
    return total


def _contractions(tensors: Array, plane: Array) -> list[Array]:
    """Entry j: j slots contracted with the plane's basis, shape (n, B^(order - j), 2^j)."""
    result = []
    current = tensors
    for j in range(tensors.ndim):
        result.append(current.reshape(tensors.shape[0], -1, 2**j))
        if j < tensors.ndim - 1:
            current = np.tensordot(current, plane, axes=([1], [0]))
    return result


def _symmetric_grid(moments: Array, rows: int, columns: int) -> Array:
    """E[f g He_n(z1, z2)], n = rows + columns, as a (2^rows, 2^columns) matrix; an entry with b ones is N[n-b, b]."""
    ones = np.array([x.bit_count() for x in range(2 ** max(rows, columns))])
    b = ones[: 2**rows, None] + ones[None, : 2**columns]
    return np.asarray(moments[rows + columns - b, b])
