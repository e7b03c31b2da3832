"""How many features a gradient dL/da is made of: whether one more explains far more of it, or one fewer as much."""

from __future__ import annotations

import dataclasses

import torch

from attack.likelihood.model import Place
from attack.likelihood.solve import minimised
from attack.likelihood.starts import grown, reduced
from attack.own.frame import Frame
from attack.own.gradient import SharedGradient
from attack.own.known import Known
from attack.own.search import Outputs, by_chance, search
from bounds import LikelihoodAttack

#: Features that are counted up to.
MOST = 16

#: Steps, and neurons for each unknown, with which features are counted.
_STEPS, _COUNTED = 40, 200


#: Features are counted from one start for each number: those that an attack with the right one makes come after that.
_COUNTING = LikelihoodAttack(starts=1, start="greedy")


def one_more(outputs: Outputs, place: Place, seed: int) -> Place | None:
    """A place with one more feature; None where that explains no more of what is left than it would of noise."""
    B, d = place.features.shape
    radii = place.model.radii
    unknowns = outputs.unknowns(B + 1, radii)
    count = min(outputs.affordable(unknowns), _COUNTED * unknowns)
    if outputs.settled(place) or unknowns + B + 1 >= count or d == B:
        return None
    if radii is not None and bool((radii != radii[0]).any()):
        return None
    before = outputs.model(count, radii).at(place.features, 0.0)
    start = grown(before.model, before, seed)
    moved = minimised(start.model, start.features, outputs.effort(count, _STEPS))
    if outputs.settled(moved) or 1 - moved.loss / before.loss > by_chance(d + 1, count - unknowns):
        return moved
    return None


def one_less(outputs: Outputs, place: Place) -> Place | None:
    """The place with one feature fewer that leaves nothing but rounding too, where this one leaves no more; None where there
    is none near."""
    B, radii = len(place.features), place.model.radii
    if B == 1 or not outputs.settled(place) or (radii is not None and bool((radii != radii[0]).any())):
        return None

    kept = None if radii is None else radii[:-1]
    fewer = outputs.polished(reduced(place, B - 1), kept)
    return fewer if outputs.settled(fewer) else None


def counted(shared: SharedGradient, known: Known, frame: Frame, *, free: bool, seed: int) -> int:
    """The smallest number of features that leaves nothing but rounding, or no more than noise: a further one then explains
    no more than it would of noise. At most ``MOST``, and where there are entries for as many."""
    more: torch.Tensor | None = None
    B = 1
    while True:
        outputs = Outputs.of(shared, dataclasses.replace(known, B=B), frame)
        radii = None if free else torch.full((B,), frame.posed.scale, dtype=torch.float64)
        place = search(outputs, radii, _COUNTING, seed, more=more).place
        larger = None if min(MOST, shared.d) == B else one_more(outputs, place, seed)
        if larger is None:
            return B
        more, B = larger.features, B + 1
