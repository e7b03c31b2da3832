"""What the gradient of the attacked and of the output layer says, with what pruning hides filled in where it can be."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from attack.image.completion import completed
from attack.image.observed import ImageObservation
from attack.networks.image.network import ImageNetwork
from attack.streams import uniform
from bounds import Dropout, GradientPruning

#: Pictures on which a network is looked at.
_PROBES = 8


@dataclass(frozen=True, eq=False)
class HeadGradient:
    """Gradients of the attacked layer, weight (m, d), bias (m,), and of the output layer, output_weight (C, m), output_bias
    (C,); None without such a bias. Float64 on the CPU. sure (m,): neurons whose row is known: under dropout those
    that show something, else all of them, unless the gradient is pruned. Then entries that were removed are filled in by the
    rank of the rows, or stay zeros where those that are left do not determine them (filled says which); left: share of their
    power that the rank does not explain, None where nothing was to be filled in."""

    weight: np.ndarray
    bias: np.ndarray | None
    output_weight: np.ndarray
    output_bias: np.ndarray | None
    sure: np.ndarray
    left: float | None
    filled: bool

    @property
    def rows(self) -> np.ndarray:
        """The attacked layer's, with the bias as one more column where there is one: (m, d) or (m, d + 1)."""
        return self.weight if self.bias is None else np.column_stack([self.weight, self.bias])


def parameter(network: ImageNetwork, layer: str, kind: str) -> np.ndarray | None:
    """Of a linear layer, "weight" or "bias", in float64, trained or not; None without one."""
    values = getattr(network.module.get_submodule(layer), kind)
    return None if values is None else _numbers(values)


def head_gradient(observation: ImageObservation, *, rank: int | None = None) -> HeadGradient:
    """Of an observation, whose rows have this rank, B where None. ``ValueError`` where no gradient of the weights of one of
    the layers is sent."""
    network = observation.network
    layers = (network.attacked_layer, network.output)
    weight, output_weight = (_numbers(observation.gradient(f"{layer}.weight")) for layer in layers)
    bias, output_bias = (sent(observation, f"{layer}.bias") for layer in layers)
    sure: np.ndarray = np.ones(len(weight), dtype=bool)
    left, filled = None, False
    if isinstance(observation.defense, GradientPruning) and observation.defense.ratio > 0:
        rows = weight if bias is None else np.column_stack([weight, bias])
        limit = _threshold(observation, f"{network.attacked}.weight")
        found = completed(rows, rows != 0, observation.batch_size if rank is None else rank, limit=limit)
        left = found.left
        if found.determined:
            weight, bias = found.rows[:, : weight.shape[1]], None if bias is None else found.rows[:, -1]
            sure, filled = found.sure, True
    if isinstance(observation.defense, Dropout):  # a dropped neuron shows nothing, active or not
        sure = (weight != 0).any(axis=1)
    return HeadGradient(weight, bias, output_weight, output_bias, sure, left, filled)


def on_pixels(network: ImageNetwork) -> bool:
    """Whether the attacked layer receives the normalised pixels themselves."""
    if network.d != math.prod(network.shape):
        return False
    shown = probes(network)
    return torch.equal(network.features(shown), network.normalised(shown).flatten(1))


def pictures_of(network: ImageNetwork, features: torch.Tensor) -> torch.Tensor:
    """Pixels (n, C, H, W) of features (n, d) that are normalised pixels, cut to [0, 1]."""
    return network.pixels(features.view(-1, *network.shape)).clamp(0.0, 1.0)


def is_relu(network: ImageNetwork) -> bool:
    """Whether outputs are ``A relu(W z + b) + c`` of the features."""
    shown = probes(network)
    z = network.features(shown).double()
    values = [
        parameter(network, layer, kind)
        for layer in (network.attacked_layer, network.output)
        for kind in _KINDS
    ]
    W, b, A, c = (None if v is None else torch.from_numpy(v).to(z) for v in values)
    assert W is not None and A is not None
    made = torch.relu(z @ W.T + (0.0 if b is None else b)) @ A.T + (0.0 if c is None else c)
    seen = network.outputs(shown).double()
    return torch.allclose(made, seen, rtol=1e-4, atol=1e-4 * float(seen.abs().max()))


def probes(network: ImageNetwork, count: int = _PROBES, seed: int = 0) -> torch.Tensor:
    """Pictures of uniform pixels, in place of those that are not known."""
    return uniform((count, *network.shape), seed, "probes", device="cpu", dtype=torch.float32).to(
        network.device, network.dtype
    )


_KINDS = ("weight", "bias")


def _numbers(values: torch.Tensor) -> np.ndarray:
    return np.asarray(values.detach().double().cpu().numpy())


def sent(observation: ImageObservation, name: str) -> np.ndarray | None:
    """The gradient of a parameter as numbers, None where none is sent."""
    return _numbers(observation.gradient(name)) if name in observation.network.names else None


def _threshold(observation: ImageObservation, name: str) -> float:
    """No entry that pruning removed from this parameter's gradient was larger."""
    entries = observation.entries if observation.scope == "global" else observation.gradient(name)
    kept = entries[entries != 0].abs()
    return float(kept.min()) if len(kept) else math.inf
