"""Masks of dropout for each sample, read from the output weights' gradient, and what they are worth to an attack."""

from __future__ import annotations

import copy
import dataclasses
from typing import cast

import numpy as np
import pytest
import torch

from attack.image.exact_features import exact_features
from attack.image.feature_estimate import estimate_features
from attack.image.inversion import invert
from attack.image.known import Sorted, model_of
from attack.image.masks import sample_masks
from attack.image.matching import ImageMatching
from attack.image.metrics import image_errors
from attack.image.observed import ImageObservation, observe_images
from attack.image.picture_set import picture_set
from attack.networks.image.convnet import conv_net
from attack.networks.image.head import Head
from attack.networks.image.network import ImageNetwork
from attack.reconstruction import ReconstructionError
from attack.streams import normal, uniform
from bounds import Dropout

SHAPE, M = (1, 8, 8), 256

#: Of masks at p = .99: the last has one unit for every sample or two, the others none for one to three of them.
SPARSE = (0, 1, 6, 9)


def network(activation: str = "relu") -> ImageNetwork:
    head = Head(m=M, activation=activation)
    return conv_net(SHAPE, 10, channels=(8, 8), activation=activation, head=head)


def batch(B: int, seed: int) -> torch.Tensor:
    return uniform((B, *SHAPE), seed, "pictures", device="cpu", dtype=torch.float32)


class _Scaled(torch.nn.Module):
    """A module whose attacked layer receives ``size`` times what it did."""

    def __init__(self, module: torch.nn.Module, attacked: str, size: float) -> None:
        super().__init__()
        self.module = module
        module.get_submodule(attacked).register_forward_pre_hook(lambda layer, given: (size * given[0],))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.module(images)
        return found


def with_output(seen: ImageObservation, gradient: torch.Tensor) -> ImageObservation:
    """With this gradient of the output's weights."""
    changed = list(seen.gradients)
    changed[seen.network.index(f"{seen.network.output}.weight")] = gradient
    return dataclasses.replace(seen, gradients=tuple(changed))


def read(seen: ImageObservation) -> np.ndarray | None:
    found = sample_masks(seen)
    return None if found is None else found.kept


def left(net: ImageNetwork, images: torch.Tensor, p: float, seed: int) -> np.ndarray:
    """By the client's own masks, the units of each sample that are not zero: (B, m)."""
    masks = [
        uniform((M,), seed, "masks", i, device="cpu", dtype=torch.float32) >= p for i in range(len(images))
    ]
    return (torch.stack(masks) & (net.hidden(images) != 0)).numpy()


def with_offset(net: ImageNetwork, offset: torch.Tensor) -> ImageNetwork:
    """With this bias of the output layer."""
    module = copy.deepcopy(net.module)
    output = module.get_submodule(net.output)
    assert isinstance(output, torch.nn.Linear)
    with torch.no_grad():
        output.bias.copy_(offset)
    return dataclasses.replace(net, module=module)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize(("p", "B"), [(0.5, 1), (0.1, 2), (0.2, 2), (0.5, 2), (0.9, 2), (0.5, 4)])
def test_every_bit_is_read(activation: str, p: float, B: int) -> None:
    """Against the client's own masks, of samples in the order of their classes; a unit that is zero without one counts as
    dropped. With B = 4 a sample has 16 of 256 units alone, or more, in the mean."""
    net, images, labels = network(activation), batch(B, 1), torch.tensor([7, 2, 5, 3][:B])
    found = sample_masks(observe_images(Dropout(p), net, images, labels, seed=4))
    assert found is not None and found.classes.tolist() == sorted(labels.tolist())
    assert (found.kept == left(net, images, p, 4)[labels.argsort()]).all()


def test_two_samples_of_one_class_are_told_apart() -> None:
    """In either order, as nobody knows which is which: their residuals differ by a hundredth in a fresh network."""
    net, images = network(), batch(2, 0)
    found = read(observe_images(Dropout(0.5), net, images, torch.tensor([3, 3]), seed=2))
    truth = left(net, images, 0.5, 2)
    assert found is not None and ((found == truth).all() or (found[::-1] == truth).all())


def test_slopes_of_very_different_sizes() -> None:
    """One sample is nearly sure of its class, with a slope of 1e-4 beside 1.4: mixtures nearly along the large one, with
    which all units but the other's own have columns, are more than those. A unit whose share of the small slope is below
    rounding may be missed, so that a few bits of 512 may be wrong; taken for a slope, a mixture has half of them wrong."""
    net = with_offset(network("gelu"), 12.0 * torch.eye(10)[3])
    images, labels = batch(2, 3), torch.tensor([5, 3])
    for seed in range(3):
        found = sample_masks(observe_images(Dropout(0.1), net, images, labels, seed=seed))
        assert found is not None and found.classes.tolist() == [3, 5]
        assert (found.kept != left(net, images, 0.1, seed)[::-1]).sum() <= 10


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_classes_of_a_squared_loss_whose_outputs_are_large(activation: str) -> None:
    """The loss of every sample changes most by output 0, which is nobody's label."""
    head = Head(m=M, activation=activation)
    net = conv_net(SHAPE, 10, channels=(8, 8), activation=activation, head=head, loss="squared")
    net = with_offset(net, 2.0 * torch.eye(10)[0])
    images, labels = batch(3, 1), torch.tensor([7, 2, 5])
    found = sample_masks(observe_images(Dropout(0.5), net, images, labels, seed=4))
    assert found is not None and found.classes.tolist() == [2, 5, 7] and found.off < 1e-5
    assert (found.kept == left(net, images, 0.5, 4)[[1, 2, 0]]).all()


def test_one_picture_with_two_labels() -> None:
    """The units that both samples keep have one column, the sum of the slopes: it is that of the most."""
    net, labels = network(), torch.tensor([6, 1])
    images = batch(1, 0).repeat(2, 1, 1, 1)
    found = sample_masks(observe_images(Dropout(0.2), net, images, labels, seed=4))
    assert found is not None and found.classes.tolist() == [1, 6]
    assert (found.kept == left(net, images, 0.2, 4)[::-1]).all()


def test_samples_with_few_units_and_with_none() -> None:
    """At p = .99 most samples have one or two units; whoever has none has the class that the bias tells."""
    net, images, labels = network(), batch(4, 2), torch.tensor([7, 2, 5, 2])
    fewest = set()
    for seed in SPARSE:
        truth = left(net, images, 0.99, seed)[labels.argsort(stable=True)]
        found = sample_masks(observe_images(Dropout(0.99), net, images, labels, seed=seed))
        assert found is not None and found.classes.tolist() == [2, 2, 5, 7]
        either = [truth, truth[[1, 0, 2, 3]]]  # two samples are of one class
        assert any((found.kept == rows).all() for rows in either)
        fewest.add(int(truth.sum(axis=1).min()))
    assert fewest == {0, 1}


def test_what_is_no_gradient_of_the_loss_is_not_certified() -> None:
    """Twice the gradient has the masks of the gradient, but slopes that no sample has."""
    net, labels = network(), torch.tensor([6, 1])
    seen = observe_images(Dropout(0.5), net, batch(2, 3), labels)
    assert read(seen) is not None
    assert read(dataclasses.replace(seen, gradients=tuple(2 * g for g in seen.gradients))) is None


def test_what_does_not_show_masks_is_not_read() -> None:
    net = network("tanh")
    labels = torch.arange(8)
    seen = observe_images(Dropout(0.5), net, batch(8, 0), labels)
    assert read(seen) is None, "a sample has one unit of 256 alone, in the mean"
    seen = observe_images(Dropout(0.5, per_sample=False), net, batch(2, 0), labels[:2])
    assert read(seen) is None, "one mask for the batch: no sample has a unit alone"
    seen = observe_images(Dropout(0.5), net, batch(2, 0), labels[:2])
    gradient = seen.gradient("head.output.weight")
    noise = normal(tuple(gradient.shape), 0, "noise", device="cpu", dtype=torch.float32)
    assert read(seen) is not None
    assert read(with_output(seen, gradient + 1e-3 * gradient.abs().max() * noise)) is None
    assert read(with_output(seen, 0 * gradient)) is None
    assert read(dataclasses.replace(seen, batch_size=10)) is None, "slopes of cross-entropy add up to zero"


@pytest.mark.parametrize("loss", ["cross-entropy", "squared"])
def test_values_without_a_gradient_of_the_bias(loss: str) -> None:
    """The size of a slope is the one with which it follows from the values."""
    net = conv_net(SHAPE, 10, channels=(8, 8), head=Head(m=M, bias=False), loss=loss)
    images, labels = batch(2, 1), torch.tensor([7, 2])
    found = sample_masks(observe_images(Dropout(0.5), net, images, labels, seed=4))
    assert found is not None and found.classes.tolist() == [2, 7]
    kept = left(net, images, 0.5, 4)[::-1]
    truth = 2 * net.hidden(images).detach().numpy()[::-1] * kept
    assert (found.kept == kept).all() and np.abs(found.values - truth).max() < 1e-4 * truth.max()


@pytest.mark.parametrize(("p", "B"), [(0.5, 2), (0.5, 3), (0.2, 2)])
def test_features_follow_from_the_units_that_are_left(p: float, B: int) -> None:
    """Exactly, in single precision, with their lengths and labels. The controls: of another p they fit nothing, and a
    sample that keeps fewer units than there are features is not told."""
    net = conv_net(SHAPE, 10, channels=(8, 8), head=Head(m=M, features=24))
    images, labels = batch(B, 1), torch.tensor([7, 2, 5][:B])
    seen = observe_images(Dropout(p), net, images, labels, seed=4)
    found = exact_features(seen)
    truth = net.features(images)[labels.argsort()].detach().numpy()
    off = np.linalg.norm(found.features - truth, axis=1)
    assert off.max() < 1e-3 * np.linalg.norm(truth, axis=1).min() and found.sized and found.exact
    assert off.max() < found.error
    assert found.classes is not None and found.classes.tolist() == sorted(labels.tolist())
    with pytest.raises(ReconstructionError, match="unexplained"):
        exact_features(dataclasses.replace(seen, defense=Dropout(p + 0.2)))
    with pytest.raises(ReconstructionError, match="too few for 24 features"):
        exact_features(observe_images(Dropout(0.92), net, images[:2], labels[:2], seed=4))


def test_the_error_of_features_is_in_their_unit() -> None:
    """Features of a hundredth have a hundredth of the error, through layers alike but for that factor, and the predicted
    ``1 - cos^2`` is the same."""
    errors, predicted = [], []
    for size in (1.0, 0.01):
        net = conv_net(SHAPE, 10, channels=(8, 8), head=Head(m=M, features=24), dtype=torch.float64)
        module = copy.deepcopy(net.module)
        with torch.no_grad():
            cast(torch.nn.Linear, module.get_submodule(net.attacked_layer)).weight.div_(size)
        within = _Scaled(module, net.attacked_layer, size)
        scaled = ImageNetwork(within, SHAPE, f"module.{net.attacked}", f"module.{net.output}")
        seen = observe_images(Dropout(0.5), scaled, batch(2, 1).double(), torch.tensor([7, 2]), seed=4)
        errors.append(exact_features(seen).error)
        predicted.append(float(estimate_features(seen, "rows").error.max()))
    assert errors[1] == pytest.approx(0.01 * errors[0], rel=1e-6)
    assert predicted[1] == pytest.approx(predicted[0], rel=1e-6) and 0 < predicted[0] < 1e-4


def test_one_samples_mask_is_one_for_the_batch() -> None:
    """Every row is along its features, so that far fewer units than features are enough: 24 of them from 13 units."""
    net = conv_net(SHAPE, 10, channels=(8, 8), head=Head(m=M, features=24))
    images, labels = batch(1, 1), torch.tensor([7])
    for p in (0.5, 0.95):
        seen = observe_images(Dropout(p), net, images, labels, seed=4)
        found, truth = exact_features(seen), net.features(images).detach().numpy()
        assert found.sized and np.linalg.norm(found.features - truth) < 1e-3 * np.linalg.norm(truth)
        assert found.classes is not None and found.classes.tolist() == [7]


@pytest.mark.parametrize("bias", [True, False])
def test_features_of_a_squared_loss_have_their_classes(bias: bool) -> None:
    """With a bias one output is far off for every sample, whatever the labels; without one the slopes' sizes follow from
    what slopes must be."""
    net = conv_net(SHAPE, 10, channels=(8, 8), head=Head(m=M, features=24, bias=bias), loss="squared")
    if bias:
        net = with_offset(net, 2.0 * torch.eye(10)[0])
    images, labels = batch(2, 1), torch.tensor([3, 1])
    seen = observe_images(Dropout(0.5), net, images, labels, seed=4)
    found, truth = exact_features(seen), net.features(images).detach().numpy()[::-1]
    assert np.abs(found.features - truth).max() < 1e-3 * np.abs(truth).max() and found.exact
    assert found.classes is not None and found.classes.tolist() == [1, 3]
    assert isinstance(model_of(seen).client, Sorted)


def test_the_server_that_has_read_them_fits_at_the_truth() -> None:
    """To rounding, with pictures in any order of classes; one that takes units at their mean does not."""
    net, images, labels = network().to("cpu", torch.float64), batch(2, 3).double(), torch.tensor([6, 1])
    seen = observe_images(Dropout(0.5), net, images, labels)
    off = {}
    for told, defense in (("read", seen.defense), ("mean", Dropout(0.5, per_sample=False))):
        found = model_of(dataclasses.replace(seen, defense=defense)).client(images, labels)
        guess = torch.cat([g.flatten() for g in found])
        off[told] = float((guess.detach() - seen.entries).norm() / seen.entries.norm())
    assert off["read"] < 1e-12 and off["mean"] > 0.1


def test_reading_masks_is_worth_decibels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two batches of two digits (seeds 0 and 1), 100 iterations: 8 dB or more over units at their mean, which is what the
    same attack has where nothing is read (measured: 38.6 and 36.4 dB, 17.6 and 17.3)."""
    gains = []
    attack, digits = ImageMatching(iterations=100), picture_set("digits-8")
    for seed in range(2):
        head = Head(m=M, activation="gelu")
        net = conv_net(
            SHAPE, 10, channels=(8, 12), activation="gelu", head=head, mean=digits.mean, std=digits.std
        )
        chosen = digits.chosen(2, seed)
        images, labels = chosen.images, chosen.labels
        seen = observe_images(Dropout(0.5), net, images, labels, seed=seed)
        psnr = []
        for hidden in (False, True):
            with monkeypatch.context() as patched:
                if hidden:
                    patched.setattr("attack.image.known.sample_masks", lambda seen: None)
                psnr.append(image_errors(images, invert(seen, attack, labels=labels).images).mean_psnr)
        gains.append(psnr[0] - psnr[1])
    assert min(gains) > 8, gains
