"""The fit of the population's moments under a channel, and how it moves with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy

from bounds.arrays import Array
from bounds.errors import UnsupportedBound
from bounds.estimator import TensorAttack
from bounds.gaussian import censored
from bounds.gaussian.activations import ZERO
from bounds.gaussian.nodes import gaussian_nodes, hermite_entries
from bounds.gaussian.symmetric import slot_tables, symmetric_indices
from bounds.kinds.predicted.decisions import second_over_first
from bounds.law import Elementwise, Pruned
from bounds.setting import Setting

#: Starts of the fit: the features' own directions, these with noise, and random ones; and the size of the noise.
_NEAR, _RANDOM, _NOISE = 8, 16, 0.3


#: The fit's limit counts as a unique minimum if no component's weight exceeds the second moment by the first factor
#: (components that diverge against each other), no other minimum comes within the second share of its misfit, and its
#: Hessian, scaled to unit diagonal where the misfit vanishes, is no nearer to singular than the third.
_DIVERGES, _TIE, _FLAT = 30.0, 0.02, 1e-3


#: A start that has not settled after the second number of evaluations may take the third if its misfit is within the first
#: multiple of the least: one that diverges above the minimum creeps on for thousands.
_GIVEN_UP, _LOOKED, _SETTLED = 1.2, 300, 5000


#: The span survives a channel if its weakest direction keeps this share of the strongest.
_SURVIVES = 1e-3


@dataclass(frozen=True)
class ElementwiseError:
    """``E R^2 -> floor^2 + ((d - B) K_perp + K_par)/m``, all over the features' norms as they are; the rest as in
    ``unbiased.FirstOrder``, for the limit directions in place of the features."""

    floor: float
    k_perp: float
    k_par: float
    noise: float
    curvature: float
    signs: float
    weights: Array
    scatter: Array


@dataclass(frozen=True, eq=False)
class Motion:
    """How the fit's coordinates (B weights, then B (B - 1) turns) move with the weighted data: ``rows`` (B^2, N), and the
    ``curvature`` (B (B - 1), B^2, B^2) of the turns as in ``fit_model.Solution``."""

    rows: Array
    curvature: Array


def _products(directions: Array, index: Array) -> Array:
    """Products of entries over the last axis of ``index``, for every direction. Called some ten thousand times in a fit, on
    a few numbers each: plain calls of numpy, which take less time than ``np.prod`` of an indexed array."""
    found = np.multiply.reduce(directions.T[index], axis=-2)
    return np.asarray(found.transpose(-1, *range(found.ndim - 1)))


class FitLimit:
    """The population moments under the channel, the fit's limit, and how it moves with the moments."""

    def __init__(
        self,
        setting: Setting,
        attack: TensorAttack,
        channel: Elementwise | Pruned,
        order: int,
    ) -> None:
        self.setting, self.attack, self.channel, self.order = setting, attack, channel, order
        self.B = setting.B
        self.directions = setting.directions
        c = setting.activation.coefficient
        self.c1, self.c2, self.cq = (np.array([c(k, n) for n in setting.norms]) for k in (1, 2, order))
        self.ratio = self.cq / self.c2
        self.root = math.sqrt(attack.weight(order))
        self.z, self.w = gaussian_nodes(self.B)
        t = self.z @ self.directions.T
        self.sigma = np.asarray(setting.activation(t * setting.norms))
        self.indices = [symmetric_indices(self.B, k) for k in (2, order)]
        self.slots = [slot_tables(self.B, index) for index, _ in self.indices]
        self.he2, self.heq = (hermite_entries(self.B, k) for k in (2, order))

    def seen(self, residuals: Array, ratio: float | None = None) -> tuple[Array, Array]:
        """``E[gtilde | z]`` and ``Var(gtilde | z)`` at the nodes. ``ratio``: in place of the channel's own."""
        g = self.sigma @ residuals
        if isinstance(self.channel, Pruned):
            threshold = self.threshold(g, self.channel.ratio if ratio is None else ratio)
            kept = censored.kept(g, threshold, self.channel.sigma)
            return kept.mean, np.maximum(kept.second - kept.mean**2, 0.0)
        mean = np.asarray(self.channel.mean(g, *self.channel.parameters), dtype=float)
        second = np.asarray(self.channel.second(g, *self.channel.parameters), dtype=float)
        return mean, np.maximum(second - mean**2, 0.0)

    def threshold(self, g: Array, ratio: float) -> float:
        """The ``ratio``-quantile of ``|g|``, noise added; 0 if the entries that are zero are as many."""
        assert isinstance(self.channel, Pruned)
        return censored.quantile(g, self.w, ratio, self.channel.sigma)

    def responses(self, residuals: Array, ratio: float | None = None) -> tuple[Array, Array, Array]:
        """``E[h | z]`` as it enters the second moment and the core, and the rest of the variance, at the nodes."""
        mean, spread = self.seen(residuals, ratio)
        if not self.attack.residualized:
            return mean, mean, spread
        once = mean - self.w @ mean
        once = once - self.z @ ((self.w * once) @ self.z)
        second = (self.w * once) @ self.he2
        return once, once - self.he2 @ second / 2, spread

    def data(self, residuals: Array, ratio: float | None = None) -> Array:
        """The fit's population data, weighted."""
        h, hq, _ = self.responses(residuals, ratio)
        return np.concatenate([(self.w * h) @ self.he2, self.root * ((self.w * hq) @ self.heq)])

    def atoms(self, directions: Array) -> Array:
        """(B, N): the weighted rank-one tensors of unit directions."""
        (index, weight), (index_q, weight_q) = self.indices
        low, core = _products(directions, index) * weight, _products(directions, index_q) * weight_q
        return np.concatenate([low, self.root * self.ratio[:, None] * core], axis=1)

    def atom_slopes(self, directions: Array) -> Array:
        """(B, N, B): derivatives of every atom by the entries of its own direction."""
        low, core = (
            np.einsum("ins,nsb->inb", _products(directions, others), own) * weight[:, None]
            for (_, weight), (others, own) in zip(self.indices, self.slots, strict=True)
        )
        return np.concatenate([low, self.root * self.ratio[:, None, None] * core], axis=1)

    def matrix(self, data: Array) -> Array:
        """The second moment out of the weighted data."""
        index, weight = self.indices[0]
        A = np.zeros((self.B, self.B))
        A[index[:, 0], index[:, 1]] = A[index[:, 1], index[:, 0]] = data[: len(index)] / weight
        return A

    def unpacked(self, x: Array) -> tuple[Array, Array, Array]:
        """alpha (B,), unit directions (B, B), and the lengths that they have in ``x``."""
        v = x[self.B :].reshape(self.B, self.B)
        lengths = np.sqrt(np.add.reduce(v * v, axis=1))
        return x[: self.B], v / lengths[:, None], lengths

    def descend(self, data: Array, x: Array, evaluations: int) -> scipy.optimize.OptimizeResult:
        """The fit that is found from ``x``."""

        # Derivatives are asked for where the misfit was asked for just before.
        at, parts = np.full_like(x, np.nan), (x, x, x, x)

        def model(x: Array) -> tuple[Array, Array, Array, Array]:
            nonlocal parts
            if not np.array_equal(at, x):
                at[:] = x
                alpha, v, lengths = self.unpacked(at)
                parts = alpha, v, lengths, self.atoms(v)
            return parts

        def misfit(x: Array) -> Array:
            alpha, _, _, atoms = model(x)
            return np.asarray(data - alpha @ atoms)

        def slopes(x: Array) -> Array:
            alpha, v, lengths, atoms = model(x)
            turned = self.atom_slopes(v) * (alpha / lengths)[:, None, None]
            turned -= (turned @ v[:, :, None]) * v[:, None, :]  # lengths do not matter
            return -np.hstack([atoms.T, turned.transpose(1, 0, 2).reshape(len(data), -1)])

        options = {"xtol": 1e-14, "ftol": 1e-14, "gtol": 1e-14, "max_nfev": evaluations}
        return scipy.optimize.least_squares(misfit, x, slopes, method="lm", **options)

    def starts(self, data: Array) -> Iterator[Array]:
        """The features' own directions, these with noise, then random ones."""
        rng, B = np.random.default_rng(0), self.B
        for k in range(1 + (_NEAR + _RANDOM) * (B > 1)):
            noise = rng.standard_normal((B, B)) * (k > 0)
            v = noise if k > _NEAR else self.directions + _NOISE * noise
            v = v / np.linalg.norm(v, axis=1, keepdims=True)
            yield np.concatenate([np.linalg.lstsq(self.atoms(v).T, data, rcond=None)[0], v.ravel()])

    @cached_property
    def fit(self) -> tuple[Array, Array, Array]:
        """alpha (B,), unit directions (B, B) and the misfit (N,) of the population's best fit."""
        data = self.data(self.setting.residuals)
        largest = float(np.linalg.norm(self.matrix(data), 2))

        def settled(found: scipy.optimize.OptimizeResult) -> scipy.optimize.OptimizeResult:
            done = found.status != 0 or found.nfev >= _SETTLED
            return found if done else self.descend(data, found.x, _SETTLED)

        def diverges(found: scipy.optimize.OptimizeResult) -> bool:
            return float(np.max(np.abs(found.x[: self.B]))) > _DIVERGES * largest

        def least() -> int:
            """The earliest unless another is clearly lower, and none that diverges."""
            best = 0
            for k, one in enumerate(found):
                if one.cost < found[best].cost * (1 - 1e-9) - 1e-30:
                    best = k
            if not diverges(found[best]):
                found[best] = settled(found[best])
            if diverges(found[best]):
                raise UnsupportedBound(
                    "not proved: the fit of the population's moments has components that diverge"
                )
            return best

        found = [self.descend(data, x, _LOOKED) for x in self.starts(data)]
        limit = _GIVEN_UP * found[least()].cost
        found = [settled(one) if one.cost <= limit else one for one in found]
        best = found[least()]
        alpha, v, _ = self.unpacked(best.x)
        for rival in found:
            turned = np.abs(self.unpacked(rival.x)[1] @ v.T)
            rows, columns = scipy.optimize.linear_sum_assignment(-turned)
            same = turned[rows, columns].min() > 1 - 1e-6
            if not same and rival.cost < best.cost * (1 + _TIE):
                raise UnsupportedBound("not proved: two fits of the population's moments nearly tie")
        return alpha, v, best.fun

    def moved(self, alpha: Array, v: Array, tangents: Array, step: Array) -> tuple[Array, Array]:
        """The point of the model at tangent coordinates ``step`` (B + B (B - 1),)."""
        turn = step[self.B :].reshape(self.B, 1, self.B - 1)
        new = v + (turn @ tangents)[:, 0]
        return alpha + step[: self.B], new / np.linalg.norm(new, axis=1, keepdims=True)

    @cached_property
    def tangents(self) -> Array:
        """(B, B - 1, B): along which the limit directions turn."""
        return np.array([np.linalg.svd(u[None])[2][1:] for u in self.fit[1]]).reshape(
            self.B, self.B - 1, self.B
        )

    @cached_property
    def motion(self) -> Motion:
        """How the fit moves with the data, by implicit differentiation of the normal equations."""
        alpha, v, _ = self.fit
        B, tangents = self.B, self.tangents
        size = B + B * (B - 1)
        data = self.data(self.setting.residuals)

        def model(step: Array) -> Array:
            a, u = self.moved(alpha, v, tangents, step)
            return np.asarray(a @ self.atoms(u))

        eps = 1e-4
        eye = eps * np.eye(size)
        jacobian = np.array([(model(e) - model(-e)) / (2 * eps) for e in eye])  # (size, N)
        centre = model(np.zeros(size))
        second = np.empty((size, size, len(data)))
        rest = data - centre
        for i in range(size):
            for k in range(i, size):
                second[i, k] = second[k, i] = (
                    model(eye[i] + eye[k])
                    - model(eye[i] - eye[k])
                    - model(eye[k] - eye[i])
                    + model(-eye[i] - eye[k])
                ) / (4 * eps**2)
        hessian = jacobian @ jacobian.T - second @ rest
        scale = np.sqrt(np.diag(jacobian @ jacobian.T))
        if float(np.linalg.eigvalsh(hessian / np.outer(scale, scale))[0]) < _FLAT:
            raise UnsupportedBound("not proved: the fit of the population's moments has no isolated minimum")
        rows = np.linalg.solve(hessian, jacobian)
        return Motion(rows, np.einsum("kn,abn->kab", rows[B:], second, optimize=True))

    def linear(self, residuals: Array, ratio: float | None = None) -> Array:
        """The first moment, (B,)."""
        mean, _ = self.seen(residuals, ratio)
        return np.asarray((self.w * (mean - self.w @ mean)) @ self.z)

    @cached_property
    def first_moment(self) -> Array:
        """The first moment in terms of the limit directions, (B,)."""
        return np.asarray(self.linear(self.setting.residuals) @ np.linalg.pinv(self.fit[1]))

    @cached_property
    def signed(self) -> Array:
        """The limit directions with the signs that the attack gives them, in the features' order: (B, B)."""
        alpha, v, _ = self.fit
        if self.order % 2 == 0:
            v = v * np.where(self.first_moment * (alpha / self.c2) * self.c1 < 0, -1.0, 1.0)[:, None]
        distance = ((self.directions[:, None] - v[None]) ** 2).sum(axis=2)
        return np.asarray(v[scipy.optimize.linear_sum_assignment(distance)[1]])

    @cached_property
    def error(self) -> ElementwiseError:
        setting, B = self.setting, self.B
        residuals = setting.residuals
        h, hq, spread = self.responses(residuals)
        data = self.data(residuals)
        A = self.matrix(data)
        sizes = np.abs(np.linalg.eigvalsh(A))
        scale = math.sqrt(float(self.w @ (h * h + spread)))
        # An unbiased channel removes nothing; and noise, however strong, removes nothing of the mean.
        removed = 0.0 if self.channel.unbiased else _SURVIVES * math.sqrt(float(self.w @ (h * h)))
        if sizes.min() <= max(_SURVIVES * sizes.max(), ZERO, removed):
            raise UnsupportedBound(
                "ill-posed: features are nearly parallel, or the channel removes a direction of their span from the "
                "second moment"
            )
        if self.order % 2 == 0 and np.min(np.abs(self.c1)) <= ZERO:
            raise UnsupportedBound("not proved: mu_1 = 0, so features are found up to their sign only")
        v = self.signed
        norms2 = setting.norms**2
        floor = float(np.mean(norms2 * ((v - self.directions) ** 2).sum(axis=1)))
        if self.channel.unbiased:
            floor = 0.0  # what is left is quadrature
        a = np.linalg.solve(A, v.T)  # columns A^-1 v_i
        along = (self.z @ a) ** 2
        k_perp = float(np.mean(norms2 * ((self.w * (h * h + spread)) @ along)))
        influence, random = self._influences(h, hq)
        covariance = (self.w[:, None] * influence).T @ influence
        covariance += self._scatter_given_z(random, self._ratio_slope @ self.motion.rows.T)
        turns = np.diag(covariance)[B:].reshape(B, B - 1).sum(axis=1)
        odd = self.order % 2 == 1
        signs = self._core_signs(hq, spread) if odd else self._first_signs(influence, random)
        return ElementwiseError(
            math.sqrt(floor),
            k_perp,
            float(np.mean(norms2 * turns)),
            2 * scale / float(sizes.min()),
            second_over_first(self.motion.curvature, covariance, setting.norms),
            signs,
            self.fit[0],
            np.sqrt(np.diag(covariance)[:B]),
        )

    def _core_signs(self, hq: Array, spread: Array) -> float:
        """As ``signs`` where an odd core gives them: by the components of the core."""
        split = self.he2.shape[1]
        powers = self.atoms(self.fit[1])[:, split:] / (self.root * self.ratio[:, None])
        dual = self.heq @ np.linalg.pinv(powers)  # (n, B)
        strength = (self.w * hq) @ dual
        square = (self.w * (hq**2 + spread)) @ dual**2
        return float(np.min(np.abs(strength) / np.sqrt(np.maximum(square - strength**2, ZERO**2))))

    def _first_signs(self, influence: Array, random: Array) -> float:
        """As ``signs`` where the first moment gives them: of ``w_i/alpha_i`` in the fitted directions (as in
        ``unbiased._signs``), the residuals' fluctuation and all."""
        alpha, v, _ = self.fit
        weights, dual = self.first_moment, np.linalg.pinv(v)  # columns: the dual vectors
        residuals = self.setting.residuals
        mean, _ = self.seen(residuals)
        moved = (self.sigma - self.w @ self.sigma) @ self._by_residuals(self.linear)
        by_ratio = self._by_ratio(self.linear)
        moved = moved + np.outer(self._rank_noise, by_ratio)
        linear = (mean - self.w @ mean)[:, None] * self.z + moved - self.linear(residuals)
        along = np.einsum("bi,ktb,k->kti", dual, self.tangents, weights).reshape(-1, self.B)

        def relative(linear: Array, fit: Array) -> Array:
            return np.asarray((linear @ dual - fit[:, self.B :] @ along) / weights - fit[:, : self.B] / alpha)

        square = self.w @ relative(linear, influence) ** 2
        rank = relative(by_ratio[None], self._ratio_slope[None] @ self.motion.rows.T)[0]
        square = square + np.diag(self._scatter_given_z(relative(self.z, random), rank))
        return float(1 / np.sqrt(np.maximum(square.max(), ZERO**2)))

    def _influences(self, h: Array, hq: Array) -> tuple[Array, Array]:
        """What a neuron adds to the fit's coordinates, weights and turns, less its mean, and the coefficient of the random
        part of its entry: (n, B^2) each."""
        rows = self.motion.rows
        split = self.he2.shape[1]
        low, core = self.he2 @ rows[:, :split].T, self.root * (self.heq @ rows[:, split:].T)
        influence = h[:, None] * low + hq[:, None] * core
        # The residuals' own fluctuation, r_i - r_i* = mean_j sigma_ij - c_0, moves directions of a biased channel only.
        moved = self._residual_slopes @ rows.T
        if self.channel.unbiased:
            moved[:, self.B :] = 0.0
        influence = influence + (self.sigma - self.w @ self.sigma) @ moved
        influence = influence + np.outer(self._rank_noise, self._ratio_slope @ rows.T)
        return influence - self.w @ influence, low + core

    def _scatter_given_z(self, random: Array, rank: Array) -> Array:
        """Mean over z of the covariance (k, k), given z, of what a neuron adds: ``random`` (n, k) times the random part of
        its entry, and ``rank`` (k,) times that of its share in the fraction removed. Entries that are removed are 0: the two
        have the covariance ``E[gtilde | z]`` times the probability of that."""
        mean, spread = self.seen(self.setting.residuals)
        gone = self._removed
        both = np.outer(((self.w * mean * gone) @ random), rank)
        own = float(self.w @ (gone * (1 - gone))) * np.outer(rank, rank)
        return np.asarray((random * (self.w * spread)[:, None]).T @ random + both + both.T + own)

    @cached_property
    def _residual_slopes(self) -> Array:
        """d(data)/d r_i, (B, N)."""
        return self._by_residuals(self.data)

    def _by_residuals(self, of: Callable[[Array], Array]) -> Array:
        """Derivatives by r_i, by central differences wide enough for the grid to follow jumps of the channel: (B, ...)."""
        residuals = self.setting.residuals
        slopes = []
        for i in range(self.B):
            step = 0.02 * np.abs(residuals).max() * np.eye(self.B)[i]
            slopes.append((of(residuals + step) - of(residuals - step)) / (2 * step[i]))
        return np.array(slopes)

    @cached_property
    def _removed(self) -> Array:
        """The probability (n,) that an entry is removed for its size, given z."""
        g = self.sigma @ self.setting.residuals
        if not isinstance(self.channel, Pruned):
            return np.zeros_like(g)
        ratio, sigma = self.channel.ratio, self.channel.sigma
        return censored.removed(g, censored.quantile(g, self.w, ratio, sigma), sigma)

    @property
    def _rank_noise(self) -> Array:
        """What each neuron adds, in the mean given z, to the fraction that the empirical quantile removes, less the ratio.

        With ``F(tau_hat)`` the fraction of the population below the empirical quantile, ``F(tau_hat) - ratio`` is the
        mean of ``ratio - 1{|y_j| <= tau}``, y_j the entry before anything is removed.
        """
        return np.asarray(self.w @ self._removed - self._removed)

    @cached_property
    def _ratio_slope(self) -> Array:
        """d(data)/d ratio, (N,)."""
        return self._by_ratio(self.data)

    def _by_ratio(self, of: Callable[[Array, float], Array]) -> Array:
        """Derivatives by the ratio, by central differences; zero where entries are not removed for their size."""
        r = self.setting.residuals
        if not isinstance(self.channel, Pruned):
            return np.zeros_like(of(r, 0.0))
        ratio, step = self.channel.ratio, 0.01 * min(1.0, 10 * (1 - self.channel.ratio))
        up, down = min(ratio + step, 0.9999), max(ratio - step, 0.0)
        return np.asarray((of(r, up) - of(r, down)) / (up - down))
