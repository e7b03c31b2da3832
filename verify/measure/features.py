"""Where the private features of a measurement come from."""

from __future__ import annotations

import base64
import binascii
import hashlib
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bounds import checks
from verify.origin import own

FEATURE_KINDS = ("orthonormal", "random", "cosine", "digits", "patches")

#: Features that a user brings (``Features.given``).
GIVEN = "given"

#: How far from 1 the norm of a given feature may be: single precision.
_ROUNDING = 1e-5

IMAGE_KINDS = ("digits", "patches")


def _read_npz(path: Path) -> Any:
    with np.load(path, allow_pickle=False) as arrays:
        names = list(arrays)
        if len(names) != 1 and "X" not in names:
            raise ValueError(f"must hold one array, or one named X; got {', '.join(names) or 'none'}")
        return arrays["X" if "X" in names else names[0]]


#: How a file of features is read, by its suffix.
_READERS: Mapping[str, Callable[[Path], Any]] = MappingProxyType(
    {
        ".npy": lambda path: np.load(path, allow_pickle=False),
        ".npz": _read_npz,
        ".csv": lambda path: np.loadtxt(path, delimiter=",", ndmin=2),
    }
)


def read_rows(path: str | Path) -> Any:
    """Features from a file: the array of a .npy, that of a .npz (its only one, or the one named X), the numbers of a .csv,
    a row for each feature. ``ValueError`` naming the file for any other, ``OSError`` where it cannot be opened."""
    path = Path(path)
    read = _READERS[checks.choice("the suffix of a file of features", path.suffix.lower(), tuple(_READERS))]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # a file without numbers
            return read(path)
    except (ValueError, EOFError, zipfile.BadZipFile, UserWarning) as error:
        raise ValueError(f"{path}: {error}") from None


@dataclass(frozen=True)
class Features:
    """Where the unit-norm private features come from.

    kind: "orthonormal" a random orthonormal frame (not the coordinate axes); "random" independent uniform
    unit vectors; "cosine" all pairwise cosines equal ``cosine``, randomly rotated; "digits", "patches" real
    pictures, with their mean removed if ``center``, none closer than ``max_cosine`` to another. Each is a
    function of ``seed`` alone. "given": the rows of an array of one's own, by ``Features.given``; ``rows`` holds them
    entry by entry, little-endian float64 in base 64, so that a point with them is a value as any other and a record holds
    what it was measured on.
    """

    kind: str
    seed: int = 0
    cosine: float | None = None
    center: bool = True
    max_cosine: float = 1.0
    rows: str | None = field(default=None, repr=False)

    @staticmethod
    def given(X: Any) -> Features:
        """The rows of ``X`` (B, d), an array or tensor with rows of unit norm.

        Raises ``ValueError`` or ``TypeError`` for values that are not finite, more rows than columns, or another norm."""
        features = checks.array("X", X, (None, None))
        if len(features) > features.shape[1]:
            raise ValueError(f"X must have at most as many rows as columns; got shape {features.shape}")
        norms = np.linalg.norm(features, axis=1)
        if np.max(np.abs(norms - 1)) > _ROUNDING:
            raise ValueError(
                f"X must have rows of unit norm (divide each by its norm); got norms from {norms.min():.6g} to "
                f"{norms.max():.6g}"
            )
        return Features(GIVEN, rows=base64.b64encode(features.astype("<f8").tobytes()).decode())

    def __post_init__(self) -> None:
        checks.choice("kind", self.kind, (*FEATURE_KINDS, GIVEN))
        self._require_rows()
        checks.integer("seed", self.seed, 0)
        if (self.kind == "cosine") != (self.cosine is not None):
            raise ValueError(
                f"cosine must be given for kind 'cosine' and no other; got {self.cosine} with {self.kind!r}"
            )
        if self.cosine is not None:
            object.__setattr__(self, "cosine", checks.real("cosine", self.cosine, -1.0, 1.0))
        object.__setattr__(self, "max_cosine", checks.real("max_cosine", self.max_cosine, 0.0, 1.0))

    def sample(self, d: int, B: int) -> NDArray[np.float64]:
        """The features, (B, d), rows of unit norm. ``ValueError`` if pictures do not have d pixels, given features another
        shape, or no B vectors have that cosine."""
        if self.rows is not None:
            return self._given(d, B)
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

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values, the parameters of ``Features``; ``rows`` only where there are some, so that keys of points
        stay what they were."""
        raw = asdict(self)
        if self.rows is None:
            del raw["rows"]
        return raw

    def _require_rows(self) -> None:
        if (self.kind == GIVEN) != (self.rows is not None):
            raise ValueError(
                f"rows must be given for kind {GIVEN!r} (Features.given) and no other; got {self.kind!r}"
            )
        if self.rows is None:
            return
        checks.instance("rows", self.rows, str)
        try:
            entries = np.frombuffer(base64.b64decode(self.rows, validate=True), dtype="<f8")
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"rows must be float64 numbers in base 64; {error}") from None
        if not entries.size or not np.all(np.isfinite(entries)):
            raise ValueError("rows must be finite numbers, at least one; got others")

    def _given(self, d: int, B: int) -> NDArray[np.float64]:
        entries = np.frombuffer(base64.b64decode(self.rows or ""), dtype="<f8")
        if entries.size != B * d:
            raise ValueError(
                f"B d must be the {entries.size} entries of the given features; got B = {B}, d = {d}"
            )
        return entries.astype(np.float64).reshape(B, d)

    def __str__(self) -> str:
        if self.rows is not None:
            return f"given ({hashlib.sha256(self.rows.encode()).hexdigest()[:6]})"
        name = f"cosine {self.cosine:g}" if self.cosine is not None else self.kind
        return name if self.center or self.kind not in IMAGE_KINDS else f"{name}, mean kept"
