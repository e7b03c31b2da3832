"""What is measured: features, points, and experiments with the checks to be made on them. All of it is inert
data."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bounds import ACTIVATIONS, DEFENSES, Defense, NoDefense, Setting, TensorAttack, checks
from verify.origin import own

FEATURE_KINDS = ("orthonormal", "random", "cosine", "digits", "patches")
IMAGE_KINDS = ("digits", "patches")
DTYPES = ("float64", "float32")
#: Options of ``TensorAttack`` that older records do not have.
LATER_OPTIONS = ("contraction",)


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


def alternating(B: int) -> tuple[float, ...]:
    """Labels +1, -1, +1, ..."""
    return tuple(1.0 - 2.0 * (i % 2) for i in range(B))


@dataclass(frozen=True)
class Point:
    """One setting to be measured: trials at a point differ in weights, noise and starts, never in the
    features.

    ``labels`` default to +1, -1, +1, ...; ``activation`` is a name of ``bounds.ACTIVATIONS``. Raises
    ``ValueError`` or ``TypeError`` on values out of range (a mismatch of d and pictures shows when the
    features are drawn).
    """

    experiment: str
    features: Features
    d: int
    m: int
    B: int
    labels: tuple[float, ...] = ()
    activation: str = "relu"
    defense: Defense = field(default_factory=NoDefense)
    attack: TensorAttack = field(default_factory=TensorAttack)
    dtype: str = "float64"

    def __post_init__(self) -> None:
        checks.integer("d", self.d, 1)
        checks.integer("B", self.B, 1, self.d, "at most d")
        checks.integer("m", self.m, self.B + 1, why="more than B")
        checks.choice("activation", self.activation, tuple(ACTIVATIONS))
        checks.choice("dtype", self.dtype, DTYPES)
        labels = tuple(checks.real("labels", y) for y in self.labels) or alternating(self.B)
        if len(labels) != self.B:
            raise ValueError(f"labels must have B = {self.B} entries; got {len(labels)}")
        object.__setattr__(self, "labels", labels)
        for name, value, wanted in (
            ("defense", self.defense, Defense),
            ("attack", self.attack, TensorAttack),
        ):
            if not isinstance(value, wanted):
                raise TypeError(f"{name} must be a {wanted.__name__}; got {value!r}")

    def setting(self) -> Setting:
        """The setting that the bounds speak about."""
        return Setting.from_features(
            self.features.sample(self.d, self.B), self.labels, self.m, self.activation
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values; ``Point.from_dict`` inverts it.

        Options of the estimator that came later are left out at their default: keys of points, and seeds made from them,
        stay what they were.
        """
        default = TensorAttack()
        attack = {
            k: v for k, v in asdict(self.attack).items() if k not in LATER_OPTIONS or v != getattr(default, k)
        }
        # JSON has no infinity; a parameter may be infinite where its defense is off.
        parameters = {k: "inf" if v == math.inf else v for k, v in asdict(self.defense).items()}
        return asdict(self) | {
            "labels": list(self.labels),
            "defense": {"name": self.defense.name, **parameters},
            "attack": attack,
        }

    @staticmethod
    def from_dict(raw: Mapping[str, Any]) -> Point:
        """Inverse of ``to_dict``. ``ValueError`` for anything that is not its result."""
        try:
            parameters = dict(raw["defense"])
            by_name = {cls.name: cls for cls in DEFENSES}
            defense = by_name[checks.choice("defense", parameters.pop("name"), tuple(by_name))]
            parameters = {k: math.inf if v == "inf" else v for k, v in parameters.items()}
            values = dict(raw) | {
                "features": Features(**raw["features"]),
                "labels": tuple(raw["labels"]),
                "defense": defense(**parameters),
                "attack": TensorAttack(**raw["attack"]),
            }
            return Point(**values)
        except (KeyError, TypeError) as error:
            raise ValueError(f"point must be what Point.to_dict gives; got {dict(raw)} ({error})") from error

    @property
    def key(self) -> str:
        """A short stable hash of ``to_dict()``."""
        return point_key(self.to_dict())

    def describe(self) -> dict[str, str]:
        """What a person needs to tell points apart, part by part, as short text."""
        strength = ", ".join(parameter_words(self.defense).values())
        labels = "" if self.labels == alternating(self.B) else ", ".join(f"{y:g}" for y in self.labels)
        attack = self.attack
        estimator = [attack.moments]
        estimator += [f"core weight {attack.core_weight:g}"] if attack.core_weight is not None else []
        estimator += [] if attack.same_neuron == "leave_one_out" else [f"same neuron {attack.same_neuron}"]
        estimator += ["random contraction"] if attack.contraction == "random" else []
        return {
            "activation": self.activation,
            "features": str(self.features) + (f" (seed {self.features.seed})" if self.features.seed else ""),
            "d": f"d = {self.d}",
            "m": f"m = {self.m:,}".replace(",", " "),
            "B": f"B = {self.B}",
            "labels": f"labels {labels}" if labels else "",
            "defense": self.defense.name.replace("_", " ") + (f" ({strength})" if strength else "")
            if self.defense.name != "none"
            else "no defense",
            "attack": ", ".join(estimator),
            "dtype": "" if self.dtype == "float64" else self.dtype,
        }


def parameter_words(defense: Defense) -> dict[str, str]:
    """A defense's parameters and choices by name, each as short text."""
    words = {}
    for name, value in asdict(defense).items():
        spoken = name.replace("_", " ")
        if isinstance(value, bool):
            words[name] = spoken if value else f"not {spoken}"
        else:
            words[name] = f"{spoken} = {value if isinstance(value, str) else format(value, 'g')}"
    return words


def point_key(raw: Mapping[str, Any]) -> str:
    """Hash of a point's JSON form; 1 and 1.0 count as equal, as they do in Python."""
    text = json.dumps(_canonical(raw), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _canonical(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


# --- checks: inert, what is to be asked of the records; the answers are found in ``compare`` ----------------


@dataclass(frozen=True)
class PredictedCheck:
    """Measured over predicted root mean square within ``tolerance`` of 1, at the largest m of each series or
    everywhere."""

    tolerance: float = 0.03
    largest_m_only: bool = True


@dataclass(frozen=True)
class RateCheck:
    """The exponent of ``variable`` (m, d or sigma) within ``tolerance`` of the rate's."""

    variable: str = "m"
    tolerance: float = 0.05

    def __post_init__(self) -> None:
        checks.choice("variable", self.variable, ("m", "d", "sigma"))


@dataclass(frozen=True)
class ImprovementCheck:
    """Plain over residualized root mean square, at the largest m: above 1 and within ``tolerance`` of the
    predicted factor."""

    tolerance: float = 0.05


@dataclass(frozen=True)
class UpperCheck:
    """R exceeds the upper bound in a fraction of at most ``delta`` of all trials (a failed trial counts as
    exceeding). ``part`` "span": the same for the features' distance from the span, bounded in the details."""

    delta: float = 0.05
    part: str = "error"

    def __post_init__(self) -> None:
        checks.choice("part", self.part, ("error", "span"))
        if not 0 < checks.real("delta", self.delta) < 1:
            raise ValueError(f"delta must lie strictly between 0 and 1; got {self.delta}")


@dataclass(frozen=True)
class LowerCheck:
    """The mean of R^2 is not below the square of the lower bound."""


Check: TypeAlias = PredictedCheck | RateCheck | ImprovementCheck | UpperCheck | LowerCheck


@dataclass(frozen=True)
class Experiment:
    """Points, the number of trials at each, the seed of all of them, and what is to be checked.

    ``claims`` are the ids of the claims it bears on. ``quick_width`` is the largest m of its reduced version.
    """

    name: str
    title: str
    points: tuple[Point, ...]
    rules: tuple[Check, ...]
    claims: tuple[str, ...] = ()
    trials: int = 200
    seed: int = 0
    quick_width: int = 20_000
    quick_trials: int = 10

    def __post_init__(self) -> None:
        for name, value in (("trials", self.trials), ("quick_trials", self.quick_trials)):
            checks.integer(name, value, 1)
        checks.integer("seed", self.seed, 0)
        if not self.points or len(set(self.points)) != len(self.points):
            raise ValueError(
                f"points must be distinct, at least one; experiment {self.name!r} has {len(self.points)}"
            )
        strangers = {p.experiment for p in self.points} - {self.name}
        if strangers:
            raise ValueError(
                f"points must belong to experiment {self.name!r}; got {', '.join(sorted(strangers))}"
            )

    def quick(self) -> Experiment:
        """A reduced version under a name of its own (so that its records never mix with the full run's):
        every m cut down to ``quick_width``, ``quick_trials`` trials."""
        name = f"{self.name}-quick"
        points = [replace(p, experiment=name, m=min(p.m, self.quick_width)) for p in self.points]
        return replace(
            self,
            name=name,
            title=f"{self.title} (quick)",
            points=tuple(dict.fromkeys(points)),
            trials=min(self.trials, self.quick_trials),
        )
