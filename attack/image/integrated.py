"""The integrated attack: gradient matching, tied to features that are found first ([L25]).

Features are a function of the gradient of the attacked layer, so they tell nothing that it does not hold: they help the
search, whose misfit has many minima. Where they are wrong they lead it astray; theory says how wrong. The term that ties a
picture to its feature is zero for all that the predicted error leaves open. Where features are worthless it vanishes by
itself but for what chance, one feature of twenty at most, or wrong labels, of which the error knows nothing, have believed.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from scipy.optimize import linear_sum_assignment

from attack.image.feature_estimate import SOURCES, FeatureEstimate, estimate_features
from attack.image.feature_matching import cosine_mismatch, squared_mismatch
from attack.image.inversion import ImageAttack, Inversion, InversionDiagnostics, InversionError, Progress
from attack.image.matching import ImageMatching, Posed, posed
from attack.image.objective import Objective, total_variation
from attack.image.observed import ImageObservation
from attack.image.optimise import Found, Function, Report, best_of, by_autograd, minimise, over_all
from attack.networks.image.network import ImageNetwork
from attack.reconstruction import ReconstructionError
from bounds import checks

WEIGHTINGS = ("theory", "fixed", "none")

MISMATCHES = ("length", "angle")

STAGES = ("joint", "features first", "joint first")

#: Mismatches below this count as none.
_TINY = 1e-30


@dataclass(frozen=True)
class Integrated(ImageAttack):
    """Gradient matching with the feature-matching term of Liu, Wang, Chen, Lei 2025, weighted by theory.

    matching: the search, with all its options. source: of the features, a key of ``attack.image.feature_estimate.SOURCES``.
    mismatch: of a picture's feature z and the one that is known, "length" (|z - found|^2 over |found|^2 where its length and
    sign are known, else the angle) or "angle" (1 - cos^2, as published: zero for a feature of the wrong sign or length too).
    weighting: "theory" (``weight`` times ``FeatureTerm``), "fixed" (``weight`` times the mean mismatch, as published) or
    "none" (no term). weight: beside the gradient's misfit.

    stages: "joint"; "features first", which for a ``share`` of the iterations matches features and total variation alone; or
    "joint first", which after that share goes on without the term. With a share of 1 of the former, and no plain start,
    gradients are no part of it: without features it has no result. Starts and iterations are as many as plain matching's.

    plain: how many of the starts, the first ones, go without features, as long as one is left that has them: against wrong
    minima, not against wrong features that are believed. Of all starts (with keep="floor", of those that got there if any
    did) the one is kept whose gradient misfit and total variation, together with the term that theory weights, are least, as
    a picture that is off a believed feature is not the one that was sent; a term of fixed weight, which asks for what is not
    known, has no part in this. Of features alone it is the one with the least of what was minimised.

    Which picture has which feature is not known: of the features with a picture's label (of all, where features have none)
    each goes to the picture that is nearest at that moment, in all the best assignment.
    """

    name: ClassVar[str] = "integrated"

    matching: ImageMatching = field(default_factory=ImageMatching)
    source: str = "best"
    mismatch: str = "length"
    weighting: str = "theory"
    weight: float = 0.1
    stages: str = "joint"
    share: float = 0.3
    plain: int = 1

    def __post_init__(self) -> None:
        checks.instance("matching", self.matching, ImageMatching)
        for name, allowed in (
            ("source", SOURCES),
            ("mismatch", MISMATCHES),
            ("weighting", WEIGHTINGS),
            ("stages", STAGES),
        ):
            checks.choice(name, getattr(self, name), tuple(allowed))
        checks.real("weight", self.weight, 0.0)
        checks.real("share", self.share, 0.0, 1.0)
        checks.integer("plain", self.plain, 0)


@dataclass(frozen=True, eq=False)
class FeatureTerm:
    """Pictures (B, C, H, W) to the mean over the features (k, d_f) that are believed of ``max(0, u - e)^2/u``, u the
    mismatch, e = limit (k,): u itself far from what e leaves open, or where e is zero, and smooth at its edge. Each feature
    is held against the picture of the best assignment among those that allowed (B, k) allows. sized: u is the relative
    squared distance, else 1 - cos^2."""

    network: ImageNetwork
    features: torch.Tensor
    limit: torch.Tensor
    allowed: torch.Tensor
    sized: bool

    @staticmethod
    def of(
        network: ImageNetwork,
        estimate: FeatureEstimate,
        labels: torch.Tensor | None,
        *,
        B: int,
        hinge: bool,
        mismatch: str = "length",
    ) -> FeatureTerm:
        """hinge: whether features are believed up to their predicted errors only, else fully; mismatch: one of
        ``MISMATCHES``."""
        checks.choice("mismatch", mismatch, MISMATCHES)
        wanted = estimate.features.to(network.device, network.dtype)
        sized = estimate.sized and mismatch == "length"
        reach = estimate.distance if sized else torch.where(estimate.limit < 1, estimate.limit, torch.inf)
        limit = (reach if hinge else torch.zeros_like(reach)).to(wanted)
        # others would still take part in the assignment; of one that is zero nothing is to be made
        kept = limit.isfinite() & wanted.any(dim=1)
        allowed = allowed_pairs(estimate, labels, B)[:, kept.to(estimate.features.device)]
        return FeatureTerm(network, wanted[kept], limit[kept], allowed.to(network.device), sized)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        if not len(self.features):
            return 0 * images.sum()
        found = self.network.features(images)
        pictures, chosen = self._assigned(found.detach())
        mismatch = self._off(found[pictures], self.features[chosen])
        return (torch.relu(mismatch - self.limit[chosen]).square() / mismatch.clamp_min(_TINY)).mean()

    def _off(self, found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """(n,) of pairs (n, d_f)."""
        return (squared_mismatch if self.sized else cosine_mismatch)(found, wanted)

    def _assigned(self, found: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        off = torch.stack([self._off(found, one.expand_as(found)) for one in self.features], dim=1).double()
        off = off.nan_to_num(torch.inf, posinf=torch.inf)
        finite = off.isfinite()
        forbidden = 1 + len(self.features) * (off[finite].max() if finite.any() else 1.0)
        cost = torch.where(self.allowed & finite, off, forbidden)  # more than all the others together
        pairs = linear_sum_assignment(cost.cpu().numpy())
        pictures, chosen = (torch.from_numpy(index).to(found.device) for index in pairs)
        return pictures, chosen


def allowed_pairs(estimate: FeatureEstimate, labels: torch.Tensor | None, B: int) -> torch.Tensor:
    """Which features (k) may be those of which pictures (B): of equal classes where both are known and no class has more
    features than pictures, else all. (B, k) booleans."""
    k, classes = len(estimate.features), estimate.classes
    every = torch.ones(B, k, dtype=torch.bool, device=estimate.features.device)
    if classes is None or labels is None:
        return every
    same = labels[:, None] == classes[None, :]
    own = (classes[:, None] == classes[None, :]).sum(dim=0)
    return same if bool((same.sum(dim=0) >= own).all()) else every


def invert(
    observation: ImageObservation,
    attack: Integrated,
    *,
    labels: torch.Tensor | None,
    seed: int,
    progress: Progress | None,
) -> Inversion:
    """See ``attack.image.inversion.invert``. Where no feature is found, or none believed, this is plain matching, and a
    warning says so; ``InversionError`` where features alone were to be matched. Raises what plain matching raises."""
    checks.instance("attack", attack, Integrated)
    began = time.perf_counter()
    search = posed(observation, attack.matching, labels)
    estimate, warnings = _estimate(observation, attack, search.objective.labels, seed)
    if estimate is None and _alone(attack):
        seconds, labels_from = time.perf_counter() - began, search.labels_from
        told = InversionDiagnostics("failed", warnings, seconds=seconds, labels_from=labels_from)
        raise InversionError(warnings[0], told)
    term = None
    if estimate is not None:
        hinge = attack.weighting == "theory"
        B = observation.batch_size
        term = FeatureTerm.of(
            observation.network, estimate, search.objective.labels, B=B, hinge=hinge, mismatch=attack.mismatch
        )
    judge = _with_term(search.objective, attack, term) if attack.weighting == "theory" else search.objective
    ended: list[Found] = []
    plain = _plain(attack)
    for index in range(attack.matching.starts):
        report = over_all(progress, attack.matching, ended)
        start = search.start(seed, index)
        found = _descended(search, attack, None if index < plain else term, start, report)
        ended.append(found if _alone(attack) else _judged(judge, found))
    features = None if estimate is None else estimate.features
    return search.result(best_of(ended), began, features=features, warnings=warnings)


def _plain(attack: Integrated) -> int:
    """How many of the starts go without features."""
    return min(attack.plain, attack.matching.starts - 1)


def _alone(attack: Integrated) -> bool:
    """Whether features are matched alone: the gradient is no part of it."""
    return attack.stages == "features first" and attack.share == 1.0 and _plain(attack) == 0


def _estimate(
    observation: ImageObservation, attack: Integrated, labels: torch.Tensor | None, seed: int
) -> tuple[FeatureEstimate | None, tuple[str, ...]]:
    """The features, None where there are none to be used, and what is to be said of them."""
    if attack.weighting == "none" and attack.stages == "joint":
        return None, ()
    so = "" if _alone(attack) else ", so that this is plain matching"
    if observation.network.attacked is None:
        return None, (f"no features are found{so}: the network has no attacked layer",)
    try:
        found = estimate_features(observation, attack.source, labels=labels, seed=seed)
    except ReconstructionError as error:
        return None, (f"no features are found{so}: {error}",)
    if not bool(torch.isfinite(found.features).all()) or not bool(found.features.any()):
        return None, (f"no features are found{so}: those of {found.source!r} are zero or not finite",)
    if attack.weighting == "theory" and not found.trusted:
        reasons = "; ".join(found.warnings) or "their predicted errors are 1"
        return None, (f"no feature is believed{so}: {reasons}",)
    return found, found.warnings


def _descended(
    search: Posed,
    attack: Integrated,
    term: FeatureTerm | None,
    start: tuple[torch.Tensor, ...],
    report: Report,
) -> Found:
    """From one start, with the term or without, through the stages."""
    matching, done, evaluations = attack.matching, 0, 0
    found = Found(start, math.inf, 0, 0)
    for stage in _stages(search, attack, term):
        found = minimise(
            stage.function, found.variables, dataclasses.replace(matching, iterations=stage.iterations),
            limits=search.limits, report=_after(done, report), level=stage.level,
        )  # fmt: skip
        done, evaluations = done + found.iterations, evaluations + found.evaluations
    return dataclasses.replace(found, iterations=done, evaluations=evaluations)


@dataclass(frozen=True, eq=False)
class _Stage:
    """What is minimised, for how many iterations, and the misfit that ends it."""

    function: Function
    iterations: int
    level: float


def _stages(search: Posed, attack: Integrated, term: FeatureTerm | None) -> tuple[_Stage, ...]:
    """Of one start. The gradient's misfit plays no part, and ends nothing, where features are matched alone."""
    objective, every = search.objective, attack.matching.iterations
    if term is None:
        return (_Stage(objective, every, search.level),)
    joint = _with_term(objective, attack, term)
    alone = by_autograd(_features_alone(objective, term))
    first = round(attack.share * every)
    rest = every - first
    stages = {
        "joint": (_Stage(joint, every, search.level),),
        "features first": (_Stage(alone, first, 0.0), _Stage(joint, rest, search.level)),
        "joint first": (_Stage(joint, first, search.level), _Stage(objective, rest, search.level)),
    }
    return tuple(stage for stage in stages[attack.stages] if stage.iterations)


def _with_term(objective: Objective, attack: Integrated, term: FeatureTerm | None) -> Objective:
    """The objective, and the term where there is one and it has a weight."""
    if term is None or attack.weighting == "none":
        return objective
    return dataclasses.replace(objective, terms=(*objective.terms, (attack.weight, term)))


def _after(done: int, report: Report) -> Report:
    return lambda made, best: report(done + made, best)


def _features_alone(objective: Objective, term: FeatureTerm) -> Callable[..., torch.Tensor]:
    def value(*variables: torch.Tensor) -> torch.Tensor:
        images = objective.picture.images(variables)
        found = term(images)
        if objective.labels is None:  # logits have no part in it
            found = found + 0 * variables[-1].square().sum()
        if objective.tv:
            found = found + objective.tv * total_variation(objective.network.normalised(images))
        return found

    return value


def _judged(objective: Objective, found: Found) -> Found:
    """With the value of the objective, by which starts are compared."""
    variables = [v.detach().requires_grad_() for v in found.variables]
    value = objective(variables)[0] if math.isfinite(found.value) else math.inf
    return dataclasses.replace(found, value=value if math.isfinite(value) else math.inf)
