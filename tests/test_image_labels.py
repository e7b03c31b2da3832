"""Labels from the gradient of the output layer: published strategies where they should work and where they should not."""

from __future__ import annotations

import pytest
import torch

from attack.image.labels import chosen_strategy, label_accuracy, recover_labels
from attack.image.observed import observe_images
from attack.networks.image.convnet import conv_net
from attack.networks.image.head import Head
from attack.networks.image.network import ImageNetwork
from attack.streams import numpy_generator, uniform
from bounds import Defense, GradientClipping, GradientPruning, LocalAggregation, NoDefense

SHAPE = (1, 8, 8)

#: Batches for each strategy.
TRIALS = 10


@pytest.fixture(scope="module")
def network() -> ImageNetwork:
    return conv_net(SHAPE, 10, channels=(8,), head=Head(m=64))


def batch(B: int, seed: int, classes: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    images = uniform((B, *SHAPE), seed, "pictures", device="cpu", dtype=torch.float32)
    return images, torch.from_numpy(numpy_generator(seed, "classes").integers(classes, size=B))


def accuracy(
    network: ImageNetwork, strategy: str, B: int, defense: Defense | None = None, trials: int = TRIALS
) -> float:
    """Mean over batches of random classes."""
    found = []
    for seed in range(trials):
        images, labels = batch(B, seed)
        seen = observe_images(defense or NoDefense(), network, images, labels)
        found.append(label_accuracy(labels, recover_labels(seen, strategy)))
    return sum(found) / len(found)


def test_accuracy_counts_repeats() -> None:
    truth = torch.tensor([1, 4, 4, 7])
    assert label_accuracy(truth, torch.tensor([7, 4, 1, 4])) == 1.0
    assert label_accuracy(truth, torch.tensor([1, 4, 7, 9])) == 0.75
    assert label_accuracy(truth, torch.tensor([0, 0, 0, 0])) == 0.0
    with pytest.raises(ValueError, match="shapes"):
        label_accuracy(truth[:, None], truth)


@pytest.mark.parametrize("strategy", ["idlg", "yin", "llg", "llg-dummy", "bias", "ilrg"])
def test_one_label_is_found_by_all(network: ImageNetwork, strategy: str) -> None:
    assert accuracy(network, strategy, 1) == 1.0


@pytest.mark.parametrize("strategy", ["llg", "llg-dummy", "bias", "ilrg", "auto"])
def test_repeated_labels_of_a_fresh_network_are_found(network: ImageNetwork, strategy: str) -> None:
    """80 labels, seeds 0 to 9; a strategy that guesses the class frequencies' mean has about .6."""
    assert accuracy(network, strategy, 8) > 0.95


@pytest.mark.parametrize("B", [2, 5])
def test_labels_that_differ_are_found_by_the_smallest_entry(network: ImageNetwork, B: int) -> None:
    """What GradInversion assumes: no two samples of one class. Ten batches, 20 and 50 labels."""
    found = []
    for seed in range(TRIALS):
        images = batch(B, seed)[0]
        labels = torch.from_numpy(numpy_generator(seed, "classes").permutation(10)[:B])
        seen = observe_images(NoDefense(), network, images, labels)
        found.append(label_accuracy(labels, recover_labels(seen, "yin")))
    assert sum(found) / len(found) > 0.95


def test_the_smallest_entry_tells_no_repeats(network: ImageNetwork) -> None:
    """The control: 8 of 10 classes have 5.7 different labels."""
    assert accuracy(network, "yin", 8) < 0.85


def test_clipping_and_local_steps_change_the_scale_alone(network: ImageNetwork) -> None:
    for defense in (GradientClipping(1e-2), LocalAggregation(5, 0.01)):
        for strategy in ("llg", "llg-dummy", "bias", "ilrg"):
            assert accuracy(network, strategy, 4, defense, 4) > 0.95, (defense, strategy)


def test_a_pruned_bias_is_told_by_the_rest(network: ImageNetwork) -> None:
    """A hundredth of the entries is left, none of the output bias in most batches."""
    for strategy in ("llg-dummy", "bias", "ilrg"):
        assert accuracy(network, strategy, 4, GradientPruning(0.995), 4) >= 0.5, strategy


def test_what_a_strategy_cannot_do_is_told(network: ImageNetwork) -> None:
    seen = observe_images(NoDefense(), network, *batch(2, 0))
    with pytest.raises(ValueError, match="one sample"):
        recover_labels(seen, "idlg")
    with pytest.raises(ValueError, match="no label twice"):
        recover_labels(observe_images(NoDefense(), network, *batch(11, 0)), "yin")
    with pytest.raises(ValueError, match="strategy must be one of"):
        recover_labels(seen, "magic")
    bare = conv_net(SHAPE, 10, channels=(4,), head=Head(m=16, bias=False))
    without = observe_images(NoDefense(), bare, *batch(2, 0))
    for strategy in ("bias", "ilrg"):
        with pytest.raises(ValueError, match="output bias"):
            recover_labels(without, strategy)
    assert len(recover_labels(observe_images(NoDefense(), network, *batch(11, 0)))) == 11
    assert chosen_strategy(without) == "llg-dummy" and chosen_strategy(seen) == "ilrg"
