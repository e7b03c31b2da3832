"""Features of the attacked layer from its gradient, and the error that theory predicts of each: one entrance to all sources.

The predicted error is not tuned on anything: it follows from rounding (rows) or from Fisher's information (likelihood, given
that the labels are right), and says how far a feature is to be believed. Of features that are nothing but noise, up to one
of twenty is believed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch

from attack.image.cocktail_party import CocktailParty, components
from attack.image.exact_features import exact_features
from attack.image.feature_likelihood import likely_features
from attack.image.head_gradient import is_relu
from attack.image.inversion import InversionError
from attack.image.labels import recover_labels
from attack.image.observed import ImageObservation
from attack.reconstruction import ReconstructionError, failure
from bounds import checks


@dataclass(frozen=True, eq=False)
class FeatureEstimate:
    """What a source says of the features of a batch.

    features (k, d_f), k at most B, float64, each up to a factor unless ``sized``. error (k,): predicted mean of
    ``1 - cos^2`` between each and the truth: 1 where the source does not believe itself, nan where it predicts nothing;
    limit (k,): what it hardly exceeds (likelihood: two standard deviations above the mean), 1 where nothing is predicted
    and where a feature may be noise alone; distance (k,): what |found - truth|^2 over |found|^2 hardly exceeds where
    ``sized``, inf where nothing is predicted. All hold for right labels; wrong ones are told by the misfit alone.
    classes (k,): int64, the label of each; None where it is not known. source: a key of ``SOURCES``, never "best".
    """

    features: torch.Tensor
    sized: bool
    error: torch.Tensor
    limit: torch.Tensor
    distance: torch.Tensor
    classes: torch.Tensor | None
    source: str
    warnings: tuple[str, ...] = ()

    @property
    def trusted(self) -> bool:
        """Whether theory believes any of them."""
        return bool((self.limit < 1).any())


#: An observation, the labels (B,) if they are known, and the seed, to features.
Source = Callable[[ImageObservation, torch.Tensor | None, int], FeatureEstimate]


def estimate_features(
    observation: ImageObservation, source: str = "best", *, labels: torch.Tensor | None = None, seed: int = 2
) -> FeatureEstimate:
    """The features of an observation by a key of ``SOURCES``; "best": the first of ``PREDICTED`` that is believed: maximum
    likelihood, which where it is believed no other has a smaller error than, then exact rows, which need no labels.

    labels (B,): classes, where the server knows them; the likelihood else recovers them first. Raises ``ValueError`` on bad
    input and without an attacked layer, ``ReconstructionError`` with the reasons where no source has a result.
    """
    checks.instance("observation", observation, ImageObservation)
    checks.choice("source", source, tuple(SOURCES))
    checks.integer("seed", seed, 0)
    network = observation.network
    network.index(f"{network.attacked_layer}.weight")
    known = None if labels is None else network.checked_labels(labels, observation.batch_size)
    try:
        return SOURCES[source](observation, known, seed)
    except np.linalg.LinAlgError as error:
        raise failure(f"{source}: {error}") from error


def _rows(observation: ImageObservation, labels: torch.Tensor | None, seed: int) -> FeatureEstimate:
    """Exact rows of ReLU: the error is what rounding leaves."""
    _require_output(observation)
    if not is_relu(observation.network):
        raise failure(
            "rows are exact of ReLU only, which is not what the network applies to the attacked layer"
        )
    found = exact_features(observation, seed=seed)
    features = torch.from_numpy(found.features).to(observation.network.device)
    error = (found.error**2 / features.square().sum(dim=1)).clamp(max=1.0)
    classes = None if found.classes is None else torch.from_numpy(found.classes).to(features.device)
    distance = torch.where(error < 1, error, torch.inf)
    return FeatureEstimate(features, found.sized, error, error, distance, classes, "rows")


def _likelihood(observation: ImageObservation, labels: torch.Tensor | None, seed: int) -> FeatureEstimate:
    """Weighted least squares on the layers from the attacked one on: the error is that of Cramér and Rao."""
    if labels is None:
        _require_output(observation)
    known = recover_labels(observation) if labels is None else labels
    found = likely_features(observation, known, seed=seed)
    warnings = () if found.believed else (
        f"the features leave {found.misfit:.2g} times the noise of the gradient unexplained: they are not believed",
    )  # fmt: skip
    return FeatureEstimate(
        found.features, True, found.error, found.limit, found.distance, known, "likelihood", warnings
    )


def _cocktail(observation: ImageObservation, labels: torch.Tensor | None, seed: int) -> FeatureEstimate:
    """Independent components: nothing predicts how far these are off."""
    _require_output(observation)
    try:
        found = components(observation, CocktailParty(method="fastica", starts=1), seed=seed)
    except InversionError as error:
        raise failure(str(error)) from error
    features = found.features.to(observation.network.device)
    limit = torch.ones(len(features), dtype=features.dtype, device=features.device)
    warnings = ("no theory predicts the error of independent components",)
    return FeatureEstimate(
        features, found.sized, limit * torch.nan, limit, limit * torch.inf, None, "cocktail", warnings
    )


def _require_output(observation: ImageObservation) -> None:
    """``ReconstructionError`` where the output layer's weights are frozen."""
    name = f"{observation.network.output}.weight"
    if name not in observation.network.names:
        raise failure(f"no gradient of {name} is sent")


def _best(observation: ImageObservation, labels: torch.Tensor | None, seed: int) -> FeatureEstimate:
    found: list[FeatureEstimate] = []
    reasons: list[str] = []
    for name in PREDICTED:
        try:
            found.append(SOURCES[name](observation, labels, seed))
        except ReconstructionError as error:
            reasons.append(f"{name}: {error}")
            continue
        if found[-1].trusted:
            return found[-1]
    if not found:
        raise failure("; ".join(reasons))
    return found[0]


#: How features are found.
SOURCES: Mapping[str, Source] = MappingProxyType(
    {"rows": _rows, "likelihood": _likelihood, "cocktail": _cocktail, "best": _best}
)

#: Those that predict their error.
PREDICTED = ("likelihood", "rows")
