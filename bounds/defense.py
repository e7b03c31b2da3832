"""Defense specifications: frozen, inert, mathematically complete. What a defense does to a gradient lives in ``attack``."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bounds import checks

if TYPE_CHECKING:
    from bounds.bound import Bound


@dataclass(frozen=True)
class Param:
    """A real parameter of a defense: allowed range [lo, hi], the value ``off`` at which the defense does nothing, and the
    ``grid`` of values a sweep tries unless told otherwise. Read by validation, test strategies and sweeps alike."""

    name: str
    lo: float
    hi: float
    off: float
    grid: tuple[float, ...]


def flag(default: bool) -> Any:
    """Declare a choice between two forms of a ``Defense``. Both do nothing where its parameters are off."""
    return dataclasses.field(default=default, metadata={"flag": True})


def param(*, lo: float, hi: float, off: float, grid: Iterable[float] = ()) -> Any:
    """Declare a real parameter of a ``Defense`` once; its default is ``off``. Without a ``grid`` a sweep tries the middle
    of the range and the end away from ``off``; a range without end, ``hi = inf``, needs a grid."""
    far = hi if abs(hi - off) >= abs(lo - off) else lo
    return dataclasses.field(
        default=off, metadata={"param": (lo, hi, off, tuple(grid) or ((lo + hi) / 2, far))}
    )


@dataclass(frozen=True)
class Defense:
    """Base of all specifications. A subclass sets ``name``, its parameters by ``param()``, flags by ``flag()``, and its
    ``bounds``. ``has_off``: some member does nothing (all parameters off).

    Raises ``ValueError`` (or ``TypeError``) naming field, range and value when a parameter is out of range.
    """

    name: ClassVar[str]
    bounds: ClassVar[tuple[Bound, ...]] = ()
    has_off: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for p in self.parameters():
            value = checks.real(p.name, getattr(self, p.name), p.lo, p.hi, infinite=math.isinf(p.hi))
            object.__setattr__(self, p.name, value)
        for name in self.flags():
            checks.instance(name, getattr(self, name), bool)

    @classmethod
    def parameters(cls) -> tuple[Param, ...]:
        """The declared parameters, in order."""
        return tuple(
            Param(f.name, *f.metadata["param"]) for f in dataclasses.fields(cls) if "param" in f.metadata
        )

    @classmethod
    def flags(cls) -> tuple[str, ...]:
        """The names of the declared flags, in order."""
        return tuple(f.name for f in dataclasses.fields(cls) if "flag" in f.metadata)

    @classmethod
    def grid(cls) -> tuple[Defense, ...]:
        """Every combination of the values of the parameters' grids and of the flags."""
        choices = {p.name: p.grid for p in cls.parameters()} | {name: (False, True) for name in cls.flags()}
        return tuple(
            cls(**dict(zip(choices, values, strict=True))) for values in itertools.product(*choices.values())
        )

    @classmethod
    def off(cls) -> Defense:
        """The member of this family that does nothing. ``TypeError`` if there is none."""
        if not cls.has_off:
            raise TypeError(f"{cls.__name__} has no member that does nothing")
        return cls(**{p.name: p.off for p in cls.parameters()})
