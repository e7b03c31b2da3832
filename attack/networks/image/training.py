"""Training of a network on pictures: the start that a server finds where a model has been in use for a while."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from attack.networks.image.convnet import seeded
from attack.networks.image.network import LOSSES, ImageNetwork
from attack.streams import normal, numpy_generator
from bounds import checks

#: Called after each epoch with its number from 1, their number, and the mean loss of a sample in it.
Progress = Callable[[int, int, float], None]

_Optimisers = Callable[[Any, float], torch.optim.Optimizer]
OPTIMISERS: dict[str, _Optimisers] = {
    "adam": lambda parameters, rate: torch.optim.Adam(parameters, lr=rate),
    "sgd": lambda parameters, rate: torch.optim.SGD(parameters, lr=rate, momentum=0.9),
}

#: Pictures that go through a network at once where no gradient is taken.
_AT_ONCE = 256


@dataclass(frozen=True)
class Training:
    """How a network is trained: rate: of the optimiser, a key of ``OPTIMISERS`` (SGD has momentum .9), on the mean loss of
    ``batch`` pictures; the last ones of an epoch that are fewer are left out. seed: of the order, and of dropout."""

    epochs: int = 1
    rate: float = 1e-3
    batch: int = 64
    optimiser: str = "adam"
    seed: int = 0

    def __post_init__(self) -> None:
        checks.integer("epochs", self.epochs, 0)
        checks.integer("batch", self.batch, 1)
        checks.real("rate", self.rate, 0.0)
        checks.choice("optimiser", self.optimiser, tuple(OPTIMISERS))
        checks.integer("seed", self.seed, 0)


@dataclass(frozen=True, eq=False)
class Trained:
    """The network after it, and the mean loss of a sample in each epoch."""

    network: ImageNetwork
    losses: tuple[float, ...]


def trained(
    network: ImageNetwork,
    images: Any,
    labels: Any,
    training: Training | None = None,
    *,
    progress: Progress | None = None,
) -> Trained:
    """Train on pictures (n, C, H, W), pixels in [0, 1], with classes (n,).

    Batch norm uses the statistics of each batch here, and what it keeps follows them; dropout of the module is on; the
    network that is returned is again in the mode that it had. The same seed gives the same weights on the same device with
    the same threads. Raises ``ValueError`` or ``TypeError`` on bad input, before the first epoch, and ``ValueError`` where
    the loss stops being finite.
    """
    training = training or Training()
    X, y = network.checked(images, labels)
    size = min(training.batch, len(X))
    module = network.to(network.device).module.train()
    optimiser = OPTIMISERS[training.optimiser](
        [p for p in module.parameters() if p.requires_grad], training.rate
    )
    order = numpy_generator(training.seed, "training")
    losses = []
    with seeded(training.seed, "dropout"):
        for epoch in range(training.epochs):
            shuffled = torch.from_numpy(order.permutation(len(X))).to(X.device)
            total = 0.0
            for chosen in shuffled[: len(X) // size * size].split(size):
                optimiser.zero_grad()
                loss = LOSSES[network.loss](module(network.normalised(X[chosen])), y[chosen]).mean()
                loss.backward()
                optimiser.step()
                total += float(loss.detach()) * size
            losses.append(total / (len(X) // size * size))
            if not math.isfinite(losses[-1]):
                raise ValueError(
                    f"rate must be small enough for a finite loss; {training.rate} is not, in epoch {epoch + 1}"
                )
            if progress is not None:
                progress(epoch + 1, training.epochs, losses[-1])
    module.zero_grad()
    return Trained(dataclasses.replace(network, module=module), tuple(losses))


def accuracy(network: ImageNetwork, images: Any, labels: Any) -> float:
    """The part of pictures (n, C, H, W) whose largest output is that of their class (n,)."""
    X, y = network.checked(images, labels)
    with torch.no_grad():
        right = [
            (network.outputs(X[i : i + _AT_ONCE]).argmax(dim=1) == y[i : i + _AT_ONCE]).sum()
            for i in range(0, len(X), _AT_ONCE)
        ]
    return float(torch.stack(right).sum()) / len(X)


@dataclass(frozen=True, eq=False)
class SplitHead:
    """A network some of whose hidden units are Gaussian again; gaussian: which, (k,) in increasing order."""

    network: ImageNetwork
    gaussian: torch.Tensor


def split_head(
    network: ImageNetwork, fraction: float, scale: float | None = None, *, seed: int = 0
) -> SplitHead:
    """Give a part of the hidden units, chosen by ``seed``, weights N(0, 1), no bias and output weights N(0, 1) times
    ``scale`` (None: 1/m), and leave the others as they are ([L25]: units for the tensor method beside pretrained ones).

    Raises ``ValueError`` for a network without an attacked layer or trained output weights of its own, a fraction
    outside [0, 1] and a negative scale.
    """
    share = checks.real("fraction", fraction, 0.0, 1.0)
    size = 1 / network.units if scale is None else checks.real("scale", scale, 0.0)
    checks.integer("seed", seed, 0)
    network.index(f"{network.output}.weight")  # none that is made of others, or frozen
    module = network.to(network.device).module
    hidden = module.get_submodule(network.attacked_layer)
    output = module.get_submodule(network.output)
    assert isinstance(hidden, nn.Linear) and isinstance(output, nn.Linear)  # a network saw to it
    chosen = numpy_generator(seed, "split").permutation(network.units)[: round(share * network.units)]
    units = torch.from_numpy(chosen).sort().values.to(network.device)
    with torch.no_grad():
        for purpose, weight, factor in (("hidden", hidden.weight, 1.0), ("output", output.weight.T, size)):
            drawn = normal(
                tuple(weight[units].shape),
                seed,
                "split head",
                purpose == "output",
                device=network.device,
                dtype=network.dtype,
            )
            weight[units] = factor * drawn
        if hidden.bias is not None:
            hidden.bias[units] = 0
    return SplitHead(dataclasses.replace(network, module=module), units)
