"""The attacks on pictures that are compared, by name: one number of iterations and starts for all that search."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from attack.image.cocktail_party import CocktailParty
from attack.image.exact_rows import ExactRows
from attack.image.feature_inversion import FeatureInversion
from attack.image.inversion import ImageAttack
from attack.image.matching import ImageMatching
from bounds import DPSGD, Defense, Dropout, GradientPruning, LocalAggregation, NoDefense

#: Of every search.
ITERATIONS, STARTS = 300, 3

_FEATURES = FeatureInversion(iterations=ITERATIONS, starts=STARTS)

RIVALS: Mapping[str, ImageAttack] = MappingProxyType(
    {
        "cosine": ImageMatching(iterations=ITERATIONS, starts=STARTS),
        "cosine, as seen": ImageMatching(iterations=ITERATIONS, starts=STARTS, informed=False),
        "cosine, by layer": ImageMatching(iterations=ITERATIONS, starts=STARTS, weights="layer"),
        "squared": ImageMatching(objective="squared", optimiser="adam", iterations=ITERATIONS, starts=STARTS),
        "L-BFGS": ImageMatching(objective="squared", optimiser="lbfgs", iterations=ITERATIONS, starts=STARTS),
        "cocktail party": CocktailParty(method="fastica", pictures=_FEATURES),
        "exact rows": ExactRows(max_starts=200, pictures=_FEATURES),
    }
)

#: Rivals that are measured under some defenses only: what matches a gradient as it is seen differs from what knows the
#: defense under these alone, and layers weigh differently where a threshold or noise is theirs.
ONLY: Mapping[str, tuple[type[Defense], ...]] = MappingProxyType(
    {
        "cosine, as seen": (GradientPruning, DPSGD, Dropout, LocalAggregation),
        "cosine, by layer": (NoDefense, GradientPruning),
    }
)
