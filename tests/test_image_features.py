"""Attacks that find features first: exact rows and the cocktail party, and pictures from features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from attack.image.cocktail_party import CocktailParty
from attack.image.completion import completed
from attack.image.datasets import load_patches
from attack.image.exact_features import exact_features
from attack.image.exact_rows import ExactRows
from attack.image.feature_inversion import FeatureInversion, invert_features
from attack.image.feature_matching import cosine_mismatch, squared_mismatch
from attack.image.head_gradient import head_gradient, is_relu, on_pixels
from attack.image.inversion import InversionError, invert
from attack.image.labels import recover_labels
from attack.image.observed import observe_images
from attack.networks.image.convnet import conv_net, seeded
from attack.networks.image.head import Head
from attack.networks.image.network import ImageNetwork
from bounds import Dropout, GradientClipping, GradientNoise, GradientPruning, NoDefense

LABELS = torch.tensor([1, 4, 4, 7, 0, 2, 9, 3])


def patches(B: int) -> torch.Tensor:
    """Photograph patches (B, 3, 32, 32), no two nearly parallel."""
    batch = load_patches(B, 1, center=False, max_cosine=0.95)
    return torch.from_numpy(batch.pictures(batch.features))


def grey(B: int) -> torch.Tensor:
    """(B, 1, 16, 16)."""
    return patches(B).mean(dim=1, keepdim=True)[..., ::2, ::2]


def psnr(truth: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """Of the nearest picture found to each."""
    errors = (truth[:, None] - found[None]).double().square().flatten(2).mean(dim=2)
    return -10 * errors.amin(dim=1).log10()


@pytest.fixture(scope="module")
def network() -> ImageNetwork:
    return conv_net(
        (1, 16, 16),
        10,
        channels=(32,),
        head=Head(m=256, features=64),
        mean=(0.45,),
        std=(0.2,),
        dtype=torch.float64,
    )


def on_pixels_network(shape: tuple[int, int, int], m: int) -> ImageNetwork:
    size = shape[0] * shape[1] * shape[2]
    with seeded(0):
        module = nn.Sequential(nn.Flatten(), nn.Linear(size, m), nn.ReLU(), nn.Linear(m, 10)).double()
    return ImageNetwork(module, shape, "1", "3", mean=(0.45,), std=(0.25,))


def test_a_mismatch_is_of_each_row() -> None:
    wanted = torch.tensor([[3.0, 4.0], [1.0, 0.0], [1.0, 1.0]])
    found = torch.tensor([[-6.0, -8.0], [0.0, 2.0], [1.0, 0.0]])
    torch.testing.assert_close(cosine_mismatch(found, wanted), torch.tensor([0.0, 1.0, 0.5]))
    torch.testing.assert_close(squared_mismatch(found, wanted), torch.tensor([9.0, 5.0, 0.5]))
    weights = torch.tensor([1.0, 0.5, 0.0])
    torch.testing.assert_close(cosine_mismatch(found, wanted, weights), torch.tensor([0.0, 0.5, 0.0]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_features_are_exact_to_rounding(network: ImageNetwork, dtype: torch.dtype) -> None:
    net = (
        network
        if dtype == torch.float64
        else conv_net(
            (1, 16, 16), 10, channels=(32,), head=Head(m=256, features=64), mean=(0.45,), std=(0.2,)
        )
    )
    images = grey(4).to(dtype)
    seen = observe_images(NoDefense(), net, images, LABELS[:4])
    found, truth = exact_features(seen), net.features(images).double().detach().numpy()
    errors = np.linalg.norm(truth[:, None] - found.features[None], axis=2)
    nearest = errors.argmin(axis=1)
    assert sorted(nearest) == [0, 1, 2, 3] and found.sized and found.exact
    limit = 1e-6 if dtype == torch.float64 else 1e-3  # single precision, over the separation of the features
    assert errors.min(axis=1).max() < limit * np.linalg.norm(truth, axis=1).min()
    assert found.classes is not None and found.classes[nearest].tolist() == LABELS[:4].tolist()
    assert recover_labels(seen, "exact").tolist() == sorted(LABELS[:4].tolist())


def test_exact_rows_give_pictures_and_say_when_they_cannot(network: ImageNetwork) -> None:
    images = grey(4)
    direct = on_pixels_network((1, 16, 16), 256)
    assert on_pixels(direct) and not on_pixels(network)
    found = invert(observe_images(NoDefense(), direct, images, LABELS[:4]), ExactRows())
    assert psnr(images, found.images).min() > 80 and found.diagnostics.iterations == 0
    assert found.labels is not None and sorted(found.labels.tolist()) == sorted(LABELS[:4].tolist())
    deep = conv_net((1, 16, 16), 10, channels=(4,), head=Head(m=256), mean=(0.45,), std=(0.2,))
    shown = images.float()  # 1024 features of a picture of 256 pixels
    made = invert(
        observe_images(NoDefense(), deep, shown, LABELS[:4]),
        ExactRows(pictures=FeatureInversion(iterations=150, tv=1e-3)),
    )
    assert psnr(shown, made.images).min() > 25
    for defense in (GradientNoise(1e-3), GradientPruning(0.9)):
        with pytest.raises(InversionError):
            invert(observe_images(defense, network, images, LABELS[:4]), ExactRows(max_starts=20))
    smooth = conv_net((1, 16, 16), 10, channels=(4,), head=Head(m=32, activation="gelu"))
    assert is_relu(network) and not is_relu(smooth)
    with pytest.raises(ValueError, match="ReLU"):
        invert(observe_images(NoDefense(), smooth, images.float(), LABELS[:4]), ExactRows())


def test_pruned_rows_are_filled_in_by_their_rank() -> None:
    """Most entries of rows of rank 3 determine the others; a twentieth does not, and it is told."""
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((60, 3)) @ generator.standard_normal((3, 40))
    kept = np.abs(rows) >= np.quantile(np.abs(rows), 0.3)
    limit = float(np.abs(rows[kept]).min())
    found = completed(np.where(kept, rows, 0.0), kept, 3, limit=limit)
    assert found.determined and not found.sure.all()  # one row is small everywhere
    assert found.sure.mean() > 0.9
    np.testing.assert_allclose(found.rows[found.sure], rows[found.sure], atol=1e-6 * np.abs(rows).max())
    few = np.abs(rows) >= np.quantile(np.abs(rows), 0.95)
    assert not completed(np.where(few, rows, 0.0), few, 3).determined
    assert not completed(np.where(kept, rows, 0.0), kept, 2, limit=limit).determined


def test_exact_rows_survive_what_leaves_enough() -> None:
    direct = on_pixels_network((1, 8, 8), 128)
    images = grey(2)[..., ::2, ::2]
    pruned = observe_images(GradientPruning(0.5), direct, images, LABELS[:2], scope="layer")
    assert head_gradient(pruned).filled
    for defense in (GradientPruning(0.5), Dropout(0.5, per_sample=False), GradientClipping(0.1)):
        found = invert(observe_images(defense, direct, images, LABELS[:2]), ExactRows())
        assert psnr(images, found.images).min() > 60, defense
    with pytest.raises(InversionError, match="too few for 64 features"):
        invert(observe_images(Dropout(0.5), direct, images, LABELS[:2]), ExactRows(max_starts=20))


def test_clipping_leaves_rows_explained_without_a_bias() -> None:
    """Up to a factor, lengths unknown: the loss is not that of the rows then. Without clipping it tells lengths."""
    images = grey(2)[..., ::2, ::2]
    bare = conv_net(
        (1, 8, 8), 10, channels=(4,), head=Head(m=128, features=16, bias=False), dtype=torch.float64
    )
    truth = nn.functional.normalize(bare.features(images), dim=1)
    for defense, sized in ((NoDefense(), True), (GradientClipping(0.05), False)):
        found = exact_features(observe_images(defense, bare, images, LABELS[:2]))
        unit = nn.functional.normalize(torch.from_numpy(found.features), dim=1)
        assert (truth @ unit.T).abs().amax(dim=1).min() > 1 - 1e-9 and found.sized is sized


def test_a_frozen_bias_has_values_though_no_gradient() -> None:
    with seeded(1):
        module = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)).double()
    for layer in (module[1], module[3]):
        nn.init.normal_(layer.bias)
        layer.bias.requires_grad_(False)
    network, images = ImageNetwork.of(module, (1, 8, 8)), grey(2)[..., ::2, ::2]
    assert is_relu(network)
    found = exact_features(observe_images(NoDefense(), network, images, LABELS[:2]))
    truth = nn.functional.normalize(network.features(images), dim=1)
    unit = nn.functional.normalize(torch.from_numpy(found.features), dim=1)
    assert found.exact and (truth @ unit.T).abs().amax(dim=1).min() > 1 - 1e-9


def test_pictures_without_a_finite_value_are_no_result(network: ImageNetwork) -> None:
    wanted = torch.full((1, network.d), torch.nan, dtype=torch.float64)
    with pytest.raises(InversionError, match="finite"):
        invert_features(network, wanted, FeatureInversion(iterations=2), sized=True)
    line = conv_net((1, 1, 9), 3, channels=(2,), head=Head(m=4))  # one row: no neighbours below
    made = invert_features(line, torch.ones(1, line.d), FeatureInversion(iterations=2), sized=True)
    assert made.mismatch.isfinite().all() and made.iterations == 2


@pytest.mark.parametrize(("B", "least"), [(4, 0.9), (8, 0.8)])
def test_the_cocktail_party_hears_pictures(B: int, least: float) -> None:
    """Mean |correlation| of pictures that are nearly uncorrelated, means apart: measured .94 and .87, principal components
    .87 and .74."""
    batch = load_patches(8, 1, max_cosine=0.3)
    images = torch.from_numpy(batch.pictures(batch.features))[:B]
    direct = on_pixels_network((3, 32, 32), 64)
    seen = observe_images(NoDefense(), direct, images, LABELS[:B])
    truth = direct.features(images)

    def heard(attack: CocktailParty) -> float:
        found = invert(seen, attack)
        assert found.features is not None and len(found.images) == B
        u, v = (
            nn.functional.normalize(z - z.mean(dim=1, keepdim=True), dim=1) for z in (truth, found.features)
        )
        return float((u @ v.T).abs().amax(dim=1).mean())

    found = heard(CocktailParty(iterations=200, step=0.01, starts=1))
    assert found > least
    # the control: principal components, which are uncorrelated too
    rows = seen.gradient("1.weight")
    principal = torch.linalg.svd(rows - rows.mean(dim=1, keepdim=True), full_matrices=False)[2][:B]
    u = nn.functional.normalize(truth - truth.mean(dim=1, keepdim=True), dim=1)
    assert float((u @ principal.T).abs().amax(dim=1).mean()) < found - 0.04


def test_options_are_checked(network: ImageNetwork) -> None:
    with pytest.raises(ValueError, match="method"):
        CocktailParty(method="magic")
    with pytest.raises(ValueError, match="iterations"):
        FeatureInversion(iterations=0)
    with pytest.raises(ValueError, match="step must be positive"):
        FeatureInversion(step=0.0)
    with pytest.raises(ValueError, match="features"):
        invert_features(network, torch.zeros(2, 3), FeatureInversion(), sized=True)
    seen = observe_images(NoDefense(), network, grey(2)[[0, 0]], LABELS[[1, 2]])
    with pytest.raises(InversionError, match="rank"):
        invert(seen, CocktailParty())
