"""The attacks on pictures that are compared, by name: one number of iterations and starts for all that search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from attack.image.cocktail_party import CocktailParty
from attack.image.exact_rows import ExactRows
from attack.image.feature_inversion import FeatureInversion
from attack.image.integrated import Integrated
from attack.image.inversion import ImageAttack
from attack.image.matching import ImageMatching
from attack.image.presets import DECODER, UNET
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

#: Of every search.
ITERATIONS, STARTS = 300, 3

#: Published settings, Adam on the signs of slopes.
PUBLISHED = ImageMatching(iterations=ITERATIONS, starts=STARTS)

#: Of pixels, with features and without: on other batches as good without as signs of slopes, and better with. Squared
#: distances and L-BFGS keep what is published.
SEARCH = replace(PUBLISHED, optimiser="adam", schedule="cosine", step=0.3)
WITH_UNET, WITH_DECODER = (replace(prior, iterations=ITERATIONS, starts=STARTS) for prior in (UNET, DECODER))
_FEATURES = FeatureInversion(iterations=ITERATIONS, starts=STARTS)

#: Features alone, the same as those of the integrated attack: the gradient is no part of the search.
FEATURES = Integrated(
    matching=replace(SEARCH, start="grey"), weighting="fixed", stages="features first", share=1.0, plain=0
)

RIVALS: Mapping[str, ImageAttack] = MappingProxyType(
    {
        "cosine": SEARCH,
        "cosine, as seen": replace(SEARCH, informed=False),
        "cosine, by layer": replace(SEARCH, weights="layer"),
        "cosine, signs": PUBLISHED,
        "squared": replace(PUBLISHED, objective="squared", optimiser="adam"),
        "L-BFGS": replace(PUBLISHED, objective="squared", optimiser="lbfgs"),
        "U-Net": WITH_UNET,
        "decoder": WITH_DECODER,
        "integrated": Integrated(matching=SEARCH),
        "integrated, U-Net": Integrated(matching=WITH_UNET),
        "integrated, decoder": Integrated(matching=WITH_DECODER),
        "features": FEATURES,
        "cocktail party": CocktailParty(method="fastica", pictures=_FEATURES),
        "exact rows": ExactRows(max_starts=200, pictures=_FEATURES),
    }
)

#: In colour, where a search takes longer: by signs of slopes.
IN_COLOUR: Mapping[str, ImageAttack] = MappingProxyType(
    {"cosine, signs": PUBLISHED, "integrated, signs": Integrated(matching=PUBLISHED), "features": FEATURES}
)

#: Under local steps no features are found, and the integrated attack is plain matching.
_SINGLE = (
    NoDefense, GradientNoise, GradientPruning, DPSGD, Dropout, SecureAggregation,
)  # fmt: skip

#: Rivals that are measured under some defenses only: what matches a gradient as it is seen differs from what knows the
#: defense under these alone, layers weigh differently where a threshold or noise is theirs, and of the integrated attack
#: untrained networks are slow.
ONLY: Mapping[str, tuple[type[Defense], ...]] = MappingProxyType(
    {
        "cosine, as seen": (GradientPruning, DPSGD, Dropout, LocalAggregation),
        "cosine, by layer": (NoDefense, GradientPruning),
        "integrated": _SINGLE,
        "integrated, signs": _SINGLE,
        "features": _SINGLE,
        "integrated, decoder": (NoDefense, GradientNoise, GradientPruning),
        "integrated, U-Net": (NoDefense, GradientNoise, GradientPruning),
    }
)

#: What differences say: what features add to each search, which of the two parts does more, what a prior adds, what slopes
#: do beside their signs, and what it is worth to know the defense.
PAIRS = (
    ("integrated", "cosine"),
    ("integrated", "features"),
    ("features", "cosine"),
    ("integrated, signs", "cosine, signs"),
    ("integrated, signs", "features"),
    ("features", "cosine, signs"),
    ("integrated, U-Net", "U-Net"),
    ("integrated, decoder", "decoder"),
    ("U-Net", "cosine"),
    ("decoder", "cosine"),
    ("cosine", "cosine, signs"),
    ("cosine", "cosine, as seen"),
    ("integrated", "cosine, as seen"),
    ("integrated, U-Net", "cosine, as seen"),
)
