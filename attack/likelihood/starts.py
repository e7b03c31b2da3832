"""Where the steps begin, and how they get out of a place that explains too little.

A feature that is missing shows in what is left of the entries, whose second moment has an eigenvector along it: features are
found one after the other (``grown``), each start of a new one followed by steps on all of them; and a place with the right
number of features that explains too little grows by one more and gives up the one that explains least (``reduced``). More
features than there are make the descent from random directions end at the right ones far more often, too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import torch

from attack.likelihood.model import DENSE, Model, Place
from attack.likelihood.solve import Effort, minimised
from attack.networks.two_layer import TwoLayerNet
from attack.stream import gathered
from attack.streams import normal
from attack.tensor.moments import Response, apply_second_moment, first_moment, first_moment_start
from attack.tensor.span import dominant_span

#: Eigenvectors of what is left that are looked at for a new feature, and of their two signs how many are descended from.
_DIRECTIONS, _DESCENDED = 2, 2

#: Tolerance of these eigenvectors, and passes at most.
_ROUGHLY = 0.1, 8

#: Steps, and their precision, before all features are there.
_GROWING = Effort(steps=40, precision=1e-3, near=0.0, rounding=0.0)

#: Features in a descent from random directions, over those that there are.
_WIDE = 1.5

#: How often a feature is given up for another one, and the least decrease of the loss for which.
_MENDED, _GAIN = 3, 0.01

#: Values for each unknown below which no more features are taken than there are.
_LEAST = 1.3


def grown(model: Model, place: Place | None, seed: int) -> Place:
    """One more feature than at ``place``, by what it leaves of the entries; the first one where that is None."""
    clean = None if place is None else place.parts.sum(dim=1)
    left = model.entries.left(clean)
    before = None if place is None else place.features
    count = 1 if place is None else len(place.features) + 1
    wider = model.of(count)
    found = []
    for direction in _directions(model.net, left, seed):
        for signed in (direction, -direction):
            features = signed[None] if before is None else torch.cat([before, signed[None]])
            found.append(wider.at(features, model.entries.blurs[0]))
    several = _DESCENDED if count * model.net.d <= DENSE else 1
    nearest = sorted(found, key=lambda place: place.loss)[:several]
    ended = [minimised(wider, place.features, _GROWING) for place in nearest]
    return min(ended, key=lambda place: place.loss)


def _directions(net: TwoLayerNet, left: torch.Tensor, seed: int) -> torch.Tensor:
    """The mean slope of ``left`` (m,) and the leading eigenvectors of its residualized second moment: (n, d), unit."""
    slope, V = _leading(net, left, min(_DIRECTIONS, net.d), seed)
    length = float(torch.linalg.vector_norm(slope))
    return V.T if length == 0 else torch.cat([slope[None] / length, V.T])


def reduced(place: Place, B: int) -> torch.Tensor:
    """The B features (B, d) that are left when, one by one, those are given up without which the others explain most."""
    kept = list(range(len(place.features)))
    curvature = place.local.curvature
    if curvature.ndim > 1:
        raise ValueError("curvature must be of the clean entries, not of their terms")
    gram = place.hidden.T @ (curvature[:, None] * place.hidden)
    size = gram.diagonal().sqrt().clamp_min(torch.finfo(gram.dtype).tiny)
    gram = gram / size[:, None] / size
    right = gram @ (place.residuals * size)
    while len(kept) > B:
        inverse = torch.linalg.pinv(gram[kept][:, kept], hermitian=True, rtol=1e-12)
        cost = (inverse @ right[kept]).square() / inverse.diagonal().clamp_min(1e-300)
        del kept[int(cost.argmin())]
    return place.features[kept]


def mended(
    place: Place, settled: Callable[[Place], bool], effort: Effort, seed: int, crude: Model | None = None
) -> Place:
    """A better place with one feature given up for another one, as often as that settles more; crude: the model in which new
    features are looked for, the place's own where None."""
    for _ in range(_MENDED):
        if settled(place):
            return place
        seen = place if crude is None else crude.at(place.features, 0.0)
        wider = grown(seen.model, seen, seed)
        moved = minimised(place.model, reduced(wider, len(place.features)), effort)
        if not moved.loss < (1 - _GAIN) * place.loss:
            return place
        place = moved
    return place


def greedy_start(model: Model, B: int, seed: int) -> torch.Tensor:
    """B features (B, d), found one after the other."""
    place = None
    for _ in range(B):
        place = grown(model, place, seed)
    assert place is not None
    return place.features


def planar_start(model: Model, B: int, seed: int) -> torch.Tensor:
    """B features found one after the other in the plane of the second moment's B leading eigenvectors."""
    V = _leading(model.net, model.entries.left(None), B, seed)[1]
    small = TwoLayerNet.from_weights(
        gathered(model.net, lambda rows, W: W @ V.to(W)).double(), model.net.activation
    )
    return greedy_start(model.on(small), B, seed) @ V.T


def _leading(
    net: TwoLayerNet, left: torch.Tensor, count: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean slope (d,) of ``left`` (m,), and the leading eigenvectors (d, count) of its residualized second moment."""
    given = left.to(net.dtype)
    mean, slope = first_moment(net, given)
    response = Response(given, mean.to(given.dtype), slope)
    start = first_moment_start(net, slope, count, seed)
    return slope, dominant_span(lambda V: apply_second_moment(net, response, V), start, count, *_ROUGHLY).V


def random_start(model: Model, B: int, seed: int, index: int) -> torch.Tensor:
    """B features of those that more of them, from independent random directions, end at, where there are values for more."""
    net, radii = model.net, model.radii
    most = int(model.entries.telling() / (_LEAST * (net.d + 1)))
    count = max(B, min(math.ceil(_WIDE * B), most)) if index % 2 else B
    drawn = normal((count, net.d), seed, "starts", 2, index, device=net.device, dtype=torch.float64)
    unit = drawn / torch.linalg.vector_norm(drawn, dim=1, keepdim=True)
    if count == B:
        return unit if radii is None else unit * radii[0]
    return reduced(minimised(model.of(count), unit, _GROWING), B)


def starts(model: Model, B: int, seed: int, kind: str) -> Iterator[torch.Tensor]:
    """Features (B, d) to begin with, without end: of ``kind`` "random", "greedy" or "auto". In "auto" the greedy ones come
    first, the one in the plane before that outside it, which costs more; then random ones."""
    if kind != "random":
        if model.net.d > B > 1:
            yield planar_start(model, B, seed)
        yield greedy_start(model, B, seed)
    if kind != "greedy":
        for index in itertools.count():
            yield random_start(model, B, seed, index)
