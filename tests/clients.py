"""What every defense must give of every client, written out with plain automatic differentiation, one sample at a time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from helpers import correlated

from attack import Observation, TwoLayerNet, observe, observe_first_layer
from attack.client import Client
from attack.networks.deep import DeepNet
from attack.rows.observation import FirstLayerObservation
from attack.streams import normal, uniform
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

D, M, B, SEED = 6, 41, 3, 4
X = torch.from_numpy(correlated(B, D, norms=(1.0, 0.7, 1.3)))
Y = torch.tensor([1.0, -1.0, 0.3], dtype=torch.float64)
GROUPS = (5, 2, 5)

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True, eq=False)
class Written:
    """A network of GELUs as its weights, W_1, ..., W_l, a, of which the gradient of ``seen`` is sent."""

    weights: Tensors
    seen: int
    key: tuple[int, ...]
    device: str

    @property
    def size(self) -> float:
        """Of a usual entry, so that steps, limits and noise are neither everything nor nothing."""
        return float(sum(self.single(i) for i in range(B)).abs().median())

    def loss(self, weights: Tensors, i: int, factor: Any = 1.0) -> torch.Tensor:
        h = X[i]
        for W in weights[:-1]:
            t = W @ h
            h = t * (1 + torch.erf(t / math.sqrt(2))) / 2
        return ((h * factor) @ weights[-1] - Y[i]) ** 2 / 2

    def all(self, weights: Tensors, samples: Sequence[int], factors: Any = (1.0,) * B) -> Tensors:
        """Gradients with respect to all weights of the sum of these samples' losses."""
        leaves = tuple(w.clone().requires_grad_() for w in weights)
        return torch.autograd.grad(sum(self.loss(leaves, i, factors[i]) for i in samples), leaves)

    def single(self, i: int, factor: Any = 1.0) -> torch.Tensor:
        return self.all(self.weights, [i], {i: factor})[self.seen]

    def trained(self, batches: Sequence[Sequence[int]], rate: float) -> torch.Tensor:
        weights, found = self.weights, torch.zeros_like(self.weights[self.seen])
        for batch in batches:
            gradients = self.all(weights, batch)
            found = found + gradients[self.seen]
            weights = tuple(w - rate * g for w, g in zip(weights, gradients, strict=True))
        return found

    def draws(self, stream: Callable[..., torch.Tensor], purpose: str) -> torch.Tensor:
        shape = tuple(self.weights[self.seen].shape)
        return stream(shape, SEED, purpose, *self.key, device=self.device, dtype=torch.float64).cpu()

    def masks(self, p: float, count: int) -> list[torch.Tensor]:
        drawn = (
            uniform((M,), SEED, "masks", i, device=self.device, dtype=torch.float64) for i in range(count)
        )
        return [(u.cpu() >= p).double() / (1 - p) for u in drawn]


@dataclass(frozen=True, eq=False)
class Case:
    """A network on a device, the layer that is observed, and the same network written out."""

    net: TwoLayerNet | DeepNet
    layer: str
    written: Written

    def client(self) -> Client:
        return self.net.client(X, Y, self.layer)

    def observe(self, defense: Defense, seed: int = SEED) -> Observation | FirstLayerObservation:
        watch = observe if self.layer == "output" else observe_first_layer
        return watch(defense, self.net, X, Y, seed, GROUPS)


#: The clients: those of two layers with W held and with W drawn in every pass, and the last two layers of a deep network.
CASES = (
    "two-layer output",
    "two-layer hidden",
    "drawn output",
    "drawn hidden",
    "deep output",
    "deep hidden",
)


def case(name: str, device: str = "cpu") -> Case:
    kind, layer = name.split()
    budget = 0 if kind == "drawn" else 10**9
    net: TwoLayerNet | DeepNet
    two = net = TwoLayerNet.sample(D, M, "gelu", seed=9, device=device, memory_budget=budget)
    first = torch.cat([W.cpu() for _, W in two.blocks()])
    weights: Tensors = (first, torch.full((M,), 1 / M, dtype=torch.float64))
    if kind == "deep":
        net = DeepNet.standard(two, 2, seed=3)
        net = dataclasses.replace(net, output=net.output * torch.linspace(0.5, 2, M).to(net.output))
        weights = tuple(w.cpu() for w in (*net.hidden, net.output))
    seen = len(weights) - (1 if layer == "output" else 2)
    return Case(net, layer, Written(weights, seen, () if layer == "output" else (1,), device))


def members(size: float) -> tuple[Defense, ...]:
    """Members of every family, for entries of this size."""
    norm = size * 8
    return (
        NoDefense(),
        GradientNoise(size),
        GradientClipping(norm / 4),
        GradientClipping(norm, per_sample=True),
        DPSGD(norm / 4, 0.3, per_sample=False),
        DPSGD(norm, 0.3, per_sample=True),
        Dropout(0.3),
        Dropout(0.3, per_sample=False),
        StochasticRounding(size),
        DeterministicRounding(size),
        SignCompression(),
        Clamping(size),
        GradientPruning(0.6),
        NoisyPruning(size, 0.6),
        LocalAggregation(3, 20.0),
        LocalAggregation(3, 20.0, "different"),
        LocalAggregation(4, 0.0),
        SecureAggregation(2),
    )


def cut(gradient: torch.Tensor, norm: float) -> torch.Tensor:
    length = float(gradient.norm())
    return gradient * min(1.0, norm / length)


def expected(defense: Defense, w: Written) -> torch.Tensor:
    """What the server sees under the defense."""
    return _RULES[type(defense)](defense, w)


def _undefended(w: Written, samples: Sequence[int] = range(B)) -> torch.Tensor:
    return torch.stack([w.single(i) for i in samples]).sum(dim=0)


def _clipped(defense: Any, w: Written) -> torch.Tensor:
    if defense.per_sample:
        return torch.stack([cut(w.single(i), defense.max_norm) for i in range(B)]).sum(dim=0)
    return cut(_undefended(w), defense.max_norm)


def _dropped(defense: Any, w: Written) -> torch.Tensor:
    masks = w.masks(defense.p, B) if defense.per_sample else w.masks(defense.p, 1) * B
    return torch.stack([w.single(i, masks[i]) for i in range(B)]).sum(dim=0)


def _pruned(defense: Any, w: Written) -> torch.Tensor:
    gradient = _undefended(w)
    if isinstance(defense, NoisyPruning):
        gradient = gradient + defense.sigma * w.draws(normal, "noise")
    smallest = sorted(range(gradient.numel()), key=lambda i: abs(float(gradient.view(-1)[i])))
    gradient.view(-1)[smallest[: math.floor(defense.ratio * gradient.numel())]] = 0
    return gradient


def _local(defense: Any, w: Written) -> torch.Tensor:
    # groups in increasing order: feature 1 first, then 0 and 2
    batches = [[1], [0, 2]] if defense.batches == "different" else [list(range(B))] * defense.steps
    return w.trained(batches, defense.lr_times_m / M)


_RULES: dict[type[Defense], Callable[[Any, Written], torch.Tensor]] = {
    NoDefense: lambda defense, w: _undefended(w),
    GradientNoise: lambda defense, w: _undefended(w) + defense.sigma * w.draws(normal, "noise"),
    GradientClipping: _clipped,
    DPSGD: lambda defense, w: (
        _clipped(defense, w) + defense.noise_multiplier * defense.max_norm * w.draws(normal, "noise")
    ),
    Dropout: _dropped,
    StochasticRounding: lambda defense, w: (
        defense.step * torch.floor(_undefended(w) / defense.step + w.draws(uniform, "rounding"))
    ),
    DeterministicRounding: lambda defense, w: defense.step * torch.round(_undefended(w) / defense.step),
    SignCompression: lambda defense, w: torch.sign(_undefended(w)),
    Clamping: lambda defense, w: _undefended(w).clamp(-defense.limit, defense.limit),
    GradientPruning: _pruned,
    NoisyPruning: _pruned,
    LocalAggregation: _local,
    SecureAggregation: lambda defense, w: _undefended(w, [1]) + _undefended(w, [0, 2]),
}
