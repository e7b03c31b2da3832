"""What is measured: which pictures, in which network, under which defense, by which attack."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bounds import Defense, checks, serial

if TYPE_CHECKING:
    from attack.image.inversion import ImageAttack
    from attack.networks.image.network import ImageNetwork


@dataclass(frozen=True)
class NetworkSpec:
    """kind: "conv" or "resnet"; width: channels of its first layer; m, features, scale: of the added layers (``Head``);
    activation: of all layers. Weights come from the trial's seed."""

    kind: str = "conv"
    width: int = 16
    m: int = 256
    features: int | None = 64
    scale: str = "default"
    activation: str = "relu"

    def build(self, shape: tuple[int, int, int], classes: int, seed: int, device: Any) -> ImageNetwork:
        """The network with the weights of ``seed``, on the device. ``ValueError`` for another kind."""
        from attack.networks.image.convnet import conv_net
        from attack.networks.image.head import Head
        from attack.networks.image.resnet import resnet18

        head = Head(m=self.m, features=self.features, scale=self.scale, activation=self.activation)
        checks.choice("kind", self.kind, ("conv", "resnet"))
        if self.kind == "resnet":
            net = resnet18(shape, classes, width=self.width, head=head, seed=seed)
        else:
            net = conv_net(
                shape,
                classes,
                channels=(self.width, 2 * self.width, 2 * self.width),
                activation=self.activation,
                head=head,
                seed=seed,
            )
        return replace(net, module=net.module.to(device))

    @property
    def words(self) -> str:
        """ "conv 16, m = 256, d = 64" """
        d = "" if self.features is None else f", d = {self.features}"
        return f"{self.kind} {self.width}, m = {self.m}{d}"


@dataclass(frozen=True)
class ImagePoint:
    """data: name of an embedded set of pictures; B: pictures in a batch; defense, scope, relative: as of
    ``attack.image.observed.observe_images``; told: whether the server knows the labels; rival: the attack's name in the
    table; attack: its specification."""

    data: str
    B: int
    network: NetworkSpec
    defense: Defense
    rival: str
    attack: ImageAttack
    scope: str = "layer"
    relative: bool = False
    told: bool = True

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values."""
        attack = {"name": self.attack.name, **serial.plain(self.attack)}
        return {
            "data": self.data,
            "B": self.B,
            "network": serial.plain(self.network),
            "defense": serial.defense_to_dict(self.defense),
            "rival": self.rival,
            "attack": attack,
            "scope": self.scope,
            "relative": self.relative,
            "told": self.told,
        }

    @property
    def key(self) -> str:
        """What no two points have in common."""
        return json.dumps(self.to_dict(), sort_keys=True)
