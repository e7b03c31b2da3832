"""The one strict form in JSON of a defense, an attack and a setting: for records, pictures and the command line.

JSON has no infinity: a float that is not finite is written by its name ("inf", "-inf", "nan"). What is read has to be what
was written: a key too many or too few, another type, a value out of range are a ``ValueError``, never a default.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Mapping
from enum import Enum
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np

import bounds
from bounds import checks
from bounds.defense import Defense
from bounds.estimator import AttackSpec, TensorAttack
from bounds.gaussian.activations import ACTIVATIONS, activation_text
from bounds.setting import Setting

#: The names of the floats that JSON does not have.
NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}

#: Options of ``TensorAttack`` that are younger than the first records. At their default they are left out, so that keys of
#: points, and seeds made from them, stay what they were.
LATER_OPTIONS = ("contraction", "preprocessing")


def plain(value: Any) -> Any:
    """``value`` as strict JSON: mappings, lists, tuples, arrays, dataclasses, enumerations and numbers, nested at will.

    Raises ``TypeError`` for what has no such form, keys that are no strings among it.
    """
    if value is None or isinstance(value, bool | np.bool_):
        return None if value is None else bool(value)
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        return number if math.isfinite(number) else str(number)
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {_key(k): plain(v) for k, v in value.items()}
    raise TypeError(f"only numbers, words, lists and mappings have a form in JSON; got {value!r}")


def defense_to_dict(defense: Defense) -> dict[str, Any]:
    """``{"name": ..., **parameters and choices}``."""
    checks.instance("defense", defense, Defense)
    return {"name": defense.name, **plain(defense)}


def defense_from_dict(raw: Any) -> Defense:
    """Inverse of ``defense_to_dict``; ``ValueError`` for anything that is not its result."""
    values = _object("defense", raw)
    families = {family.name: family for family in bounds.DEFENSES}
    name = values.pop("name", None)
    if not isinstance(name, str) or name not in families:
        raise ValueError(
            f"defense must be one of {', '.join(families)}; got {name!r} (a defense from outside is known once the module "
            f"that registers it has been imported; on the command line: --plugin MODULE){checks.nearest(name, families)}"
        )
    found: Defense = _built("defense", families[name], values)
    return found


def attack_to_dict(attack: AttackSpec) -> dict[str, Any]:
    """The options by name; before them ``"name"``, except of ``TensorAttack``, the only attack of the first records.

    Raises ``TypeError`` for what is none of ``bounds.ATTACKS``, and for options that would not come back as they are: they
    have to be words, numbers (nan is none), None, or tuples of these, as the types of their fields say."""
    if type(attack) is TensorAttack:
        default = TensorAttack()
        options = {f.name: getattr(attack, f.name) for f in dataclasses.fields(attack)}
        return {k: plain(v) for k, v in options.items() if k not in LATER_OPTIONS or v != getattr(default, k)}
    if type(attack) not in bounds.ATTACKS:
        raise TypeError(f"attack must be one of bounds.ATTACKS; got {attack!r}")
    raw = {"name": attack.name, **plain(attack)}
    if attack_from_dict(raw) != attack:
        raise TypeError(f"attack must have options that come back from JSON as they are; got {attack!r}")
    return raw


def attack_from_dict(raw: Any) -> AttackSpec:
    """Inverse of ``attack_to_dict``; ``ValueError`` for anything that is not its result."""
    values = _object("attack", raw)
    found: AttackSpec
    if "name" not in values:
        found = _built("attack", TensorAttack, values, optional=LATER_OPTIONS)
        return found
    specs = {spec.name: spec for spec in bounds.ATTACKS if spec is not TensorAttack}
    found = _built("attack", specs[_word("attack", values.pop("name"), specs)], values)
    return found


def setting_to_dict(setting: Setting) -> dict[str, Any]:
    """d, m, gram, labels, groups and the activation's name or expression. ``ValueError`` for one that has neither, which has
    no form in JSON."""
    checks.instance("setting", setting, Setting)
    return plain(
        {
            "d": setting.d,
            "m": setting.m,
            "gram": setting.gram,
            "labels": setting.labels,
            "activation": activation_text(setting.activation),
            "groups": setting.groups,
        }
    )


def setting_from_dict(raw: Any) -> Setting:
    """Inverse of ``setting_to_dict``; ``ValueError`` for anything that is not its result."""
    values = _object("setting", raw)
    if not isinstance(values.get("activation"), str):
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, or an expression; got {raw!r}")
    return _built("setting", Setting, values)


def _key(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(f"keys must be words; got {key!r} ({type(key).__name__})")
    return str(key)


def _object(name: str, raw: Any) -> dict[str, Any]:
    if not isinstance(raw, Mapping) or not all(isinstance(k, str) for k in raw):
        raise ValueError(f"{name} must be an object with words as keys; got {raw!r}")
    return dict(raw)


def _word(name: str, value: Any, allowed: Mapping[str, Any]) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(
            f"{name} must be one of {', '.join(allowed)}; got {value!r}{checks.nearest(value, allowed)}"
        )
    return value


@cache
def _types(make: type) -> Mapping[str, Any]:
    """The types of a dataclass's fields."""
    return get_type_hints(make)


def _typed(wanted: Any, value: Any) -> Any:
    """What JSON cannot write as it is, as a field of that type holds it: the float that a name stands for, a tuple of a
    list. Anything else is left to the one who checks it."""
    among = get_args(wanted) if get_origin(wanted) in (Union, UnionType) else (wanted,)
    if isinstance(value, str):
        return NOT_FINITE.get(value, value) if float in among and str not in among else value
    shapes = [one for one in among if tuple in (one, get_origin(one))]
    if not isinstance(value, list | tuple) or not shapes:
        return value
    inner = get_args(shapes[0]) or (Any, ...)
    inner = inner[:1] * len(value) if inner[1:] == (...,) else inner
    if len(inner) != len(value):
        raise TypeError(f"{value} must have {len(inner)} entries")
    return tuple(_typed(one, v) for one, v in zip(inner, value, strict=True))


def _built(name: str, make: Any, values: dict[str, Any], optional: tuple[str, ...] = ()) -> Any:
    """An instance of the dataclass ``make`` from exactly its fields."""
    wanted = {f.name for f in dataclasses.fields(make)}
    wrong = sorted((wanted ^ set(values)) - (set(optional) & wanted))
    if wrong:
        raise ValueError(f"{name}: fields missing or unknown: {', '.join(wrong)}; got {values}")
    try:
        return make(**{k: _typed(_types(make)[k], v) for k, v in values.items()})
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from error
