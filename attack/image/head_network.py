"""The layers from the attacked one on as a network of its own, whose "pictures" are features: what knows a defense on
pictures knows it on features too, without the layers below."""

from __future__ import annotations

import torch
from torch import nn

from attack.image.observed import CLIPPED, ImageObservation
from attack.networks.image.network import ImageNetwork
from attack.networks.image.probe import prepared
from attack.reconstruction import failure
from bounds import LocalAggregation


class _OnFeatures(nn.Module):
    """The module with features (B, d_f, 1, 1) in place of what its attacked layer receives."""

    def __init__(self, module: nn.Module, shape: tuple[int, int, int], attacked: str) -> None:
        super().__init__()
        self.module, self.shape, self.attacked = module, shape, attacked

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        z = features.flatten(1)
        # first of all hooks, so that others on this layer see the features
        handle = self.module.get_submodule(self.attacked).register_forward_pre_hook(
            lambda layer, given: (z,), prepend=True
        )
        try:
            found: torch.Tensor = self.module(z.new_zeros(len(z), *self.shape))
        finally:
            handle.remove()
        return found


def head_observation(observation: ImageObservation) -> ImageObservation:
    """What is seen of the attacked layer and those after it, in float64, of a network that receives features (B, d_f, 1, 1).

    Raises ``ReconstructionError`` for defenses under which these gradients depend on more than the features: clipping by a
    norm over all layers, several local steps, which change the features.
    """
    network, defense = observation.network, observation.defense
    if isinstance(defense, CLIPPED) and defense.max_norm < float("inf") and observation.scope != "layer":
        raise failure("clipping by the norm of all layers together depends on more than the features")
    if isinstance(defense, LocalAggregation) and defense.steps > 1:
        raise failure("several local steps change the features from one to the next")
    module = prepared(network.module, "eval").to(torch.float64)
    wrapped = _OnFeatures(module, network.shape, network.attacked_layer)
    used = _used(wrapped, network.d)
    for name, parameter in wrapped.named_parameters():
        parameter.requires_grad_(name in used)
    head = ImageNetwork(
        wrapped,
        (network.d, 1, 1),
        f"module.{network.attacked}",
        f"module.{network.output}",
        loss=network.loss,
    )
    seen = tuple(observation.gradient(name.removeprefix("module.")).double() for name in head.names)
    return ImageObservation(seen, head, observation.batch_size, defense, observation.scope)


def _used(wrapped: _OnFeatures, d: int) -> frozenset[str]:
    """Names of the trained parameters on which the outputs depend, given the features."""
    trained = {name: p for name, p in wrapped.named_parameters() if p.requires_grad}
    one = next(iter(trained.values()))
    with torch.enable_grad():
        outputs = wrapped(torch.ones(2, d, 1, 1, dtype=one.dtype, device=one.device)).sum()
        found = torch.autograd.grad(outputs, list(trained.values()), allow_unused=True)
    return frozenset(name for name, g in zip(trained, found, strict=True) if g is not None)
