"""Untrained networks as priors of pictures, and searches that stop where noise is all that is left."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from attack.image.feature_inversion import FeatureInversion
from attack.image.inversion import invert
from attack.image.known import model_of
from attack.image.matching import ImageMatching
from attack.image.metrics import image_errors
from attack.image.objective import OBJECTIVES, Misfit
from attack.image.objective import WEIGHTS as WAYS
from attack.image.observed import ImageObservation, observe_images
from attack.image.optimise import Evaluation, best_start, by_autograd, minimise
from attack.image.picture_kinds import PICTURES
from attack.image.priors import DeepDecoder, Generated, UNet
from attack.networks.image.convnet import conv_net
from attack.networks.image.head import Head
from attack.networks.image.network import ImageNetwork
from attack.streams import uniform
from bounds import GradientNoise, NoDefense

SHAPES = [(1, 8, 8), (3, 32, 32), (1, 9, 13), (2, 4, 5), (1, 64, 64)]
KINDS = ("unet", "decoder")

#: Settings of a search for weights: Adam on the slope itself.
WEIGHTS = ImageMatching(tv=0.0, optimiser="adam", step=0.03, schedule="cosine", iterations=60)


def network(
    shape: tuple[int, int, int] = (1, 8, 8), dtype: torch.dtype = torch.float32, m: int = 48
) -> ImageNetwork:
    head = Head(m=m, activation="gelu")
    return conv_net(shape, 10, channels=(8, 12), activation="gelu", head=head, dtype=dtype)


def blobs(B: int, size: int = 8) -> torch.Tensor:
    """Soft bright spots on dark, (B, 1, size, size)."""
    at = torch.linspace(0, 1, size)
    places = uniform((B, 2, 2, 1), 0, "blobs", device="cpu", dtype=torch.float32)
    spots = torch.exp(-((at - places).square()) / 0.06)
    return (spots[:, 0, :, :, None] * spots[:, 1, :, None, :]).amax(dim=1, keepdim=True).clamp(0, 1)


def made(kind: str, net: ImageNetwork, B: int = 2) -> Generated:
    picture = PICTURES[kind](net, B, "normal", True)
    assert isinstance(picture, Generated)
    return picture


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_any_shape_from_their_seed(kind: str, shape: tuple[int, int, int]) -> None:
    picture = made(kind, network(shape))
    start = picture.start(3, 0)
    images = picture.images(start)
    assert images.shape == (2, *shape) and images.dtype == torch.float32
    assert 0 < float(images.min()) < float(images.max()) < 1
    assert picture.limits() == (None,) * len(start)
    assert torch.equal(images, made(kind, network(shape)).images(picture.start(3, 0)))
    others = [images[1:], *(picture.images(picture.start(*key))[:1] for key in ((4, 0), (3, 1)))]
    assert all(float((images[:1] - other).abs().max()) > 0.01 for other in others)
    other = dataclasses.replace(picture, seed=1)  # other noise
    assert float((other.images(start) - images).abs().max()) > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_the_slope_is_that_of_the_pictures_and_of_their_own_network(kind: str) -> None:
    """Central differences of 1e-6 along a random direction, double precision: to 1e-5 of the slope, away from kinks of ReLU,
    which 1e-6 seldom meets (seed 0)."""
    picture = made(kind, network((1, 9, 13), torch.float64))
    start = [v.requires_grad_() for v in picture.start(0, 0)]
    along = [v.detach() for v in picture.start(1, 0)]
    slopes = torch.autograd.grad(picture.images(start).square().sum(), start)
    slope = sum(float((a * s).sum()) for a, s in zip(along, slopes, strict=True))

    def at(step: float) -> float:
        moved = [v.detach() + step * a for v, a in zip(start, along, strict=True)]
        return float(picture.images(moved).square().sum())

    assert (at(1e-6) - at(-1e-6)) / 2e-6 == pytest.approx(slope, rel=1e-5)
    first = torch.autograd.grad(picture.images(start)[0].sum(), start)
    for each in first:  # groups of the first picture, then of the second
        mine, other = each.chunk(2)
        assert mine.any() and not other.any()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_decoder_has_the_weights_that_it_says(shape: tuple[int, int, int]) -> None:
    for channels, depth in ((6, 1), (5, 0)):
        module = DeepDecoder(shape, 2, channels=channels, depth=depth)
        count = sum(p.numel() for p in module.parameters())
        assert count == 2 * ((depth + 1) * channels * (channels + 2) + shape[0] * (channels + 1))
    usual = DeepDecoder(shape, 1)
    more = DeepDecoder(shape, 1, channels=usual.inputs[0] + 1)
    fewer, many = (sum(p.numel() for p in module.parameters()) for module in (usual, more))
    assert fewer <= math.prod(shape) < many


def fitted(picture: Generated, wanted: torch.Tensor, iterations: int) -> float:
    """PSNR of pictures that are fitted directly."""
    search = dataclasses.replace(WEIGHTS, iterations=iterations)
    found = minimise(
        by_autograd(lambda *v: (picture.images(v) - wanted).square().mean()),
        picture.start(0, 0),
        search,
        limits=picture.limits(),
    )
    return image_errors(wanted, picture.images(found.variables).detach()).mean_psnr


@pytest.mark.parametrize(("kind", "above"), [("unet", 25), ("decoder", 20)])
def test_a_picture_is_fitted_before_noise(kind: str, above: float) -> None:
    """The same pixels of a picture in random order are noise of the same mean and variance."""
    wanted = blobs(1, 16)
    order = uniform((256,), 0, "order", device="cpu", dtype=torch.float32).argsort()
    noise = wanted.flatten(2)[..., order].view_as(wanted)
    picture = made(kind, network((1, 16, 16)), 1)
    one, other = (fitted(picture, of, 50) for of in (wanted, noise))
    assert one > above and one > other + 5


def seen_of(
    images: torch.Tensor, net: ImageNetwork, sigma: float = 0.0
) -> tuple[ImageObservation, torch.Tensor]:
    labels = torch.arange(len(images)) + 3
    defense = GradientNoise(sigma) if sigma else NoDefense()
    return observe_images(defense, net, images, labels, relative=bool(sigma)), labels


@pytest.mark.parametrize(("kind", "iterations"), [("unet", 35), ("decoder", 60)])
def test_matching_finds_pictures_by_their_gradient(kind: str, iterations: int) -> None:
    """Of another batch's gradient it finds that one: the gradient decides, not the prior."""
    net, images = network((1, 16, 16)), blobs(4, 16)
    attack = dataclasses.replace(WEIGHTS, picture=kind, iterations=iterations)
    for mine, other in ((images[:2], images[2:]), (images[2:], images[:2])):
        seen, labels = seen_of(mine, net)
        found = invert(seen, attack, labels=labels)
        assert found.diagnostics.status == "ok"
        assert image_errors(mine, found.images).mean_psnr > 20 > image_errors(other, found.images).mean_psnr


def test_labels_are_searched_with_weights_and_the_seed_decides() -> None:
    net, images = network(), blobs(1)
    seen, labels = seen_of(images, net)
    attack = dataclasses.replace(WEIGHTS, picture="decoder", labels="joint", iterations=15)
    found, again, other = (invert(seen, attack, seed=seed) for seed in (2, 2, 3))
    assert found.labels is not None and found.labels.tolist() == labels.tolist()
    assert found.diagnostics.labels_from == "joint"
    torch.testing.assert_close(again.images, found.images, rtol=0, atol=0)
    assert not torch.equal(other.images, found.images)


def test_weights_are_found_by_lbfgs() -> None:
    net, images = network(), blobs(1)
    seen, labels = seen_of(images, net)
    attack = dataclasses.replace(WEIGHTS, picture="decoder", optimiser="lbfgs", iterations=20)
    begun, found = (invert(seen, dataclasses.replace(attack, iterations=n), labels=labels) for n in (1, 20))
    assert image_errors(images, found.images).mean_psnr > image_errors(images, begun.images).mean_psnr + 3


# --- the floor of noise -----------------------------------------------------------------------------------------------


def test_a_search_stops_at_the_first_iterate_that_noise_explains() -> None:
    net, images = network(), blobs(2)
    seen, labels = seen_of(images, net, sigma=0.3)
    attack = dataclasses.replace(WEIGHTS, schedule="constant", keep="floor")
    level = misfit_of(seen).level
    found = invert(seen, attack, labels=labels).diagnostics
    assert found.objective is not None and 0 < found.objective <= level
    assert 1 < found.iterations < attack.iterations
    short = dataclasses.replace(attack, iterations=found.iterations - 1)
    before = invert(seen, dataclasses.replace(short, keep="last"), labels=labels).diagnostics
    assert before.objective is not None and before.objective > level
    on = invert(seen, dataclasses.replace(attack, keep="best"), labels=labels).diagnostics
    assert on.objective is not None and on.objective < found.objective and on.iterations == attack.iterations
    # where none gets there it is the best
    missed = [
        invert(seen, dataclasses.replace(short, keep=keep), labels=labels) for keep in ("floor", "best")
    ]
    torch.testing.assert_close(missed[0].images, missed[1].images, rtol=0, atol=0)


def misfit_of(seen: ImageObservation, kind: str = "cosine", weights: str = "global") -> Misfit:
    sizes = tuple(g.numel() for g in seen.gradients)
    return Misfit.of(model_of(seen), seen.entries, sizes, kind=kind, weights=weights)


def test_noise_exceeds_the_level_at_the_truth_in_one_of_twenty_draws() -> None:
    """100 draws of noise, seeds 0 to 99: 5 in the mean; above 13 with a chance of less than .1 % (binomial), none with .6 %.
    By layer the noise of few entries has a longer tail than a normal one, so up to 16. Above the mean it is about half."""
    net, images, labels = network(), blobs(1), torch.tensor([3])
    clean = observe_images(NoDefense(), net, images, labels)
    ways = [(kind, weights) for kind in OBJECTIVES for weights in WAYS]
    above, past = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for seed in range(100):
        seen = observe_images(GradientNoise(1.0), net, images, labels, seed=seed, relative=True)
        for way in ways:
            misfit = misfit_of(seen, *way)
            value = misfit(clean.entries)[0]
            above[way] += value > misfit.level
            past[way] += value > misfit.floor
    for way in ways:
        assert 1 <= above[way] <= (13 if way[1] == "global" else 16) and 35 <= past[way] <= 65, way


def test_without_noise_or_with_nothing_but_noise_the_best_is_kept() -> None:
    net, images = network(), blobs(1)
    attack = dataclasses.replace(WEIGHTS, iterations=8)
    for sigma in (0.0, 1e3):
        seen, labels = seen_of(images, net, sigma)
        # so that noise is all that is seen, whatever it happened to be
        seen = dataclasses.replace(seen, gradients=tuple(0.99 * g for g in seen.gradients)) if sigma else seen
        floor, best = (
            invert(seen, dataclasses.replace(attack, keep=keep), labels=labels) for keep in ("floor", "best")
        )
        assert floor.diagnostics.iterations == 8
        torch.testing.assert_close(floor.images, best.images, rtol=0, atol=0)


def tilted(variables: tuple[torch.Tensor, ...]) -> Evaluation:
    """Of a misfit z^2 and another term 6 (z + 10), both of one variable: together they are least at z = -3."""
    z = float(variables[0].detach())
    return Evaluation(z**2 + 6 * (z + 10), (torch.full_like(variables[0], 2 * z + 6),), z**2)


@pytest.mark.parametrize("optimiser", ["adam", "lbfgs"])
def test_the_floor_is_of_the_misfit_without_other_terms(optimiser: str) -> None:
    search = dataclasses.replace(WEIGHTS, optimiser=optimiser, step=0.3, schedule="constant")
    start = (torch.tensor([2.0]),)
    found = minimise(tilted, start, search, limits=(None,), level=1.0)
    assert (
        found.reached and abs(float(found.variables[0])) <= 1 and found.value == tilted(found.variables).value
    )
    if optimiser == "adam":
        assert float(found.variables[0]) > 0  # the first, from above
    best = minimise(tilted, start, search, limits=(None,))
    assert not best.reached and float(best.variables[0]) == pytest.approx(-3, abs=0.1)
    assert best.value < found.value


def test_lbfgs_evaluates_no_more_often_than_the_others() -> None:
    """Once for each iteration and once at the start, also within a line search: ``|z|`` and a wave, whose line searches
    take several; the best point that was looked at is kept."""
    seen: list[float] = []

    def wavy(variables: tuple[torch.Tensor, ...]) -> Evaluation:
        z = variables[0].detach()
        seen.append(float(z.abs().sum() + torch.cos(20 * z).sum()))
        return Evaluation(seen[-1], (z.sign() - 20 * torch.sin(20 * z),), seen[-1])

    start = (torch.tensor([2.0, -1.3], dtype=torch.float64),)
    for iterations in (1, 3, 10):
        seen.clear()
        search = dataclasses.replace(WEIGHTS, optimiser="lbfgs", iterations=iterations)
        found = minimise(wavy, start, search, limits=(None,))
        assert found.evaluations == len(seen) <= iterations + 1
        assert found.value == min(seen)
        if iterations > 1:
            assert len(seen) == iterations + 1 and found.iterations < iterations
        assert wavy(found.variables).value == found.value


def test_a_start_that_is_down_to_the_floor_is_kept_before_one_of_less_value() -> None:
    """From -1 the first iterate is down to 1; from -5 the search passes no such, and ends at -3, where the value is less."""
    search = dataclasses.replace(WEIGHTS, step=0.3, schedule="constant", starts=2)
    starts = [(torch.tensor([z]),) for z in (-5.0, -1.0)]
    best = best_start(tilted, starts, search, limits=(None,), progress=None, level=1.0)
    assert best.index == 1 and best.found.reached and best.found.value == 55.0
    assert best_start(tilted, starts, search, limits=(None,), progress=None).found.value < 55


# --- an accelerator ---------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_made_on_a_device(kind: str) -> None:
    net, images = (
        network((1, 9, 13)).to("cuda"),
        torch.rand(2, 1, 9, 13, generator=torch.Generator().manual_seed(0)),
    )
    seen, labels = seen_of(images, net)
    attack = dataclasses.replace(WEIGHTS, picture=kind)
    begun, found = (invert(seen, dataclasses.replace(attack, iterations=n), labels=labels) for n in (1, 30))
    assert found.images.device.type == "cuda"
    assert begun.diagnostics.objective is not None and found.diagnostics.objective is not None
    assert found.diagnostics.objective < 0.5 * begun.diagnostics.objective


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ImageMatching(picture="u-net"), "picture must be one of pixels, unet, decoder"),
        (lambda: ImageMatching(picture="unet", start="grey"), "start must be 'normal' with picture='unet'"),
        (lambda: ImageMatching(picture="decoder", boxed=False), "boxed must be True with picture='decoder'"),
        (lambda: ImageMatching(keep="first"), "keep must be one of best, last, floor"),
        (lambda: FeatureInversion(keep="floor"), "keep must be one of best, last"),
        (lambda: UNet((1, 3, 8), 1), "sides of at least 4"),
        (lambda: UNet((1, 8, 8), 1, depth=3), "depth must be between 0 and 2"),
        (lambda: DeepDecoder((1, 8, 8), 1, channels=0), "channels must be at least 1"),
        (lambda: DeepDecoder((1, 8, 8), 0), "batch_size must be at least 1"),
    ],
)
def test_bad_input_is_told(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
