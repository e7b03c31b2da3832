"""Phase diagrams: what a point has of neurons for what is unknown, and how an experiment over a plane is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from bounds import Defense, Dropout, GradientPruning, checks
from verify.measure.point import Point


@dataclass(frozen=True)
class Abscissa:
    """A number that every point has, and its name in words."""

    label: str
    of: Callable[[Point], float]


def unknowns(point: Point) -> int:
    """Numbers that an attack has to find: B features in d dimensions and their residuals."""
    return point.B * point.d + point.B


def kept_share(defense: Defense) -> float:
    """The share of entries that reach the server with a value. (Of ReLU with B features a share of 2^-B is zero by itself
    and goes first: to prune less than that removes nothing.)"""
    if isinstance(defense, GradientPruning):
        return 1 - defense.ratio
    return 1 - defense.p if isinstance(defense, Dropout) else 1.0


#: What a plane can be drawn against.
ABSCISSAE: Mapping[str, Abscissa] = MappingProxyType(
    {
        "neurons per unknown": Abscissa("neurons per unknown, m / (Bd)", lambda p: p.m / (p.B * p.d)),
        "kept per unknown": Abscissa(
            "entries kept per unknown, of Bd + B", lambda p: kept_share(p.defense) * p.m / unknowns(p)
        ),
        "neurons per dimension": Abscissa("neurons per dimension, m / d", lambda p: p.m / p.d),
    }
)

#: Parts of a point (of ``Point.describe``) by which panels, and curves inside them, are told apart.
PARTS = ("activation", "defense", "d", "B")


@dataclass(frozen=True)
class Plane:
    """Drawn against ``across`` (a key of ``ABSCISSAE``), a panel for each combination of ``panels`` (some of ``PARTS``);
    where ``success``, with the share of trials in which the features came out exactly above the errors."""

    across: str
    panels: tuple[str, ...]
    success: bool = True

    def __post_init__(self) -> None:
        checks.choice("across", self.across, tuple(ABSCISSAE))
        for part in self.panels:
            checks.choice("panels", part, PARTS)
