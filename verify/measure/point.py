"""One setting to be measured."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from bounds import (
    DEFENSES,
    AttackSpec,
    Defense,
    NoDefense,
    Setting,
    TensorAttack,
    checks,
    serial,
)
from bounds.gaussian.activations import activation_text
from bounds.setting import LARGEST_LABEL, LARGEST_SIZE, alternating
from verify.measure.features import Features
from verify.measure.lines import json_object

DTYPES = ("float64", "float32")


@dataclass(frozen=True)
class Point:
    """One setting to be measured: trials at a point differ in weights, noise and starts, never in the
    features.

    ``labels`` default to +1, -1, +1, ...; ``activation``: a name of ``bounds.ACTIVATIONS``, or an
    expression in z ("z**2 + z**3"; sympy's is kept as its text). ``also``: further attacks that
    run on the same observation as ``attack``. Raises ``ValueError`` or ``TypeError`` on values out of range (a mismatch of d
    and pictures shows when the features are drawn).
    """

    experiment: str
    features: Features
    d: int
    m: int
    B: int
    labels: tuple[float, ...] = ()
    activation: str = "relu"
    defense: Defense = field(default_factory=NoDefense)
    attack: AttackSpec = field(default_factory=TensorAttack)
    dtype: str = "float64"
    also: tuple[AttackSpec, ...] = ()

    def __post_init__(self) -> None:
        checks.instance("experiment", self.experiment, str)
        checks.instance("features", self.features, Features, 'Features("orthonormal")')
        checks.integer("d", self.d, 1, LARGEST_SIZE)
        checks.integer("B", self.B, 1, self.d, "at most d")
        checks.integer("m", self.m, self.B + 1, LARGEST_SIZE, "more than B")
        object.__setattr__(self, "activation", activation_text(self.activation))
        checks.choice("dtype", self.dtype, DTYPES)
        labels = tuple(
            checks.real("labels", y, -LARGEST_LABEL, LARGEST_LABEL)
            for y in checks.several("labels", self.labels)
        ) or alternating(self.B)
        if len(labels) != self.B:
            raise ValueError(f"labels must have B = {self.B} entries; got {len(labels)}")
        object.__setattr__(self, "labels", labels)
        checks.instance("defense", self.defense, Defense)
        if type(self.defense) not in DEFENSES:
            raise TypeError(
                f"defense must be of a family in bounds.DEFENSES (@bounds.register_defense); got {self.defense!r}"
            )
        checks.instance("also", self.also, tuple)
        for attack in self.attacks:
            checks.instance("attack", attack, AttackSpec, "TensorAttack()")
        if len(set(self.attacks)) < len(self.attacks):
            raise ValueError(f"attacks at a point must be distinct; got {self.attacks}")

    @property
    def attacks(self) -> tuple[AttackSpec, ...]:
        """Every attack that runs on one observation here."""
        return (self.attack, *self.also)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """``attack_name`` of every attack."""
        return tuple(attack_name(a) for a in self.attacks)

    @cached_property
    def single(self) -> Mapping[str, Point]:
        """The point with each of its attacks alone, by the attack's name."""
        if not self.also:
            return {self.names[0]: self}
        alone = (replace(self, attack=a, also=()) for a in self.attacks)
        return dict(zip(self.names, alone, strict=True))

    def setting(self) -> Setting:
        """The setting that the bounds speak about."""
        return Setting.from_features(
            self.features.sample(self.d, self.B), self.labels, self.m, self.activation
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values; ``Point.from_dict`` inverts it. One attack is written as it always was, so that keys of
        points, and seeds made from them, stay what they were."""
        raw = {
            "experiment": self.experiment,
            "features": self.features.to_dict(),
            "d": self.d,
            "m": self.m,
            "B": self.B,
            "labels": list(self.labels),
            "activation": self.activation,
            "defense": serial.defense_to_dict(self.defense),
            "attack": serial.attack_to_dict(self.attack),
            "dtype": self.dtype,
        }
        return raw | ({"also": [serial.attack_to_dict(a) for a in self.also]} if self.also else {})

    @staticmethod
    def from_dict(raw: Any) -> Point:
        """Inverse of ``to_dict``. ``ValueError`` for anything that is not its result."""
        try:
            values = _exactly("point", raw, Point, optional={"also"})
            labels, also = values["labels"], values.get("also", [])
            if not isinstance(labels, list | tuple) or not isinstance(also, list | tuple):
                raise TypeError("labels and also must be lists")
            return Point(
                **values
                | {
                    "features": Features(
                        **_exactly("features", values["features"], Features, optional={"rows"})
                    ),
                    "labels": tuple(labels),
                    "defense": serial.defense_from_dict(values["defense"]),
                    "attack": serial.attack_from_dict(values["attack"]),
                    "also": tuple(serial.attack_from_dict(a) for a in also),
                }
            )
        except (TypeError, OverflowError) as error:
            raise ValueError(f"point must be what Point.to_dict gives; got {raw!r} ({error})") from error

    @cached_property
    def key(self) -> str:
        """A short stable hash of ``to_dict()``."""
        return point_key(self.to_dict())

    def describe(self) -> dict[str, str]:
        """What a person needs to tell points apart, part by part, as short text."""
        labels = "" if self.labels == alternating(self.B) else ", ".join(f"{y:g}" for y in self.labels)
        return {
            "activation": self.activation,
            "features": str(self.features) + (f" (seed {self.features.seed})" if self.features.seed else ""),
            "d": f"d = {self.d}",
            "m": f"m = {self.m:,}".replace(",", " "),
            "B": f"B = {self.B}",
            "labels": f"labels {labels}" if labels else "",
            "defense": defense_words(self.defense),
            "attack": " and ".join(attack_words(a) for a in self.attacks),
            "dtype": "" if self.dtype == "float64" else self.dtype,
        }


def attack_words(attack: AttackSpec) -> str:
    """An attack and what it does otherwise than by default, as short text."""
    if not isinstance(attack, TensorAttack):
        return f"{attack.called}{attack_name(attack).removeprefix(attack.name).replace('_', ' ')}"
    words = [attack.called, attack.moments]
    words += [f"core weight {attack.core_weight:g}"] if attack.core_weight is not None else []
    words += [] if attack.same_neuron == "leave_one_out" else [f"same neuron {attack.same_neuron}"]
    words += ["random contraction"] if attack.contraction == "random" else []
    words += ["preprocessed"] if attack.preprocessing == "optimal" else []
    return ", ".join(words)


def attack_name(attack: AttackSpec) -> str:
    """Its name, with the options that are not the default: "tensor", "tensor(moments=plain)". Different attacks have
    different ones."""
    options = {
        f.name: serial.plain(getattr(attack, f.name))
        for f in dataclasses.fields(attack)
        if getattr(attack, f.name) != _default(f)
    }
    told = ", ".join(f"{k}={v}" for k, v in options.items())
    return f"{attack.name}({told})" if told else attack.name


def _default(option: dataclasses.Field[Any]) -> Any:
    if option.default_factory is not dataclasses.MISSING:
        return option.default_factory()
    return option.default


def defense_words(defense: Defense) -> str:
    """A defense in words: "gradient noise (sigma = 1)", "no defense"."""
    if isinstance(defense, NoDefense):
        return "no defense"
    strength = ", ".join(parameter_words(defense).values())
    return defense.name.replace("_", " ") + (f" ({strength})" if strength else "")


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


def _exactly(name: str, raw: Any, make: type, optional: Set[str] = frozenset()) -> dict[str, Any]:
    """``raw`` as an object with exactly the fields of a dataclass."""
    values = json_object(raw, name)
    return json_object(values, name, {f.name for f in dataclasses.fields(make)} - (optional - values.keys()))


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
