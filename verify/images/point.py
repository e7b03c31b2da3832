"""What is measured: which pictures, in which network, under which defense, by which attack."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bounds import Defense, checks, serial

if TYPE_CHECKING:
    from attack.image.inversion import ImageAttack
    from attack.image.picture_set import PictureSet
    from attack.networks.image.network import ImageNetwork


PARTS = ("reported", "tuning")


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

    def build(self, pictures: PictureSet, seed: int, device: Any) -> ImageNetwork:
        """The network for these pictures, normalised by their mean and standard deviation, with the weights of ``seed``, on
        the device. ``ValueError`` for another kind."""
        from attack.networks.image.convnet import conv_net
        from attack.networks.image.head import Head
        from attack.networks.image.resnet import resnet18

        head = Head(m=self.m, features=self.features, scale=self.scale, activation=self.activation)
        checks.choice("kind", self.kind, ("conv", "resnet"))
        if self.kind == "resnet":
            net = resnet18(
                pictures.shape, pictures.classes, width=self.width, head=head, seed=seed,
                mean=pictures.mean, std=pictures.std,
            )  # fmt: skip
        else:
            net = conv_net(
                pictures.shape, pictures.classes, channels=(self.width, 2 * self.width, 2 * self.width),
                activation=self.activation, head=head, seed=seed, mean=pictures.mean, std=pictures.std,
            )  # fmt: skip
        return replace(net, module=net.module.to(device))

    @property
    def words(self) -> str:
        """ "conv 16, m = 256, d = 64" """
        d = "" if self.features is None else f", d = {self.features}"
        return f"{self.kind} {self.width}, m = {self.m}{d}"


@dataclass(frozen=True)
class ImagePoint:
    """data: name of an embedded set of pictures (``attack.image.picture_set``), of which one half is for tuning and the
    other is what is reported; ``part`` says which; B: pictures in a batch; defense, scope, relative: as of
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
    part: str = "reported"

    def __post_init__(self) -> None:
        checks.integer("B", self.B, 1)
        checks.choice("part", self.part, PARTS)

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
            "part": self.part,
        }

    @property
    def key(self) -> str:
        """What no two points have in common."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @property
    def setting(self) -> str:
        """What it has in common with the rivals that it is compared with: everything but the attack."""
        told = {name: value for name, value in self.to_dict().items() if name not in ("rival", "attack")}
        return json.dumps(told, sort_keys=True)
