"""A pickled dictionary of byte arrays, numbers and texts, read without being unpickled.

A pickle is a program, and to load one is to run it. Here its instructions are listed (``pickletools``, which executes
nothing), and those that such a dictionary needs are followed on a stack of our own: lists, tuples, texts, integers, and
NumPy's arrays of bytes, which are the only things that a call in it may make. Anything else is refused.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

#: A data batch of CIFAR-10 has 40 thousand.
_MOST_INSTRUCTIONS = 1_000_000

_MARK = object()


@dataclass(frozen=True)
class _Named:
    """What an instruction names and a call may use."""

    name: str


class _Bytes:
    """The type of a byte, as ``numpy.dtype`` is called for it."""


class _Array:
    """An array that a call has made and that a later instruction fills."""

    value: np.ndarray | None = None


_ARRAY, _TYPE = _Named("numpy._reconstruct"), _Named("numpy.dtype")

#: By module and name, before and after NumPy 2.
_NAMES: Mapping[tuple[str, str], _Named] = {
    ("numpy.core.multiarray", "_reconstruct"): _ARRAY,
    ("numpy._core.multiarray", "_reconstruct"): _ARRAY,
    ("numpy", "ndarray"): _Named("numpy.ndarray"),
    ("numpy", "dtype"): _TYPE,
}


def arrays_of_pickle(data: bytes) -> dict[str, Any]:
    """The dictionary: by its keys arrays of bytes, lists, integers, texts (bytes or str), None.

    Raises ``ValueError`` for what is no pickle, and for one that asks for anything else.
    """
    machine = _Machine()
    try:
        for count, (instruction, argument, _) in enumerate(pickletools.genops(data)):
            if count >= _MOST_INSTRUCTIONS:
                raise ValueError(f"more than {_MOST_INSTRUCTIONS} instructions")
            if instruction.name not in _FOLLOWED:
                raise ValueError(f"instruction {instruction.name}, which such a file does not need")
            _FOLLOWED[instruction.name](machine, argument)
    except (ValueError, OverflowError, AssertionError) as error:
        raise ValueError(f"got {' '.join(str(error).split())[:200] or 'a damaged pickle'}") from None
    except (IndexError, KeyError, TypeError):
        raise ValueError("got a pickle that takes what it has not put") from None
    return machine.dictionary()


class _Machine:
    """A stack, and what has been put aside by number."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def dictionary(self) -> dict[str, Any]:
        if len(self.stack) != 1 or not isinstance(self.stack[0], dict):
            raise ValueError("got a pickle of something else than a dictionary")
        return {
            _text(key): value.value if isinstance(value, _Array) else value
            for key, value in self.stack[0].items()
        }

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def put(self, at: int) -> None:
        self.memo[at] = self.stack[-1]

    def since_mark(self) -> list[Any]:
        found: list[Any] = []
        while (value := self.stack.pop()) is not _MARK:
            found.append(value)
        return found[::-1]

    def last(self, count: int) -> tuple[Any, ...]:
        return tuple(self.stack.pop() for _ in range(count))[::-1]

    def append(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise ValueError("entries of no list")
        self.stack[-1].extend(values)

    def set(self, values: list[Any]) -> None:
        keys, held = values[::2], self.stack[-1]
        if not isinstance(held, dict) or not all(isinstance(key, bytes | str) for key in keys):
            raise ValueError("a dictionary whose keys are no texts")
        held.update(zip(keys, values[1::2], strict=True))

    def named(self, module: str, name: str) -> None:
        if (module, name) not in _NAMES:
            raise ValueError(f"the name {module}.{name}"[:100] + ", which such a file does not need")
        self.push(_NAMES[module, name])

    def called(self) -> None:
        what, given = self.last(2)
        if what is _ARRAY:
            self.push(_Array())
        elif what is _TYPE and isinstance(given, tuple) and given and given[0] in (b"u1", "u1"):
            self.push(_Bytes())
        else:
            raise ValueError("a call of something else than an array of bytes")

    def filled(self) -> None:
        state = self.stack.pop()
        made = self.stack[-1]
        if isinstance(made, _Bytes):
            return
        if not isinstance(made, _Array) or not isinstance(state, tuple) or len(state) != 5:
            raise ValueError("the state of something else than an array of bytes")
        _, shape, kind, fortran, data = state
        if not isinstance(kind, _Bytes) or not isinstance(data, bytes) or fortran is not False:
            raise ValueError("an array of something else than bytes, by rows")
        sizes = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
        if not sizes or len(shape) > 4 or math.prod(shape) != len(data):
            raise ValueError(f"an array of {len(data)} bytes whose shape is another")
        made.value = np.frombuffer(data, dtype=np.uint8).reshape(shape)


def _text(key: bytes | str) -> str:
    return key.decode("latin-1") if isinstance(key, bytes) else key


def _ignored(machine: _Machine, argument: Any) -> None:
    pass


def _pushed(machine: _Machine, argument: Any) -> None:
    machine.push(argument)


def _old_text(machine: _Machine, argument: str) -> None:
    machine.push(argument.encode("latin-1"))


def _constant(value: Any) -> Callable[[_Machine, Any], None]:
    return lambda machine, argument: machine.push(value)


def _tuple_of(count: int) -> Callable[[_Machine, Any], None]:
    return lambda machine, argument: machine.push(machine.last(count))


#: What each instruction does that is followed, by its name in ``pickletools``.
_FOLLOWED: Mapping[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _ignored),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "BINUNICODE", "SHORT_BINUNICODE"), _pushed),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES"), _pushed),
    **dict.fromkeys(("BINSTRING", "SHORT_BINSTRING"), _old_text),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda machine, at: machine.push(machine.memo[at])),
    "NONE": _constant(None),
    "NEWFALSE": _constant(False),
    "NEWTRUE": _constant(True),
    "MARK": _constant(_MARK),
    "EMPTY_TUPLE": _constant(()),
    "EMPTY_LIST": lambda machine, argument: machine.push([]),
    "EMPTY_DICT": lambda machine, argument: machine.push({}),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "TUPLE": lambda machine, argument: machine.push(tuple(machine.since_mark())),
    "MEMOIZE": lambda machine, argument: machine.put(len(machine.memo)),
    "APPEND": lambda machine, argument: machine.append([machine.stack.pop()]),
    "APPENDS": lambda machine, argument: machine.append(machine.since_mark()),
    "SETITEM": lambda machine, argument: machine.set(list(machine.last(2))),
    "SETITEMS": lambda machine, argument: machine.set(machine.since_mark()),
    "GLOBAL": lambda machine, argument: machine.named(*argument.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, argument: machine.named(*machine.last(2)),
    "REDUCE": lambda machine, argument: machine.called(),
    "BUILD": lambda machine, argument: machine.filled(),
}
