"""Fisher information of what is seen on a given network, and Cramer and Rao's bound (bounds/proofs/lower.md, section 6).

The bound is local: it holds for estimates that are unbiased near the truth, which know the order of the features, and no
others. It depends on what else is known: whether norms are, and whether residuals are numbers, a function of the features
(labels known) or unknown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

from bounds import checks
from bounds.arrays import Array
from bounds.defense import Defense
from bounds.density import Density, Thresholded
from bounds.errors import UnsupportedBound
from bounds.gaussian.censored import quantile
from bounds.gaussian.slope import derivative
from bounds.kinds.lower.information import information, require_noise
from bounds.kinds.lower.slopes import directions_of
from bounds.law import Clipping, Unbiased
from bounds.setting import Setting

#: Up to so many unknowns B d the information is a matrix.
DENSE = 2_000

#: Eigenvalues below this part of the largest, each unknown in its own unit, are rounding: theirs is not determined.
SINGULAR = 1e-10

#: A residual below this part of what it is the difference of is zero.
ROUNDING = 1e-13

NORMS = ("sphere", "free")
RESIDUALS = ("function", "known", "free")

_PROBES = 16

#: Numbers that are computed at a time.
_AT_A_TIME = 2**22


@dataclass(frozen=True, eq=False)
class Slopes:
    """How the terms of m entries change: ``moved`` (B, m), times the weights ``w`` (m, d), plus ``hidden`` (B, m) times the
    vector ``drift`` (B, d), with features; by ``hidden`` with residuals that are unknown. ``told`` (m, B, B): information
    about the terms. ``features`` (B, d). ``free``: residuals are unknown; ``sphere``: norms are known. ``along`` (B, m):
    unit, what clipping takes off every column (zero where it takes nothing)."""

    w: Array
    moved: Array
    hidden: Array
    drift: Array
    along: Array
    told: Array
    features: Array
    free: bool
    sphere: bool

    def tangential(self, x: Array) -> Array:
        """``x`` (..., B, d) without its radial parts where norms are known."""
        if not self.sphere:
            return x
        unit = self.features / np.linalg.norm(self.features, axis=1, keepdims=True)
        return np.asarray(x - np.sum(x * unit, axis=-1, keepdims=True) * unit)

    def cut(self, terms: Array) -> Array:
        """``terms`` (B, m) as clipping lets them through."""
        return np.asarray(terms - self.along * np.sum(self.along * terms, axis=1)[:, None])

    def dense(self) -> Array:
        """The information (B d, B d) about features, residuals profiled out where they are unknown."""
        B, d = self.features.shape
        hidden = self.cut(self.hidden)
        off = (self.along * self.moved) @ self.w + np.sum(self.along * self.hidden, axis=1)[
            :, None
        ] * self.drift
        whole, cross = np.zeros((B, d, B, d)), np.zeros((B, d, B))
        step = max(1, _AT_A_TIME // (B * B * d))
        for start in range(0, len(self.w), step):
            rows = slice(start, start + step)
            terms = (
                self.moved.T[rows, :, None] * self.w[rows, None] + self.hidden.T[rows, :, None] * self.drift
            )
            terms = self.tangential(terms - self.along.T[rows, :, None] * off)
            told = np.einsum("jil,jlb->jilb", self.told[rows], terms)
            whole += np.einsum("jia,jilb->ialb", terms, told, optimize=True)
            if self.free:
                cross += np.einsum("jil,jia,lj->ial", self.told[rows], terms, hidden[:, rows], optimize=True)
        found, made_up = whole.reshape(B * d, B * d), cross.reshape(B * d, B)
        if self.free:
            found = found - made_up @ self.nuisance() @ made_up.T
        return np.asarray((found + found.T) / 2)

    def nuisance(self) -> Array:
        """The inverse (B, B) of the information about residuals; zero for what clipping makes of no effect."""
        hidden = self.cut(self.hidden)
        own = np.einsum("jil,ij,lj->il", self.told, hidden, hidden, optimize=True)
        size = np.sqrt(np.einsum("jii,ij->i", self.told, self.hidden**2))
        size[size == 0] = 1.0
        values, vectors = np.linalg.eigh(own / np.outer(size, size))
        kept = values > SINGULAR
        inverse = (vectors[:, kept] / values[kept]) @ vectors[:, kept].T
        return np.asarray(inverse / np.outer(size, size))

    def isotropic(self) -> Array:
        """``sum_j p_i told_il p_l`` (B, B): the information of a direction if weights were orthogonal."""
        return np.asarray(np.einsum("jil,ij,lj->il", self.told, self.moved, self.moved, optimize=True))

    def product(self, x: Array) -> Array:
        """The information times ``x`` (B, d), tangential, without a matrix."""
        x = self.tangential(x)
        change = self.moved * (x @ self.w.T) + self.hidden * np.sum(self.drift * x, axis=1)[:, None]
        told = np.einsum("jil,lj->ij", self.told, self.cut(change))
        if self.free:
            hidden = self.cut(self.hidden)
            fit = self.nuisance() @ np.sum(hidden * told, axis=1)
            told = told - np.einsum("jil,lj->ij", self.told, hidden * fit[:, None])
        told = self.cut(told)
        back = (self.moved * told) @ self.w + np.sum(self.hidden * told, axis=1)[:, None] * self.drift
        return self.tangential(back)


@dataclass(frozen=True)
class CramerRao:
    """error: root mean square over features of the bound on what is determined, ``sqrt(tr F^+ / B)``; standard_error: of it,
    where the trace is estimated (0 where it is computed). identifiable: dimensions that are determined, of ``unknowns``
    (B d, less B where norms are known). degenerate: in words, what is not."""

    error: float
    standard_error: float
    identifiable: int
    unknowns: int
    degenerate: tuple[str, ...]


def fisher_information(
    defense: Defense,
    setting: Setting,
    net_weights: Any,
    *,
    features: Any = None,
    norms: str = "sphere",
    residuals: str = "function",
    threshold: float | None = None,
) -> Array:
    """The information (B d, B d), feature by feature, of all entries on the network with first-layer weights ``net_weights``
    (m, d), at features (B, d): those of the setting's Gram matrix in the first B coordinates unless given.

    norms: ``"sphere"`` (known: zero along the features) or ``"free"``. residuals: ``"function"`` of the features, labels
    known; ``"known"`` numbers; ``"free"``, unknown and profiled out. threshold: of ``Thresholded``, known; None: that of
    many entries, about which it concentrates. Raises ``ValueError`` for shapes, and for more than ``DENSE`` unknowns
    (``cramer_rao`` does without the matrix); ``UnsupportedBound`` without noise.
    """
    slopes = _slopes(defense, setting, net_weights, features, norms, residuals, threshold)
    size = setting.B * setting.d
    if size > DENSE:
        raise ValueError(f"B d must be at most {DENSE} for a matrix; got {size}")
    return slopes.dense()


def cramer_rao(
    defense: Defense,
    setting: Setting,
    net_weights: Any,
    *,
    features: Any = None,
    norms: str = "sphere",
    residuals: str = "function",
    threshold: float | None = None,
    probes: int = _PROBES,
) -> CramerRao:
    """Cramer and Rao's bound on the network with weights ``net_weights`` (m, d); arguments as in ``fisher_information``.

    Above ``DENSE`` unknowns the trace is estimated by ``probes`` random vectors, as a difference from that of orthogonal
    weights, with a standard error. Raises ``UnsupportedBound`` where nothing is determined, and for a degenerate
    information of many unknowns.
    """
    slopes = _slopes(defense, setting, net_weights, features, norms, residuals, threshold)
    count = checks.integer("probes", probes, 2)
    B, d = slopes.features.shape
    unknowns = B * d - (B if slopes.sphere else 0)
    if B * d > DENSE:
        return _estimated(slopes, unknowns, count)
    matrix = slopes.dense()
    # units: what each feature does by itself, so that a small residual is not taken for none
    unit = np.repeat(np.sqrt([np.trace(block) for block in _blocks(matrix, B)]), d)
    unit[unit == 0] = 1.0
    values, vectors = np.linalg.eigh(matrix / unit[:, None] / unit)
    told = values > SINGULAR * max(values[-1], 0.0)
    if not values[-1] > 0:
        raise UnsupportedBound("ill-posed: nothing of the features is determined")
    # the part that is determined, in the unknowns' own units: the span of the matrix's columns
    columns = np.linalg.qr(unit[:, None] * vectors[:, told])[0]
    inverse = np.linalg.inv(columns.T @ matrix @ columns)
    open_part = scipy.linalg.null_space(np.vstack([columns.T, _radial(slopes).T]))
    return CramerRao(
        math.sqrt(float(np.trace(inverse)) / B),
        0.0,
        int(np.count_nonzero(told)),
        unknowns,
        _named(open_part, slopes.features),
    )


def _blocks(matrix: Array, B: int) -> Array:
    d = len(matrix) // B
    return np.asarray(matrix.reshape(B, d, B, d)[range(B), :, range(B), :])


def _radial(slopes: Slopes) -> Array:
    """Unit vectors (B d, B) along the features where norms are known, else none (B d, 0)."""
    B, d = slopes.features.shape
    if not slopes.sphere:
        return np.zeros((B * d, 0))
    unit = slopes.features / np.linalg.norm(slopes.features, axis=1, keepdims=True)
    return np.asarray(scipy.linalg.block_diag(*unit).T)


def _named(open_part: Array, features: Array) -> tuple[str, ...]:
    """What the directions in the columns of ``open_part`` (B d, k), orthonormal, are of the features."""
    B, d = features.shape
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    each = open_part.reshape(B, d, -1)
    words = []
    for i in range(B):
        radial = float(np.sum((unit[i] @ each[i]) ** 2))
        share = float(np.sum(each[i] ** 2))
        if share - radial > 1e-6:
            words.append(f"feature {i}: {share:.3g} of {d} directions are not determined")
        elif radial > 1e-6:
            words.append(f"the norm of feature {i} is not determined")
    return tuple(words)


def _estimated(slopes: Slopes, unknowns: int, probes: int) -> CramerRao:
    B, d = slopes.features.shape
    isotropic = slopes.isotropic()
    scale = np.sqrt(np.diag(isotropic))
    if not scale.min() > 0 or np.linalg.eigvalsh(isotropic / np.outer(scale, scale))[0] < SINGULAR:
        none = [i for i in range(B) if not scale[i] > 0]
        raise UnsupportedBound(f"ill-posed: nothing is told of features {none}, or of a combination of them")
    first = np.linalg.inv(isotropic)
    operator = scipy.sparse.linalg.LinearOperator(
        (B * d, B * d), matvec=lambda x: slopes.product(x.reshape(B, d)).ravel()
    )
    near = scipy.sparse.linalg.LinearOperator(
        (B * d, B * d), matvec=lambda x: slopes.tangential(first @ slopes.tangential(x.reshape(B, d))).ravel()
    )
    if len(slopes.w) < B * d - (0 if not slopes.sphere else B):
        raise UnsupportedBound(
            f"ill-posed: {len(slopes.w)} entries tell fewer numbers than there are unknowns"
        )
    generator = np.random.default_rng(0)
    differences = []
    for _ in range(probes):
        z = slopes.tangential(generator.choice((-1.0, 1.0), size=(B, d))).ravel()
        solved, info = scipy.sparse.linalg.cg(operator, z, rtol=1e-8, maxiter=10 * B * d, M=near)
        if info:
            raise UnsupportedBound("ill-posed: conjugate gradients do not come to rest")
        differences.append(float(z @ (solved - near.matvec(z))))
    directions = d - 1 if slopes.sphere else d
    trace = float(np.trace(first)) * directions + float(np.mean(differences))
    error = math.sqrt(max(0.0, trace) / B)
    spread = float(np.std(differences, ddof=1)) / math.sqrt(probes)
    return CramerRao(error, spread / (2 * error * B), unknowns, unknowns, ())


def _slopes(
    defense: Defense,
    setting: Setting,
    net_weights: Any,
    features: Any,
    norms: str,
    residuals: str,
    threshold: float | None,
) -> Slopes:
    checks.instance("defense", defense, Defense)
    checks.instance("setting", setting, Setting)
    W = checks.array("net_weights", net_weights, (setting.m, setting.d))
    checks.choice("norms", norms, NORMS)
    checks.choice("residuals", residuals, RESIDUALS)
    X = _features(setting, features)
    density = defense.density()
    require_noise(density)
    law = defense.law(setting)
    clipping = law.clipping if isinstance(law, Unbiased) else None
    if isinstance(law, Unbiased) and law.inexact and clipping is None:
        raise UnsupportedBound(f"not proved: {law.inexact}")
    inside = X @ W.T
    hidden = setting.activation.function(inside)
    slope = derivative(setting.activation)(inside)
    means = hidden.mean(axis=1)
    r = means - setting.labels
    r[np.abs(r) < ROUNDING * np.maximum(np.abs(means), np.abs(setting.labels))] = 0.0
    drift = slope @ W / setting.m if residuals == "function" else np.zeros_like(X)
    kept, along = _clipped(r[:, None] * hidden, clipping)
    parts = (kept[:, None] * r[:, None] * hidden).T
    below = _threshold(density, parts) if threshold is None else threshold
    told = information(density, parts, threshold=below)
    return Slopes(
        W,
        (kept * r)[:, None] * slope,
        kept[:, None] * hidden,
        drift,
        along,
        told,
        X,
        residuals == "free",
        norms == "sphere",
    )


def _threshold(density: Density, parts: Array) -> float:
    """Below which the fraction lies that ``Thresholded`` removes of entries with noise; 0 of any other law."""
    if not isinstance(density, Thresholded):
        return 0.0
    clean = parts.sum(axis=1)
    return quantile(clean, np.full(len(clean), 1 / len(clean)), density.ratio, density.sigma)


def _features(setting: Setting, features: Any) -> Array:
    if features is None:
        norms, directions = directions_of(setting.gram)
        return np.pad(norms[:, None] * directions, ((0, 0), (0, setting.d - setting.B)))
    X = checks.array("features", features, (setting.B, setting.d))
    if not np.allclose(X @ X.T, setting.gram, rtol=1e-6, atol=1e-6 * float(np.max(setting.gram))):
        raise ValueError("features must have the setting's Gram matrix; got another")
    return X


def _clipped(terms: Array, clipping: Clipping | None) -> tuple[Array, Array]:
    """Factors (B,) that clipping leaves of ``terms`` (B, m), and unit vectors (B, m) that it takes off their derivatives."""
    whole = np.broadcast_to(terms.sum(axis=0), terms.shape)
    if clipping is None:
        return np.ones(len(terms)), np.zeros_like(terms)
    clipped = terms if clipping.per_sample else whole
    sizes = np.linalg.norm(clipped, axis=1)
    cut = sizes > clipping.max_norm
    factors = np.where(cut, clipping.max_norm / np.where(cut, sizes, 1.0), 1.0)
    return factors, np.where(cut[:, None], clipped / np.where(sizes > 0, sizes, 1.0)[:, None], 0.0)
