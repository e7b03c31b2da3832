"""ResNet-18 as it is used on pictures of CIFAR's size ([He16], arXiv 1512.03385): a stem of 3 x 3 without pooling."""

from __future__ import annotations

import torch
from torch import nn

from attack.networks.image.convnet import seeded
from attack.networks.image.head import Head, HeadLayers
from attack.networks.image.network import ImageNetwork, check_shape
from bounds import checks

#: Blocks of two convolutions in each of the four stages, of width, 2, 4 and 8 times width channels.
_BLOCKS = (2, 2, 2, 2)


def _convolution(before: int, after: int, size: int, stride: int) -> list[nn.Module]:
    """With batch norm, whose shift makes a bias superfluous."""
    convolution = nn.Conv2d(before, after, size, stride=stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return [convolution, nn.BatchNorm2d(after)]


class _Block(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_convolution(before, after, 3, stride), nn.ReLU(), *_convolution(after, after, 3, 1)
        )
        same = stride == 1 and before == after
        self.shortcut = nn.Identity() if same else nn.Sequential(*_convolution(before, after, 1, stride))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.relu(self.body(images) + self.shortcut(images))
        return found


class _ResNet(nn.Module):
    def __init__(self, channels: int, classes: int, *, width: int, head: Head, seed: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [*_convolution(channels, width, 3, 1), nn.ReLU()]
        before = width
        for stage, blocks in enumerate(_BLOCKS):
            for block in range(blocks):
                after, stride = width * 2**stage, 2 if stage and not block else 1
                layers.append(_Block(before, after, stride))
                before = after
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = HeadLayers(head, before, classes, seed)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.body(images))
        return found


def resnet18(
    shape: tuple[int, int, int],
    classes: int,
    *,
    width: int = 64,
    head: Head | None = None,
    loss: str = "cross-entropy",
    batch_norm: str = "eval",
    mean: tuple[float, ...] = (0.0,),
    std: tuple[float, ...] = (1.0,),
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> ImageNetwork:
    """Stages of ``width``, 2, 4 and 8 times width channels, the mean over pixels, then the head on 8 width features. Width
    64 is the network of the literature, less is for small computers. ``seed`` draws every weight, and nothing else; kept
    statistics are mean 0 and variance 1 until the network is trained."""
    check_shape(shape)
    checks.integer("classes", classes, 1)
    checks.integer("width", width, 1)
    with seeded(seed):
        module = _ResNet(shape[0], classes, width=width, head=head or Head(), seed=seed)
    return ImageNetwork(
        module.to(dtype),
        shape,
        "head.hidden",
        "head.output",
        loss=loss,
        batch_norm=batch_norm,
        mean=mean,
        std=std,
    )
