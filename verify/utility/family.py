"""A family of defenses from weak to strong, and the scale on which strengths lie between those that are measured."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from bounds import Defense, checks
from verify.utility.federation import Federation, TrainingPoint, require_sizes


@dataclass(frozen=True)
class Scale:
    """``position`` of a strength, growing from weak to strong, and the strength at a position."""

    position: Callable[[float], float]
    strength: Callable[[float], float]


#: "log": a factor counts, of what is stronger the larger it is; "falling": the smaller; "left": of what is left, 1 - s.
SCALES: Mapping[str, Scale] = MappingProxyType(
    {
        "log": Scale(math.log10, lambda x: 10.0**x),
        "falling": Scale(lambda s: -math.log10(s), lambda x: 10.0**-x),
        "left": Scale(lambda s: -math.log10(1 - s), lambda x: 1 - 10.0**-x),
    }
)


@dataclass(frozen=True)
class Family:
    """name: in tables and figures; members: from weak to strong, which differ in the strength alone; scale: a key of
    ``SCALES``; relative: sizes are in root mean squares of a gradient's entries; unit: of the strength, in words.

    Raises ``ValueError`` for members that do not grow stronger, differ in more than the strength, or have one that the scale
    does not hold, and for a relative family without sizes.
    """

    name: str
    members: tuple[Defense, ...]
    scale: str = "log"
    relative: bool = False
    unit: str = ""

    def __post_init__(self) -> None:
        if not self.members:
            raise ValueError(f"members must hold at least one defense; got none in {self.name!r}")
        checks.choice("scale", self.scale, tuple(SCALES))
        if self.relative:
            require_sizes(self.members[0])
        if any(self._at_first_strength(one) != self.members[0] for one in self.members):
            raise ValueError(f"members must differ in the strength alone; {self.name!r} has {self.members}")
        try:
            positions = [self.position(one) for one in self.members]
        except ValueError:
            told = [self.strength(one) for one in self.members]
            raise ValueError(
                f"members must have strengths on the scale {self.scale!r}; {self.name!r} has {told}"
            ) from None
        if any(after <= before for before, after in itertools.pairwise(positions)):
            raise ValueError(
                f"members must grow stronger from one to the next; {self.name!r} has {positions}"
            )

    def _at_first_strength(self, member: Defense) -> Defense:
        parameter = member.strength_parameter()
        if parameter is None or type(member) is not type(self.members[0]):
            return member
        change: Any = replace
        found: Defense = change(member, **{parameter.name: getattr(self.members[0], parameter.name)})
        return found

    def position(self, member: Defense) -> float:
        """Of a member's strength on the scale; 0 of a defense without a parameter."""
        return SCALES[self.scale].position(self.strength(member)) if member.strength_parameter() else 0.0

    def strength(self, member: Defense) -> float:
        """The parameter that says how strong it is; nan of a defense without one."""
        parameter = member.strength_parameter()
        return math.nan if parameter is None else float(getattr(member, parameter.name))

    def strength_at(self, position: float) -> float:
        """The strength at a position."""
        return SCALES[self.scale].strength(position)

    def at(self, member: Defense, federation: Federation) -> TrainingPoint:
        """What is learned under a member."""
        return TrainingPoint(federation, member, relative=self.relative)
