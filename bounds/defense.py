"""Defense specifications: frozen, inert, mathematically complete. What a defense does to a gradient lives in ``attack``."""

from __future__ import annotations

import dataclasses
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


def param(*, lo: float, hi: float, off: float, grid: Iterable[float] = ()) -> Any:
    """Declare a real parameter of a ``Defense`` once; its default is ``off``. Without a ``grid`` a sweep tries the middle
    of the range and the end away from ``off``."""
    far = hi if abs(hi - off) >= abs(lo - off) else lo
    return dataclasses.field(
        default=off, metadata={"param": (lo, hi, off, tuple(grid) or ((lo + hi) / 2, far))}
    )


@dataclass(frozen=True)
class Defense:
    """Base of all specifications. A subclass sets ``name``, its parameters by ``param()``, and its ``bounds``.

    Raises ``ValueError`` (or ``TypeError``) naming field, range and value when a parameter is out of range.
    """

    name: ClassVar[str]
    bounds: ClassVar[tuple[Bound, ...]] = ()

    def __post_init__(self) -> None:
        for p in self.parameters():
            object.__setattr__(self, p.name, checks.real(p.name, getattr(self, p.name), p.lo, p.hi))

    @classmethod
    def parameters(cls) -> tuple[Param, ...]:
        """The declared parameters, in order."""
        return tuple(
            Param(f.name, *f.metadata["param"]) for f in dataclasses.fields(cls) if "param" in f.metadata
        )

    @classmethod
    def off(cls) -> Defense:
        """The member of this family that does nothing."""
        return cls(**{p.name: p.off for p in cls.parameters()})
