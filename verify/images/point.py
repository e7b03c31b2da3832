"""What is measured: which pictures, in which network, under which defense, by which attack."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bounds import Defense, checks, serial
from bounds.words import how_many

if TYPE_CHECKING:
    from attack.image.inversion import ImageAttack
    from attack.image.picture_set import PictureSet
    from attack.networks.image.network import ImageNetwork


PARTS = ("reported", "tuning")


@dataclass(frozen=True)
class NetworkSpec:
    """kind: "conv" or "resnet"; width: channels of its first layer; m, features, scale: of the added layers (``Head``);
    activation: of all layers. Weights come from the trial's seed. epochs: of training on pictures of the same kind that are
    not attacked; split: then the fraction of hidden units that are made Gaussian again
    (``attack.networks.image.training.split_head``), with output weights of the size split_scale, None for 1/m."""

    kind: str = "conv"
    width: int = 16
    m: int = 256
    features: int | None = 64
    scale: str = "default"
    activation: str = "relu"
    epochs: int = 0
    split: float = 0.0
    split_scale: float | None = None

    def __post_init__(self) -> None:
        checks.choice("kind", self.kind, ("conv", "resnet"))
        checks.integer("epochs", self.epochs, 0)
        checks.real("split", self.split, 0.0, 1.0)

    def build(
        self, pictures: PictureSet, seed: int, device: Any, others: PictureSet | None = None
    ) -> ImageNetwork:
        """The network for these pictures, normalised by their mean and standard deviation, with the weights of ``seed``, on
        the device, trained on ``others`` (None: on these)."""
        from attack.networks.image.training import Training, split_head, trained

        net = self._drawn(pictures, seed).to(device)
        if self.epochs:
            training = Training(epochs=self.epochs, seed=seed)
            shown = pictures if others is None else others
            net = trained(net, shown.images, shown.labels, training).network
        return split_head(net, self.split, self.split_scale, seed=seed).network if self.split else net

    def _drawn(self, pictures: PictureSet, seed: int) -> ImageNetwork:
        from attack.networks.image.convnet import conv_net
        from attack.networks.image.head import Head
        from attack.networks.image.resnet import resnet18

        head = Head(m=self.m, features=self.features, scale=self.scale, activation=self.activation)
        if self.kind == "resnet":
            return resnet18(
                pictures.shape, pictures.classes, width=self.width, head=head, seed=seed,
                mean=pictures.mean, std=pictures.std,
            )  # fmt: skip
        return conv_net(
            pictures.shape, pictures.classes, channels=(self.width, 2 * self.width, 2 * self.width),
            activation=self.activation, head=head, seed=seed, mean=pictures.mean, std=pictures.std,
        )  # fmt: skip

    @property
    def words(self) -> str:
        """ "conv 16, m = 256, d = 64, 5 epochs, .5 Gaussian" """
        d = "" if self.features is None else f", d = {self.features}"
        trained = f", {how_many(self.epochs, 'epoch')}" if self.epochs else ""
        split = f", {self.split:g} Gaussian" if self.split else ""
        return f"{self.kind} {self.width}, m = {self.m}{d}{trained}{split}"


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
