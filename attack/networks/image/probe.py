"""What a module does with pictures, found by showing it two: whether it fits, and which of its linear layers is attacked."""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

#: Layers that couple the samples of a batch, unless they use the statistics that they keep.
_COUPLING = (nn.modules.batchnorm._BatchNorm,)

#: Layers that are linear in weights whose first axis is that of their outputs.
_BEFORE_NORM = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

#: How far what must be equal may be apart, relative to its size: sums of float32 in another order, as batches of other
#: sizes have them; and in the same order, in units of the type's resolution.
_APART, _STEPS_APART = 1e-3, 1e3


def prepared(module: nn.Module, batch_norm: str) -> nn.Module:
    """A copy as ``eval()`` has it, so without dropout, whose batch norm is in the mode asked for."""
    found = copy.deepcopy(module).eval()
    for layer in found.modules():
        if isinstance(layer, _COUPLING):
            layer.train(batch_norm == "batch")
    return found


def couples(module: nn.Module) -> bool:
    """Whether some layer uses the statistics of the batch: as told, or because it keeps none."""
    return any(
        isinstance(layer, _COUPLING) and (layer.training or layer.running_mean is None)
        for layer in module.modules()
    )


@dataclass(frozen=True)
class _Call:
    name: str
    received: torch.Tensor


@dataclass(frozen=True, eq=False)
class Probe:
    """A module, ``prepared``, and two pictures, as it receives them: (2, C, H, W); others: what one may be changed to."""

    module: nn.Module
    pictures: torch.Tensor
    others: torch.Tensor

    @staticmethod
    def of(
        module: nn.Module,
        shape: tuple[int, int, int],
        change: Callable[[torch.Tensor], torch.Tensor] = lambda images: images,
    ) -> Probe:
        """Pictures of uniform pixels, which go through ``change`` first; the others are the negative and the mirrored one, a
        black and a white one."""
        one = next(module.parameters())
        drawn = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        last = drawn[1]
        others = torch.stack([1 - last, last.flip(-1), torch.zeros_like(last), torch.ones_like(last)])
        return Probe(module, change(drawn.to(one)), change(others.to(one)))

    def outputs(self, pictures: torch.Tensor | None = None) -> torch.Tensor:
        """Of the two pictures, or of others. ``ValueError`` where the module does not take them."""
        given = self.pictures if pictures is None else pictures
        buffers = {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        try:
            with torch.no_grad():
                found = functional_call(self.module, buffers, (given,))
        except Exception as error:  # what a forward of any module may raise
            raise ValueError(
                f"module must take pictures of shape (B, C, H, W) = {tuple(given.shape)}; it raised "
                f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            ) from None
        if not isinstance(found, torch.Tensor):
            raise ValueError(f"module must return a tensor, (B, classes); got {type(found).__name__}")
        return found

    def require_fit(self, classes: int, coupled: bool) -> None:
        """``ValueError`` unless outputs are (B, classes), finite, always the same, and of one picture by itself where no
        layer is known to couple them."""
        found = self.outputs()
        if tuple(found.shape) != (len(self.pictures), classes):
            raise ValueError(
                f"module must return outputs (B, classes) = ({len(self.pictures)}, {classes}), as its output layer has; got "
                f"{tuple(found.shape)}"
            )
        if not torch.isfinite(found).all():
            raise ValueError("module must have finite outputs; got others for pictures with pixels in [0, 1]")
        if not _alike(found, self.outputs()):
            raise ValueError(
                "module must give the same outputs twice; it draws random numbers that eval() does not turn off, as "
                "torch.nn.functional.dropout does without training=self.training"
            )
        if not coupled and (not _alike(found[:1], self.outputs(self.pictures[:1])) or self.mixes()):
            raise ValueError(
                "module must treat every picture of a batch by itself, but for batch norm; its outputs of one picture "
                "change with the others"
            )

    def mixes(self) -> bool:
        """Whether outputs of one picture of a batch depend on another.

        NaN in one picture goes through all arithmetic, units that are switched off and terms of any size included, and must
        not arrive at the other's outputs. What modules make of values that they compare, and those that refuse or replace
        NaN, is told by changes of the other picture, so not with certainty.
        """
        for other in (0, 1):
            try:
                found = self._with(other, self.pictures[other] + torch.nan)
            except ValueError:
                continue
            if not torch.isfinite(found[1 - other]).all():
                return True
        known = self.outputs()[0]
        close = _STEPS_APART * torch.finfo(known.dtype).eps
        return not all(_alike(known, self._with(1, other)[0], close) for other in self.others)

    def _with(self, index: int, picture: torch.Tensor) -> torch.Tensor:
        """Outputs where one of the two pictures is another."""
        return self.outputs(
            torch.stack([picture if i == index else own for i, own in enumerate(self.pictures)])
        )

    def linear_calls(self) -> tuple[_Call, ...]:
        """Linear layers in the order in which they are called, with what they receive."""
        calls: list[_Call] = []
        with ExitStack() as hooks:
            for name, layer in _linear(self.module).items():

                def seen(layer: nn.Module, given: tuple[Any, ...], name: str = name) -> None:
                    calls.append(_Call(name, given[0]))

                hooks.callback(layer.register_forward_pre_hook(seen).remove)
            self.outputs()
        return tuple(calls)

    def output_layer(self) -> str:
        """The linear layer that is called last; ``ValueError`` without one."""
        calls = self.linear_calls()
        if not calls:
            raise ValueError(
                "module must have a fully connected layer (torch.nn.Linear) that gives its outputs; it calls none"
            )
        return calls[-1].name

    def attacked_layer(self, output: str) -> str | None:
        """The last linear layer whose output goes entry by entry into the output layer; None if there is none."""
        calls = [call.name for call in self.linear_calls()]
        return next((name for name in reversed(calls) if self.feeds(name, output)), None)

    def feeds(self, name: str, output: str) -> bool:
        """Whether the output layer receives of each sample a function of each entry (and nothing else) that the layer
        ``name`` gives; both are called once, with vectors. Told by NaN and by changes, as in ``mixes``."""
        calls = self.linear_calls()
        once = Counter(call.name for call in calls)
        vectors = all(call.received.ndim == 2 for call in calls if call.name in (name, output))
        layers = _linear(self.module)
        width = layers[name].out_features
        if name == output or once[name] != 1 or once[output] != 1 or not vectors:
            return False
        if layers[output].in_features != width:
            return False
        drawn = self._drawn(3, width)
        changed, units = drawn[2] > 0, self.received(drawn[0], name, output)
        others = self.received(torch.where(changed, drawn[1], drawn[0]), name, output)
        swapped = dataclasses.replace(self, pictures=self.pictures.flip(0)).received(drawn[0], name, output)
        if units is None or others is None or swapped is None:
            return False
        same = _alike(units, swapped) and _alike(units[~changed], others[~changed])
        return same and bool(units.ne(others).any()) and not self._mixes_entries(name, output, width)

    def _mixes_entries(self, name: str, output: str, width: int) -> bool:
        """Whether NaN in pictures, or in some entries (P, m) that the layer ``name`` gives, arrives at others that the layer
        ``output`` receives. Picture 2k has NaN where bit k of the entry's number is set, the next where it is not: of any
        two entries some picture has NaN in the one alone, and any entry has it in one of two neighbours."""
        bits = torch.arange(max(1, (width - 1).bit_length()), device=self.pictures.device)
        numbers = torch.arange(width, device=self.pictures.device)
        is_set = (numbers >> bits[:, None]) & 1 == 1
        marked = torch.stack([is_set, ~is_set], dim=1).flatten(0, 1)
        (drawn,) = self._drawn(1, width, len(marked))
        pictures = torch.full_like(self.pictures[:1], torch.nan).expand(len(marked), -1, -1, -1)
        found = dataclasses.replace(self, pictures=pictures).received(
            drawn.masked_fill(marked, torch.nan), name, output
        )
        return found is not None and not bool(torch.isfinite(found[~marked]).all())

    def homogeneous(self, name: str, output: str) -> bool:
        """Whether twice the one layer's output is twice what the other receives: a ReLU, leaky or not, in between."""
        (drawn,) = self._drawn(1, _linear(self.module)[name].out_features)
        one, two = self.received(drawn, name, output), self.received(2 * drawn, name, output)
        return one is not None and two is not None and _alike(2 * one, two)

    def received(self, given: torch.Tensor, name: str, output: str) -> torch.Tensor | None:
        """What the layer ``output`` receives where the layer ``name`` gives (2, m) ``given``; None if that fails."""
        layers, seen = _linear(self.module), list[torch.Tensor]()
        with ExitStack() as hooks:
            replaced = layers[name].register_forward_hook(lambda layer, got, gave: given)
            watched = layers[output].register_forward_pre_hook(lambda layer, got: seen.append(got[0]))
            hooks.callback(replaced.remove)
            hooks.callback(watched.remove)
            try:
                self.outputs()
            except ValueError:
                return None
        return seen[0] if len(seen) == 1 and seen[0].shape == given.shape else None

    def normalised_layers(self) -> tuple[tuple[str, str], ...]:
        """Names of the convolutions and linear layers, called once, whose output is what a batch norm gets, and of that."""
        made: dict[int, tuple[str, torch.Tensor]] = {}
        pairs: list[tuple[str, str]] = []
        with ExitStack() as hooks:
            for name, layer in self.module.named_modules():

                def gave(layer: nn.Module, got: Any, gives: torch.Tensor, name: str = name) -> None:
                    made[id(gives)] = (name, gives)  # held, so that no other tensor gets its id

                def gets(layer: nn.Module, got: tuple[Any, ...], name: str = name) -> None:
                    if id(got[0]) in made:
                        pairs.append((made[id(got[0])][0], name))

                if isinstance(layer, _BEFORE_NORM):
                    hooks.callback(layer.register_forward_hook(gave).remove)
                elif isinstance(layer, _COUPLING):
                    hooks.callback(layer.register_forward_pre_hook(gets).remove)
            self.outputs()
        times = Counter(name for name, _ in made.values())
        uses = Counter(name for pair in pairs for name in pair)
        return tuple(pair for pair in pairs if times[pair[0]] == uses[pair[0]] == uses[pair[1]] == 1)

    def _drawn(self, count: int, width: int, samples: int = 2) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.randn(count, samples, width, generator=generator, dtype=torch.float64).to(self.pictures)


def _linear(module: nn.Module) -> dict[str, nn.Linear]:
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}


def _alike(one: torch.Tensor, other: torch.Tensor, apart: float = _APART) -> bool:
    size = torch.maximum(one.abs().max(), other.abs().max()) if one.numel() else torch.zeros(())
    return bool(((one - other).abs() <= apart * size).all())
