"""Class fishing: a server whose output layer lets one class alone speak to the layers below.

Wen et al. 2022 (ICML, arXiv 2202.00580). All rows of the output weights but the target's are zero, so that only its
output sends a derivative down, ``r_ic``; its bias is so low that ``r_ic`` is -1 for samples of that class and nearly nothing
for all others. A batch of any size then looks, below the output layer, like the samples of one class, often one sample; the
attacked layer's gradient is an outer product, and one of its factors the features.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch

from attack.image.feature_inversion import FeatureInversion, invert_features
from attack.image.head_gradient import head_gradient
from attack.image.inversion import (
    ImageAttack,
    Inversion,
    InversionDiagnostics,
    InversionError,
    Progress,
)
from attack.image.observed import CLIPPED, PRUNED, ImageObservation, repeats
from attack.networks.image.network import ImageNetwork
from bounds import checks

#: Rows of one sample have a second singular value below this fraction of the first, without noise.
_ALONE = 1e-2

#: Fewer samples than this, by the bias' gradient, are none.
_HALF = 0.5


@dataclass(frozen=True)
class ClassFishing(ImageAttack):
    """Threat model F of Carletti et al. (USENIX Security 2025), a manipulator of the model (``fished``), who needs no data.
    target: the class; pictures: how features become pictures. One picture is found, that of the class; a mixture where
    several samples have it."""

    name: ClassVar[str] = "class_fishing"
    threat: ClassVar[str] = "malicious"

    target: int = 0
    pictures: FeatureInversion = field(default_factory=FeatureInversion)

    def __post_init__(self) -> None:
        checks.integer("target", self.target, 0)
        checks.instance("pictures", self.pictures, FeatureInversion)


def fished(network: ImageNetwork, target: int, *, gap: float = 20.0) -> ImageNetwork:
    """The network with the output layer that fishes for a class: its bias ``gap`` below the others', so that the derivative
    of a sample of another class is about ``exp(-gap)``.

    Raises ``ValueError`` for a network whose output layer has no bias or no weights of its own, or of another loss than
    cross-entropy, or another class.
    """
    checks.instance("network", network, ImageNetwork)
    checks.integer("target", target, 0, network.classes - 1)
    checks.real("gap", gap, 0.0)
    if network.loss != "cross-entropy":
        raise ValueError(f"network must have the loss cross-entropy; got {network.loss!r}")
    if f"{network.output}.bias" not in network.names:
        raise ValueError(f"network must have a bias in its output layer {network.output!r}; it has none")
    network.index(f"{network.output}.weight")  # one that is frozen, or other layers' too, cannot be chosen
    module = copy.deepcopy(network.module)
    layer = module.get_submodule(network.output)
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    with torch.no_grad():
        kept = weight[target].clone()
        weight.zero_()
        bias.zero_()
        weight[target] = kept
        bias[target] = -gap
    return dataclasses.replace(network, module=module)


def invert(
    observation: ImageObservation,
    attack: ClassFishing,
    *,
    labels: torch.Tensor | None,
    seed: int,
    progress: Progress | None,
) -> Inversion:
    """See ``attack.image.inversion.invert``; labels are not used. Entries that pruning removed are filled in by the
    rank, one."""
    began = time.monotonic()
    network = observation.network
    checks.integer("target", attack.target, 0, network.classes - 1)
    seen = head_gradient(observation, rank=1)
    if seen.output_bias is None:
        raise ValueError(f"network must have a bias in its output layer {network.output!r}; it has none")
    count = _count(observation, float(seen.output_bias[attack.target]))
    if count < _HALF:
        reason = f"the batch has no sample of the target class {attack.target}: its bias' gradient says {count:.2g}"
        raise InversionError(
            reason, InversionDiagnostics("failed", (reason,), seconds=time.monotonic() - began)
        )
    _, values, axes = np.linalg.svd(seen.rows[seen.sure], full_matrices=False)
    direction = axes[0]
    sized = seen.bias is not None and abs(direction[-1]) > np.finfo(np.float32).eps
    feature = direction[:-1] / direction[-1] if sized else direction[: network.d]
    made = invert_features(
        network,
        torch.from_numpy(feature)[None],
        attack.pictures,
        sized=sized,
        seed=seed,
        progress=progress,
    )
    several = round(count) > 1 or values[1] > _ALONE * values[0]
    rest = f"{count:.2g} samples of class {attack.target}, second singular value {values[1] / values[0]:.2g} of the first"
    warnings = (f"a mixture of several samples, or noise: {rest}",) if several else ()
    return Inversion(
        made.images,
        torch.tensor([attack.target], device=network.device),
        torch.from_numpy(feature)[None].to(network.device),
        InversionDiagnostics(
            "suspect" if warnings else "ok",
            warnings,
            objective=float(made.mismatch.sum()),
            iterations=made.iterations,
            starts=attack.pictures.starts,
            start_kept=made.start_kept,
            seconds=time.monotonic() - began,
            labels_from="the server's choice",
        ),
    )


def _count(observation: ImageObservation, seen: float) -> float:
    """Samples of the class, by its part of the output bias' gradient, minus one for each; one where the defense has hidden
    it."""
    defense = observation.defense
    if isinstance(defense, CLIPPED) or (isinstance(defense, PRUNED) and not seen):
        return 1.0
    return -seen / repeats(defense)
