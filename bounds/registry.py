"""The one table that grows: every defense there is, those that users bring from outside the tree among them."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any, TypeVar, get_args, overload

import sympy as sp

from bounds import checks
from bounds.defense import Defense
from bounds.law import Law
from bounds.setting import SIZES

Family = TypeVar("Family", bound=type[Defense])
K = TypeVar("K")
V = TypeVar("V")

#: Installed packages name here, as entry points, the modules that register their defenses when they are imported.
GROUP = "reconbound.defenses"

#: What no defense may be called: on the command line it means every one of them.
TAKEN = "all"


class Defenses(Sequence[type[Defense]]):
    """Every defense there is: first those of the tree, then those from outside it, in the order of their registration.

    Nothing is taken out; only a class that is defined again (the same name in the same module: the cell of a notebook
    run twice) takes the place of its predecessor. What installed packages name under the entry point ``GROUP`` is
    imported at the first look, so the first look raises ``ImportError`` where that fails.
    """

    def __init__(self, *built_in: type[Defense]) -> None:
        self._families = list(built_in)
        self._searched = False

    def register(self, family: Family) -> Family:
        """Add a family of defenses from outside the tree, and return it: a decorator above ``@dataclass(frozen=True)``.

        What the client does is given beside it, by ``attack.register_channel``. Raises ``TypeError`` or ``ValueError`` for
        a class that is no complete specification, a name that is taken, a parameter that means something else already.
        """
        _require_specification(family)
        known = {f.name: i for i, f in enumerate(self._families)}
        place = known.get(family.name)
        if place is not None:
            require_redefined(self._families[place], family)
        for other in self._families:
            if other.name != family.name:
                _require_same_meaning(family, other)
        if place is None:
            self._families.append(family)
        else:
            self._families[place] = family
        return family

    def _all(self) -> list[type[Defense]]:
        if not self._searched:
            self._searched = True  # while a module is imported it may look here itself
            try:
                _import_installed()
            except BaseException:
                self._searched = False
                raise
        return self._families

    @overload
    def __getitem__(self, index: int) -> type[Defense]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[type[Defense], ...]: ...
    def __getitem__(self, index: int | slice) -> type[Defense] | tuple[type[Defense], ...]:
        found = tuple(self._all())
        return found[index]

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return f"({', '.join(family.__name__ for family in self)})"


class Live(Mapping[K, V]):
    """A mapping that is made anew at every look, from a table that may have grown since."""

    def __init__(self, make: Callable[[], Mapping[K, V]]) -> None:
        self._make = make

    def __getitem__(self, key: K) -> V:
        return self._make()[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._make())

    def __len__(self) -> int:
        return len(self._make())

    def __repr__(self) -> str:
        return repr(dict(self._make()))


def _import_installed() -> None:
    for found in metadata.entry_points(group=GROUP):
        try:
            found.load()
        except Exception as error:  # a module may raise anything while it is imported
            package = found.dist.name if found.dist is not None else "?"
            raise ImportError(
                f"{found.value}, which package {package} names under the entry point {GROUP}, cannot be imported: "
                f"{type(error).__name__}: {error}"
            ) from error


def require_named(one: Any, what: str) -> None:
    """``TypeError`` or ``ValueError`` unless a class is a frozen dataclass with a name that can stand in records and on the
    command line."""
    options = vars(one).get("__dataclass_params__")
    if options is None or not options.frozen:
        raise TypeError(f"{one.__name__} must be a frozen dataclass before it is registered as {what}")
    name = getattr(one, "name", None)
    if not isinstance(name, str) or not re.fullmatch("[a-z][a-z0-9_]*", name) or name == TAKEN:
        raise ValueError(
            f"{one.__name__}.name must be lower-case letters, digits and underscores, and not {TAKEN!r}; got {name!r}"
        )


def require_redefined(old: Any, new: Any) -> None:
    """``ValueError`` unless two classes of one name are the same class, defined again."""
    if whole_name(old) != whole_name(new):
        raise ValueError(f"{new.__name__}.name must be free; {new.name!r} is {whole_name(old)} already")


def from_outside(one: type) -> bool:
    """Whether a defense or an attack is specified outside the tree."""
    return one.__module__.partition(".")[0] != __name__.partition(".")[0]


def whole_name(one: Any) -> str:
    """Where a class or a function is defined, and as what."""
    return f"{getattr(one, '__module__', '?')}.{getattr(one, '__qualname__', type(one).__name__)}"


def _require_specification(family: Any) -> None:
    """``TypeError`` or ``ValueError`` unless ``family`` says all that a defense has to."""
    if not (isinstance(family, type) and issubclass(family, Defense)):
        raise TypeError(f"a defense must be a subclass of bounds.Defense; got {checks.shown(family)}")
    require_named(family, "a defense")
    where = family.__name__
    free = [f.name for f in dataclasses.fields(family) if not {"param", "choice"} & set(f.metadata)]
    if free:
        raise TypeError(f"{where}.{free[0]} must be declared with param(...) or choice(...)")
    taken = sorted({p.name for p in family.parameters()} & set(SIZES))
    if taken:
        raise ValueError(f"{where}.{taken[0]} must not have the name of a size ({', '.join(SIZES)})")
    if family.strength_name:
        checks.choice(f"{where}.strength_name", family.strength_name, [p.name for p in family.parameters()])
    _require_law(family)
    _require_rate(family)
    family.grid()  # every member that a sweep tries by default has to exist


def _require_law(family: type[Defense]) -> None:
    try:
        laws = family.laws()
        inspect.signature(family.law).bind("self", "setting")
    except KeyError:
        laws, why = (), "no return type"
    except Exception as error:  # an annotation is evaluated here, and may be anything
        laws, why = (), f"{type(error).__name__}: {error}"
    else:
        why = ", ".join(getattr(law, "__name__", str(law)) for law in laws)
    if family.law is Defense.law or not laws or not set(laws) <= set(get_args(Law)):
        known = ", ".join(law.__name__ for law in get_args(Law))
        raise TypeError(
            f"{family.__name__}.law must be a function of (self, setting) whose return type is of the laws {known}; "
            f"got {why}"
        )


def _require_rate(family: type[Defense]) -> None:
    rate = family.rate
    if rate is None:
        return
    allowed = {**SIZES, **{p.name: p.symbol for p in family.parameters()}}
    if not isinstance(rate, sp.Expr) or not rate.free_symbols <= set(allowed.values()):
        raise TypeError(
            f"{family.__name__}.rate must be an expression over bounds.setting.SIZES and bounds.symbol of its parameters "
            f"({', '.join(allowed)}); got {checks.shown(rate)}"
        )
    if not family.rate_source:
        raise ValueError(f"{family.__name__}.rate_source must say whose rate it is; got nothing")


def _require_same_meaning(family: type[Defense], other: type[Defense]) -> None:
    """A parameter's name is one option on the command line, whichever defense it belongs to."""

    def meanings(one: type[Defense]) -> dict[str, Any]:
        numbers = {p.name: "a whole number" if p.integer else "a real number" for p in one.parameters()}
        return numbers | {name: f"one of {allowed}" for name, allowed in one.choices().items()}

    ours, theirs = meanings(family), meanings(other)
    for name in ours.keys() & theirs.keys():
        if ours[name] != theirs[name]:
            raise ValueError(
                f"{family.__name__}.{name} must be {theirs[name]}, as in {other.name}, or have another name; "
                f"it is {ours[name]}"
            )
