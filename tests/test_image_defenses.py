"""Every defense on the gradient of a whole network, of its entries together and of each layer by itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attack.image.observed import ImageObservation, observe_images
from attack.networks.image.convnet import conv_net
from attack.networks.image.head import Head
from attack.networks.image.network import ImageNetwork
from attack.networks.image.resnet import resnet18
from attack.streams import uniform
from bounds import (
    DEFENSES,
    Defense,
    GradientNoise,
    GradientPruning,
    NoDefense,
    SecureAggregation,
    StochasticRounding,
)

SHAPE, B = (1, 6, 6), 4
IMAGES = torch.rand(B, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 1])

NETWORKS = {
    "conv_net": conv_net(SHAPE, 3, channels=(3,), head=Head(m=7), dtype=torch.float64),
    "resnet": resnet18(SHAPE, 3, width=1, head=Head(m=7), dtype=torch.float64),
}
CLEAN = {kind: observe_images(NoDefense(), network, IMAGES, LABELS) for kind, network in NETWORKS.items()}


def seen(defense: Defense, kind: str, scope: str, seed: int = 1) -> ImageObservation:
    return observe_images(defense, NETWORKS[kind], IMAGES, LABELS, seed=seed, scope=scope)


@pytest.mark.parametrize("family", DEFENSES, ids=lambda family: family.name)
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_a_defense_that_is_off_does_nothing_and_one_that_is_on_repeats_itself(
    family: type[Defense], kind: str, scope: str
) -> None:
    if family.has_off:
        torch.testing.assert_close(seen(family.off(), kind, scope).entries, CLEAN[kind].entries)
    on = family(**{p.name: p.grid[0] for p in family.parameters()} | _STRONGER.get(family.name, {}))
    one, again = seen(on, kind, scope), seen(on, kind, scope)
    assert torch.equal(one.entries, again.entries)
    changed = (one.entries - CLEAN[kind].entries).norm() > 1e-6 * CLEAN[kind].entries.norm()
    assert changed or family.transparent or family is NoDefense


#: Where the first strength of a sweep lies above what these gradients have, or below what is zero anyway.
_STRONGER = {
    "clamping": {"limit": 1e-3},
    "gradient_clipping": {"max_norm": 1e-2},
    "gradient_pruning": {"ratio": 0.95},
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_layers_have_noise_of_their_own(kind: str) -> None:
    found = seen(GradientNoise(2.0), kind, "layer")
    noise = [(a - b) / 2.0 for a, b in zip(found.gradients, CLEAN[kind].gradients, strict=True)]
    large = [n.flatten() for n in noise if n.numel() >= 9]
    for i, one in enumerate(large):
        for other in large[:i]:
            size = min(len(one), len(other))
            # of independent normals the cosine is N(0, 1/size), equal streams have 1: 9 entries reach .98 once in 1e6 pairs
            assert abs(float(torch.cosine_similarity(one[:size], other[:size], dim=0))) < 0.98
    together = torch.cat(large)
    assert abs(float(together.square().mean()) - 1) < 5 * (2 / len(together)) ** 0.5
    other = seen(GradientNoise(2.0), kind, "layer", seed=2)
    assert not torch.equal(other.entries, found.entries)


def test_layers_are_rounded_by_draws_of_their_own() -> None:
    kind, step = "resnet", 1e-3
    found = seen(StochasticRounding(step), kind, "layer").gradients

    def rounded(shift: int) -> list[torch.Tensor]:
        """By the draws of as many layers further."""
        draws = [
            uniform(tuple(g.shape), 1, "rounding", i + shift, device="cpu", dtype=g.dtype)
            for i, g in enumerate(found)
        ]
        return [step * torch.floor(g / step + u) for g, u in zip(CLEAN[kind].gradients, draws, strict=True)]

    assert all(torch.equal(a, b) for a, b in zip(found, rounded(0), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(found, rounded(1), strict=True))


def test_a_global_threshold_leaves_little_of_an_attacked_layer_under_small_output_weights() -> None:
    """With output weights of size 1/m the attacked layer's gradient is 1/m of the output layer's, so that pruning of .9 of
    all entries takes nearly all of it; by layers each keeps a tenth."""
    network = conv_net((1, 16, 16), 10, head=Head(m=256, features=64, scale="1/m"))
    images = torch.rand(B, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    kept = {
        scope: {
            name: float((g != 0).double().mean())
            for name, g in zip(network.names, found.gradients, strict=True)
        }
        for scope in ("global", "layer")
        for found in [observe_images(GradientPruning(0.9), network, images, LABELS, scope=scope)]
    }
    attacked, output = "head.hidden.weight", "head.output.weight"
    assert kept["global"][attacked] < 0.01 and kept["global"][output] > 0.5
    # a tenth of those that are there: a ReLU that is off for all samples leaves rows of zeros, which are pruned first
    assert kept["layer"][attacked] == pytest.approx(0.1, abs=1e-3)
    default = conv_net((1, 16, 16), 10, head=Head(m=256, features=64))
    found = observe_images(GradientPruning(0.9), default, images, LABELS)
    assert float((found.gradient(attacked) != 0).double().mean()) > 0.03


@pytest.mark.parametrize("batch_norm", ["eval", "batch"])
def test_clients_that_are_summed_have_statistics_of_their_own(batch_norm: str) -> None:
    module = nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32, 5),
        nn.ReLU(),
        nn.Linear(5, 3),
    ).double()
    network = ImageNetwork.of(module, SHAPE, batch_norm=batch_norm)
    groups = (1, 0, 1, 0)
    total = observe_images(SecureAggregation(clients=2), network, IMAGES, LABELS, groups=groups).entries
    layered = observe_images(
        SecureAggregation(clients=2), network, IMAGES, LABELS, groups=groups, scope="layer"
    ).entries
    torch.testing.assert_close(layered, total)
    by_hand = torch.zeros_like(total)
    for group in (0, 1):
        chosen = torch.tensor([g == group for g in groups])
        own = network.to("cpu").module
        nn.functional.cross_entropy(own(IMAGES[chosen]), LABELS[chosen], reduction="sum").backward()
        by_hand += torch.cat([p.grad.flatten() for p in own.parameters() if p.grad is not None])
    torch.testing.assert_close(total, by_hand, rtol=1e-9, atol=1e-12)
    together = observe_images(NoDefense(), network, IMAGES, LABELS).entries
    apart = float((together - total).norm() / total.norm())
    assert apart > 1e-2 if batch_norm == "batch" else apart < 1e-12
