"""How many features a gradient dL/da is made of: whether one more explains far more of it, or one fewer as much."""

from __future__ import annotations

import dataclasses
import itertools

import torch

from attack.likelihood.model import Place
from attack.likelihood.solve import minimised
from attack.likelihood.starts import random_starts
from attack.own.frame import Frame
from attack.own.gradient import SharedGradient
from attack.own.known import Known
from attack.own.outputs import Outputs, restricted, search
from bounds import LikelihoodAttack

#: Features that are counted up to.
MOST = 16

#: Unknowns explain of noise at most so many times what they are a share of the values, and never more than half.
_BY_CHANCE, _HALF = 4.0, 0.5

#: Fits of one feature to what is left, and starts for all of them anew.
_SINGLE, _ANEW = 4, 4

#: Steps, and neurons for each unknown, with which features are counted.
_STEPS, _COUNTED = 40, 200


def by_chance(unknowns: int, values: int) -> float:
    """What share of noise so many unknowns explain at most, of the best of many starts."""
    return min(_HALF, _BY_CHANCE * unknowns / values)


def one_more(outputs: Outputs, place: Place, seed: int) -> Place | None:
    """A place with one more feature, from one that is fitted to what this place leaves, else from starts of its own; None
    where it explains no more of what is left than it would of noise."""
    B, d = place.features.shape
    radii = place.model.radii
    unknowns = outputs.unknowns(B + 1, radii)
    count = min(outputs.affordable(unknowns), _COUNTED * unknowns)
    if outputs.settled(place) or unknowns + B + 1 >= count or d == B:
        return None
    norms = outputs.known.norms
    own = None if radii is None else radii.mean().reshape(1)
    joined = None if radii is None or own is None else torch.cat([radii, own])
    new = _single(outputs, place, own, seed)
    start = torch.cat([place.features, new])
    moved = minimised(outputs.model(count, joined), start, outputs.effort(count, _STEPS)).place
    before = outputs.model(count, radii).at(place.features, 0.0)
    if outputs.settled(moved) or 1 - moved.loss / before.loss > by_chance(d + 1, count - unknowns):
        return moved
    told = None if norms is None else (*norms, sum(norms) / B)
    larger = dataclasses.replace(outputs, known=dataclasses.replace(outputs.known, B=B + 1, norms=told))
    anew = search(larger, joined, LikelihoodAttack(starts=_ANEW, start="random"), seed).place
    return anew if outputs.settled(anew) else None


def _single(outputs: Outputs, place: Place, own: torch.Tensor | None, seed: int) -> torch.Tensor:
    """The feature (1, d) that explains most of what a place leaves, of its norm where norms are known."""
    count = outputs.fitted(outputs.unknowns(1, own))
    left = (outputs.gradient - place.parts.sum(dim=1))[:count]
    alone = restricted(outputs.net, None if outputs.bias is None else outputs.bias[:count], left, own)
    size = 1.0 if own is not None else float(torch.linalg.vector_norm(place.features, dim=1).mean())
    effort = outputs.effort(count, _STEPS, precision=1e-3)
    starts = itertools.islice(random_starts(alone, 1, seed + 1), _SINGLE)
    return min((minimised(alone, size * s, effort).place for s in starts), key=lambda p: p.loss).features


def one_less(outputs: Outputs, place: Place) -> Place | None:
    """The place with one feature fewer that leaves nothing but rounding too, where this one leaves no more; None where there
    is none near."""
    B, radii = len(place.features), place.model.radii
    if B == 1 or not outputs.settled(place):
        return None

    def without(i: int) -> Place:
        kept = [k for k in range(B) if k != i]
        fewer = outputs.model(outputs.m, None if radii is None else radii[kept])
        return fewer.at(place.features[kept], 0.0)

    nearest = min((without(i) for i in range(B)), key=lambda one: one.loss)
    fewer = outputs.polished(nearest.features, nearest.model.radii)
    return fewer if outputs.settled(fewer) else None


def counted(
    shared: SharedGradient, known: Known, frame: Frame, *, free: bool, attack: LikelihoodAttack, seed: int
) -> int:
    """The smallest number of features that leaves nothing but rounding, or no more than noise: a further one then explains
    no more than it would of noise. At most ``MOST``, and where there are entries for as many."""
    more: torch.Tensor | None = None
    B = 1
    while True:
        outputs = Outputs.of(shared, dataclasses.replace(known, B=B), frame)
        radii = None if free else torch.ones(B, dtype=torch.float64)
        place = search(outputs, radii, attack, seed, more=more).place
        larger = None if min(MOST, shared.d) == B else one_more(outputs, place, seed)
        if larger is None:
            return B
        more, B = larger.features, B + 1
