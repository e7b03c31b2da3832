"""Series in words: what tells them apart in one figure, and what all of them share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from bounds import ATTACKS, NoDefense, TensorAttack
from bounds.setting import alternating
from verify.measure.point import Point, parameter_words


@dataclass(frozen=True)
class Property:
    """One property of a point: its value as text that is equal exactly where the values are, in words where it is said of
    all points (empty: it goes without saying), and in words where it tells points apart."""

    value: str
    shared: str
    telling: str


Properties: TypeAlias = Mapping[str, Property]


@dataclass(frozen=True)
class Wording:
    """A name for each series, from the properties that tell it from the others and no more: different series have different
    names, a lone one has none. ``shared``: what all points have in common; ``parameters``: what of it are parameters of the
    defense."""

    names: tuple[str, ...]
    shared: tuple[str, ...]
    parameters: tuple[str, ...]

    @staticmethod
    def of(together: Sequence[Sequence[Point]], x: str) -> Wording:
        """Of series of different points, each along ``x`` (as ``series`` puts them together)."""
        told = [[_properties(p) for p in points] for points in together]
        keys = list(dict.fromkeys(key for series in told for one in series for key in one))
        constant = [
            {k: s[0][k] for k in keys if k in s[0] and len({one[k].value for one in s}) == 1} for s in told
        ]
        telling = [k for k in keys if len({c[k].value for c in constant if k in c}) > 1]
        families = [type(s[0].defense) for s in together]
        if len(set(families)) > 1:  # no defense beside one, or several: each with its strength
            telling += [
                f"defense.{family.name}.{strength.name}"
                for family in dict.fromkeys(families)
                if (strength := family.strength_parameter())
            ]
        words = {k: _distinct_words([c[k] for c in constant if k in c]) for k in telling}
        names = [
            _joined({k: words[k][c[k].value] for k in keys if k in telling and k in c}) for c in constant
        ]
        common = {
            k: next(c[k] for c in constant if k in c).shared
            for k in keys
            if k not in telling and all(k in c for c, s in zip(constant, told, strict=True) if k in s[0])
            if any(k in c for c in constant)
        }
        ranges = _ranges([p for s in together for p in s], {x, *telling, *common})
        parameters = tuple(v for k, v in common.items() if k.startswith("defense."))
        return Wording(tuple(names), (*filter(None, _shared(common)), *ranges), parameters)


def _properties(point: Point) -> Properties:
    """Every property in which points can differ, by a key: ``defense.FAMILY.NAME`` for a parameter, ``attack.NAME.OPTION``
    for an option."""
    raw, words = point.to_dict(), point.describe()
    found = {key: Property(_text(raw[key]), words[key], words[key]) for key in ("activation", "features")}
    found |= {key: Property(_text(raw[key]), words[key], words[key]) for key in ("d", "m", "B")}
    usual = point.labels == alternating(point.B)
    found["labels"] = Property(
        "" if usual else _text(raw["labels"]), words["labels"], words["labels"] or "alternating labels"
    )
    family = type(point.defense)
    name = "no defense" if family is NoDefense else family.name.replace("_", " ")
    found["defense"] = Property(family.name, name, name)
    for parameter, spoken in parameter_words(point.defense).items():
        value = _text(getattr(point.defense, parameter))
        found[f"defense.{family.name}.{parameter}"] = Property(value, spoken, spoken)
    attack = point.attack
    found["attack"] = Property(attack.name, attack.called, attack.called)
    for option in fields(attack):
        chosen = getattr(attack, option.name)
        spoken = f"{option.name} = {chosen}".replace("_", " ")
        if isinstance(attack, TensorAttack) and option.name == "moments":
            shared = spoken = f"{chosen} moments"
        else:
            shared = "" if chosen == option.default else spoken
        found[f"attack.{attack.name}.{option.name}"] = Property(_text(chosen), shared, spoken)
    found["dtype"] = Property(point.dtype, words["dtype"], point.dtype)
    found["experiment"] = Property(point.experiment, "", point.experiment)
    return found


def _text(value: Any) -> str:
    """Equal for equal values; 1 and 1.0 are."""
    plain = int(value) if isinstance(value, float) and value.is_integer() else value
    return json.dumps(plain, sort_keys=True, default=repr)


def _distinct_words(found: Sequence[Property]) -> dict[str, str]:
    """Words for each value: short ones, or the value itself where short ones are the same for two of them."""
    short = {p.value: p.telling for p in found}
    return short if len(set(short.values())) == len(short) else {v: f"{w} ({v})" for v, w in short.items()}


def _joined(words: Mapping[str, str]) -> str:
    """One name: first the defense, its parameters behind it, in brackets if it is named itself."""
    inside = ", ".join(w for k, w in words.items() if k.startswith("defense."))
    family = words.get("defense", "")
    head = f"{family} ({inside})" if family and inside else family or inside
    return ", ".join(filter(None, [head, *(w for k, w in words.items() if not k.startswith("defense"))]))


def _shared(common: Mapping[str, str]) -> list[str]:
    """What all share, the parameters of a defense behind its name; of several defenses, each with what is its own."""
    by_family: dict[str, list[str]] = {}
    for key, words in common.items():
        if key.startswith("defense."):
            by_family.setdefault(key.split(".")[1].replace("_", " "), []).append(words)
    told = []
    for key, words in common.items():
        if key == "defense":
            told.append(f"{words} ({', '.join(by_family[words])})" if words in by_family else words)
        elif key.startswith("attack.") and words and "attack" not in common:
            told.append(f"{_called(key.split('.')[1])}: {words}")
        elif not key.startswith("defense."):
            told.append(words)
    if "defense" not in common:
        told += [f"{family}: {', '.join(words)}" for family, words in by_family.items()]
    return told


def _called(name: str) -> str:
    """An attack of this name in words."""
    return next((family.called for family in ATTACKS if family.name == name), name)


def _ranges(points: Sequence[Point], said: set[str]) -> list[str]:
    """Sizes that change along series and are not on the axis."""
    found = []
    for size in ("d", "m", "B"):
        values = sorted({getattr(p, size) for p in points})
        if size not in said and len(values) > 1:
            found.append(f"{size} = {values[0]:,} to {values[-1]:,}".replace(",", " "))
    return found
