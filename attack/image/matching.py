"""Gradient matching: pictures whose gradient is nearest to the one that is seen (Zhu et al. 2019, Geiping et al. 2020)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import torch

from attack.image.inversion import ImageAttack, Inversion, InversionDiagnostics, InversionError, Progress
from attack.image.known import as_seen, model_of
from attack.image.labels import recover_labels
from attack.image.objective import OBJECTIVES, WEIGHTS, Misfit, Objective
from attack.image.observed import ImageObservation
from attack.image.optimise import FLOOR, KEEPS, Best, best_start, check_search
from attack.image.picture_kinds import PICTURES, PIXELS, check_picture
from attack.image.pictures import STARTS, Limits
from attack.reconstruction import ReconstructionError
from attack.streams import normal
from bounds import checks

#: Labels that are variables of the search (DLG), instead of a strategy that recovers them first.
JOINT = "joint"

#: A misfit of the answer above this and twice what noise makes of it is not called a match.
_LEFT = 0.2


@dataclass(frozen=True)
class ImageMatching(ImageAttack):
    """Search for the pictures, and labels where they are not known, whose gradient is nearest to the one that is seen.

    objective: "cosine" (1 - cos) or "squared" (|ghat - g|^2/|g|^2). weights: "global" or "layer" (the mean over parameters
    of the distance of each; one with a huge gradient, often the last bias, else decides alone). tv: weight of the
    anisotropic total variation of normalised pixels, the mean absolute difference of neighbours in either direction.

    optimiser: "adam", "signed_adam" (Adam on the slope's signs), "soft_sign" (on ``tanh(t slope)/t``, t falling from 1 to 0)
    or "lbfgs", which has no use for the next three. step: in the variables' units, normalised pixels or weights; schedule:
    "constant", "milestones" (times .1 after 3/8, 5/8 and 7/8 of the iterations) or "cosine" (to zero); warmup: iterations in
    which the step grows to its full size. iterations: of each of ``starts`` starts. keep: the "best" iterate, by the whole
    objective; the "last"; or "floor": the first whose misfit, without tv, is at most what noise makes of it at the truth
    (``Misfit.level``; Morozov's discrepancy principle), where the descent ends, and the best where none is or there is no
    noise. Of the starts that got there, or else of all, the one whose objective is least.

    picture: how pictures are written as variables: "pixels", or what an untrained network makes of noise, of which the
    weights are the variables (``attack.image.priors``): a "unet" or a "decoder". start: of pixels, "normal" (standard, in
    normalised units), "uniform" or "grey" (.5 and a hundredth of noise). boxed: pixels are kept in [0, 1] after every step;
    else they are cut to it at the end. Networks start from drawn weights and make pixels in (0, 1): with them these two have
    to be left as they are.

    labels: what is done where they are not given, a strategy of ``attack.image.labels`` or "joint": soft labels, variables
    of the search (Zhu et al. 2019). informed: uses what the server knows of the defense (``attack.image.known``), the kept
    entries of a pruned gradient, say; else the gradient is matched as it is seen, as published attacks do.
    """

    name: ClassVar[str] = "matching"
    objective: str = "cosine"
    weights: str = "global"
    tv: float = 1e-3
    optimiser: str = "signed_adam"
    step: float = 0.1
    schedule: str = "milestones"
    warmup: int = 0
    iterations: int = 2000
    keep: str = "best"
    starts: int = 1
    start: str = "normal"
    boxed: bool = True
    labels: str = "auto"
    informed: bool = True
    picture: str = PIXELS

    def __post_init__(self) -> None:
        for name, allowed in (
            ("objective", OBJECTIVES),
            ("weights", WEIGHTS),
            ("start", STARTS),
        ):
            checks.choice(name, getattr(self, name), tuple(allowed))
        check_picture(self, "start", "boxed")
        check_search(self, (*KEEPS, FLOOR))
        checks.real("tv", self.tv, 0.0)
        checks.real("step", self.step, 0.0, 1e3)
        checks.integer("starts", self.starts, 1, 1000)
        for name in ("boxed", "informed"):
            checks.instance(name, getattr(self, name), bool)
        checks.instance("labels", self.labels, str)


def invert(
    observation: ImageObservation,
    attack: ImageMatching,
    *,
    labels: torch.Tensor | None,
    seed: int,
    progress: Progress | None,
) -> Inversion:
    """The pictures of the best start; see ``attack.image.inversion.invert``. Interrupted from outside it has no result.

    Raises ``TypeError`` for a defense that the server's model does not cover, ``ValueError`` for an unknown strategy of
    labels, ``InversionError`` for a gradient that is zero, without labels, or where no start has a finite value.
    """
    checks.instance("attack", attack, ImageMatching)
    began = time.perf_counter()
    search = posed(observation, attack, labels)
    starts = (search.start(seed, index) for index in range(attack.starts))
    best = best_start(
        search.objective, starts, attack, limits=search.limits, progress=progress, level=search.level
    )
    return search.result(best, began)


@dataclass(frozen=True, eq=False)
class Posed:
    """A search as it is posed for an observation: what is minimised, of how many pictures, where labels are from, and the
    misfit at which a start ends (0: at none). Variables are those of the picture and, where the objective has no labels,
    their logits (B, classes)."""

    objective: Objective
    batch_size: int
    labels_from: str
    level: float

    def start(self, seed: int, index: int) -> tuple[torch.Tensor, ...]:
        """The variables where the start of that number begins."""
        variables = self.objective.picture.start(seed, index)
        if self.objective.labels is not None:
            return variables
        network, shape = self.objective.network, (self.batch_size, self.objective.network.classes)
        return (
            *variables,
            normal(shape, seed, "labels", index, device=network.device, dtype=network.dtype),
        )

    @property
    def limits(self) -> tuple[Limits, ...]:
        """Of each variable."""
        return self.objective.picture.limits() + ((None,) if self.objective.labels is None else ())

    def result(
        self,
        best: Best,
        began: float,
        *,
        features: torch.Tensor | None = None,
        warnings: tuple[str, ...] = (),
    ) -> Inversion:
        """What the best start found, with warnings that do not make it suspect. ``InversionError`` if no start has a finite
        value."""

        def seen(status: str, warnings: tuple[str, ...], value: float | None) -> InversionDiagnostics:
            return InversionDiagnostics(
                status,
                warnings,
                value,
                iterations=best.iterations,
                starts=best.starts,
                start_kept=best.index,
                seconds=time.perf_counter() - began,
                labels_from=self.labels_from,
            )

        if not best.finite:
            reason = "no start gives a finite value: the step may be too large"
            raise InversionError(reason, seen("failed", (reason, *warnings), None))
        variables = best.found.variables
        images = self.objective.picture.images(variables).detach().clamp(0.0, 1.0)
        known = self.objective.labels
        found = variables[-1].argmax(dim=1) if known is None else known
        misfit, floor = self.objective.matched(variables), self.objective.misfit.floor
        left = (
            (f"the gradient is matched to {misfit:.2g} only, where noise alone makes {floor:.2g}",)
            if misfit > _LEFT + 2 * floor
            else ()
        )
        told = seen("suspect" if left else "ok", (*left, *warnings), best.found.value)
        return Inversion(images, found, features, told)


def posed(observation: ImageObservation, attack: ImageMatching, labels: torch.Tensor | None) -> Posed:
    """The search of an attack. Raises what ``invert`` raises before its first iteration."""
    known, labels_from = _labels(observation, attack, labels)
    objective = _objective(observation, attack, known)
    level = objective.misfit.level if attack.keep == FLOOR else 0.0
    return Posed(objective, observation.batch_size, labels_from, level)


def _labels(
    observation: ImageObservation, attack: ImageMatching, labels: torch.Tensor | None
) -> tuple[torch.Tensor | None, str]:
    """Known classes (B,), None where they are searched, and where they are from."""
    if labels is not None:
        return labels, "given"
    if attack.labels == JOINT:
        return None, JOINT
    try:
        found = recover_labels(observation, attack.labels)
    except ReconstructionError as error:
        reason = f"no labels are recovered: {error}"
        raise InversionError(reason, InversionDiagnostics("failed", (reason,))) from error
    return observation.network.checked_labels(found, observation.batch_size), attack.labels


def _objective(
    observation: ImageObservation, attack: ImageMatching, labels: torch.Tensor | None
) -> Objective:
    network = observation.network
    model = model_of(observation) if attack.informed else as_seen(observation)
    sizes = tuple(g.numel() for g in observation.gradients)
    seen = observation.entries
    if not seen.any():
        reason = "the gradient is zero: it carries no trace of pictures"
        raise InversionError(reason, InversionDiagnostics("failed", (reason,)))
    misfit = Misfit.of(model, seen, sizes, kind=attack.objective, weights=attack.weights)
    picture = PICTURES[attack.picture](network, observation.batch_size, attack.start, attack.boxed)
    return Objective(network, picture, misfit, labels, attack.tv)
