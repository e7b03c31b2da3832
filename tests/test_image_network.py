"""Networks on pictures and what the server sees of them."""

from __future__ import annotations

import pytest
import torch

from attack.image.observed import ImageObservation, observe_images
from attack.networks.image.convnet import conv_net
from attack.networks.image.head import Head
from attack.networks.image.network import ImageNetwork
from bounds import (
    Clamping,
    DeterministicRounding,
    Dropout,
    GradientClipping,
    GradientNoise,
    GradientPruning,
    NoDefense,
)

SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def network() -> ImageNetwork:
    return conv_net(
        SHAPE, 10, channels=(4, 4), head=Head(m=12, features=6, scale="1/sqrt(m)"), dtype=torch.float64
    )


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(3, *SHAPE, generator=generator, dtype=torch.float64), torch.tensor([1, 4, 4])


def by_backward(network: ImageNetwork, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    module = network.module
    module.zero_grad()
    torch.nn.functional.cross_entropy(module(images), labels, reduction="sum").backward()
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


def test_the_gradient_is_that_of_the_module(network: ImageNetwork, batch: tuple[torch.Tensor, ...]) -> None:
    seen = observe_images(NoDefense(), network, *batch)
    torch.testing.assert_close(seen.entries, by_backward(network, *batch), rtol=1e-12, atol=1e-14)


def test_features_are_what_the_attacked_layer_gets(
    network: ImageNetwork, batch: tuple[torch.Tensor, ...]
) -> None:
    images, labels = batch
    z = network.features(images)
    module = network.module
    units = torch.relu(z @ module.get_submodule(network.attacked).weight.T)
    torch.testing.assert_close(module.get_submodule(network.output)(units), network.outputs(images))
    # of the attacked layer's weights the gradient lies in the span of the features
    shown = observe_images(NoDefense(), network, images, labels).gradient(f"{network.attacked}.weight")
    left = shown - shown @ torch.linalg.pinv(z) @ z
    assert left.norm() < 1e-10 * shown.norm()
    assert (shown - shown @ torch.linalg.pinv(z[:2]) @ z[:2]).norm() > 1e-3 * shown.norm()


def test_one_scope_is_the_other_where_nothing_is_shared(
    network: ImageNetwork, batch: tuple[torch.Tensor, ...]
) -> None:
    everywhere = observe_images(GradientPruning(0.9), network, *batch)
    layered = observe_images(GradientPruning(0.9), network, *batch, scope="layer")
    kept = [int((g != 0).sum()) for g in layered.gradients]
    for g, left in zip(layered.gradients, kept, strict=True):
        assert left <= g.numel() - int(0.9 * g.numel())
    assert [int((g != 0).sum()) for g in everywhere.gradients] != kept


def test_dropout_masks_the_units_alike_in_every_layer(
    network: ImageNetwork, batch: tuple[torch.Tensor, ...]
) -> None:
    one, other = (
        observe_images(Dropout(0.5, per_sample=False), network, *batch, scope=scope)
        for scope in ("global", "layer")
    )
    torch.testing.assert_close(one.entries, other.entries)
    dropped = (one.gradient(f"{network.output}.weight") == 0).all(dim=0)
    assert (one.gradient(f"{network.attacked}.weight")[dropped] == 0).all() and dropped.any()


def test_relative_noise_is_of_the_gradient(network: ImageNetwork, batch: tuple[torch.Tensor, ...]) -> None:
    clean = observe_images(NoDefense(), network, *batch).entries
    noisy = observe_images(GradientNoise(0.5), network, *batch, relative=True)
    off = (noisy.entries - clean).norm() / clean.norm()
    assert off == pytest.approx(0.5, rel=0.2)  # 700 entries scatter by 3 per cent
    with pytest.raises(ValueError, match="relative"):
        observe_images(GradientPruning(0.5), network, *batch, relative=True)


def test_a_gradient_of_zero_is_no_unit() -> None:
    """Of dead units without biases: every defense with a size says so, none with the value that this would give it."""
    module = torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(64, 4, bias=False),
        torch.nn.ReLU(),
        torch.nn.Linear(4, 3, bias=False),
    )
    with torch.no_grad():
        module[1].weight.fill_(-1.0)
    dead = ImageNetwork.of(module, (1, 8, 8))
    images, labels = torch.full((1, 1, 8, 8), 0.5), torch.tensor([1])
    assert not observe_images(Clamping(0.5), dead, images, labels).entries.any()
    for defense in (Clamping(0.5), DeterministicRounding(0.5), GradientNoise(0.5)):
        with pytest.raises(ValueError, match="clean gradient is zero"):
            observe_images(defense, dead, images, labels, relative=True)


def test_what_does_not_belong_together_is_told(
    network: ImageNetwork, batch: tuple[torch.Tensor, ...]
) -> None:
    images, labels = batch
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        network.client(images + 0.5, labels)
    with pytest.raises(ValueError, match=r"0\.\.9"):
        network.client(images, labels + 8)
    with pytest.raises(ValueError, match="integers"):
        network.client(images, labels.double())
    with pytest.raises(ValueError, match="shape"):
        network.client(images[:, :, :4], labels)
    with pytest.raises(ValueError, match="linear"):
        ImageNetwork(network.module, SHAPE, "body.0", "head.output")
    seen = observe_images(NoDefense(), network, images, labels)
    with pytest.raises(ValueError, match="one for each"):
        ImageObservation(seen.gradients[:-1], network, 3, NoDefense())
    with pytest.raises(ValueError, match="must have shape"):
        ImageObservation(seen.gradients[::-1], network, 3, NoDefense())
    with pytest.raises(ValueError, match="finite"):
        ImageObservation(tuple(g * float("nan") for g in seen.gradients), network, 3, NoDefense())


def test_statistics_of_the_batch_couple_samples(batch: tuple[torch.Tensor, ...]) -> None:
    images, labels = batch
    module = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3),
        torch.nn.BatchNorm2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(72, 5),
        torch.nn.ReLU(),
        torch.nn.Linear(5, 10),
    ).double()
    coupled = ImageNetwork(module, SHAPE, "3", "5", batch_norm="batch")
    assert coupled.coupled
    with pytest.raises(ValueError, match="couple"):
        observe_images(GradientClipping(1.0, per_sample=True), coupled, images, labels)
    kept = ImageNetwork(module, SHAPE, "3", "5")
    assert not kept.coupled
    apart = [
        observe_images(NoDefense(), net, images[i : i + 1], labels[i : i + 1]).entries
        for net in (coupled, kept)
        for i in range(3)
    ]
    together = [observe_images(NoDefense(), net, images, labels).entries for net in (coupled, kept)]
    torch.testing.assert_close(sum(apart[3:]), together[1])
    assert (sum(apart[:3]) - together[0]).norm() > 1e-3 * together[0].norm()
    assert not any(buffer.any() for buffer in (coupled.module.get_buffer("1.running_mean"),))
