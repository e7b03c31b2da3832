"""The tables of attacks on pictures: rivals, defenses, data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from bounds import (
    DPSGD,
    Defense,
    Dropout,
    GradientNoise,
    GradientPruning,
    LocalAggregation,
    NoDefense,
    SecureAggregation,
)
from verify.images.point import ImagePoint, NetworkSpec
from verify.images.rivals import ONLY, RIVALS
from verify.images.run import ImageTable, Tuning, with_options

GREY = NetworkSpec(kind="conv", width=16, m=256, features=64)

#: Defense, and whether its noise is in units of the gradient's entries. DP-SGD clips every sample in every layer to 1 and
#: adds a hundredth of that to every entry.
DEFENSES: tuple[tuple[Defense, bool], ...] = (
    (NoDefense(), False),
    (GradientNoise(0.1), True),
    (GradientNoise(1.0), True),
    (GradientPruning(0.9), False),
    (GradientPruning(0.99), False),
    (DPSGD(1.0, 0.01, per_sample=True), False),
    (Dropout(0.5, per_sample=True), False),
    (LocalAggregation(steps=5, lr_times_m=2.56), False),
    (SecureAggregation(clients=4), False),
)


def _points(data: str, network: NetworkSpec, B: int) -> tuple[ImagePoint, ...]:
    return tuple(
        ImagePoint(data, B, network, defense, rival, attack, relative=relative)
        for defense, relative in DEFENSES
        for rival, attack in RIVALS.items()
        if isinstance(defense, ONLY.get(rival, Defense))
    )


def _quick(points: tuple[ImagePoint, ...]) -> tuple[ImagePoint, ...]:
    """Two defenses, two pictures, 100 of 300 iterations of one start."""
    return tuple(
        replace(point, attack=with_options(point.attack, iterations=100, starts=1))
        for point in points
        if point.B == 2 and point.defense in (NoDefense(), GradientPruning(0.9))
    )


_NOTES = (
    "labels are told to every rival; defenses act on every parameter for itself; noise in units of the root mean square of "
    "the gradient's entries; three starts, of which the attack's own objective chooses; what has no result counts as grey "
    "pictures",
    "noise in units of the gradient tells the server its absolute sigma too, as every defense is public",
    "iterations are those of the search for pictures: L-BFGS may evaluate twice in one, and is tuned among three choices "
    "instead of six, as it has no step; the searches of the cocktail party for components and of exact rows for features "
    "come before and are not counted",
)


def _grey(B: int) -> ImageTable:
    points = _points("patches-16-grey", GREY, B)
    return ImageTable(
        f"grey-{B}",
        f"rivals on {B} grey patches of photographs, 16 x 16, labels told",
        points,
        trials=4,
        seed=5,
        claims=("C16",),
        notes=_NOTES,
        sample=_quick(points),
        tuning=Tuning("grey"),
    )


TABLES: Mapping[str, ImageTable] = MappingProxyType({f"grey-{B}": _grey(B) for B in (2, 4)})
