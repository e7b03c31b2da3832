"""The preprocessing of entries that shows the span best: a function h of what is seen, in place of what is seen.

Any h leaves the population's second moment in the span, ``E[h (zz^T - I)] = E[h(y) G(y)]`` with ``G(y) = E[zz^T - I |
y]``, and has noise ``E[h_res^2]``, h_res what residualizing leaves of it. Candidates are combinations of the entries of G
(each with what cancels the part that residualizing takes off), the ones of least noise under which every feature shows
with the same strength and a sign of its own; of one feature 1 - 1/E[z^2 | y] is known to be best (Luo, Alghamdi, Lu 2019,
arXiv 1811.04420; Mondelli, Montanari 2018, arXiv 1708.05932), which agrees to first order in G. At a given number of
neurons for each dimension large values cost more than that: candidates are also taken with these bent down, and the
spectral law says which one to take, the entries as they are being one of them.

G is that of the model: orthonormal features with the public norms, entries as the defense's density says, and the residuals
whose entries have the quantiles of those that are seen. A wrong model costs strength, and no more: h stays a function of
what is seen alone. Why: bounds/proofs/spectral.md.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import scipy

from bounds import checks
from bounds.arrays import Array
from bounds.density import Density
from bounds.gaussian.activations import Activation
from bounds.kinds.limit.entries import drawn
from bounds.kinds.predicted.spectral.law import found_span, weights
from bounds.kinds.predicted.spectral.sample import Sample, normal_draws, sample_of

#: Quasi-random neurons for the fit of residuals, for the curves, and for the spectra that choose among these.
_FIT, _CURVE, _CHOICE = 2**11, 2**17, 2**12

#: Quantiles that are fitted, and groups of neurons with nearly equal entries that a curve is made of.
_LEVELS, _GROUPS = 100, 64

#: Signs are searched among all choices up to this B; beyond they are those of the residuals.
_MANY = 6

#: Combinations of G's entries below this part of the largest are taken for equal: the groups' means scatter.
_FLAT = 0.03

#: So many combinations are candidates, each with its values bent down so much.
_KEPT, _BENT = 2, (0.0, 0.3, 1.0)


@dataclass(frozen=True, eq=False)
class Curve:
    """h by straight lines between ``points`` (K,), rising, where it has ``values`` (K,); constant beyond."""

    points: Array
    values: Array

    def __call__(self, seen: Array) -> Array:
        return np.asarray(np.interp(seen, self.points, self.values))


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """Candidates for the preprocessing of what is seen, and the model that they are made for: ``residuals`` (B,) and its
    neurons."""

    residuals: Array
    curves: tuple[Curve, ...]
    neurons: Sample
    residualized: bool

    def best(self, dimension: int, m: int) -> Curve | None:
        """The candidate under which the span is found best by ``m`` neurons with ``dimension`` = d - B directions outside
        it; None where that is by entries as they are."""
        directions = np.eye(len(self.residuals))
        if dimension <= int(self.residualized):
            return None  # nothing is outside the span but what the linear part takes

        def rank(curve: Curve | None) -> tuple[bool, float]:
            response = self.neurons.seen if curve is None else curve(self.neurons.seen)
            of = weights(self.neurons, response, self.residualized, dimension, m)
            found = found_span(of, directions, m)
            return found.unreported, -found.gap if found.unreported else float(found.turned.mean())

        return min((None, *self.curves), key=rank)


def preprocessing(
    seen: Array, norms: Array, activation: Activation, density: Density, *, residualized: bool
) -> Preprocessing:
    """Of entries ``seen`` (N,) of features with ``norms`` (B,), by the entries' quantiles.

    Raises ``UnsupportedBound`` for a density that does not say how entries are drawn, ``ValueError`` for entries that are
    all equal.
    """
    checks.array("seen", seen, (None,))
    if np.ptp(seen) == 0:
        raise ValueError(f"seen must not be the same everywhere; got {seen[0]:g} alone")
    residuals = _residuals(seen, norms, activation, density)
    model = _Model(norms, activation, density)
    curves = model.neurons(residuals, _CURVE)
    share, points, first, second = _groups(curves.seen, curves.z)
    shown = second
    if residualized:
        # h loses E[h z].z, which has the projection on the first moments of y in it: added beforehand.
        lost = np.einsum("k,ka,kbc->abc", share, first, second)
        left = np.eye(len(norms)) - (first.T * share) @ first
        shown = second + np.einsum("ka,abc->kbc", first @ np.linalg.inv(left), lost)
    bent = tuple(
        Curve(points, h / (1 + bend * np.abs(h)))
        for h in _combinations(share, shown, second, residuals)
        for bend in _BENT
    )
    return Preprocessing(residuals, bent, model.neurons(residuals, _CHOICE), residualized)


@dataclass(frozen=True, eq=False)
class _Model:
    """Orthonormal features with ``norms`` (B,)."""

    norms: Array
    activation: Activation
    density: Density

    def neurons(self, residuals: Array, draws: int) -> Sample:
        return sample_of(self.density, residuals, np.diag(self.norms), self.activation, draws)


def _residuals(seen: Array, norms: Array, activation: Activation, density: Density) -> Array:
    """The residuals (B,) of the model whose entries' quantiles are nearest to those of ``seen``."""
    B = len(norms)
    levels = (np.arange(_LEVELS) + 0.5) / _LEVELS
    wanted = np.quantile(seen, levels)
    scale = max(float(np.sqrt(np.mean(wanted**2))), np.finfo(float).tiny)
    normal = normal_draws(2 * B + 1, _FIT)
    hidden = activation(normal[:, :B] * norms)

    def misfit(r: Array) -> Array:
        found = drawn(density, scale * r * hidden, normal[:, B:])
        return np.asarray((np.quantile(found, levels) - wanted) / scale)

    # One start for each number of positive ones, of different sizes: equal ones are a saddle.
    starts = [np.where(np.arange(B) < k, 1.0, -1.0) * np.linspace(1.5, 0.5, B) for k in range(B + 1)]
    fits = [scipy.optimize.least_squares(misfit, start, diff_step=1e-3, max_nfev=20) for start in starts]
    return np.asarray(scale * min(fits, key=lambda fit: float(fit.cost)).x)


def _groups(y: Array, z: Array) -> tuple[Array, Array, Array, Array]:
    """Neurons with nearly equal entries, an entry that many have being a group of its own: share (K,), mean entry (K,),
    ``E[z | y]`` (K, B), ``E[zz^T - I | y]`` (K, B, B)."""
    _, inverse, counts = np.unique(y, return_inverse=True, return_counts=True)
    many = counts > len(y) // (2 * _GROUPS)
    order = np.argsort(y, kind="stable")
    rest = order[~many[inverse[order]]]
    parts = [np.flatnonzero(inverse == k) for k in np.flatnonzero(many)]
    parts += [part for part in np.array_split(rest, _GROUPS) if len(part)]
    parts.sort(key=lambda part: float(y[part].mean()))
    share = np.array([len(part) for part in parts]) / len(y)
    points = np.array([y[part].mean() for part in parts])
    first = np.array([z[part].mean(axis=0) for part in parts])
    second = np.array([z[part].T @ z[part] / len(part) for part in parts]) - np.eye(z.shape[1])
    return share, points, first, second


def _combinations(share: Array, shown: Array, second: Array, residuals: Array) -> list[Array]:
    """The values (K,) of the best combinations of the entries of ``shown`` (K, B, B), of root mean square 1: those whose
    weakest eigenvalue is highest above the noise."""
    B = second.shape[1]
    rows, columns = np.triu_indices(B)
    every, real = shown[:, rows, columns], second[:, rows, columns]
    strength = (every.T * share) @ real
    diagonal = np.flatnonzero(rows == columns)
    found: list[tuple[float, Array]] = []
    for signs in _signs(residuals):
        wanted = np.zeros(len(rows))
        wanted[diagonal] = signs
        # by the features' own entries alone, or by these and the mixed ones, which then vanish in the second moment
        for used in (diagonal, np.arange(len(rows))):
            system = strength[np.ix_(used, used)]
            combination = np.linalg.lstsq(system, wanted[used], rcond=_FLAT)[0]
            h = every[:, used] @ combination
            size, noise = float(share @ h**2), float(combination @ system @ combination)
            if min(size, noise) > 0:
                weakest = np.abs(np.linalg.eigvalsh(np.einsum("k,kab->ab", share * h, second))).min()
                found.append((float(weakest) / math.sqrt(noise), h / math.sqrt(size)))
    found.sort(key=lambda one: -one[0])
    return [h for _, h in found[:_KEPT]]


def _signs(residuals: Array) -> list[Array]:
    B = len(residuals)
    if B > _MANY:
        return [np.where(residuals < 0, -1.0, 1.0)]
    return [np.array((1.0, *rest)) for rest in itertools.product((1.0, -1.0), repeat=B - 1)]
