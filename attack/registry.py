"""Which channel is a defense's and which code an attack's: those of the tree that bear its name, or a user's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import torch

from bounds import AttackSpec, Defense, checks
from bounds.registry import from_outside, whole_name

if TYPE_CHECKING:
    from attack.client import Client
    from attack.reconstruction import Reconstruction

#: ``channel(defense, client, groups, seed)``: the entries that the server sees.
Channel: TypeAlias = Callable[[Any, "Client", tuple[int, ...], int], torch.Tensor]

#: ``reconstruct(observation, net, batch_size=..., attack=..., seed=...)``.
Code: TypeAlias = "Callable[..., Reconstruction]"

#: A decorator gives back what it is put before.
AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])
T = TypeVar("T")

#: What users have registered: channels by the class of the defense, code of attacks by its class and the package in which
#: the tree has such code (``Observed.attacks``). ``_Register`` alone writes here.
_CHANNELS: dict[type[Defense], Channel] = {}
_ATTACKS: dict[tuple[type[AttackSpec], str], Code] = {}


@dataclass(frozen=True)
class _Register:
    """A decorator that puts a function into one of the tables. A function that is defined again (the same name in the same
    module) replaces itself; ``ValueError`` for any other where there is one, ``TypeError`` for one of other arguments."""

    table: dict[Any, Any]
    key: Any
    spec: type
    before: Callable[..., Any] | None
    arguments: tuple[str, ...]
    named: tuple[str, ...] = ()

    def __call__(self, function: AnyFunction) -> AnyFunction:
        try:
            inspect.signature(function).bind(*self.arguments, **dict.fromkeys(self.named))
        except TypeError as error:
            wanted = ", ".join((*self.arguments, *self.named))
            raise TypeError(
                f"what is registered must be a function of ({wanted}); got {checks.shown(function)}: {error}"
            ) from None
        before = self.table.get(self.key, self.before)
        if before is not None and whole_name(before) != whole_name(function):
            raise ValueError(
                f"{self.spec.__name__} must have one such function; it has {whole_name(before)}; got {whole_name(function)}"
            )
        self.table[self.key] = function
        return function


def register_channel(family: type[Defense]) -> _Register:
    """Say what a client does under a defense from outside the tree: a decorator for ``channel(defense, client, groups,
    seed)``, which returns the entries that the server sees, as in ``attack.channels``.

    Raises ``TypeError`` for what is no class of defenses; see ``_Register``.
    """
    if not (isinstance(family, type) and issubclass(family, Defense) and hasattr(family, "name")):
        raise TypeError(
            f"a channel must be of a subclass of bounds.Defense with a name; got {checks.shown(family)}"
        )
    return _Register(_CHANNELS, family, family, _in_the_tree(family), ("defense", "client", "groups", "seed"))


def register_reconstruct(spec: type[AttackSpec], package: str = "attack") -> _Register:
    """Give the code of an attack from outside the tree: a decorator for ``reconstruct(observation, net, batch_size=...,
    attack=..., seed=...)``, which returns a ``Reconstruction`` or raises ``ReconstructionError``; ``package``:
    "attack.rows" for an attack on the gradient of the first layer.

    Raises ``TypeError`` for what is no class of attacks, ``ValueError`` for another package; see ``_Register``.
    """
    if not (isinstance(spec, type) and issubclass(spec, AttackSpec) and hasattr(spec, "name")):
        raise TypeError(
            f"what is reconstructed by must be a subclass of bounds.AttackSpec with a name; got {checks.shown(spec)}"
        )
    checks.choice("package", package, ("attack", "attack.rows"))
    before = _code_in_the_tree(spec, package)
    named = ("batch_size", "attack", "seed")
    return _Register(_ATTACKS, (spec, package), spec, before, ("observation", "net"), named)


def code_of(spec: type[AttackSpec], package: str) -> Code | None:
    """The function ``reconstruct`` of an attack on what ``package`` attacks; None without one."""
    if not hasattr(spec, "name"):
        return None
    return _ATTACKS.get((spec, package)) or _code_in_the_tree(spec, package)


def channel_of(defense: Defense) -> Channel:
    """The channel of a defense; ``TypeError`` if it has none."""
    family = type(defense)
    found = _CHANNELS.get(family) or _in_the_tree(family)
    if found is None:
        raise TypeError(
            f"defense must be one that has a channel, a function under @attack.register_channel({family.__name__}) or (in "
            f"the tree) a module attack.channels.{family.name}; got {defense!r}"
        )
    return found


@dataclass(frozen=True)
class Outside:
    """All that has been registered, to be taken along to another process, which need not have imported what registers it."""

    channels: tuple[tuple[type[Defense], Channel], ...]
    attacks: tuple[tuple[tuple[type[AttackSpec], str], Code], ...]

    @staticmethod
    def here() -> Outside:
        return Outside(tuple(_CHANNELS.items()), tuple(_ATTACKS.items()))

    def run(self, task: Callable[..., T], *given: Any, **named: Any) -> T:
        """``task(*given, **named)``, where it is registered too."""
        for family, channel in self.channels:
            register_channel(family)(channel)
        for (spec, package), code in self.attacks:
            register_reconstruct(spec, package)(code)
        return task(*given, **named)


def _in_the_tree(family: type[Defense]) -> Channel | None:
    """The channel of a defense of the tree lives in the file of the same name: bounds/defenses/foo.py and
    attack/channels/foo.py."""
    place = f"attack.channels.{family.name}"
    if from_outside(family) or find_spec(place) is None:
        return None
    found: Channel = import_module(place).channel
    return found


def _code_in_the_tree(spec: type[AttackSpec], package: str) -> Code | None:
    """The function ``reconstruct`` of the module of ``package`` that has the specification's name."""
    place = f"{package}.{spec.name}"
    if from_outside(spec) or find_spec(place) is None:
        return None
    found: Code | None = getattr(import_module(place), "reconstruct", None)
    return found
