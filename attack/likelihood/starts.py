"""Where the steps begin: features in random directions, fits in the plane of the second moment, another attack's result."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch

from attack.likelihood.model import Model
from attack.likelihood.solve import Effort, minimised
from attack.networks.two_layer import TwoLayerNet
from attack.stream import gathered
from attack.streams import normal
from attack.tensor.moments import Response, apply_second_moment, first_moment, first_moment_start
from attack.tensor.span import dominant_span
from bounds.gaussian.activations import ZERO

#: Fits in the plane, and how many of the best distinct ones are lifted.
_IN_PLANE, _LIFTED = 10, 4

#: Fits in the plane are the same where their losses agree to this fraction.
_ALIKE = 1e-3


def random_starts(model: Model, B: int, seed: int) -> Iterator[torch.Tensor]:
    """Features in independent random directions, of the known norms, else of norm 1."""
    net = model.net
    for index in itertools.count():
        drawn = normal((B, net.d), seed, "starts", 2, index, device=net.device, dtype=torch.float64)
        unit = drawn / torch.linalg.vector_norm(drawn, dim=1, keepdim=True)
        yield unit if model.radii is None else unit * model.radii[:, None]


def plane(net: TwoLayerNet, gradient: torch.Tensor, B: int, seed: int) -> torch.Tensor:
    """The B leading eigenvectors (d, B) of the residualized second moment."""
    given = gradient.to(net.dtype)
    mean, slope = first_moment(net, given)
    response = Response(given, mean.to(given.dtype), slope)
    start = first_moment_start(net, slope, B, seed)
    return dominant_span(lambda V: apply_second_moment(net, response, V), start, B).V


def has_plane(net: TwoLayerNet) -> bool:
    """Whether the activation has a second moment."""
    return abs(net.activation.coefficient(2)) > ZERO


def spectral_starts(
    model: Model, gradient: torch.Tensor, B: int, seed: int, effort: Effort
) -> Iterator[torch.Tensor]:
    """The best fits in the plane, where the features' parts outside it are noise: B numbers for each feature."""
    V = plane(model.net, gradient, B, seed)
    small = TwoLayerNet.from_weights(
        gathered(model.net, lambda rows, W: W @ V.to(W)).double(), model.net.activation
    )
    inside = Model(small, model.entries, model.radii, model.scale_free, model.bias)
    ended = [
        minimised(inside, start, effort, model.entries.blurs[:1]).place
        for start in itertools.islice(random_starts(inside, B, seed), _IN_PLANE)
    ]
    told: list[float] = []
    for place in sorted(ended, key=lambda place: place.loss):
        if len(told) == _LIFTED:
            return
        if not told or place.loss > told[-1] + _ALIKE * abs(told[-1]):
            told.append(place.loss)
            yield place.features @ V.T
