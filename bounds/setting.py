"""The setting that every bound speaks about, and the one table of symbols."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import sympy as sp

from bounds import checks
from bounds.arrays import Array
from bounds.gaussian.activations import LARGEST_NORM, Activation, resolve_activation

#: What the symbols of a bound's expression stand for, but for the parameters of defenses.
MEANINGS: Mapping[str, str] = MappingProxyType(
    {
        "d": "dimension of the features",
        "m": "hidden width",
        "B": "number of features in the gradient",
        "G": "norm of the unclipped gradient over sqrt(m), which has a limit",
        "K_perp": "m times the first-order mean square error in each of the d - B directions outside the features' span",
        "K_par": "m times the first-order mean square error inside the features' span",
        "K_upper": "constant of the proved bound; it depends on the setting, and weakly on d and m",
        "I_lower": "information of an entry on a coordinate of a feature, what matching may gain counted in: that of "
        "the proved lower bound",
        "P_lower": "what is known of a feature before: one over the mean square of the norms",
        "factor": "what a defense puts before sqrt(d/m) in its rate",
        "floor": "the tensor attack's error that no width removes",
        "limit": "the least error that any attack can reach as d and m grow at m/d",
    }
)

#: Those symbols (``bounds.SYMBOLS`` has the parameters of defenses too). A floor and a limit may be zero.
SIZES: Mapping[str, sp.Symbol] = MappingProxyType(
    {
        name: sp.Symbol(name, **({"nonnegative": True} if name in ("floor", "limit") else {"positive": True}))
        for name in MEANINGS
    }
)

#: The largest d and m: whole numbers up to here are floating-point numbers.
LARGEST_SIZE = 10**15

#: The largest label, either sign: fourth powers of residuals stay inside the range of floats.
LARGEST_LABEL = 1e50

#: The largest batch that a Gram matrix is made for from its size alone.
LARGEST_BATCH = 10_000


@dataclass(frozen=True, eq=False)
class Setting:
    """A two-layer network of width m and B private features in dimension d, as far as theory needs to know them.

    The network is ``f(x) = (1/m) sum_j sigma(w_j.x)`` with ``w_j ~ N(0, I_d)``, the loss ``1/2 sum_i (f(x_i) - y_i)^2``
    summed over the batch, the observation ``g_j = sum_i r_i sigma(w_j.x_i)`` (the gradient with respect to the j-th
    output weight). Everything is invariant under rotations, so the features enter through their Gram matrix alone.

    Attributes: ``d``, ``m`` integers; ``gram`` (B, B) symmetric positive semidefinite, the squared norms on its diagonal
    (publicly known); ``labels`` (B,); ``activation``; ``groups`` (B,) integers that partition the features over clients
    or local batches (all zero: one batch). Arrays are read-only.

    Raises ``ValueError`` or ``TypeError`` on B > d, B >= m, d or m above ``LARGEST_SIZE``, wrong shapes, values that are
    not finite, a Gram matrix that is not symmetric positive semidefinite with a positive diagonal and rank at most d, norms
    above ``LARGEST_NORM``, labels above ``LARGEST_LABEL``.
    """

    d: int
    m: int
    gram: Array
    labels: Array
    activation: Activation
    groups: Sequence[int] = ()

    def __post_init__(self) -> None:
        gram = checks.array("gram", self.gram, (None, None))
        if gram.shape[0] != gram.shape[1]:
            raise ValueError(f"gram must be square; got shape {gram.shape}")
        size = gram.shape[0]
        object.__setattr__(self, "d", _size("d", self.d, LARGEST_SIZE))
        object.__setattr__(self, "m", _size("m", self.m, LARGEST_SIZE))
        if size > self.d:
            raise ValueError(
                f"B must be at most d = {self.d} (features are linearly independent); got B = {size}"
            )
        if size >= self.m:
            raise ValueError(f"m must be larger than B = {size}; got m = {self.m}")
        if np.any(np.diag(gram) <= 0):
            raise ValueError(
                f"gram must have a positive diagonal (squared norms); got {np.diag(gram).tolist()}"
            )
        if np.max(np.diag(gram)) > LARGEST_NORM**2:
            raise ValueError(
                f"gram must have norms of at most {LARGEST_NORM:g}; got {np.sqrt(np.max(np.diag(gram))):g}"
            )
        if not np.allclose(gram, gram.T, rtol=1e-10, atol=1e-12 * np.max(np.diag(gram))):
            raise ValueError("gram must be symmetric; got a matrix that is not")
        gram = (gram + gram.T) / 2
        smallest = np.linalg.eigvalsh(gram)[0]
        if smallest < -1e-9 * np.max(np.diag(gram)):
            raise ValueError(f"gram must be positive semidefinite; its smallest eigenvalue is {smallest:.3g}")
        labels = checks.array("labels", self.labels, (size,))
        if np.max(np.abs(labels)) > LARGEST_LABEL:
            raise ValueError(
                f"labels must be at most {LARGEST_LABEL:g} in absolute value; got {np.max(np.abs(labels)):g}"
            )
        groups = checks.groups(self.groups, size)
        for values in (gram, labels):
            values.setflags(write=False)
        object.__setattr__(self, "gram", gram)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "groups", groups)
        object.__setattr__(self, "activation", resolve_activation(self.activation))

    @staticmethod
    def orthonormal(
        d: int = 100, m: int = 160_000, B: int = 2, activation: str | Activation = "relu", labels: Any = None
    ) -> Setting:
        """B orthonormal features; labels +1, -1, +1, ... unless given."""
        size = _size("B", B, LARGEST_BATCH)
        return Setting(
            d,
            m,
            np.eye(size),
            np.array(alternating(size)) if labels is None else labels,
            resolve_activation(activation),
        )

    @staticmethod
    def from_features(
        X: Any,
        y: Any,
        m: int,
        activation: str | Activation | sp.Expr | Callable[[Array], Array] = "relu",
        groups: Sequence[int] | None = None,
    ) -> Setting:
        """The setting of features ``X`` (B, d), every feature in the observation, with labels ``y`` (B,)."""
        features = checks.array("X", X, (None, None))
        if features.shape[0] > features.shape[1]:
            raise ValueError(
                f"B must be at most d = {features.shape[1]}; got X with B = {features.shape[0]} rows"
            )
        labels = checks.array("y", y, (features.shape[0],))
        gram = features @ features.T
        return Setting(
            features.shape[1],
            m,
            gram,
            labels,
            resolve_activation(activation),
            () if groups is None else groups,
        )

    def with_width(self, m: int) -> Setting:
        """The same setting at another width."""
        return replace(self, m=m)

    @property
    def B(self) -> int:
        """Number of features in the observation."""
        return int(self.gram.shape[0])

    @property
    def norms(self) -> Array:
        """``|x_i|``, shape (B,)."""
        return np.sqrt(np.diag(self.gram))

    @property
    def cosines(self) -> Array:
        """Gram matrix of the unit directions, (B, B)."""
        return np.asarray(self.gram / np.outer(self.norms, self.norms))

    @property
    def directions(self) -> Array:
        """Unit directions in an orthonormal basis of their span: (B, B), row i is feature i.

        A square root of the cosines from their eigenvectors, which stays accurate for nearly parallel features.
        """
        values, vectors = np.linalg.eigh(self.cosines)
        return np.asarray(vectors * np.sqrt(np.clip(values, 0.0, None)))

    @property
    def residuals(self) -> Array:
        """Wide-limit residuals ``r_i* = E sigma(|x_i| Z) - y_i``, shape (B,)."""
        return np.array([self.activation.coefficient(0, n) for n in self.norms]) - self.labels

    @property
    def kappa(self) -> float:
        """``max |r*| / min |r*|``; infinite when a residual vanishes."""
        sizes = np.abs(self.residuals)
        return (
            float(sizes.max() / sizes.min()) if sizes.min() > 1e-12 * max(1.0, sizes.max()) else float("inf")
        )

    @property
    def pi_min(self) -> float:
        """``sqrt(lambda_min(G))``, the smallest singular value of X."""
        return float(np.sqrt(max(0.0, np.linalg.eigvalsh(self.gram)[0])))


def _size(name: str, value: Any, largest: int) -> int:
    """``value`` as an int from 1 to ``largest``."""
    return checks.integer(name, checks.integer(name, value, 1), 1, largest)


def alternating(size: int) -> tuple[float, ...]:
    """Labels +1, -1, +1, ... of the given length."""
    return tuple(1.0 - 2.0 * (i % 2) for i in range(size))
