"""Learning from clients' gradients under a defense: how much accuracy it costs."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from bounds import Defense, NoDefense, checks, serial
from bounds.words import how_many
from verify.images.point import NetworkSpec
from verify.images.trial import groups_of, half

if TYPE_CHECKING:
    import torch

    from attack.image.picture_set import PictureSet
    from attack.networks.image.network import ImageNetwork

#: The network that is learned and attacked; smooth, as attacks are stronger on it than on ReLU's.
SMALL = NetworkSpec(kind="conv", width=8, m=128, features=None, activation="gelu")


class TrainingError(ArithmeticError):
    """A training comes to nothing: what is learned is no longer finite, or a client's gradient is zero and its defense makes
    nothing of that."""


def require_sizes(defense: Defense) -> None:
    """``ValueError`` for a defense without a parameter that may be told in root mean squares of a gradient's entries."""
    from attack.image.observed import SIZED

    if type(defense) not in SIZED:
        known = ", ".join(family.__name__ for family in SIZED)
        raise ValueError(f"relative must be False for a defense other than {known}; got {defense!r}")


@dataclass(frozen=True)
class Federation:
    """In each of ``rounds`` rounds ``clients`` clients, with B pictures each that are drawn without replacement, send what a
    defense leaves of their gradient; the server steps along the sum over the number of pictures, with ``optimiser`` (a key
    of ``attack.networks.image.training.OPTIMISERS``, whose SGD has momentum .9) at a rate that falls evenly from ``rate`` to
    zero, the same under every defense.

    data: one half of it is learned, the other tells the accuracy. Under secure aggregation groups of ``defense.clients``
    clients are seen as one. Raises ``ValueError`` or ``TypeError`` on values out of range, and for a network with epochs
    of its own: those would be on the clients' pictures."""

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
        if self.network.epochs:
            raise ValueError(
                f"epochs of the network must be 0, as its clients train it; got {self.network.epochs}"
            )

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
        does not divide those of a round; ``TrainingError`` where outputs are not finite before a round or at the end, or
        where nothing can be sent as a client's gradient is zero.
        """
        import torch

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
                sent = _sent(
                    defense, network, pictures.at(chosen), f"in round {number + 1}",
                    seed=int(noise), groups=groups, scope=scope, relative=relative,
                )  # fmt: skip
                torch._foreach_add_(sums, list(sent))
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


def _sent(
    defense: Defense, network: ImageNetwork, shown: PictureSet, when: str, **how: Any
) -> tuple[torch.Tensor, ...]:
    """What a client sends. A zero gradient has no unit of size; every other error is one of the input."""
    from attack.image.observed import observe_images

    try:
        return observe_images(defense, network, shown.images, shown.labels, **how).gradients
    except ValueError as error:
        if observe_images(NoDefense(), network, shown.images, shown.labels).entries.any():
            raise
        raise TrainingError(f"a client's gradient is zero {when}: {error}") from error


def _require_finite(network: ImageNetwork, images: Any, when: str) -> None:
    import torch

    with torch.no_grad():
        if not torch.isfinite(network.outputs(images.to(network.device))).all():
            raise TrainingError(f"outputs are not finite {when}")


@dataclass(frozen=True)
class TrainingPoint:
    """What is learned under which defense; scope, relative: as of ``observe_images``.

    Raises ``ValueError`` for a scope that there is none of, for a relative defense without sizes, and for secure aggregation
    over a number of clients that does not divide those of a round."""

    federation: Federation
    defense: Defense
    scope: str = "global"
    relative: bool = False

    def __post_init__(self) -> None:
        from attack.image.observed import SCOPES

        self.federation.parties(self.defense)
        checks.choice("scope", self.scope, SCOPES)
        if self.relative:
            require_sizes(self.defense)

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
    is no network to speak of (as of ``TrainingError``), and then the accuracy is that of a guess."""

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
    except TrainingError as error:
        return Learned(1 / held_out.classes, None, str(error))
    with torch.no_grad():
        outputs = network.outputs(held_out.images.to(network.device))
        loss = float(torch.nn.functional.cross_entropy(outputs, held_out.labels.to(network.device)))
    if not math.isfinite(loss):
        return Learned(1 / held_out.classes, None, "the loss on held-out pictures is not finite")
    return Learned(accuracy(network, held_out.images, held_out.labels), loss)


@dataclass(frozen=True)
class LearnedNetwork(NetworkSpec):
    """The network at the end of ``federation``'s rounds without a defense, a training whose rate has fallen to zero: what
    clients get once learning has begun, the same whatever defense is attacked."""

    federation: Federation = field(default_factory=Federation)

    def build(
        self, pictures: PictureSet, seed: int, device: Any, others: PictureSet | None = None
    ) -> ImageNetwork:
        """On these pictures, those of the clients, weights and order from the seed; ``others`` play no part."""
        return _learned_without_defense(self.federation, pictures, seed, str(device))

    @property
    def words(self) -> str:
        """With how it was learned."""
        return f"{super().words}, at the end of {how_many(self.federation.rounds, 'round')} of its own"

    @staticmethod
    def after(federation: Federation) -> LearnedNetwork:
        """Of a federation."""
        return LearnedNetwork(**vars(federation.network), federation=federation)


@lru_cache(maxsize=16)
def _learned_without_defense(
    federation: Federation, pictures: PictureSet, seed: int, device: str
) -> ImageNetwork:
    return federation.learned(pictures, NoDefense(), seed=seed, device=device)
