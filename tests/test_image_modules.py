"""Modules that users bring: what is found in them, and what is refused; gradients of single samples."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import pytest
import torch
from torch import nn

from attack.image.class_fishing import fished
from attack.image.exact_features import exact_features
from attack.image.head_gradient import head_gradient
from attack.image.known import model_of
from attack.image.labels import recover_labels
from attack.image.observed import observe_images
from attack.networks.image.convnet import conv_net, seeded
from attack.networks.image.head import Head
from attack.networks.image.network import ImageNetwork
from attack.networks.image.probe import Probe
from attack.networks.image.resnet import resnet18
from bounds import DPSGD, Dropout, GradientClipping, LocalAggregation, NoDefense

SHAPE = (1, 6, 6)


def layers(*last: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), *last)


class Skipping(nn.Module):
    """What the last layer receives is not a function of the hidden layer's output alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(36, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        z = torch.relu(self.first(images.flatten(1)))
        found: torch.Tensor = self.last(z + torch.relu(self.second(z)))
        return found


class Changed(nn.Module):
    """A good module whose outputs, or pictures, go through something else."""

    def __init__(self, outputs: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.inner, self.change = layers(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 3)), outputs

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.change(self.inner(images))


def drawn(module: nn.Module) -> nn.Module:
    """With weights that depend on nothing that ran before."""
    with seeded(3):
        for layer in module.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d) and layer.weight.dtype != torch.float16:
                layer.reset_parameters()
    return module


def batch(n: int = 3, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.rand(n, *SHAPE, generator=generator), torch.arange(n) % classes


@pytest.mark.parametrize(
    ("module", "attacked", "output"),
    [
        (layers(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 3)), "3", "5"),
        (layers(nn.Linear(32, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(), nn.Linear(8, 3)), "3", "7"),
        (layers(nn.Linear(32, 9), nn.ReLU(), nn.Linear(9, 8), nn.GELU(), nn.Linear(8, 3)), "5", "7"),
        (layers(nn.Linear(32, 3)), None, "3"),
        # a softmax mixes the hidden units, a sum mixes in others, a norm the samples' own entries
        (layers(nn.Linear(32, 8), nn.Softmax(dim=1), nn.Linear(8, 3)), None, "5"),
        (layers(nn.Linear(32, 8), nn.LayerNorm(8), nn.Linear(8, 3)), None, "5"),
        (Skipping(), None, "last"),
    ],
)
def test_layers_are_found(module: nn.Module, attacked: str | None, output: str) -> None:
    found = ImageNetwork.of(drawn(module), SHAPE)
    assert (found.attacked, found.output, found.classes) == (attacked, output, 3)
    assert found.units == module.get_submodule(output).in_features
    images, labels = batch()
    assert found.client(images, labels).gradient().isfinite().all()
    if attacked is None:
        with pytest.raises(ValueError, match="features cannot run"):
            found.features(images)
        with pytest.raises(ValueError, match="features cannot run"):
            found.client(images, labels, "hidden")
    else:
        assert found.features(images).shape == (3, found.d)


def test_batch_norm_of_the_batch_between_the_layers_mixes_samples() -> None:
    """Of two samples it leaves the signs alone, and a large negative shift not even these."""
    module = layers(nn.Linear(32, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    for shift in (0.0, -5.0):
        nn.init.constant_(module[4].bias, shift)
        assert ImageNetwork.of(module, SHAPE, batch_norm="batch").attacked is None
    nn.init.zeros_(module[4].bias)
    assert ImageNetwork.of(module, SHAPE, batch_norm="eval").attacked == "3"


def sorted_out(x: torch.Tensor) -> torch.Tensor:
    """Only comparisons: the larger of the batch keep their values."""
    return torch.where(x < x.amax(dim=0), 0.9 * x, x)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "couple",
    [
        lambda x: x + 1e-12 * x.mean(dim=0),  # below the resolution of every output
        lambda x: x + torch.relu(x.mean(dim=0) - 1e3),  # switched off for all pictures
        lambda x: x + 0.01 * torch.nan_to_num(x).mean(dim=0),  # what tells of a picture is lost
        lambda x: x / len(x),
        sorted_out,
    ],
    ids=["small", "switched off", "without NaN", "by number", "by order"],
)
def test_samples_that_are_coupled_are_found_whatever_the_weights(
    couple: Callable[[torch.Tensor], torch.Tensor], seed: int
) -> None:
    module = Changed(couple)
    with seeded(seed):
        for layer in (module.inner[0], module.inner[3], module.inner[5]):
            layer.reset_parameters()
    with pytest.raises(ValueError, match="change with the others"):
        ImageNetwork.of(module, SHAPE)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("between", "found"),
    [
        (lambda x: x + 1e-12 * x.mean(dim=0), None),
        (lambda x: x + torch.relu(x.roll(1, dims=1) - 1e3), None),  # of another entry, switched off
        (lambda x: x + 1e-12 * x.flip(dims=(1,)), None),
        (lambda x: torch.where(x > 0, x, 0.1 * x), "hidden"),
        (lambda x: torch.nan_to_num(x).sin(), "hidden"),
    ],
    ids=["samples", "neighbours", "mirrored", "leaky", "without NaN"],
)
def test_entries_that_are_mixed_are_found_whatever_the_weights(
    between: Callable[[torch.Tensor], torch.Tensor], found: str | None, seed: int
) -> None:
    """The last two are the controls."""

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.output = nn.Linear(36, 9), nn.Linear(9, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.output(between(self.hidden(images.flatten(1))))
            return found

    with seeded(seed):
        module = Module()
    probe = Probe.of(module, SHAPE)
    assert probe.attacked_layer("output") == found


def test_batch_norm_that_keeps_nothing_couples_in_either_mode() -> None:
    module = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten(), nn.Linear(32, 3)
    )
    assert ImageNetwork.of(module, SHAPE).coupled


def test_frozen_parameters_have_no_gradient() -> None:
    module = layers(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 3))
    module[0].requires_grad_(False)
    found = ImageNetwork.of(module, SHAPE)
    assert found.names == ("3.weight", "3.bias", "5.weight", "5.bias")
    assert len(found.client(*batch()).gradient()) == 32 * 8 + 8 + 24 + 3
    module[3].requires_grad_(False)
    with pytest.raises(ValueError, match="frozen"):
        ImageNetwork.of(module, SHAPE)


def tied(at: int, to: int) -> nn.Sequential:
    module = layers(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
    module[at].weight = module[to].weight
    return module


def normed(at: int) -> nn.Sequential:
    module = layers(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
    nn.utils.parametrizations.weight_norm(module[at])
    return module


@pytest.mark.parametrize(
    ("module", "words"), [(tied(5, 3), "tied to '3.weight'"), (normed(5), "made of other parameters")]
)
def test_an_attacked_layer_without_a_gradient_of_its_own_is_refused_for_what_it_is(
    module: nn.Module, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        ImageNetwork.of(module, SHAPE)


@pytest.mark.parametrize(
    ("module", "words"), [(tied(7, 3), "tied to '3.weight'"), (normed(7), "made of other parameters")]
)
def test_output_weights_without_a_gradient_of_their_own_are_told(module: nn.Module, words: str) -> None:
    network = ImageNetwork.of(drawn(module), SHAPE)
    seen = observe_images(NoDefense(), network, *batch())
    dropped = dataclasses.replace(seen, defense=Dropout(0.5, per_sample=False))
    asked: list[Callable[[], object]] = [
        lambda: recover_labels(seen, "llg"),
        lambda: head_gradient(seen),
        lambda: exact_features(seen),
        lambda: model_of(dropped),
        lambda: fished(network, 1),
        lambda: network.client(*batch(), "output"),
    ]
    for ask in asked:
        with pytest.raises(ValueError, match=rf"send a gradient of '7\.weight'.*{words}"):
            ask()


def test_shapes_classes_and_means_are_checked() -> None:
    for make in (conv_net, resnet18):
        with pytest.raises(ValueError, match=r"shape must be \(C, H, W\)"):
            make((1, 8), 5)  # type: ignore[arg-type, operator]
        with pytest.raises(ValueError, match="classes"):
            make(SHAPE, 0)  # type: ignore[operator]
    with pytest.raises(ValueError, match="mean must be finite"):
        conv_net(SHAPE, 3, mean=(float("nan"),))


class Aside(Changed):
    """Has a layer that its outputs do not depend on."""

    def __init__(self) -> None:
        super().__init__(lambda outputs: outputs)
        self.aside = nn.Linear(3, 2)


def shuffled(x: torch.Tensor) -> torch.Tensor:
    return x - x.mean(dim=0)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(nn.Conv2d(1, 3, 6), nn.Flatten()), "must have a fully connected layer"),
        (nn.Sequential(nn.Conv2d(3, 3, 6), nn.Flatten(), nn.Linear(3, 3)), "must take pictures of shape"),
        (layers(nn.Linear(31, 3)), "must take pictures of shape"),
        (Changed(lambda x: x[:, :2]), r"must return outputs \(B, classes\) = \(2, 3\)"),
        (Changed(lambda x: x / 0), "finite outputs"),
        (Changed(lambda x: nn.functional.dropout(x, 0.5)), "same outputs twice"),
        (Changed(shuffled), "change with the others"),
        (Changed(lambda x: [x]), "must return a tensor"),  # type: ignore[arg-type, return-value]
        (layers(nn.Linear(32, 3)).half(), "all float32 or all float64"),
        (layers(nn.Linear(32, 3)).requires_grad_(False), "require a gradient"),
        (nn.Flatten(), "require a gradient"),
        (Aside(), r"do not depend on aside\.weight, aside\.bias: freeze"),
        (Changed(lambda x: x.detach()), "autograd differentiates"),
    ],
)
def test_what_does_not_fit_is_refused(module: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageNetwork.of(drawn(module), SHAPE)


def test_names_that_do_not_fit_are_refused() -> None:
    module = layers(nn.Linear(32, 9), nn.ReLU(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 3))
    for names in (("3", "7"), ("5", "3"), ("7", "7")):
        with pytest.raises(ValueError, match=re.escape("attacked must name") + "|must return outputs"):
            ImageNetwork.of(module, SHAPE, *names)
    with pytest.raises(ValueError, match="output must name a linear layer"):
        ImageNetwork.of(module, SHAPE, output="4")
    with pytest.raises(TypeError, match="module"):
        ImageNetwork.of("resnet", SHAPE)  # type: ignore[arg-type]
    broken = layers(nn.Linear(32, 3))
    with torch.no_grad():
        broken[0].weight[0] = torch.nan
    with pytest.raises(ValueError, match="finite parameters"):
        ImageNetwork.of(broken, SHAPE)


# --- networks of the tree ------------------------------------------------------------------------------------------------


def test_resnet_is_the_network_of_the_literature() -> None:
    """Eighteen layers with weights but for the head and the shortcuts, 11.2 million parameters at width 64."""
    network = resnet18((3, 8, 8), 10, width=64, head=Head(m=5))
    convolutions = [x for x in network.module.modules() if isinstance(x, nn.Conv2d)]
    assert sum(x.kernel_size == (3, 3) for x in convolutions) == 17
    body = sum(p.numel() for name, p in network.module.named_parameters() if name.startswith("body"))
    assert body == 11_168_832  # 11,173,962 with a last layer of 512 x 10 + 10
    assert network.d == 512 and network.units == 5


@pytest.mark.parametrize("batch_norm", ["eval", "batch"])
def test_resnet_gives_the_gradient_of_its_module(batch_norm: str) -> None:
    network = resnet18(
        SHAPE, 3, width=2, head=Head(m=7), batch_norm=batch_norm, mean=(0.3,), std=(0.5,), dtype=torch.float64
    )
    images, labels = batch(4)
    images = images.double()
    module = network.module
    state = {name: value.clone() for name, value in module.state_dict().items()}
    nn.functional.cross_entropy(module((images - 0.3) / 0.5), labels, reduction="sum").backward()
    expected = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
    module.load_state_dict(state)
    torch.testing.assert_close(network.client(images, labels).gradient(), expected, rtol=1e-10, atol=1e-13)
    assert all(torch.equal(module.state_dict()[name], value) for name, value in state.items())
    assert network.coupled == (batch_norm == "batch")


def test_a_seed_draws_all_weights_and_nothing_else() -> None:
    before = torch.get_rng_state()
    one, same, other = (resnet18(SHAPE, 3, width=2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters, same.parameters, strict=True))
    assert not torch.equal(one.parameters[0], other.parameters[0])


# --- gradients of single samples -------------------------------------------------------------------------------------------


def small(kind: str, loss: str = "cross-entropy") -> ImageNetwork:
    if kind == "conv_net":
        return conv_net(SHAPE, 3, channels=(3, 4), head=Head(m=7), loss=loss, dtype=torch.float64)
    return resnet18(SHAPE, 3, width=2, head=Head(m=7), loss=loss, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["conv_net", "resnet"])
@pytest.mark.parametrize("loss", ["cross-entropy", "squared"])
def test_norms_of_samples_are_those_of_one_by_one(
    kind: str, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = batch(5)
    client = small(kind, loss).client(images, labels)
    kept = (torch.rand(5, 7, generator=torch.Generator().manual_seed(2)) > 0.4).double()
    for one in (client, client.masked(kept, 0.6), dataclasses.replace(client, seen=(0, 2))):
        expected = [one.part(torch.tensor([i])).gradient().norm() for i in range(5)]
        torch.testing.assert_close(one.sample_norms(), torch.stack(expected), rtol=1e-10, atol=0)
        monkeypatch.setattr("attack.networks.autograd_client._AT_ONCE", 2 * len(one.gradient()))
        torch.testing.assert_close(one.sample_norms(), torch.stack(expected), rtol=1e-10, atol=0)
        monkeypatch.undo()


class Asking(nn.Module):
    """Looks at values, which torch.func does not follow."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = layers(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.inner(images if float(images.sum()) > 0 else -images)
        return found


def test_norms_of_a_module_that_looks_at_values_are_taken_one_by_one() -> None:
    client = ImageNetwork.of(drawn(Asking()).double(), SHAPE).client(*batch(4))
    expected = [client.part(torch.tensor([i])).gradient().norm() for i in range(4)]
    torch.testing.assert_close(client.sample_norms(), torch.stack(expected), rtol=1e-10, atol=0)


def test_private_training_clips_every_sample_and_adds_noise_to_the_sum() -> None:
    """As opacus does before it divides by the batch size: noise of sigma C on the sum of clipped gradients."""
    network = small("conv_net")
    images, labels = batch(4)
    singles = [network.client(images[i : i + 1], labels[i : i + 1]).gradient() for i in range(4)]
    C = float(sorted(g.norm() for g in singles)[1]) * 1.001  # two are clipped, two are not
    clipped = sum(g * min(1.0, C / float(g.norm())) for g in singles)
    seen = observe_images(GradientClipping(C, per_sample=True), network, images, labels)
    torch.testing.assert_close(seen.entries, clipped, rtol=1e-10, atol=1e-12)
    noisy = observe_images(DPSGD(C, 0.7, per_sample=True), network, images, labels)
    noise = (noisy.entries - clipped) / (0.7 * C)
    # 700 standard normals: their mean square is 1 within 5 standard deviations sqrt(2/n)
    assert abs(float(noise.square().mean()) - 1) < 5 * (2 / len(noise)) ** 0.5
    whole = observe_images(GradientClipping(C), network, images, labels).entries
    assert (whole - clipped).norm() > 0.1 * clipped.norm()


def test_local_steps_are_those_of_a_loop_on_the_module() -> None:
    """The rate of a step is lr_times_m / m, m the units that the output layer receives; the server sees the sum of
    gradients, (w_0 - w_T) / rate."""
    network = small("resnet")
    images, labels = batch(4)
    steps, lr_times_m = 5, 0.7
    module = network.to("cpu").module
    rate = lr_times_m / 7
    before = [p.detach().clone() for p in module.parameters()]
    optimiser = torch.optim.SGD(module.parameters(), lr=rate)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(module(images.double()), labels, reduction="sum").backward()
        optimiser.step()
    moved = torch.cat(
        [((a - b.detach()) / rate).flatten() for a, b in zip(before, module.parameters(), strict=True)]
    )
    defense = LocalAggregation(steps=steps, lr_times_m=lr_times_m, batches="same")
    seen = observe_images(defense, network, images, labels).entries
    torch.testing.assert_close(seen, moved, rtol=1e-9, atol=1e-10)
    assert (seen - steps * network.client(images, labels).gradient()).norm() > 1e-2 * seen.norm()


def test_dropout_of_a_network_without_an_attacked_layer_drops_what_its_output_layer_receives() -> None:
    network = ImageNetwork.of(drawn(layers(nn.Linear(32, 3))).double(), SHAPE)
    seen = observe_images(Dropout(0.5, per_sample=False), network, *batch())
    dropped = (seen.gradient("3.weight") == 0).all(dim=0)
    assert 5 < int(dropped.sum()) < 27  # of 32 units half, within four standard deviations
