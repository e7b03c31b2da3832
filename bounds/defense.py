"""Defense specifications: frozen, inert, mathematically complete. What a defense does to a gradient lives in ``attack``."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, get_args, get_type_hints

import sympy as sp

from bounds import checks
from bounds.density import Density
from bounds.errors import UnsupportedBound
from bounds.law import Law
from bounds.setting import Setting


def symbol(name: str) -> sp.Symbol:
    """The symbol of a parameter that is not negative, for a defense's ``rate``."""
    return sp.Symbol(name, nonnegative=True)


@dataclass(frozen=True)
class Param:
    """A real (or integer) parameter of a defense: allowed range [lo, hi], the value ``off`` at which the defense does
    nothing, and the ``grid`` of values a sweep tries unless told otherwise. Read by validation, test strategies and
    sweeps alike."""

    name: str
    lo: float
    hi: float
    off: float
    grid: tuple[float, ...]
    integer: bool = False
    words: str = ""  #: what it is, for figures; empty: its name says it

    @property
    def symbol(self) -> sp.Symbol:
        """The parameter in expressions."""
        return symbol(self.name)

    def checked(self, value: Any) -> float:
        """``value`` in the range, as a float or an int; ``ValueError`` or ``TypeError`` otherwise."""
        if self.integer:
            return checks.integer(self.name, value, int(self.lo), self.hi)
        return checks.real(self.name, value, self.lo, self.hi, infinite=math.isinf(self.hi))


def choice(default: bool | str, *others: str) -> Any:
    """Declare a choice between forms of a ``Defense``: yes or no, or one of several words. All do nothing where its
    parameters are off."""
    allowed = (False, True) if isinstance(default, bool) else (default, *others)
    return dataclasses.field(default=default, metadata={"choice": allowed})


def param(
    *, lo: float, hi: float, off: float, grid: Iterable[float] = (), integer: bool = False, words: str = ""
) -> Any:
    """Declare a real (or integer) parameter of a ``Defense`` once; its default is ``off``. Without a ``grid`` a sweep
    tries the middle of the range and the end away from ``off``; a range without end, ``hi = inf``, needs a grid."""
    far = hi if abs(hi - off) >= abs(lo - off) else lo
    return dataclasses.field(
        default=off, metadata={"param": (lo, hi, off, tuple(grid) or ((lo + hi) / 2, far), integer, words)}
    )


@dataclass(frozen=True)
class Defense:
    """Base of all specifications. A subclass sets ``name``, its parameters by ``param()``, its forms by ``choice()``, and
    says by ``law`` what it does. ``rate``: what stands before ``sqrt(d/m)`` in its order of growth, over
    ``bounds.setting.SIZES`` and ``symbol`` of its parameters, None where an error remains at every width; ``rate_source``:
    who says so. ``has_off``: some member does nothing (all parameters off). ``transparent``: every member leaves the
    observation of the same features as it is. ``strength_name``: the parameter that figures of error against strength vary;
    the first one unless named.

    Raises ``ValueError`` (or ``TypeError``) naming field, range and value when a parameter is out of range.
    """

    name: ClassVar[str]
    rate: ClassVar[sp.Expr | None] = None
    rate_source: ClassVar[str] = ""
    has_off: ClassVar[bool] = True
    transparent: ClassVar[bool] = False
    strength_name: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for p in self.parameters():
            object.__setattr__(self, p.name, p.checked(getattr(self, p.name)))
        for name, allowed in self.choices().items():
            if isinstance(allowed[0], bool):
                checks.instance(name, getattr(self, name), bool)
            else:
                checks.choice(name, getattr(self, name), tuple(str(a) for a in allowed))

    def law(self, setting: Setting) -> Law:
        """What the defense does to a gradient entry in ``setting``. The return type of a subclass's own says which of the
        laws it is.

        Raises ``UnsupportedBound`` where it has none (a training that is not stable), ``ValueError`` for a setting that
        contradicts the defense.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what it does")

    def density(self) -> Density:
        """What an entry that is seen tells of the clean one, with residuals as they come out of the defense.

        Raises ``UnsupportedBound`` for a defense that does not say it.
        """
        raise UnsupportedBound(f"not stated: {type(self).__name__} does not say the density of its entries")

    @classmethod
    def laws(cls) -> tuple[type[Law], ...]:
        """The kinds of law that ``law`` may return."""
        stated = get_type_hints(cls.law)["return"]
        return get_args(stated) or (stated,)

    @classmethod
    def parameters(cls) -> tuple[Param, ...]:
        """The declared parameters, in order."""
        return tuple(
            Param(f.name, *f.metadata["param"]) for f in dataclasses.fields(cls) if "param" in f.metadata
        )

    @classmethod
    def strength_parameter(cls) -> Param | None:
        """The parameter that says how strong the defense is; None for a defense without parameters."""
        own = {p.name: p for p in cls.parameters()}
        return own[cls.strength_name] if cls.strength_name else next(iter(own.values()), None)

    @classmethod
    def choices(cls) -> dict[str, tuple[bool | str, ...]]:
        """The declared choices and what they allow, in order."""
        return {f.name: f.metadata["choice"] for f in dataclasses.fields(cls) if "choice" in f.metadata}

    @classmethod
    def grid(cls) -> tuple[Defense, ...]:
        """Every combination of the values of the parameters' grids and of the choices."""
        values: dict[str, tuple[Any, ...]] = {p.name: p.grid for p in cls.parameters()}
        values |= cls.choices()
        return tuple(
            cls(**dict(zip(values, combined, strict=True)))
            for combined in itertools.product(*values.values())
        )

    @classmethod
    def off(cls) -> Defense:
        """The member of this family that does nothing. ``TypeError`` if there is none."""
        if not cls.has_off:
            raise TypeError(f"{cls.__name__} has no member that does nothing")
        return cls(**{p.name: p.off for p in cls.parameters()})
