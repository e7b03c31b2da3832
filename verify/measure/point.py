"""One setting to be measured."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bounds import ACTIVATIONS, DEFENSES, Defense, NoDefense, Setting, TensorAttack, checks
from verify.measure.features import Features, alternating

DTYPES = ("float64", "float32")


#: Options of ``TensorAttack`` that older records do not have.
LATER_OPTIONS = ("contraction",)


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
