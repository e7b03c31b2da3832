"""Which channel is a defense's: that of the tree which bears its name, or one that a user has given it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import torch

from bounds import Defense, checks

if TYPE_CHECKING:
    from attack.client import Client

#: ``channel(defense, client, groups, seed)``: the entries that the server sees.
Channel: TypeAlias = Callable[[Any, "Client", tuple[int, ...], int], torch.Tensor]

#: Of what a user may put before a channel: the decorator gives back what it is put before.
AnyChannel = TypeVar("AnyChannel", bound=Channel)
T = TypeVar("T")

#: The channels from outside the tree, by the class of the defense. ``register_channel`` alone writes here.
_OUTSIDE: dict[type[Defense], Channel] = {}


def register_channel(family: type[Defense]) -> Callable[[AnyChannel], AnyChannel]:
    """Say what a client does under a defense from outside the tree: a decorator for ``channel(defense, client, groups,
    seed)``, which returns the entries that the server sees, as in ``attack.channels``.

    Raises ``TypeError`` for what is no class of defenses or takes other arguments, ``ValueError`` for a defense that has a
    channel already; a function that is defined again (the same name in the same module) replaces itself.
    """
    if not (isinstance(family, type) and issubclass(family, Defense) and hasattr(family, "name")):
        raise TypeError(
            f"a channel must be of a subclass of bounds.Defense with a name; got {checks.shown(family)}"
        )

    def register(channel: AnyChannel) -> AnyChannel:
        try:
            inspect.signature(channel).bind(family, None, (), 0)
        except TypeError as error:
            raise TypeError(
                f"a channel must be a function of (defense, client, groups, seed); got {checks.shown(channel)}: {error}"
            ) from None
        before = _OUTSIDE.get(family) or _in_the_tree(family)
        if before is not None and _whole_name(before) != _whole_name(channel):
            raise ValueError(
                f"{family.__name__} must have one channel; it has {_whole_name(before)}; got {_whole_name(channel)}"
            )
        _OUTSIDE[family] = channel
        return channel

    return register


def channel_of(defense: Defense) -> Channel:
    """The channel of a defense; ``TypeError`` if it has none."""
    family = type(defense)
    found = _OUTSIDE.get(family) or _in_the_tree(family)
    if found is None:
        raise TypeError(
            f"defense must be one that has a channel, a function under @attack.register_channel({family.__name__}) or (in "
            f"the tree) a module attack.channels.{family.name}; got {defense!r}"
        )
    return found


def outside() -> tuple[tuple[type[Defense], Channel], ...]:
    """Every channel that has been registered, to be given to another process."""
    return tuple(_OUTSIDE.items())


def carried(
    channels: Sequence[tuple[type[Defense], Channel]], run: Callable[..., T], *given: Any, **named: Any
) -> T:
    """``run(*given, **named)`` where these channels are known: a task for another process, which need not have imported
    what registers them."""
    for family, channel in channels:
        register_channel(family)(channel)
    return run(*given, **named)


def _in_the_tree(family: type[Defense]) -> Channel | None:
    """The channel of a defense of the tree lives in the file of the same name: bounds/defenses/foo.py and
    attack/channels/foo.py."""
    place = f"attack.channels.{family.name}"
    if find_spec(place) is None:
        return None
    found: Channel = import_module(place).channel
    return found


def _whole_name(channel: Any) -> str:
    return f"{getattr(channel, '__module__', '?')}.{getattr(channel, '__qualname__', type(channel).__name__)}"
