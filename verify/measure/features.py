"""Where the private features of a measurement come from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bounds import checks
from verify.origin import own

FEATURE_KINDS = ("orthonormal", "random", "cosine", "digits", "patches")


IMAGE_KINDS = ("digits", "patches")


@dataclass(frozen=True)
class Features:
    """Where the unit-norm private features come from.

    kind: "orthonormal" a random orthonormal frame (not the coordinate axes); "random" independent uniform
    unit vectors; "cosine" all pairwise cosines equal ``cosine``, randomly rotated; "digits", "patches" real
    pictures, with their mean removed if ``center``, none closer than ``max_cosine`` to another. Each is a
    function of ``seed`` alone.
    """

    kind: str
    seed: int = 0
    cosine: float | None = None
    center: bool = True
    max_cosine: float = 1.0

    def __post_init__(self) -> None:
        checks.choice("kind", self.kind, FEATURE_KINDS)
        checks.integer("seed", self.seed, 0)
        if (self.kind == "cosine") != (self.cosine is not None):
            raise ValueError(
                f"cosine must be given for kind 'cosine' and no other; got {self.cosine} with {self.kind!r}"
            )
        if self.cosine is not None:
            object.__setattr__(self, "cosine", checks.real("cosine", self.cosine, -1.0, 1.0))
        object.__setattr__(self, "max_cosine", checks.real("max_cosine", self.max_cosine, 0.0, 1.0))

    def sample(self, d: int, B: int) -> NDArray[np.float64]:
        """The features, (B, d), rows of unit norm. ``ValueError`` if pictures do not have d pixels or no B
        vectors have that cosine."""
        if self.kind in IMAGE_KINDS:
            own("attack")
            from attack.image.datasets import load_images  # only pictures need it, and it needs scikit-learn

            X = load_images(self.kind, B, self.seed, self.center, self.max_cosine).features
            if X.shape[1] != d:
                raise ValueError(f"d must be {X.shape[1]} for {self.kind}; got {d}")
            return np.asarray(X, dtype=np.float64)
        normal = np.random.default_rng(self.seed).standard_normal((d, B))
        if self.kind == "random":
            return np.ascontiguousarray((normal / np.linalg.norm(normal, axis=0)).T)
        frame = np.linalg.qr(normal)[0].T
        if self.kind == "orthonormal":
            return np.ascontiguousarray(frame)
        lowest = -1 / (B - 1) if B > 1 else -1.0
        if not lowest < self.cosine < 1:  # type: ignore[operator]  # __post_init__ made it a number
            raise ValueError(
                f"cosine must lie strictly between {lowest:.3g} and 1 for B = {B}; got {self.cosine}"
            )
        gram = np.full((B, B), self.cosine)
        np.fill_diagonal(gram, 1.0)
        return np.ascontiguousarray(np.linalg.cholesky(gram) @ frame)

    def __str__(self) -> str:
        name = f"cosine {self.cosine:g}" if self.cosine is not None else self.kind
        return name if self.center or self.kind not in IMAGE_KINDS else f"{name}, mean kept"
