"""Training of networks on pictures, and heads some of whose units are Gaussian again."""

from __future__ import annotations

import pytest
import torch

from attack.image import picture_set
from attack.image.observed import observe_images
from attack.image.picture_set import PictureSet
from attack.networks.image.convnet import conv_net, seeded
from attack.networks.image.head import Head, HeadLayers
from attack.networks.image.network import ImageNetwork
from attack.networks.image.resnet import resnet18
from attack.networks.image.training import Training, accuracy, split_head, trained
from bounds import NoDefense


@pytest.fixture(scope="module")
def parts() -> tuple[PictureSet, PictureSet]:
    return picture_set("digits-8").chosen(800, 0).parted(0.25, 0)


def digit_net(parts: tuple[PictureSet, PictureSet]) -> ImageNetwork:
    train = parts[0]
    return conv_net(train.shape, 10, channels=(8,), head=Head(m=32), mean=train.mean, std=train.std)


def test_training_learns_and_repeats_itself(parts: tuple[PictureSet, PictureSet]) -> None:
    """600 digits, six epochs: from chance, .1, to above .8 on 200 held out (.9 measured; one binomial deviation is .02)."""
    train, held = parts
    network = digit_net(parts)
    told: list[tuple[int, int, float]] = []
    training = Training(epochs=6, rate=3e-3, batch=50, seed=1)
    found = trained(network, train.images, train.labels, training, progress=lambda *now: told.append(now))
    assert accuracy(found.network, held.images, held.labels) > 0.8
    assert accuracy(network, held.images, held.labels) < 0.4, "the network that was given has not changed"
    assert [now[0] for now in told] == [1, 2, 3, 4, 5, 6] and [now[2] for now in told] == list(found.losses)
    assert found.losses[-1] < 0.5 * found.losses[0]
    short = Training(epochs=1, rate=3e-3, batch=50, seed=1)
    again = [trained(network, train.images, train.labels, short).network.parameters for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*again, strict=True))
    other = trained(network, train.images, train.labels, Training(epochs=1, rate=3e-3, batch=50, seed=2))
    assert not torch.equal(again[0][0], other.network.parameters[0])


def test_statistics_follow_the_batches_and_the_mode_comes_back() -> None:
    train = picture_set("digits-8").chosen(40, 0)
    network = resnet18(train.shape, 10, width=2, head=Head(m=8))
    found = trained(network, train.images, train.labels, Training(batch=20, optimiser="sgd", rate=0.01))
    kept = found.network.module.get_buffer("body.1.running_mean")
    assert kept.any() and not network.module.get_buffer("body.1.running_mean").any()
    assert not found.network.coupled and not found.network.module.training
    seen = observe_images(NoDefense(), found.network, train.images[:2], train.labels[:2])
    assert seen.entries.norm() > 0


def test_streams_are_kept_apart_and_others_left_alone() -> None:
    before = torch.get_rng_state()
    drawn = []
    for purpose in ("layers", "dropout", "layers"):
        with seeded(4, purpose):
            drawn.append(torch.rand(3))
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])
    assert torch.equal(torch.get_rng_state(), before)


def test_bad_training_is_told() -> None:
    train = picture_set("digits-8").chosen(40, 0)
    network = conv_net(train.shape, 10, channels=(2,), head=Head(m=8))
    for wrong in ({"epochs": -1}, {"rate": -1.0}, {"batch": 0}, {"optimiser": "lbfgs"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Training(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rate must be small enough"):
        trained(network, train.images, train.labels, Training(3, rate=1e30, optimiser="sgd"))
    with pytest.raises(ValueError, match=r"0\.\.9"):
        trained(network, train.images, train.labels + 1)


def test_a_split_head_has_gaussian_units_beside_the_others(parts: tuple[PictureSet, PictureSet]) -> None:
    network = digit_net(parts)
    before = dict(zip(network.names, network.parameters, strict=True))
    split = split_head(network, 0.25, seed=3)
    after = dict(zip(split.network.names, split.network.parameters, strict=True))
    assert len(split.gaussian) == 8
    rest = torch.tensor([i for i in range(32) if i not in split.gaussian.tolist()])
    W, a = "head.hidden.weight", "head.output.weight"
    assert torch.equal(after[W][rest], before[W][rest]) and torch.equal(after[a][:, rest], before[a][:, rest])
    drawn = after[W][split.gaussian]
    n = drawn.numel()
    assert (
        abs(float(drawn.mean())) < 5 / n**0.5 and abs(float(drawn.square().mean()) - 1) < 5 * (2 / n) ** 0.5
    )
    # 80 output weights, of mean square 1/m^2 within 5 standard deviations
    outer = after[a][:, split.gaussian] * 32
    assert abs(float(outer.square().mean()) - 1) < 5 * (2 / 80) ** 0.5
    # nor are they the first units of a fresh head of that seed, which has the stream of its own
    fresh = HeadLayers(Head(m=8, scale="1/m"), drawn.shape[1], 10, 3).hidden.weight
    assert not torch.equal(fresh, drawn)
    assert not after["head.hidden.bias"][split.gaussian].any()
    assert all(torch.equal(after[name], before[name]) for name in before if not name.startswith("head"))
    none = split_head(network, 0.0).network.parameters
    assert all(torch.equal(x, y) for x, y in zip(none, network.parameters, strict=True))
    assert torch.equal(split_head(network, 0.25, seed=3).gaussian, split.gaussian)
    assert not torch.equal(split_head(network, 0.25, seed=4).gaussian, split.gaussian)
    with pytest.raises(ValueError, match="fraction"):
        split_head(network, 1.5)
