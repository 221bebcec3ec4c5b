"""Gradient, gradient times image and SmoothGrad against loops."""

from __future__ import annotations

import pytest
import torch

from rectify.attribution.attribution import Settings
from rectify.attribution.gradients import gradient, gradient_x_input, groups, smoothgrad, steps_of
from rectify.attribution.score import Score
from rectify.errors import UsageError
from tests.attribution import slow_paths
from tests.attribution.tiny import BOUNDS, SHAPE, images, tiny

NETWORK = tiny()


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_the_gradient_is_a_loop_s(batch: int) -> None:
    x, targets = images()
    score = Score(NETWORK, batch=batch)
    found, product = (f(score, x, targets, Settings()) for f in (gradient, gradient_x_input))
    for row, (image, target) in enumerate(zip(x, targets.tolist(), strict=True)):
        expected = slow_paths.slope(slow_paths.probability(NETWORK, target), image)
        torch.testing.assert_close(found.values[row], expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(product.values[row], image * expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.confidence, score(x, targets))
    assert found.baseline is None and found.change is None and found.gap is None and not found.complete


def noise(samples: int, seed: int = 0) -> list[torch.Tensor]:
    """What a generator of the seed gives, one image after the other."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, generator=generator).double() for _ in range(samples)]


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
def test_smoothgrad_is_a_loop_s_whatever_the_batch(batch: int) -> None:
    x, targets = images()
    settings = Settings(steps=5, bounds=BOUNDS, seed=3, options={"noise": 0.2})
    found = smoothgrad(Score(NETWORK, batch=batch), x, targets, settings)
    for row, (image, target) in enumerate(zip(x, targets.tolist(), strict=True)):
        function = slow_paths.probability(NETWORK, target)
        expected = slow_paths.smoothgrad(function, image, 0.2 * 2.5, noise(5, 3))
        torch.testing.assert_close(found.values[row], expected, rtol=1e-9, atol=1e-12)
    assert found.change is None and not found.complete
    assert found.settings == {"steps": 5, "noise": 0.2, "square": False, "seed": 3}


def test_without_bounds_the_range_is_each_image_s_own() -> None:
    x, targets = images(2)
    found = smoothgrad(Score(NETWORK), x, targets, Settings(steps=3))
    for row, (image, target) in enumerate(zip(x, targets.tolist(), strict=True)):
        sigma = 0.15 * float(image.max() - image.min())
        expected = slow_paths.smoothgrad(slow_paths.probability(NETWORK, target), image, sigma, noise(3))
        torch.testing.assert_close(found.values[row], expected, rtol=1e-9, atol=1e-12)


def test_an_image_s_map_does_not_depend_on_its_neighbours_and_a_seed_changes_it() -> None:
    x, targets = images(4)
    score = Score(NETWORK)
    together = smoothgrad(score, x, targets, Settings(steps=4)).values
    alone = smoothgrad(score, x[2:3], targets[2:3], Settings(steps=4)).values
    torch.testing.assert_close(together[2:3], alone)
    assert not torch.allclose(smoothgrad(score, x, targets, Settings(steps=4, seed=1)).values, together)


def test_no_noise_is_the_gradient_and_its_square_the_square() -> None:
    x, targets = images()
    score = Score(NETWORK)
    plain = gradient(score, x, targets, Settings()).values
    for square in (False, True):
        found = smoothgrad(score, x, targets, Settings(steps=2, options={"noise": 0, "square": square})).values
        torch.testing.assert_close(found, plain**2 if square else plain)


def test_impossible_settings_are_said() -> None:
    x, targets = images(1)
    with pytest.raises(UsageError, match="give 0 or more"):
        smoothgrad(Score(NETWORK), x, targets, Settings(options={"noise": -1}))
    with pytest.raises(UsageError, match="give at least 1"):
        smoothgrad(Score(NETWORK), x, targets, Settings(steps=0))


def test_groups_and_steps() -> None:
    assert list(groups(7, 3)) == [3, 3, 1] and list(groups(2, 0)) == [1, 1] and list(groups(0, 5)) == []
    assert steps_of(Settings(), 9) == 9 and steps_of(Settings(steps=2), 9, least=2) == 2
