"""What the server knows of a defense, for every attack that compares a guessed gradient with the one it sees.

Of each defense: how a client with guessed pictures computes its gradient (``Model.client``, differentiable), and what is
known of that gradient's entries from those that are seen (``Model.entries``, ``Model.noise``). A rival without this
is weaker than it need be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import torch

from attack.client import Mask
from attack.image.masks import sample_masks
from attack.image.observed import ImageObservation
from attack.networks.image.network import ImageNetwork
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
    SignCompression,
    StochasticRounding,
)
from bounds.wide_limits import assigned

#: One gradient for each parameter.
Gradients = tuple[torch.Tensor, ...]

#: Pictures (B, C, H, W), pixels, and labels, (B,) or (B, classes), to what a client with them would send, before what a
#: defense does to single entries; differentiable by both.
Client = Callable[[torch.Tensor, torch.Tensor], Gradients]

#: Where the sign of an entry turns from one to the other, in root mean squares of its parameter's guessed gradient.
_SOFTNESS = 0.1


class Entries(Protocol):
    """What is known of the n entries of the clean gradient, in the parameters' order."""

    def compared(self, guess: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What of a guess (n,) is compared, and with what it is: both (n,)."""
        ...

    def back(self, guess: torch.Tensor, by_guess: torch.Tensor, by_target: torch.Tensor) -> torch.Tensor:
        """The slope (n,) by the guess, of slopes by what ``compared`` gives."""
        ...

    @property
    def moves(self) -> bool:
        """Whether the target depends on the guess, so that ``back`` uses ``by_target``."""
        ...

    @property
    def kept(self) -> torch.Tensor | None:
        """The entries (n,), zeros and ones, that were sent; None where all were."""
        ...


@dataclass(frozen=True, eq=False)
class Seen:
    """The entries are those seen, up to noise; where ``kept`` (n,) of zeros and ones is given, only the kept ones are."""

    seen: torch.Tensor
    kept: torch.Tensor | None = None
    moves: bool = False

    def compared(self, guess: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (guess if self.kept is None else guess * self.kept), self.seen

    def back(self, guess: torch.Tensor, by_guess: torch.Tensor, by_target: torch.Tensor) -> torch.Tensor:
        return by_guess if self.kept is None else by_guess * self.kept


@dataclass(frozen=True, eq=False)
class Between:
    """Each entry lies between ``low`` and ``high`` (n,): a guess is compared with the nearest gradient that does."""

    low: torch.Tensor
    high: torch.Tensor
    moves: bool = True
    kept: None = None

    def compared(self, guess: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return guess, torch.clamp(guess, self.low, self.high)

    def back(self, guess: torch.Tensor, by_guess: torch.Tensor, by_target: torch.Tensor) -> torch.Tensor:
        inside = (guess >= self.low) & (guess <= self.high)
        return by_guess + by_target * inside


@dataclass(frozen=True, eq=False)
class Signs:
    """The signs (n,) are known; those of a guess are softened, ``g / sqrt(g^2 + s^2)``, s a tenth of the root mean square
    of the guess over each parameter (sizes), which is held."""

    signs: torch.Tensor
    sizes: tuple[int, ...]
    moves: bool = False
    kept: None = None

    def compared(self, guess: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return guess / (guess.square() + self._soft(guess)).sqrt(), self.signs

    def back(self, guess: torch.Tensor, by_guess: torch.Tensor, by_target: torch.Tensor) -> torch.Tensor:
        soft = self._soft(guess)
        return by_guess * soft / (guess.square() + soft) ** 1.5

    def _soft(self, guess: torch.Tensor) -> torch.Tensor:
        """s^2 of every entry."""
        tiny = torch.finfo(guess.dtype).tiny
        powers = [_SOFTNESS**2 * part.square().mean() + tiny for part in guess.split(self.sizes)]
        return torch.cat([p.expand(n) for p, n in zip(powers, self.sizes, strict=True)])


@dataclass(frozen=True, eq=False)
class Model:
    """client, entries: as above; noise: standard deviation of what is added to every entry that is seen."""

    client: Client
    entries: Entries
    noise: float = 0.0


@dataclass(frozen=True, eq=False)
class Plain:
    """The gradient of the batch's loss. mask: what multiplies hidden units."""

    network: ImageNetwork
    parameters: tuple[torch.Tensor, ...]
    mask: Mask | None = None

    @staticmethod
    def of(network: ImageNetwork, mask: Mask | None = None) -> Plain:
        return Plain(network, tuple(p.clone().requires_grad_() for p in network.parameters), mask)

    def __call__(
        self, images: torch.Tensor, labels: torch.Tensor, parameters: Gradients | None = None
    ) -> Gradients:
        """At other parameters too, if they are given, through which it can be differentiated."""
        at = self.parameters if parameters is None else parameters
        loss = self.network.losses(at, images, labels, self.mask).sum()
        return torch.autograd.grad(loss, at, create_graph=True)


@dataclass(frozen=True, eq=False)
class Sorted:
    """The gradient of a batch in which every sample has a mask of its own; those of ``plain`` are of samples in the order of
    their classes, so that pictures are put into that order first. Soft labels have none: pictures stay as they are."""

    plain: Plain

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> Gradients:
        if labels.ndim == 2:
            return self.plain(images, labels)
        order = labels.argsort(stable=True)
        return self.plain(images[order], labels[order])


@dataclass(frozen=True, eq=False)
class Clipped:
    """The gradient, or that of every sample, times ``min(1, C/|g|)``; the norm over all entries or, by layer, each
    parameter's."""

    plain: Plain
    max_norm: float
    per_sample: bool
    by_layer: bool

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> Gradients:
        if not self.per_sample:
            return self._clipped(self.plain(images, labels))
        ones = [self._clipped(self.plain(images[i : i + 1], labels[i : i + 1])) for i in range(len(images))]
        return tuple(torch.stack(parts).sum(dim=0) for parts in zip(*ones, strict=True))

    def _clipped(self, gradients: Gradients) -> Gradients:
        tiny = torch.finfo(gradients[0].dtype).tiny
        powers = torch.stack([g.square().sum() for g in gradients])
        if not self.by_layer:
            powers = powers.sum().expand(len(gradients))
        factors = (self.max_norm / (powers + tiny).sqrt()).clamp(max=1.0)
        return tuple(g * f for g, f in zip(gradients, factors, strict=True))


@dataclass(frozen=True, eq=False)
class Stepped:
    """The sum of the gradients along gradient descent of rate ``rate``, one step for each batch of indices, through which it
    is differentiated."""

    plain: Plain
    rate: float
    batches: tuple[torch.Tensor | None, ...]  #: None: all samples

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> Gradients:
        now = self.plain.parameters
        found: list[Gradients] = []
        for used in self.batches:
            found.append(
                self.plain(
                    images if used is None else images[used], labels if used is None else labels[used], now
                )
            )
            now = tuple(p - self.rate * g for p, g in zip(now, found[-1], strict=True))
        return tuple(torch.stack(parts).sum(dim=0) for parts in zip(*found, strict=True))


def as_seen(observation: ImageObservation) -> Model:
    """Of a server that takes what it sees for the clean gradient, whatever the defense."""
    return Model(Plain.of(observation.network), Seen(observation.entries))


def _noisy(observation: ImageObservation, defense: GradientNoise) -> Model:
    return Model(Plain.of(observation.network), Seen(observation.entries), defense.sigma)


def _clipping(observation: ImageObservation, defense: GradientClipping) -> Model:
    if math.isinf(defense.max_norm):
        return as_seen(observation)
    if defense.per_sample and observation.network.coupled:
        raise ValueError(
            "network must have gradients of single samples for per-sample clipping; layers couple the samples of its batch "
            f"(batch_norm={observation.network.batch_norm!r})"
        )
    by_layer = observation.scope == "layer"
    client = Clipped(Plain.of(observation.network), defense.max_norm, defense.per_sample, by_layer)
    return Model(client, Seen(observation.entries))


def _dp_sgd(observation: ImageObservation, defense: DPSGD) -> Model:
    if math.isinf(defense.max_norm):
        return as_seen(observation)
    clipping = _clipping(observation, GradientClipping(defense.max_norm, per_sample=defense.per_sample))
    return Model(clipping.client, clipping.entries, defense.noise_multiplier * defense.max_norm)


def _pruned(observation: ImageObservation, defense: GradientPruning | NoisyPruning) -> Model:
    """The kept entries are those other than zero, with noise where there is any (that the others are below the least of
    these added nothing where it was tried, and local minima); with ratio 0 one that is zero is one of the gradient."""
    seen, noise = observation.entries, defense.density().sigma
    kept = None if defense.ratio == 0 else (seen != 0).to(seen)
    return Model(Plain.of(observation.network), Seen(seen, kept), noise)


def _dropout(observation: ImageObservation, defense: Dropout) -> Model:
    """With a mask for each sample, those that the output layer's gradient shows (``attack.image.masks``): a unit that is
    zero for a sample is taken for one that was dropped for it, and all others are exact. They are certified: where masks are
    read, the pictures and labels of the batch explain the gradient.

    Where it shows none, and with one mask for the batch: a unit whose gradients are zero in the output's weights, and in the
    attacked layer's if there is one, is taken for one that was dropped for every sample; any other is taken at its mean,
    ``E[b/(1-p) | some sample keeps it]``: 1/(1 - p) with one mask, which is exact, and 1/(1 - p^B) with several."""
    if defense.p == 0:
        return as_seen(observation)
    network = observation.network
    output = observation.gradient(f"{network.output}.weight")
    if defense.per_sample:
        found = sample_masks(observation)
        if found is not None:
            own = Mask(torch.from_numpy(found.kept).to(output), 1 - defense.p)
            return Model(Sorted(Plain.of(network, own)), Seen(observation.entries))
    kept = (output != 0).any(dim=0)
    if network.attacked is not None:
        kept = kept | (observation.gradient(f"{network.attacked}.weight") != 0).any(dim=1)
    independent = observation.batch_size if defense.per_sample else 1
    mask = Mask(kept.to(output)[None, :], 1 - defense.p**independent)
    return Model(Plain.of(network, mask), Seen(observation.entries))


def _clamped(observation: ImageObservation, defense: Clamping) -> Model:
    if math.isinf(defense.limit):
        return as_seen(observation)
    seen = observation.entries
    low = torch.where(seen <= -defense.limit, -math.inf, seen)
    high = torch.where(seen >= defense.limit, math.inf, seen)
    return Model(Plain.of(observation.network), Between(low, high))


def _rounded(observation: ImageObservation, defense: DeterministicRounding) -> Model:
    """An entry is at most half a step from what is seen of it."""
    seen, off = observation.entries, 0.5 * defense.step
    return Model(Plain.of(observation.network), Between(seen - off, seen + off))


def _signs(observation: ImageObservation, defense: SignCompression) -> Model:
    sizes = tuple(g.numel() for g in observation.gradients)
    return Model(Plain.of(observation.network), Signs(observation.entries, sizes))


def _local_steps(observation: ImageObservation, defense: LocalAggregation) -> Model:
    """Which pictures were in which of different batches is not known: they are taken in turn, and so are given labels."""
    if defense.steps == 1:
        return as_seen(observation)
    B, network = observation.batch_size, observation.network
    batches: tuple[torch.Tensor | None, ...] = (None,) * defense.steps
    if defense.batches == "different":
        when = torch.tensor(assigned((0,) * B, defense.steps, "steps"), device=network.device)
        batches = tuple(torch.nonzero(when == step).flatten() for step in sorted(set(when.tolist())))
    client = Stepped(Plain.of(network), defense.lr_times_m / network.units, batches)
    return Model(client, Seen(observation.entries))


def _plain(observation: ImageObservation, defense: Defense) -> Model:
    """Also of secure aggregation: the sum over clients is the gradient of all samples, unless statistics of the batch couple
    those of one client, of which the server does not know which they are. And of stochastic rounding, which keeps the mean:
    that an entry is within a step of what is seen says less than that."""
    return as_seen(observation)


#: What is known, by the class of the defense.
MODELS: Mapping[type[Defense], Callable[[ImageObservation, Any], Model]] = MappingProxyType(
    {
        NoDefense: _plain,
        SecureAggregation: _plain,
        StochasticRounding: _plain,
        GradientNoise: _noisy,
        GradientClipping: _clipping,
        DPSGD: _dp_sgd,
        GradientPruning: _pruned,
        NoisyPruning: _pruned,
        Dropout: _dropout,
        Clamping: _clamped,
        DeterministicRounding: _rounded,
        SignCompression: _signs,
        LocalAggregation: _local_steps,
    }
)


def model_of(observation: ImageObservation) -> Model:
    """What the server knows of the gradient. ``TypeError`` for a defense that is not in ``MODELS``; ``ValueError`` where the
    defense needs gradients of single samples, and the network couples them."""
    family = type(observation.defense)
    if family not in MODELS:
        raise TypeError(
            f"defense must be one of {', '.join(sorted(f.__name__ for f in MODELS))} for an attack that models it (one with "
            f"informed=False matches the gradient as it is seen); got {observation.defense!r}"
        )
    return MODELS[family](observation, observation.defense)
