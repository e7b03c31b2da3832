"""Exact features from the rows of the attacked layer's gradient, then pictures from features."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from attack.image.exact_features import ExactFeatures, exact_features
from attack.image.feature_inversion import FeatureInversion, invert_features
from attack.image.inversion import (
    ImageAttack,
    Inversion,
    InversionDiagnostics,
    InversionError,
    Progress,
)
from attack.image.observed import ImageObservation
from attack.reconstruction import ReconstructionError
from bounds import checks


@dataclass(frozen=True)
class ExactRows(ImageAttack):
    """SPEAR's idea on the attacked layer (threat model B of Carletti et al., USENIX Security 2025), for ReLU without noise:
    see ``exact_features``. max_starts: of its search; pictures: how features become pictures, by their lengths too where the
    attacked layer's bias (or cross-entropy) tells these. The labels found come with their pictures; labels that are given
    are not used."""

    name: ClassVar[str] = "exact_rows"

    max_starts: int = 1_000
    pictures: FeatureInversion = field(default_factory=FeatureInversion)

    def __post_init__(self) -> None:
        checks.integer("max_starts", self.max_starts, 1)
        checks.instance("pictures", self.pictures, FeatureInversion)


def invert(
    observation: ImageObservation,
    attack: ExactRows,
    *,
    labels: torch.Tensor | None,
    seed: int,
    progress: Progress | None,
) -> Inversion:
    """See ``attack.image.inversion.invert``."""
    began = time.monotonic()
    try:
        found: ExactFeatures = exact_features(observation, seed=seed, max_starts=attack.max_starts)
    except ReconstructionError as error:
        seconds = time.monotonic() - began
        raise InversionError(
            str(error), InversionDiagnostics("failed", (str(error),), seconds=seconds)
        ) from error
    network = observation.network
    features = torch.from_numpy(found.features).to(network.device)
    made = invert_features(
        network, features, attack.pictures, sized=found.sized, seed=seed, progress=progress
    )
    classes = None if found.classes is None else torch.from_numpy(found.classes).to(network.device)
    return Inversion(
        made.images,
        classes,
        features,
        InversionDiagnostics(
            "ok",
            () if found.sized else ("lengths of features are unknown: pictures are up to a factor",),
            objective=float(made.mismatch.sum()),
            iterations=made.iterations,
            starts=attack.pictures.starts,
            start_kept=made.start_kept,
            seconds=time.monotonic() - began,
            labels_from=None if classes is None else "exact",
        ),
    )
