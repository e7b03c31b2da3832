"""Errors of pictures, and means with intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from attack.image.metrics import GREY, HIGHEST_PSNR, image_errors
from verify.judge.statistics import Mean


@pytest.fixture(scope="module")
def truth() -> torch.Tensor:
    return torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_the_order_of_found_pictures_does_not_matter(truth: torch.Tensor) -> None:
    noise = 0.1 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
    found = (truth + noise).clamp(0, 1)
    straight, turned = image_errors(truth, found), image_errors(truth, found[[2, 0, 1]])
    assert straight.order == (0, 1, 2) and turned.order == (1, 2, 0)
    assert straight.mse == turned.mse and straight.ssim == turned.ssim and straight.failed == 0
    for mse, psnr, one, other in zip(straight.mse, straight.psnr, truth, found, strict=True):
        assert mse == pytest.approx(float((one - other).square().mean()), rel=1e-6)
        assert psnr == pytest.approx(-10 * math.log10(mse), rel=1e-6)


def test_the_same_pictures_have_no_error(truth: torch.Tensor) -> None:
    errors = image_errors(truth, truth.flip(0))
    assert errors.mse == (0.0,) * 3 and errors.psnr == (HIGHEST_PSNR,) * 3
    assert errors.ssim == pytest.approx((1.0,) * 3)
    assert image_errors(truth, 1 - truth).ssim[0] < 0.5


def test_pictures_that_are_missing_count_as_grey(truth: torch.Tensor) -> None:
    """The Hungarian method gives the one found picture to its own, wherever that stands."""
    errors = image_errors(truth, truth[1:2])
    assert errors.order == (None, 0, None) and errors.failed == 2
    grey = image_errors(truth, torch.full_like(truth, GREY))
    assert errors.mse[0] == grey.mse[0] and errors.mse[1] == 0.0 and errors.ssim[2] == grey.ssim[2]
    assert image_errors(truth, None).failed == 3 and image_errors(truth, truth[:0]).mse == grey.mse
    more = image_errors(truth, torch.cat([1 - truth, truth]))
    assert more.order == (3, 4, 5)


def test_what_is_no_batch_of_pictures_is_refused(truth: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        image_errors(truth + 1, truth)
    with pytest.raises(ValueError, match="shape"):
        image_errors(truth, truth[:, :, :6])
    with pytest.raises(ValueError, match="finite"):
        image_errors(truth, truth * math.nan)
    with pytest.raises(ValueError, match="6 pixels"):
        image_errors(truth[..., :4], truth[..., :4])
    with pytest.raises(ValueError, match="shape"):
        image_errors(truth[0], truth[0])


def test_the_interval_of_a_mean_holds_it_as_often_as_it_says() -> None:
    """2000 samples of 5 normals, level .9: the share of 1800 scatters by 13; five times that is allowed."""
    generator = np.random.default_rng(0)
    held = 0
    for values in generator.normal(1.0, 2.0, size=(2000, 5)):
        interval = Mean.of(values, 0.9)
        held += interval.low <= 1.0 <= interval.high
    assert abs(held - 1800) < 70
    assert Mean.of([2.0]) == Mean(1, 2.0, -math.inf, math.inf) and math.isnan(Mean.of([]).value)
