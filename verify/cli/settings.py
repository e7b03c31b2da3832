"""Any field of an attack on pictures, from the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from bounds import checks
from verify.cli.options import count, number

if TYPE_CHECKING:
    from attack.image.inversion import ImageAttack


def with_settings(attack: ImageAttack, given: Iterable[str]) -> ImageAttack:
    """The attack with the fields that ``NAME=VALUE`` give: of its search for pictures, or else its own. ``ValueError`` or
    ``TypeError`` for names that it has not and for values that its field does not take."""
    from verify.images.run import searched, with_options

    for text in given:
        name, parted, value = text.partition("=")
        if not parted:
            raise ValueError(f"setting must be NAME=VALUE, such as keep=last; got {text!r}")
        inner, own = _plain(searched(attack)), _plain(attack)
        checks.choice("setting", name, tuple({**inner, **own}))
        read = {name: _read(name, value, {**own, **inner}[name])}
        change: Any = dataclasses.replace
        attack = with_options(attack, **read) if name in inner else change(attack, **read)
    return attack


def _plain(spec: Any) -> dict[str, Any]:
    """The fields that are no specifications themselves, with their values."""
    values = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec)}
    return {name: value for name, value in values.items() if type(value) in _READ}


def _read(name: str, value: str, now: Any) -> Any:
    """The value as the kind that the field has now."""
    return _READ[type(now)](name, value)


def _truth(name: str, value: str) -> bool:
    return checks.choice(name, value, ("yes", "no")) == "yes"


#: Kinds of fields.
_READ: Mapping[type, Callable[[str, str], Any]] = {
    bool: _truth,
    int: lambda name, value: count(value),
    float: number,
    str: lambda name, value: value,
}
