"""Servers that choose the weights: each against the pictures that its own paper promises."""

from __future__ import annotations

import pytest
import torch

from attack.image.class_fishing import ClassFishing, fished
from attack.image.feature_inversion import FeatureInversion
from attack.image.inversion import InversionError, invert
from attack.image.observed import observe_images
from attack.image.robbing_the_fed import RobbingTheFed, imprinted
from attack.networks.image.convnet import conv_net
from attack.networks.image.head import Head
from attack.networks.image.network import ImageNetwork
from attack.streams import uniform
from bounds import GradientClipping, GradientNoise, GradientPruning, NoDefense

SHAPE = (3, 8, 8)


@pytest.fixture(scope="module")
def network() -> ImageNetwork:
    return conv_net(SHAPE, 10, channels=(4,), head=Head(m=32), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))


def pictures(brightness: tuple[float, ...]) -> torch.Tensor:
    """Of these mean brightnesses exactly."""
    noise = uniform((len(brightness), *SHAPE), 3, "pictures", device="cpu", dtype=torch.float32) - 0.5
    noise = noise - noise.mean(dim=(1, 2, 3), keepdim=True)
    return torch.tensor(brightness)[:, None, None, None] + 0.4 * noise


def psnr(truth: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """Of the nearest picture found to each."""
    errors = (truth[:, None] - found[None]).double().square().flatten(2).mean(dim=2)
    return -10 * errors.amin(dim=1).log10()


@pytest.mark.parametrize("B", [4, 8])
def test_pictures_alone_in_their_bins_are_robbed_exactly(network: ImageNetwork, B: int) -> None:
    images = pictures(tuple(0.25 + 0.06 * i for i in range(B)))  # bins are narrower than .06
    seen = observe_images(NoDefense(), imprinted(network, 64), images, torch.arange(B) % 3)
    found = invert(seen, RobbingTheFed())
    assert len(found.images) == B and found.diagnostics.status == "ok"
    assert psnr(images, found.images).min() > 60
    assert RobbingTheFed.threat == "malicious"


def test_pictures_in_one_bin_are_mixed(network: ImageNetwork) -> None:
    images = pictures((0.30, 0.5, 0.5001, 0.7))
    found = invert(observe_images(NoDefense(), imprinted(network, 64), images, [0, 1, 2, 3]), RobbingTheFed())
    values = psnr(images, found.images)
    assert len(found.images) == 3 and found.diagnostics.warnings
    assert values[[0, 3]].min() > 60 > values[[1, 2]].max() and values[[1, 2]].min() < 30


def test_bins_of_own_pictures_are_their_quantiles(network: ImageNetwork) -> None:
    own = pictures(tuple(0.3 + 0.004 * i for i in range(101)))
    bias = imprinted(network, 5, pictures=own).module.get_parameter("imprint.bias").tolist()
    assert [bias[0] - b for b in bias] == pytest.approx([0.0, 0.08, 0.16, 0.24, 0.32], abs=1e-5)


def test_what_robbing_needs_and_what_stops_it(network: ImageNetwork) -> None:
    images = pictures((0.3, 0.5))
    seen = observe_images(NoDefense(), network, images, [0, 1])
    with pytest.raises(ValueError, match="imprint"):
        invert(seen, RobbingTheFed())
    with pytest.raises(ValueError, match="gain"):
        imprinted(network, 4, gain=0.0)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 10))
    assert imprinted(ImageNetwork.of(module, SHAPE), 4).attacked is None  # pictures can be robbed without one
    robbed = imprinted(network, 64)
    clipped = observe_images(GradientClipping(1e-3), robbed, images, [0, 1])  # a factor changes no quotient
    assert psnr(images, invert(clipped, RobbingTheFed()).images).min() > 60
    pruned = observe_images(GradientPruning(0.9), robbed, images, [0, 1], scope="layer")
    try:
        assert torch.isfinite(invert(pruned, RobbingTheFed()).images).all()
    except InversionError as error:
        assert "no steps" in str(error)
    noisy = observe_images(GradientNoise(30.0), robbed, images, [0, 1], relative=True)
    with pytest.raises(InversionError, match="noise"):
        invert(noisy, RobbingTheFed())


def test_noise_is_averaged_over_bins(network: ImageNetwork) -> None:
    """With four times the bins there are four times the rows between two steps: 6 dB at least half reached, seed 1."""
    images = pictures((0.3, 0.6))
    values = []
    for bins in (16, 256):
        robbed = imprinted(network, bins, gain=float(bins))  # rows of one size
        sigma = 0.02 * float(
            observe_images(NoDefense(), robbed, images, [0, 1]).gradient("imprint.weight").abs().max()
        )
        seen = observe_images(GradientNoise(sigma), robbed, images, [0, 1])
        values.append(float(psnr(images, invert(seen, RobbingTheFed()).images).mean()))
    assert values[1] > values[0] + 6


def test_one_class_is_fished_out_of_a_batch() -> None:
    net = conv_net(SHAPE, 10, channels=(32,), head=Head(m=64), dtype=torch.float64)
    images = pictures(tuple(0.3 + 0.05 * i for i in range(8))).double()
    labels = torch.tensor([1, 4, 4, 7, 0, 2, 9, 3])
    attack = ClassFishing(target=7, pictures=FeatureInversion(iterations=300, tv=0.0, step=0.1))
    seen = observe_images(NoDefense(), fished(net, 7), images, labels)
    found = invert(seen, attack)
    features = net.features(images)[3]
    assert found.features is not None and found.labels is not None
    assert (found.features[0] - features).norm() < 1e-6 * features.norm()
    assert found.labels.tolist() == [7] and found.diagnostics.status == "ok"
    assert psnr(images[3:4], found.images).min() > 30
    # controls: two of a class come out mixed, none of one that does not occur, and an honest model mixes all
    once = FeatureInversion(iterations=1)
    pair = invert(observe_images(NoDefense(), fished(net, 4), images, labels), ClassFishing(4, once))
    assert pair.diagnostics.status == "suspect" and pair.diagnostics.warnings
    with pytest.raises(InversionError, match="no sample"):
        invert(observe_images(NoDefense(), fished(net, 5), images, labels), ClassFishing(5, once))
    honest = invert(observe_images(GradientClipping(1.0), net, images, labels), ClassFishing(7, once))
    assert honest.features is not None
    assert (honest.features[0] - features).norm() > 1e-2 * features.norm()
