"""The tables of attacks on pictures: rivals, defenses, data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from attack.image.presets import INVERTING_GRADIENTS
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
from verify.images.ablations import FEWER, PARTS, ablations, split
from verify.images.point import ImagePoint, NetworkSpec
from verify.images.rivals import IN_COLOUR, ONLY, PAIRS, RIVALS
from verify.images.run import ImageTable, Tuning, with_options

if TYPE_CHECKING:
    from attack.image.inversion import ImageAttack

#: Of the tables that compare rivals, for grey and for colour, and of the check at published settings.
CONV = NetworkSpec(kind="conv", width=16, m=256, features=64)
RESNET = NetworkSpec(kind="resnet", width=64, m=512, features=None)

#: Of four pictures: pixels with and without what is known, with features, features alone, a prior.
_FEWER = ("cosine", "cosine, as seen", "integrated", "features", "decoder")

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


def _points(data: str, B: int, rivals: Mapping[str, ImageAttack]) -> tuple[ImagePoint, ...]:
    return tuple(
        ImagePoint(data, B, CONV, defense, rival, attack, relative=relative)
        for defense, relative in DEFENSES
        for rival, attack in rivals.items()
        if isinstance(defense, ONLY.get(rival, Defense))
    )


def _pairs(points: tuple[ImagePoint, ...]) -> tuple[tuple[str, str], ...]:
    """Those of rivals that are there."""
    rivals = {point.rival for point in points}
    return tuple(pair for pair in PAIRS if rivals.issuperset(pair))


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
    "an iteration evaluates the gradient once, of features alone the features; the searches for features come before and "
    "are not counted",
)

_ALL_NOTES = (
    *_NOTES,
    "L-BFGS is tuned among half the choices, as it has no step; the search of the cocktail party for components is not "
    "counted",
)


def _grey(B: int) -> ImageTable:
    points = _points("patches-16-grey", B, RIVALS if B == 2 else {name: RIVALS[name] for name in _FEWER})
    return ImageTable(
        f"grey-{B}",
        f"rivals on {B} grey patches of photographs, 16 x 16, labels told",
        points,
        trials=4,
        seed=5,
        claims=("C15", "C16"),
        notes=_ALL_NOTES if B == 2 else _NOTES,
        sample=_quick(points),
        tuning=Tuning(f"grey-{B}", B=B),
        pairs=_pairs(points),
    )


def _colour(B: int) -> ImageTable:
    points = _points("patches-32-colour", B, IN_COLOUR)
    return ImageTable(
        f"colour-{B}",
        f"rivals on {B} colour patches of photographs, 32 x 32, labels told",
        points,
        trials=4,
        seed=6,
        claims=("C16",),
        notes=_NOTES if B == 2 else (*_NOTES, "tuned on batches of two pictures"),
        tuning=Tuning("colour", tv=(1e-3, 1e-2, 1e-1), step=(3.0,)),
        pairs=_pairs(points),
    )


_RESNET_NOTE = "batch norm with the statistics it was made with; defenses act on every parameter for itself"


def _resnet(name: str, network: NetworkSpec, asked: tuple[tuple[Defense, int, bool], ...]) -> ImageTable:
    """Published settings under a defense, with so many pictures, with what is known of the defense or not."""
    return ImageTable(
        name,
        f"published settings (4,800 iterations of one start, not tuned) on ResNet-18 of width {network.width}, 32 x 32 in "
        "colour, labels told",
        tuple(
            ImagePoint(
                "patches-32-colour", B, network, defense, f"inverting gradients{'' if informed else ', as seen'}",
                replace(INVERTING_GRADIENTS, informed=informed),
            )
            for defense, B, informed in asked
        ),
        trials=2,
        seed=7,
        notes=(_RESNET_NOTE,),
    )  # fmt: skip


_PRUNED = GradientPruning(0.9)

#: For an accelerator, and for two cores.
_WIDE = _resnet(
    "resnet",
    RESNET,
    ((NoDefense(), 1, False), (NoDefense(), 4, False), (_PRUNED, 4, False), (_PRUNED, 4, True)),
)
_SLIM = _resnet(
    "resnet-slim",
    replace(RESNET, width=16),
    ((NoDefense(), 1, False), (_PRUNED, 1, False), (_PRUNED, 1, True), (NoDefense(), 2, False)),
)

#: For an accelerator: the integrated attack and its parts in batches up to sixteen.
_BATCHES = ImageTable(
    "resnet-batches",
    "the integrated attack and its parts on ResNet-18 of width 64, 2 to 16 patches of 32 x 32 in colour, labels told",
    tuple(
        ImagePoint(
            "patches-32-colour", B, replace(RESNET, features=64), defense, rival,
            with_options(PARTS[rival], iterations=600, starts=2),
        )
        for B in (2, 4, 8, 16)
        for defense in (NoDefense(), _PRUNED)
        for rival in FEWER
    ),
    trials=2,
    seed=7,
    claims=("C16",),
    notes=("600 iterations of two starts, settings of the table of parts", _RESNET_NOTE),
    pairs=tuple((FEWER[-1], part) for part in FEWER[:-1]),
)  # fmt: skip


TABLES: Mapping[str, ImageTable] = MappingProxyType(
    {
        table.name: table
        for table in (
            _grey(2), _grey(4), _colour(2), _colour(4), _WIDE, _SLIM, _BATCHES, ablations(CONV), split(CONV),
        )
    }
)  # fmt: skip
