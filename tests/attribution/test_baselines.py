"""What each baseline holds, and the blur against two oracles."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import ndimage

from rectify.attribution.attribution import Settings
from rectify.attribution.baselines import baseline_images, baseline_name, gaussian_blur
from rectify.errors import UsageError
from rectify.names import BASELINES
from tests.attribution import slow_paths
from tests.attribution.tiny import BOUNDS, SHAPE, images

LOW = torch.tensor([-2.0, -1.0]).view(2, 1, 1).double()
HIGH = torch.tensor([1.0, 3.0]).view(2, 1, 1).double()


@pytest.mark.parametrize("sigma", [0.2, 0.7, 1.6, 4.0, 30.0])
def test_the_blur_is_a_convolution_with_mirrored_borders(sigma: float) -> None:
    x, _ = images()
    found = gaussian_blur(x, sigma)
    reach = max(1, math.ceil(4 * sigma))
    for row, image in enumerate(x):
        torch.testing.assert_close(found[row], slow_paths.blurred(image, sigma), rtol=1e-12, atol=1e-13)
        theirs = ndimage.gaussian_filter(
            image.numpy(), sigma=[0, sigma, sigma], mode="reflect", radius=[0, reach, reach]
        )
        torch.testing.assert_close(found[row], torch.from_numpy(theirs), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.25])  # where scipy rounds four sigma as we do
def test_the_blur_is_scipy_s_at_four_sigma(sigma: float) -> None:
    x, _ = images(1)
    theirs = ndimage.gaussian_filter(x[0].numpy(), sigma=[0, sigma, sigma], mode="reflect", truncate=4)
    torch.testing.assert_close(gaussian_blur(x, sigma)[0], torch.from_numpy(theirs), rtol=1e-12, atol=1e-13)


def test_the_blur_keeps_the_mean_flat_images_and_what_has_no_blur() -> None:
    x, _ = images()
    torch.testing.assert_close(gaussian_blur(x, 1.3).mean((2, 3)), x.mean((2, 3)))
    flat = torch.full((1, *SHAPE), 0.3)
    torch.testing.assert_close(gaussian_blur(flat, 2.0), flat)
    same = gaussian_blur(x, 0)
    assert torch.equal(same, x) and same.data_ptr() != x.data_ptr()
    assert gaussian_blur(x.float(), 1.0).dtype == torch.float32
    tall = torch.rand(1, 1, 9, 1)
    assert gaussian_blur(tall, 2.0).shape == tall.shape


def test_the_plain_baselines() -> None:
    x, _ = images()
    settings = {name: Settings(baseline=name, bounds=(LOW, HIGH)) for name in BASELINES}
    assert torch.equal(baseline_images(x, settings["black"]), LOW.expand_as(x))
    assert torch.equal(baseline_images(x, settings["white"]), HIGH.expand_as(x))
    assert not baseline_images(x, settings["mean"]).any()
    torch.testing.assert_close(baseline_images(x, settings["blur"]), gaussian_blur(x, 0.6))
    for name in BASELINES:
        found = baseline_images(x, settings[name])
        assert found.shape == x.shape and found.dtype == x.dtype and found.is_contiguous()
        found.zero_()  # a copy of its own
    assert bool(x.any()) and bool(LOW.all())


def test_noise_stays_in_range_and_follows_the_seed() -> None:
    x = torch.zeros(8, 2, 20, 20, dtype=torch.float64)
    for name in ("noise", "uniform"):
        one, again, other = (
            baseline_images(x, Settings(baseline=name, bounds=(LOW, HIGH), seed=seed)) for seed in (0, 0, 1)
        )
        assert torch.equal(one, again) and not torch.equal(one, other)
        assert bool((one >= LOW).all()) and bool((one <= HIGH).all())
    spread = (one - (LOW + HIGH) / 2).std((0, 2, 3)) / (HIGH - LOW).flatten()
    torch.testing.assert_close(spread, torch.full_like(spread, 12**-0.5), rtol=0.05, atol=0)
    ends = (torch.full((2, 1, 1), -1.0), torch.full((2, 1, 1), 1.0))
    noisy = baseline_images(x, Settings(baseline="noise", bounds=ends))  # from grey, each end is one deviation away
    assert float((noisy.abs() == 1).double().mean()) == pytest.approx(0.317, abs=0.02)
    assert float((noisy.abs() < 0.5).double().mean()) == pytest.approx(0.383, abs=0.02)


def test_images_as_baselines() -> None:
    x, _ = images()
    one, all_of_them = torch.rand(1, *SHAPE), torch.rand(3, *SHAPE)
    assert torch.equal(baseline_images(x, Settings(baseline=one)), one.double().expand_as(x))
    assert torch.equal(baseline_images(x, Settings(baseline=one[0])), one.double().expand_as(x))
    assert torch.equal(baseline_images(x, Settings(baseline=all_of_them)), all_of_them.double())
    for wrong in (torch.rand(2, *SHAPE), torch.rand(1, 3, 5, 6)):
        with pytest.raises(UsageError, match="does not fit images of 2x5x6"):
            baseline_images(x, Settings(baseline=wrong))
    assert baseline_name(Settings(baseline=one)) == "image" and baseline_name(Settings()) == "black"


def test_what_cannot_be_is_said() -> None:
    x, _ = images(1)
    with pytest.raises(UsageError, match="unknown baseline 'grey': give black, white"):
        baseline_images(x, Settings(baseline="grey", bounds=BOUNDS))
    for name in ("black", "white", "noise", "uniform"):
        with pytest.raises(UsageError, match="black and of a white pixel"):
            baseline_images(x, Settings(baseline=name))
