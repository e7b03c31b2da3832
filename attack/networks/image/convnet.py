"""A small convolutional classifier without batch norm, of the kind on which gradient inversion is usually shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from attack.networks.image.head import ACTIVATIONS, Head, HeadLayers
from attack.networks.image.network import ImageNetwork, check_shape
from attack.streams import seed_sequence
from bounds import checks


class _ConvNet(nn.Module):
    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        channels: tuple[int, ...],
        activation: str,
        head: Head,
        seed: int,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before, side = shape[0], (shape[1], shape[2])
        for index, width in enumerate(channels):
            stride = 1 if index == 0 else 2
            layers += [
                nn.Conv2d(before, width, kernel_size=3, padding=1, stride=stride),
                ACTIVATIONS[activation](),
            ]
            before, side = width, (-(-side[0] // stride), -(-side[1] // stride))
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.head = HeadLayers(head, before * side[0] * side[1], classes, seed)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.body(images))
        return found


def conv_net(
    shape: tuple[int, int, int],
    classes: int,
    *,
    channels: tuple[int, ...] = (16, 32, 32),
    activation: str = "relu",
    head: Head | None = None,
    loss: str = "cross-entropy",
    mean: tuple[float, ...] = (0.0,),
    std: tuple[float, ...] = (1.0,),
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> ImageNetwork:
    """3 x 3 convolutions of these widths, the second and later ones with stride 2, then the head. ``seed`` draws every
    weight, and nothing else. Raises ``ValueError`` or ``TypeError`` on bad input."""
    check_shape(shape)
    checks.integer("classes", classes, 1)
    for width in channels:
        checks.integer("channels", width, 1)
    checks.choice("activation", activation, tuple(ACTIVATIONS))
    with seeded(seed):
        module = _ConvNet(
            shape, classes, channels=channels, activation=activation, head=head or Head(), seed=seed
        )
    return ImageNetwork(module.to(dtype), shape, "head.hidden", "head.output", loss=loss, mean=mean, std=std)


@contextmanager
def seeded(seed: int, purpose: str = "layers") -> Iterator[None]:
    """Within, torch draws (initial weights, dropout) from this stream of ``seed``, on every device; outside nothing has
    changed."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(seed_sequence(seed, purpose).generate_state(1)[0]))
        yield
