"""What the parts of the integrated attack are for, one at a time, and what splitting the added layer's weights trades."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from attack.image.integrated import Integrated
from attack.image.inversion import ImageAttack
from bounds import Defense, GradientNoise, GradientPruning, NoDefense
from verify.images.point import ImagePoint, NetworkSpec
from verify.images.rivals import FEATURES, SEARCH, WITH_DECODER, WITH_UNET
from verify.images.run import ImageTable

#: Nothing is tuned for a defense: weights of total variation, steps and how features alone are searched are ones that did
#: well on other batches.
_PIXELS = replace(SEARCH, tv=1e-2)
_BOTH = Integrated(matching=_PIXELS, plain=0)
_FEATURES = replace(FEATURES, matching=replace(FEATURES.matching, step=1.0, tv=0.1))

#: Without a plain start, which the integrated attack has among its three: here every start has the part that is asked.
PARTS: Mapping[str, ImageAttack] = MappingProxyType(
    {
        "gradients": _PIXELS,
        "gradients, no tv": replace(_PIXELS, tv=0.0),
        "features": _FEATURES,
        "features, angles": replace(_FEATURES, mismatch="angle"),
        "both, weighted by theory": _BOTH,
        "both, angles": replace(_BOTH, mismatch="angle"),
        "both, fixed weight": replace(_BOTH, weighting="fixed"),
        "both, fixed weight, ten times": replace(_BOTH, weighting="fixed", weight=10 * _BOTH.weight),
        "features, then both": replace(_BOTH, stages="features first"),
        "gradients, U-Net": WITH_UNET,
        "gradients, U-Net, no tv": replace(WITH_UNET, tv=0.0),
        "gradients, decoder": WITH_DECODER,
        "gradients, decoder, no tv": replace(WITH_DECODER, tv=0.0),
        "both, decoder": replace(_BOTH, matching=WITH_DECODER),
    }
)

DEFENSES: tuple[tuple[Defense, bool], ...] = (
    (NoDefense(), False),
    (GradientNoise(1.0), True),
    (GradientPruning(0.9), False),
    (GradientPruning(0.99), False),
)

#: Each part against gradients alone, and what it changes of another.
_PAIRS = (
    *((part, "gradients") for part in PARTS if part != "gradients"),
    ("both, weighted by theory", "features"),
    ("both, weighted by theory", "both, fixed weight"),
    ("both, weighted by theory", "both, angles"),
    ("features", "features, angles"),
    ("gradients, U-Net", "gradients, U-Net, no tv"),
    ("gradients, decoder", "gradients, decoder, no tv"),
    ("both, decoder", "gradients, decoder"),
)

#: Of hidden units that are Gaussian again after training.
SPLITS = (0.0, 0.25, 0.5, 1.0)

#: Where each takes long.
FEWER = ("gradients", "features", "both, weighted by theory")


def ablations(network: NetworkSpec) -> ImageTable:
    """Every part under every defense."""
    return ImageTable(
        "ablations",
        "parts of the integrated attack, 2 grey patches, 16 x 16, labels told",
        tuple(
            ImagePoint("patches-16-grey", 2, network, defense, name, attack, relative=relative)
            for defense, relative in DEFENSES
            for name, attack in PARTS.items()
        ),
        trials=3,
        seed=8,
        claims=("C15", "C16"),
        notes=(
            "300 iterations of each of three starts, none of them plain, by Adam on slopes with the cosine schedule; tv "
            ".01, step .3 for pixels and .03 for networks; features alone from grey, tv .1 and step 1: what each part does "
            "well with on other batches, for no defense tuned; the features are those of maximum likelihood or exact rows, "
            "whichever is believed; of angles the lengths that are known are not used",
        ),
        pairs=_PAIRS,
    )


def split(network: NetworkSpec) -> ImageTable:
    """Networks trained for three epochs, a fraction of whose hidden units are Gaussian again, with output weights of 1/m."""
    return ImageTable(
        "split",
        "trained networks with a fraction of Gaussian units, 2 grey patches, 16 x 16, labels told",
        tuple(
            ImagePoint(
                "patches-16-grey",
                2,
                replace(network, epochs=3, split=part),
                defense,
                f"{name}, split {part:g}",
                PARTS[name],
                relative=relative,
            )
            for defense, relative in DEFENSES[:2]
            for part in SPLITS
            for name in FEWER
        ),
        trials=3,
        seed=9,
        claims=("C16",),
        notes=("settings of the table of parts; output weights of Gaussian units are N(0, 1)/m",),
        pairs=tuple(
            (f"{one}, split {part:g}", f"{other}, split {part:g}")
            for part in SPLITS
            for one, other in itertools.combinations(reversed(FEWER), 2)
        ),
    )
