"""Any field of an attack on pictures, from the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from bounds import checks
from verify.cli.options import number, whole

if TYPE_CHECKING:
    from attack.image.inversion import ImageAttack


def with_settings(attack: ImageAttack, given: Iterable[str], options: Mapping[str, Any]) -> ImageAttack:
    """The attack with the fields that ``NAME=VALUE`` give, of its search for pictures or else its own, and those of options
    of their own, by field. ``ValueError`` or ``TypeError`` for a name that it has not or that is given twice, for a value
    that its field does not take, and for a step where the search is an L-BFGS, which has none."""
    from verify.images.run import searched, with_options

    inner = _plain(searched(attack))
    fields = _plain(attack) | inner
    read = {name: value for name, value in options.items() if value is not None}
    for text in given:
        name, parted, value = text.partition("=")
        if not parted:
            raise ValueError(f"setting must be NAME=VALUE, such as keep=last; got {text!r}")
        checks.choice("setting", name, tuple(fields))
        if name in read:
            raise ValueError(f"setting must give {name} once, and not beside its own option; got {text!r}")
        read[name] = _READ[type(fields[name])](name, value)  # as the kind that the field has now
    change: Any = dataclasses.replace
    for_search = {name: value for name, value in read.items() if name in inner}
    attack = change(attack, **{name: value for name, value in read.items() if name not in inner})
    attack = with_options(attack, **for_search)
    if "step" in read and searched(attack).optimiser == "lbfgs":
        raise ValueError(f"rate (step) must not be given with L-BFGS, which has none; got {read['step']:g}")
    return attack


def _plain(spec: Any) -> dict[str, Any]:
    """The fields that are no specifications themselves, with their values."""
    values = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec)}
    return {name: value for name, value in values.items() if type(value) in _READ}


def _truth(name: str, value: str) -> bool:
    return checks.choice(name, value, ("yes", "no")) == "yes"


#: Kinds of fields.
_READ: Mapping[type, Callable[[str, str], Any]] = {
    bool: _truth,
    int: whole,
    float: number,
    str: lambda name, value: value,
}
