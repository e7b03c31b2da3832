"""A classifier of pictures as the server has it: a module of torch, and which of its layers is attacked.

The attacked layer is linear: ``z -> W z + b`` with ``z`` (B, d_f) what the layers before make of a picture, its *features*.
A linear layer after it takes the m hidden units ``sigma(W z + b)`` to the outputs. Everything else of the module is its
own: any layers of torch, as long as the loss of every sample can be differentiated twice. A module with one linear layer
only, that of the outputs, has no attacked one: its gradient can be matched, but tells of no features.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from attack.arrays import real_tensor
from attack.client import Mask
from attack.networks.autograd_client import AutogradClient
from attack.networks.image.probe import Probe, couples, prepared
from bounds import checks

#: Loss of outputs (B, C) and labels, classes (B,) or numbers for each output (B, C), of every sample: (B,).
_Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

BATCH_NORM = ("eval", "batch")

SHOWN = ("all", "hidden", "output")


def _cross_entropy(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs, labels, reduction="none")


def _squared(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    # compared, as one_hot looks at the values and so does not go through torch.func.vmap
    places = torch.arange(outputs.shape[1], device=outputs.device)
    wanted = labels if labels.ndim == 2 else labels[:, None] == places
    return 0.5 * (outputs - wanted.to(outputs)).square().sum(dim=1)


LOSSES: Mapping[str, _Loss] = MappingProxyType({"cross-entropy": _cross_entropy, "squared": _squared})


@dataclass(frozen=True, eq=False)
class ImageNetwork:
    """A classifier and what the server knows of how the client uses it.

    module: maps pictures (B, C, H, W), normalised, to outputs (B, classes); copied, so that nothing changes it, and without
    dropout, as ``eval()`` has it; parameters that do not require a gradient are frozen, and no gradient of them is sent.
    shape: of a picture, (C, H, W). attacked, output: names of the linear layers below and above the hidden units; attacked
    None: none is. loss: a key of ``LOSSES``, summed over samples. batch_norm: "eval" (statistics that the module keeps) or
    "batch" (those of the batch, which couple its samples). mean, std: of every channel, with which pixels in [0, 1] are
    normalised. What it is asked for again and again is kept: values of the module's parameters may change in place, but not
    their type, their device or which of them are trained.

    Make one with ``of`` where names are to be found, or with the functions beside this file. Raises ``ValueError`` or
    ``TypeError`` where these do not fit one another, which a forward pass of the module tells.
    """

    module: nn.Module
    shape: tuple[int, int, int]
    attacked: str | None
    output: str
    loss: str = "cross-entropy"
    batch_norm: str = "eval"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    classes: int = field(init=False)

    def __post_init__(self) -> None:
        _check_module(self.module)
        checks.choice("loss", self.loss, tuple(LOSSES))
        checks.choice("batch_norm", self.batch_norm, BATCH_NORM)
        check_shape(self.shape)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.shape[0]):
                raise ValueError(
                    f"{name} must be one number for each of {self.shape[0]} channels, or one; got {values}"
                )
        if not all(math.isfinite(value) for value in self.mean):
            raise ValueError(f"mean must be finite; got {self.mean}")
        if not all(0 < value < math.inf for value in self.std):
            raise ValueError(f"std must be positive; got {self.std}")
        object.__setattr__(self, "module", prepared(self.module, self.batch_norm))
        layers = dict(self.module.named_modules())
        for role, wanted in {"output": self.output, "attacked": self.attacked}.items():
            if wanted is None and role == "attacked":
                continue
            if not isinstance(layers.get(str(wanted)), nn.Linear):
                linear = ", ".join(n for n, layer in layers.items() if isinstance(layer, nn.Linear)) or "none"
                raise ValueError(f"{role} must name a linear layer of the module ({linear}); got {wanted!r}")
        object.__setattr__(self, "classes", layers[self.output].out_features)
        self._require_fit()

    @staticmethod
    def of(
        module: nn.Module,
        shape: tuple[int, int, int],
        attacked: str | None = None,
        output: str | None = None,
        *,
        loss: str = "cross-entropy",
        batch_norm: str = "eval",
        mean: tuple[float, ...] = (0.0,),
        std: tuple[float, ...] = (1.0,),
    ) -> ImageNetwork:
        """The network of a user's own module; what is not named is found by showing it pictures: the output layer is the
        linear layer that is called last, the attacked one the last whose output goes entry by entry (an activation, batch
        norm with kept statistics) into it, or None where there is no such.

        Raises ``ValueError`` for a module without a linear layer, and what the constructor raises.
        """
        _check_module(module)
        check_shape(shape)
        checks.choice("batch_norm", batch_norm, BATCH_NORM)
        probe = Probe.of(prepared(module, batch_norm), shape)
        if output is None:
            output = probe.output_layer()
        if attacked is None and isinstance(dict(module.named_modules()).get(output), nn.Linear):
            attacked = probe.attacked_layer(output)
        return ImageNetwork(
            module, shape, attacked, output, loss=loss, batch_norm=batch_norm, mean=mean, std=std
        )

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> ImageNetwork:
        """The same on another device, or in another type."""
        return dataclasses.replace(
            self, module=prepared(self.module, self.batch_norm).to(device, dtype or self.dtype)
        )

    @cached_property
    def parameters(self) -> tuple[torch.Tensor, ...]:
        """The values of all parameters that are trained, in the module's order, off any graph."""
        return tuple(p.detach() for p in self.module.parameters() if p.requires_grad)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(name for name, p in self.module.named_parameters() if p.requires_grad)

    def index(self, name: str) -> int:
        """The place of a parameter among those that are trained; ``ValueError``, which says why, where no gradient of it is
        sent."""
        if name in self.names:
            return self.names.index(name)
        raise ValueError(f"network must send a gradient of {name!r}; it sends none: {self._unsent(name)}")

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.module.parameters()).dtype

    @property
    def units(self) -> int:
        """m, the hidden units that the output layer receives."""
        return int(self._layer(self.output).in_features)

    @property
    def d(self) -> int:
        """d_f, the dimension of the features. ``ValueError`` without an attacked layer."""
        return int(self._layer(self.attacked_layer).in_features)

    @property
    def attacked_layer(self) -> str:
        """The name of the attacked layer; ``ValueError`` if there is none."""
        if self.attacked is None:
            raise ValueError(
                "network must have an attacked layer, a linear one whose output goes through an activation into the output "
                f"layer {self.output!r}; it has none: attacks that need features cannot run, gradient matching can"
            )
        return self.attacked

    @property
    def coupled(self) -> bool:
        """Whether the gradient of one sample depends on the others."""
        return couples(self.module)

    def normalised(self, images: torch.Tensor) -> torch.Tensor:
        """What the module receives of pixels in [0, 1]."""
        if self._plain:
            return images
        mean, std = self._scale(images)
        return (images - mean) / std

    def pixels(self, normalised: torch.Tensor) -> torch.Tensor:
        """The pixels of what the module receives."""
        if self._plain:
            return normalised
        mean, std = self._scale(normalised)
        return normalised * std + mean

    def scaled(self, slope: torch.Tensor) -> torch.Tensor:
        """A slope by what the module receives as one by pixels."""
        return slope if self._plain else slope / self._scale(slope)[1]

    @cached_property
    def _plain(self) -> bool:
        """Whether pixels are what the module receives."""
        return not any(self.mean) and all(value == 1 for value in self.std)

    def _scale(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of every channel, (C, 1, 1)."""
        mean, std = self._channels
        return mean.to(like), std.to(like)

    @cached_property
    def _channels(self) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = (
            torch.tensor(values, device=self.device, dtype=self.dtype)[:, None, None]
            for values in (self.mean, self.std)
        )
        return mean, std

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
        """z (B, d_f): what the attacked layer receives. ``ValueError`` if there is none."""
        return self._received(self.attacked_layer, images, parameters)

    def hidden(self, images: torch.Tensor) -> torch.Tensor:
        """The hidden units (B, m): what the output layer receives."""
        return self._received(self.output, images)

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
        seen = tuple(range(len(names)))
        if layer != "all":
            asked = self.attacked_layer if layer == "hidden" else self.output
            seen = (self.index(f"{asked}.weight"),)
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
        sizes = [p.numel() for p in self.parameters]
        if entries.ndim != 1 or len(entries) != sum(sizes):
            raise ValueError(f"entries must have shape ({sum(sizes)},); got {tuple(entries.shape)}")
        parts = entries.split(sizes)
        return tuple(part.view(p.shape) for part, p in zip(parts, self.parameters, strict=True))

    def _require_fit(self) -> None:
        probe = Probe.of(self.module, self.shape, self.normalised)
        probe.require_fit(self.classes, self.coupled)
        self._require_gradients(Probe.of(self.module, self.shape).pictures)
        if self.attacked is not None:
            if not probe.feeds(self.attacked, self.output):
                raise ValueError(
                    "attacked must name a linear layer whose output goes entry by entry through an activation into the "
                    f"output layer {self.output!r}, both called once on vectors (B, d); {self.attacked!r} is not one"
                )
            weight = f"{self.attacked}.weight"
            if weight not in self.names:
                raise ValueError(
                    f"attacked must name a layer of whose weights a gradient is sent, but that of {weight!r} is not: "
                    f"{self._unsent(weight)}"
                )

    def _unsent(self, name: str) -> str:
        """Why no gradient of that parameter is sent."""
        layer, _, kind = name.rpartition(".")
        values = getattr(dict(self.module.named_modules()).get(layer), kind, None)
        if values is None:
            return "there is no such parameter"
        if not isinstance(values, nn.Parameter):
            return "it is made of other parameters (parametrized, as weight norm does)"
        if not values.requires_grad:
            return "it is frozen (requires_grad=False)"
        other = next(n for n, p in self.module.named_parameters() if p is values)
        return f"it is tied to {other!r}, which the gradient has as one"

    def _require_gradients(self, images: torch.Tensor) -> None:
        """``ValueError`` unless the outputs depend on every parameter that is trained, in a way that autograd follows."""
        parameters = tuple(p.detach().requires_grad_() for p in self.parameters)
        try:
            with torch.enable_grad():
                outputs = self.outputs(images, parameters).sum()
            found = torch.autograd.grad(outputs, parameters, allow_unused=True)
        except RuntimeError as error:
            raise ValueError(
                f"module must be one that autograd differentiates; it raised {' '.join(str(error).split())[:200]}"
            ) from None
        unused = [name for name, gradient in zip(self.names, found, strict=True) if gradient is None]
        if unused:
            raise ValueError(
                f"module must use every parameter that is trained; its outputs do not depend on {', '.join(unused[:5])}: "
                "freeze them with requires_grad_(False)"
            )

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
        try:
            found: torch.Tensor = functional_call(self.module, state, (self.normalised(images),))
        except ValueError as error:
            if len(images) > 1 or not self.coupled:
                raise
            raise ValueError(
                "X must hold more than one picture where batch norm uses the statistics of the batch: "
                "one value of a channel has none"
            ) from error
        return found

    def _received(
        self, name: str, images: torch.Tensor, parameters: tuple[torch.Tensor, ...] | None = None
    ) -> torch.Tensor:
        """What the layer of that name receives."""
        seen: list[torch.Tensor] = []
        with self._hooked(name, lambda z: seen.append(z) or z):  # type: ignore[func-returns-value]
            self._forward(images, parameters)
        return seen[0]

    @contextmanager
    def _hooked(self, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
        """What the layer of that name receives goes through ``change``."""
        handle = self._layer(name).register_forward_pre_hook(lambda layer, given: (change(given[0]),))
        try:
            yield
        finally:
            handle.remove()


def _check_module(module: nn.Module) -> None:
    checks.instance("module", module, nn.Module)
    kinds = {(p.dtype, p.device) for p in module.parameters()}
    if not any(p.requires_grad for p in module.parameters()):
        raise ValueError("module must have parameters that require a gradient; it has none")
    if len(kinds) != 1 or next(iter(kinds))[0] not in (torch.float32, torch.float64):
        found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        raise ValueError(
            f"module must have parameters all float32 or all float64, on one device; got {found}"
        )
    wrong = [name for name, p in module.named_parameters() if not torch.isfinite(p).all()]
    if wrong:
        raise ValueError(f"module must have finite parameters; got others in {', '.join(wrong[:5])}")


def check_shape(shape: tuple[int, int, int]) -> None:
    """``ValueError`` or ``TypeError`` unless it is that of pictures, (C, H, W)."""
    if len(shape) != 3:
        raise ValueError(f"shape must be (C, H, W); got {shape}")
    for side in shape:
        checks.integer("shape", side, 1)
