"""What the server sees of a batch of pictures: the gradient of every parameter, after the client's defense."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

import torch

from attack.networks.autograd_client import AutogradClient
from attack.networks.image.network import ImageNetwork
from attack.registry import channel_of
from bounds import (
    DPSGD,
    Clamping,
    Defense,
    DeterministicRounding,
    Dropout,
    GradientClipping,
    GradientNoise,
    GradientPruning,
    LocalAggregation,
    NoDefense,
    NoisyPruning,
    SecureAggregation,
    StochasticRounding,
    checks,
)

#: What a defense acts on: all entries together, or those of every parameter (a weight, a bias) for themselves.
SCOPES = ("global", "layer")

#: Defenses that change what is done with samples, not entries: they are the same by layers.
OF_SAMPLES = (NoDefense, Dropout, LocalAggregation, SecureAggregation)

#: Defenses that remove the smallest entries, and those that send a multiple of the gradient (of each sample's, or of all).
PRUNED = (GradientPruning, NoisyPruning)
CLIPPED = (GradientClipping, DPSGD)

#: Roundings that the sums behind an entry of the gradient add up to.
SUMS = 4.0

#: The parameter of a defense that is in the unit of entries, and so may be told in their root mean square.
SIZED: Mapping[type[Defense], str] = MappingProxyType(
    {
        GradientNoise: "sigma",
        NoisyPruning: "sigma",
        StochasticRounding: "step",
        DeterministicRounding: "step",
        Clamping: "limit",
    }
)


def repeats(defense: Defense) -> int:
    """How many times every sample is in the gradient: once for each local step with the whole batch."""
    return defense.steps if isinstance(defense, LocalAggregation) and defense.batches == "same" else 1


@dataclass(frozen=True, eq=False)
class ImageObservation:
    """gradients: one for each parameter of the network, of the loss summed over the batch; network: as the client got it;
    batch_size: B; defense, scope: public, with the noise as it is (absolute).

    Raises ``ValueError`` or ``TypeError`` where gradients and network do not belong together, and for entries that are not
    finite.
    """

    gradients: tuple[torch.Tensor, ...]
    network: ImageNetwork
    batch_size: int
    defense: Defense
    scope: str = "global"

    def __post_init__(self) -> None:
        checks.instance("network", self.network, ImageNetwork)
        checks.instance("defense", self.defense, Defense, "GradientNoise(sigma=1.0)")
        checks.integer("batch_size", self.batch_size, 1)
        checks.choice("scope", self.scope, SCOPES)
        names, parameters = self.network.names, self.network.parameters
        if len(self.gradients) != len(names):
            raise ValueError(
                f"gradients must be one for each of the network's {len(names)} parameters; got {len(self.gradients)}"
            )
        for name, parameter, gradient in zip(names, parameters, self.gradients, strict=True):
            checks.instance(f"gradient of {name}", gradient, torch.Tensor)
            if gradient.shape != parameter.shape:
                raise ValueError(
                    f"the gradient of {name} must have shape {tuple(parameter.shape)}; got {tuple(gradient.shape)}"
                )
            if not torch.isfinite(gradient).all():
                raise ValueError(f"the gradient of {name} must be finite; got values that are not")
        found = tuple(g.detach().to(p) for g, p in zip(self.gradients, parameters, strict=True))
        object.__setattr__(self, "gradients", found)

    def gradient(self, name: str) -> torch.Tensor:
        """That of the parameter ``name``; ``ValueError`` where none is sent."""
        return self.gradients[self.network.index(name)]

    @property
    def entries(self) -> torch.Tensor:
        """All of them, flattened in the parameters' order."""
        return torch.cat([g.flatten() for g in self.gradients])


def observe_images(
    defense: Defense,
    network: ImageNetwork,
    images: Any,
    labels: Any,
    *,
    seed: int = 1,
    groups: Sequence[int] | None = None,
    scope: str = "global",
    relative: bool = False,
) -> ImageObservation:
    """What the server sees of pictures (B, C, H, W), pixels in [0, 1], with classes ``labels`` (B,) under ``defense``.

    groups (B,): over clients or local batches, for the defenses that aggregate. scope: whether the defense acts on all
    entries together or on every parameter for itself (a threshold, a norm; masks of units are the same for all). relative:
    the parameter of ``SIZED`` (noise, a step, a limit) is in units of the root mean square of the clean gradient's entries.
    The same seed gives the same observation. Raises ``ValueError`` or ``TypeError`` on bad input, and ``ValueError`` where
    the clean gradient is zero and so no unit.
    """
    checks.instance("defense", defense, Defense, "GradientNoise(sigma=1.0)")
    checks.instance("network", network, ImageNetwork)
    checks.choice("scope", scope, SCOPES)
    checks.integer("seed", seed, 0)
    client = network.client(images, labels)
    parts = checks.groups(() if groups is None else groups, client.samples)
    if relative:
        defense = _absolute(defense, client)
    channel = channel_of(defense)
    if scope == "global" or type(defense) in OF_SAMPLES:
        seen = network.split(channel(defense, client, parts, seed))
    else:
        seen = tuple(channel(defense, layer, parts, seed) for layer in _Layer.all_of(client, network))
    return ImageObservation(seen, network, client.samples, defense, scope)


def _absolute(defense: Defense, client: AutogradClient) -> Defense:
    name = SIZED.get(type(defense))
    if name is None:
        known = ", ".join(family.__name__ for family in SIZED)
        raise ValueError(f"relative must be False for a defense other than {known}; got {defense!r}")
    clean = client.gradient().double()
    unit = float(torch.linalg.vector_norm(clean)) / math.sqrt(clean.numel())
    if unit == 0.0:
        raise ValueError(
            f"relative must be False where the clean gradient is zero, which is no unit; got {defense!r}"
        )
    change: Any = dataclasses.replace
    found: Defense = change(defense, **{name: getattr(defense, name) * unit})
    return found


@dataclass(frozen=True, eq=False)
class _Layer(AutogradClient):
    """One parameter of a client by itself; known: its clean gradient; squares: of all samples and parameters, so that
    layers do not cost a backward pass each."""

    known: torch.Tensor | None = None
    squares: Callable[[], torch.Tensor] | None = None

    @staticmethod
    def all_of(client: AutogradClient, network: ImageNetwork) -> tuple[_Layer, ...]:
        held = {f.name: getattr(client, f.name) for f in dataclasses.fields(client)}
        squares, clean = functools.cache(client.sample_squares), network.split(client.gradient())
        return tuple(
            _Layer(**held | {"seen": (i,), "key": (i,)}, known=clean[i], squares=squares) for i in client.seen
        )

    def gradient(self, factors: torch.Tensor | None = None) -> torch.Tensor:
        return super().gradient(factors) if self.known is None or factors is not None else self.known.clone()

    def sample_squares(self) -> torch.Tensor:
        return super().sample_squares() if self.squares is None else self.squares()[:, self.seen]

    def masked(self, kept: torch.Tensor, probability: float) -> AutogradClient:
        return dataclasses.replace(cast(_Layer, super().masked(kept, probability)), known=None, squares=None)

    def part(self, chosen: torch.Tensor) -> AutogradClient:
        return dataclasses.replace(cast(_Layer, super().part(chosen)), known=None, squares=None)
