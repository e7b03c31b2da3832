"""A classifier of pictures as the server has it: a module of torch, and which of its layers is attacked.

The attacked layer is linear: ``z -> W z + b`` with ``z`` (B, d_f) what the layers before make of a picture, its *features*.
A linear layer after it takes the m hidden units ``sigma(W z + b)`` to the outputs. Everything else of the module is its
own: any layers of torch, as long as the loss of every sample can be differentiated twice.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from attack.arrays import real_tensor
from attack.client import Mask
from attack.networks.autograd_client import AutogradClient
from bounds import checks

#: Loss of outputs (B, C) and labels, classes (B,) or numbers for each output (B, C), of every sample: (B,).
_Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

#: Layers that couple the samples of a batch, unless they use the statistics that they keep.
_COUPLING = (nn.modules.batchnorm._BatchNorm,)

BATCH_NORM = ("eval", "batch")

SHOWN = ("all", "hidden", "output")


def _cross_entropy(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs, labels, reduction="none")


def _squared(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    wanted = labels if labels.ndim == 2 else nn.functional.one_hot(labels, outputs.shape[1])
    return 0.5 * (outputs - wanted.to(outputs)).square().sum(dim=1)


LOSSES: Mapping[str, _Loss] = MappingProxyType({"cross-entropy": _cross_entropy, "squared": _squared})


@dataclass(frozen=True, eq=False)
class ImageNetwork:
    """A classifier and what the server knows of how the client uses it.

    module: maps pictures (B, C, H, W), normalised, to outputs (B, classes); copied, so that nothing changes it. shape: of a
    picture, (C, H, W). attacked, output: names of the linear layers below and above the hidden units. loss: a key of
    ``LOSSES``, summed over samples. batch_norm: "eval" (statistics that the module keeps) or "batch" (those of the batch,
    which couple its samples). mean, std: of every channel, with which pixels in [0, 1] are normalised.

    Make one with ``of`` where names are to be found, or with the functions beside this file. Raises ``ValueError`` or
    ``TypeError`` where these do not fit one another, which a forward pass of the module tells.
    """

    module: nn.Module
    shape: tuple[int, int, int]
    attacked: str
    output: str
    loss: str = "cross-entropy"
    batch_norm: str = "eval"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    classes: int = field(init=False)

    def __post_init__(self) -> None:
        checks.instance("module", self.module, nn.Module)
        checks.choice("loss", self.loss, tuple(LOSSES))
        checks.choice("batch_norm", self.batch_norm, BATCH_NORM)
        if len(self.shape) != 3:
            raise ValueError(f"shape must be (C, H, W); got {self.shape}")
        for side in self.shape:
            checks.integer("shape", side, 1)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.shape[0]):
                raise ValueError(
                    f"{name} must be one number for each of {self.shape[0]} channels, or one; got {values}"
                )
        if not all(0 < value < math.inf for value in self.std):
            raise ValueError(f"std must be positive; got {self.std}")
        module = copy.deepcopy(self.module).eval()
        for layer in module.modules():
            if isinstance(layer, _COUPLING):
                layer.train(self.batch_norm == "batch")
        object.__setattr__(self, "module", module)
        layers = dict(module.named_modules())
        for role in ("attacked", "output"):
            name = getattr(self, role)
            if not isinstance(layers.get(name), nn.Linear):
                linear = ", ".join(n for n, layer in layers.items() if isinstance(layer, nn.Linear)) or "none"
                raise ValueError(f"{role} must name a linear layer of the module ({linear}); got {name!r}")
        object.__setattr__(self, "classes", layers[self.output].out_features)

    @property
    def parameters(self) -> tuple[torch.Tensor, ...]:
        """The values of all parameters, in the module's order, off any graph."""
        return tuple(p.detach() for p in self.module.parameters())

    @property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(name for name, _ in self.module.named_parameters())

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.module.parameters()).dtype

    @property
    def units(self) -> int:
        """m, the hidden units between the attacked layer and the outputs."""
        return int(self._layer(self.attacked).out_features)

    @property
    def d(self) -> int:
        """d_f, the dimension of the features."""
        return int(self._layer(self.attacked).in_features)

    @property
    def coupled(self) -> bool:
        """Whether the gradient of one sample depends on the others."""
        return self.batch_norm == "batch" and any(isinstance(x, _COUPLING) for x in self.module.modules())

    def normalised(self, images: torch.Tensor) -> torch.Tensor:
        """What the module receives of pixels in [0, 1]."""
        if self._plain:
            return images
        return (images - self._channels(self.mean, images)) / self._channels(self.std, images)

    def pixels(self, normalised: torch.Tensor) -> torch.Tensor:
        """The pixels of what the module receives."""
        if self._plain:
            return normalised
        return normalised * self._channels(self.std, normalised) + self._channels(self.mean, normalised)

    def scaled(self, slope: torch.Tensor) -> torch.Tensor:
        """A slope by what the module receives as one by pixels."""
        return slope if self._plain else slope / self._channels(self.std, slope)

    @property
    def _plain(self) -> bool:
        """Whether pixels are what the module receives."""
        return not any(self.mean) and all(value == 1 for value in self.std)

    @staticmethod
    def _channels(values: tuple[float, ...], like: torch.Tensor) -> torch.Tensor:
        return torch.tensor(values, device=like.device, dtype=like.dtype)[:, None, None]

    def outputs(
        self,
        images: torch.Tensor,
        parameters: tuple[torch.Tensor, ...] | None = None,
        mask: Mask | None = None,
    ) -> torch.Tensor:
        """(B, classes) of pixels (B, C, H, W), with the module's own parameters unless others are given, and what dropout
        leaves of the hidden units."""
        with self._hooked(self.output, lambda units: units if mask is None else mask.on(units)):
            return self._forward(images, parameters)

    def features(
        self, images: torch.Tensor, parameters: tuple[torch.Tensor, ...] | None = None
    ) -> torch.Tensor:
        """z (B, d_f): what the attacked layer receives."""
        seen: list[torch.Tensor] = []
        with self._hooked(self.attacked, lambda z: seen.append(z) or z):  # type: ignore[func-returns-value]
            self._forward(images, parameters)
        return seen[0]

    def losses(
        self,
        parameters: tuple[torch.Tensor, ...],
        images: torch.Tensor,
        labels: torch.Tensor,
        mask: Mask | None = None,
    ) -> torch.Tensor:
        """The loss of each sample (B,); labels: classes (B,), or a number (a probability) for each output (B, classes)."""
        return LOSSES[self.loss](self.outputs(images, parameters, mask), labels)

    def client(self, X: Any, y: Any, layer: str = "all") -> AutogradClient:
        """The client with pictures X (B, C, H, W), pixels in [0, 1], and labels y (B,) whose gradient is that of all
        parameters, flattened in their order, or of the weights (m, d_f) of the attacked ("hidden") or of the "output" layer.

        Raises ``ValueError`` or ``TypeError`` on bad input.
        """
        checks.choice("layer", layer, SHOWN)
        images, labels = self.checked(X, y)
        names = self.names
        one = {"hidden": f"{self.attacked}.weight", "output": f"{self.output}.weight"}
        seen = tuple(range(len(names))) if layer == "all" else (names.index(one[layer]),)
        return AutogradClient(
            self.losses, self.parameters, seen, images, labels, units=self.units, coupled=self.coupled
        )

    def checked(self, X: Any, y: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures and labels on the module's device, in its type; ``ValueError`` or ``TypeError`` for pictures of another
        shape or outside [0, 1], or labels that are not B classes."""
        images = real_tensor("X", X)
        if images.ndim != 4 or tuple(images.shape[1:]) != self.shape or not len(images):
            raise ValueError(f"X must have shape (B, C, H, W) = (B, {self.shape}); got {tuple(images.shape)}")
        low, high = float(images.min()), float(images.max())
        if not (low >= 0.0 and high <= 1.0):
            raise ValueError(f"X must have pixels in [0, 1]; got [{low:.4g}, {high:.4g}]")
        return images.to(self.device, self.dtype), self.checked_labels(y, len(images))

    def checked_labels(self, y: Any, B: int) -> torch.Tensor:
        """y as B classes (B,) int64 on the module's device; ``ValueError`` if it is not that."""
        labels = torch.as_tensor(y)
        whole = not labels.is_floating_point() and not labels.is_complex() and labels.dtype != torch.bool
        if not whole or tuple(labels.shape) != (B,):
            raise ValueError(
                f"y must be B = {B} classes, integers; got shape {tuple(labels.shape)} of type {labels.dtype}"
            )
        if int(labels.min()) < 0 or int(labels.max()) >= self.classes:
            raise ValueError(f"y must lie in 0..{self.classes - 1}; got {labels.tolist()}")
        return labels.to(self.device, torch.int64)

    def split(self, entries: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Entries of all parameters, flattened in their order, with the shape of each."""
        shapes = [p.shape for p in self.module.parameters()]
        sizes = [math.prod(shape) for shape in shapes]
        if entries.ndim != 1 or len(entries) != sum(sizes):
            raise ValueError(f"entries must have shape ({sum(sizes)},); got {tuple(entries.shape)}")
        return tuple(part.view(shape) for part, shape in zip(entries.split(sizes), shapes, strict=True))

    def _layer(self, name: str) -> nn.Linear:
        found = self.module.get_submodule(name)
        assert isinstance(found, nn.Linear)  # the constructor saw to it
        return found

    def _forward(
        self, images: torch.Tensor, parameters: tuple[torch.Tensor, ...] | None = None
    ) -> torch.Tensor:
        values = self.parameters if parameters is None else parameters
        state: dict[str, torch.Tensor] = dict(zip(self.names, values, strict=True))
        # copies: statistics of batches are written into them
        state.update((name, buffer.clone()) for name, buffer in self.module.named_buffers())
        found: torch.Tensor = functional_call(self.module, state, (self.normalised(images),))
        return found

    @contextmanager
    def _hooked(self, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
        """What the layer of that name receives goes through ``change``."""
        handle = self._layer(name).register_forward_pre_hook(lambda layer, given: (change(given[0]),))
        try:
            yield
        finally:
            handle.remove()
