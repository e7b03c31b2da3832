"""The added fully connected layer ``z -> W z -> sigma -> a``: what the theory of two layers speaks about, on features z."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from attack.streams import normal
from bounds import checks

#: Modules that an activation's name stands for.
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "elu": nn.ELU,
}

#: Where weights come from: torch's own initialisation, or Gaussians whose output weights have the size 1/m or 1/sqrt(m).
SCALES = ("default", "1/m", "1/sqrt(m)")


@dataclass(frozen=True)
class Head:
    """m hidden units on d_f features. scale: "default" leaves torch's initialisation; else the hidden weights are N(0, 1),
    without bias, and the output weights N(0, 1) times 1/m or 1/sqrt(m) ([W23] has 1/m). features: d_f, to which a linear
    layer takes what the body gives; None: as many as the body gives. activation: a key of ``ACTIVATIONS``."""

    m: int = 256
    features: int | None = None
    scale: str = "default"
    activation: str = "relu"
    bias: bool = True

    def __post_init__(self) -> None:
        checks.integer("m", self.m, 1)
        if self.features is not None:
            checks.integer("features", self.features, 1)
        checks.choice("scale", self.scale, SCALES)
        checks.choice("activation", self.activation, tuple(ACTIVATIONS))


class HeadLayers(nn.Module):
    """``project`` (where features are asked for), ``hidden``, the activation, ``output``."""

    def __init__(self, head: Head, received: int, classes: int, seed: int) -> None:
        super().__init__()
        d = received if head.features is None else head.features
        self.project = nn.Identity() if head.features is None else nn.Linear(received, d)
        self.hidden = nn.Linear(d, head.m, bias=head.bias and head.scale == "default")
        self.activation = ACTIVATIONS[head.activation]()
        self.output = nn.Linear(head.m, classes, bias=head.bias)
        if head.scale != "default":
            size = 1 / head.m if head.scale == "1/m" else head.m**-0.5
            for purpose, layer, factor in (("hidden", self.hidden, 1.0), ("output", self.output, size)):
                drawn = normal(
                    tuple(layer.weight.shape),
                    seed,
                    "head",
                    purpose == "output",
                    device="cpu",
                    dtype=torch.float32,
                )
                with torch.no_grad():
                    layer.weight.copy_(factor * drawn)
                    if layer.bias is not None:
                        layer.bias.zero_()

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """(B, received) to (B, classes)."""
        found: torch.Tensor = self.output(self.activation(self.hidden(self.project(z))))
        return found
