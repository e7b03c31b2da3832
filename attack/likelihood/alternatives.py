"""Other features that explain the same entries, where not every entry is a value.

Entries that are kept for their size are those of neurons that a strong feature k activates. On these a term of another one
may be exchanged for the opposite feature's: ``sigma(z) = sigma(-z) + z`` for ReLU (and GELU, SiLU, softplus), and the linear
part ``r_i w.x_i`` joins ``r_k sigma(w.x_k)``, where that is linear as well. Entries that are known to be small exclude this
only if they would become large. What tells such fits apart is then nothing but the labels; with noise, first the likelihood.
"""

from __future__ import annotations

import itertools
import math

import torch

from attack.likelihood.model import Place
from attack.likelihood.posed import Posed
from attack.likelihood.solve import minimised

#: Features this close are the same.
_SAME = 1e-3

#: Labels are +-1 within this, and where another fit's are not by this factor, the labels tell them apart.
_LABEL, _CLEARER = 1e-3, 10.0

#: With noise a place whose likelihood is below another's by this factor, in logarithm, explains less.
_LESS_LIKELY = math.log(1000.0)


def alternatives(posed: Posed, place: Place, precision: float) -> list[Place]:
    """Places that explain as much as ``place`` with one feature turned round; none where every entry is a value."""
    entries, features, strengths = posed.model.entries, place.features, place.residuals
    if bool(entries.values().all()) or posed.model.radii is None or entries.blurs[-1] > 0:
        return []
    found: list[Place] = []
    for i, k in itertools.permutations(range(len(features)), 2):
        merged = torch.sign(strengths[k]) * (strengths[k] * features[k] + strengths[i] * features[i])
        if not bool(merged.any()):
            continue
        turned = features.clone()
        turned[i] = -features[i]
        turned[k] = merged
        other = minimised(posed.model, turned, posed.effort(precision))
        if posed.settled(posed.fit(other)) and all(_differ(other, one) for one in (place, *found)):
            found.append(other)
    return found


def told_apart(posed: Posed, places: list[Place]) -> tuple[Place, bool]:
    """The place whose labels are nearest to {-1, +1}, and whether they are, and the others' not; with noise, of the places
    that are not far less likely than another."""
    if posed.noisy:
        least = min(place.loss for place in places)
        places = [place for place in places if place.loss < least + _LESS_LIKELY]
        if len(places) == 1:
            return places[0], True
    doubts = [_doubt(posed, place) for place in places]
    first, second = sorted(doubts)[:2]
    clear = first < _LABEL and second > _CLEARER * max(first, _LABEL)
    return places[doubts.index(first)], clear


def _doubt(posed: Posed, place: Place) -> float:
    labels = posed.net.forward(place.features) - posed.scale * place.residuals
    return float((labels.abs() - 1).abs().max())


def _differ(one: Place, other: Place) -> bool:
    near = torch.cdist(one.features, other.features).amin(dim=1)
    return float(near.max()) > _SAME
