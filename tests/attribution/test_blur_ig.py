"""Blur integrated gradients against a loop, its completeness and its order."""

from __future__ import annotations

import pytest
import torch

from rectify.attribution.attribution import Settings
from rectify.attribution.baselines import gaussian_blur
from rectify.attribution.blur_ig import blur_ig, blur_scales
from rectify.attribution.score import Score
from rectify.errors import UsageError
from tests.attribution import slow_paths
from tests.attribution.tiny import images, tiny

NETWORK = tiny()


@pytest.mark.parametrize("batch", [1, 4, 64])
@pytest.mark.parametrize("spacing", ["linear", "sqrt"])
def test_it_is_a_loop_s(batch: int, spacing: str) -> None:
    x, targets = images()
    settings = Settings(steps=6, options={"max_sigma": 2.0, "spacing": spacing})
    found = blur_ig(Score(NETWORK, batch=batch), x, targets, settings)
    sigmas = blur_scales(2.0, 6, spacing)
    for row, (image, target) in enumerate(zip(x, targets.tolist(), strict=True)):
        function = slow_paths.probability(NETWORK, target)
        torch.testing.assert_close(
            found.values[row], slow_paths.blur_ig(function, image, sigmas), rtol=1e-8, atol=1e-10
        )
        assert found.path_scores is not None
        along = torch.stack([function(slow_paths.blurred(image, sigma)) for sigma in sigmas])
        torch.testing.assert_close(found.path_scores[row], along)


def test_the_scales_go_from_the_largest_to_none() -> None:
    assert blur_scales(8, 5, "linear") == [8, 6, 4, 2, 0]
    assert blur_scales(8, 5, "sqrt") == pytest.approx([8, 8 * 0.75**0.5, 8 * 0.5**0.5, 4, 0])  # even in its square


@pytest.mark.parametrize("spacing", ["linear", "sqrt"])
def test_it_is_complete_at_second_order(spacing: str) -> None:
    x, targets = images()
    score = Score(NETWORK)
    gaps = []
    for steps in (33, 65, 129):
        settings = Settings(steps=steps, options={"max_sigma": 2.0, "spacing": spacing})
        found = blur_ig(score, x, targets, settings)
        assert found.complete and found.gap is not None and found.change is not None
        gaps.append(float(found.gap.sum()))
    torch.testing.assert_close(found.change, score(x, targets) - score(gaussian_blur(x, 2.0), targets))
    assert gaps[0] / gaps[1] > 3 and gaps[1] / gaps[2] > 3
    assert gaps[2] < 1e-3 * float(found.change.abs().sum())


def test_a_quadratic_function_is_exact_with_two_points() -> None:
    class Square(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x.flatten(1) ** 2).cumsum(1)[:, -3:]

    x, targets = images(2)
    found = blur_ig(Score(Square().eval(), "logit"), x, targets, Settings(steps=2))
    assert found.gap is not None and float(found.gap.max()) < 1e-12


def test_the_baseline_is_the_blurred_image_and_its_width_follows_the_size() -> None:
    x, targets = images()
    found = blur_ig(Score(NETWORK), x, targets, Settings(steps=3))
    assert found.baseline is not None
    torch.testing.assert_close(found.baseline, gaussian_blur(x, 50 / 224 * 6))
    assert found.settings == {"steps": 3, "max_sigma": 50 / 224 * 6, "spacing": "linear"}


def test_a_flat_image_has_no_attribution() -> None:
    x = torch.full((1, 2, 5, 6), 0.7, dtype=torch.float64)
    found = blur_ig(Score(NETWORK), x, torch.tensor([1]), Settings(steps=4))
    assert float(found.values.abs().max()) < 1e-14


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (Settings(steps=1), "give at least 2"),
        (Settings(options={"max_sigma": 0}), "give more than 0"),
        (Settings(options={"spacing": "cubic"}), "linear or sqrt"),
    ],
)
def test_impossible_settings_are_said(settings: Settings, words: str) -> None:
    x, targets = images(1)
    with pytest.raises(UsageError, match=words):
        blur_ig(Score(NETWORK), x, targets, settings)
