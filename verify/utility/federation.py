"""Learning from clients' gradients under a defense: how much accuracy it costs."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from bounds import Defense, NoDefense, checks, serial
from verify.images.point import NetworkSpec
from verify.images.trial import groups_of, half

if TYPE_CHECKING:
    from attack.image.picture_set import PictureSet
    from attack.networks.image.network import ImageNetwork

#: The network that is learned and attacked; smooth, as attacks are stronger on it than on ReLU's.
SMALL = NetworkSpec(kind="conv", width=8, m=128, features=None, activation="gelu")


class Diverged(ArithmeticError):
    """What is learned is no longer finite."""


@dataclass(frozen=True)
class Federation:
    """In each of ``rounds`` rounds ``clients`` clients, with B pictures each that are drawn without replacement, send what a
    defense leaves of their gradient; the server steps along the sum over the number of pictures, with ``optimiser`` (a key
    of ``attack.networks.image.training.OPTIMISERS``, whose SGD has momentum .9) at a rate that falls evenly from ``rate`` to
    zero, the same under every defense.

    data: one half of it is learned, the other tells the accuracy. Under secure aggregation groups of ``defense.clients``
    clients are seen as one. Raises ``ValueError`` or ``TypeError`` on values out of range."""

    data: str = "digits-8"
    network: NetworkSpec = field(default_factory=lambda: SMALL)
    clients: int = 4
    B: int = 4
    rounds: int = 150
    optimiser: str = "adam"
    rate: float = 3e-3

    def __post_init__(self) -> None:
        for name in ("clients", "B", "rounds"):
            checks.integer(name, getattr(self, name), 1)
        checks.choice("optimiser", self.optimiser, ("adam", "sgd"))
        if checks.real("rate", self.rate, 0.0) == 0.0:
            raise ValueError("rate must be positive; got 0")

    def learned(
        self,
        pictures: PictureSet,
        defense: Defense,
        *,
        seed: int,
        scope: str = "global",
        relative: bool = False,
        device: Any = "cpu",
    ) -> ImageNetwork:
        """The network after all rounds on these pictures. The seed decides its first weights, who has which pictures, and
        what the defense draws. scope, relative: as of ``observe_images``.

        Raises ``ValueError`` for fewer pictures than a round takes, and for secure aggregation over a number of clients that
        does not divide those of a round; ``Diverged`` where outputs are not finite before a round or at the end.
        """
        import torch

        from attack.image.observed import observe_images
        from attack.networks.image.training import OPTIMISERS
        from attack.streams import numpy_generator, seed_sequence

        together = self.B * self.parties(defense)
        used = self.clients * self.B
        checks.integer("clients times B", used, 1, len(pictures), "pictures that are learned")
        network = self.network.build(pictures, seed, device)
        parameters = [p for p in network.module.parameters() if p.requires_grad]
        optimiser = OPTIMISERS[self.optimiser](parameters, self.rate)
        order, groups = numpy_generator(seed, "federation"), groups_of(defense, together)
        for number in range(self.rounds):
            optimiser.param_groups[0]["lr"] = self.rate * (1 - number / self.rounds)
            drawn = torch.from_numpy(order.permutation(len(pictures))[:used])
            _require_finite(network, pictures.images[drawn], f"before round {number + 1}")
            sums = [torch.zeros_like(p) for p in parameters]
            for client, chosen in enumerate(drawn.split(together)):
                noise = seed_sequence(seed, "client", number, client).generate_state(1)[0]
                seen = observe_images(
                    defense, network, pictures.images[chosen], pictures.labels[chosen],
                    seed=int(noise), groups=groups, scope=scope, relative=relative,
                )  # fmt: skip
                torch._foreach_add_(sums, list(seen.gradients))
            for parameter, total in zip(parameters, sums, strict=True):
                parameter.grad = total / used
            optimiser.step()
        _require_finite(network, pictures.images[drawn], "after the last round")
        network.module.zero_grad()
        return network

    def parties(self, defense: Defense) -> int:
        """How many clients are seen as one."""
        parties: int = getattr(defense, "clients", 1)
        if self.clients % parties:
            raise ValueError(
                f"clients of a secure aggregation must divide the {self.clients} of a round; got {parties}"
            )
        return parties


def _require_finite(network: ImageNetwork, images: Any, when: str) -> None:
    import torch

    with torch.no_grad():
        if not torch.isfinite(network.outputs(images.to(network.device))).all():
            raise Diverged(f"outputs are not finite {when}")


@dataclass(frozen=True)
class TrainingPoint:
    """What is learned under which defense; scope, relative: as of ``observe_images``."""

    federation: Federation
    defense: Defense
    scope: str = "global"
    relative: bool = False

    def __post_init__(self) -> None:
        self.federation.parties(self.defense)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values."""
        return {
            "federation": serial.plain(self.federation),
            "defense": serial.defense_to_dict(self.defense),
            "scope": self.scope,
            "relative": self.relative,
        }

    @property
    def key(self) -> str:
        """What no two points have in common."""
        return json.dumps(self.to_dict(), sort_keys=True)


@dataclass(frozen=True)
class Learned:
    """accuracy: the part of held-out pictures that is classified rightly; loss: their mean cross-entropy; reason: why there
    is no network to speak of (weights that are not finite), and then the accuracy is that of a guess."""

    accuracy: float
    loss: float | None
    reason: str = ""


def learn(point: TrainingPoint, seed: int, device: Any = "cpu") -> Learned:
    """Learn on one half of the data, ask the other."""
    import torch

    from attack.networks.image.training import accuracy

    pictures, held_out = (half(point.federation.data, part) for part in ("reported", "tuning"))
    try:
        network = point.federation.learned(
            pictures, point.defense, seed=seed, scope=point.scope, relative=point.relative, device=device
        )
    except Diverged as error:
        return Learned(1 / held_out.classes, None, str(error))
    with torch.no_grad():
        outputs = network.outputs(held_out.images.to(network.device))
        loss = float(torch.nn.functional.cross_entropy(outputs, held_out.labels.to(network.device)))
    if not math.isfinite(loss):
        return Learned(1 / held_out.classes, None, "the loss on held-out pictures is not finite")
    return Learned(accuracy(network, held_out.images, held_out.labels), loss)


@dataclass(frozen=True)
class LearnedNetwork(NetworkSpec):
    """The network after ``federation``'s rounds without a defense: what clients get once learning has begun, the same
    whatever defense is attacked."""

    federation: Federation = field(default_factory=Federation)

    def build(
        self, pictures: PictureSet, seed: int, device: Any, others: PictureSet | None = None
    ) -> ImageNetwork:
        """On these pictures, those of the clients, weights and order from the seed; ``others`` play no part."""
        return _undefended(self.federation, pictures, seed, str(device))

    @staticmethod
    def after(federation: Federation) -> LearnedNetwork:
        """Of a federation."""
        return LearnedNetwork(**vars(federation.network), federation=federation)


@lru_cache(maxsize=16)
def _undefended(federation: Federation, pictures: PictureSet, seed: int, device: str) -> ImageNetwork:
    return federation.learned(pictures, NoDefense(), seed=seed, device=device)
