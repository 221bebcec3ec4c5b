"""Guided integrated gradients against the paper's algorithm on one image at a time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rectify.attribution.attribution import Settings
from rectify.attribution.guided_ig import Guide, advance, guided_ig
from rectify.attribution.score import Score
from rectify.errors import UsageError
from tests.attribution import slow_paths
from tests.attribution.tiny import BOUNDS, images, tiny

NETWORKS = {"smooth": tiny(), "relu": tiny(nn.ReLU)}


def settings_of(steps: int, fraction: float, max_dist: float, **more: object) -> Settings:
    return Settings(steps=steps, bounds=BOUNDS, options={"fraction": fraction, "max_dist": max_dist}, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("steps", "fraction", "max_dist"),
    [
        (1, 0.25, 0.02),
        (10, 0.25, 0.02),
        (10, 0.25, 1.0),
        (7, 0.1, 0.3),
        (12, 1.0, 0.1),
        (10, 0.25, 0.0),
        (9, 0.001, 0.5),
    ],
)
def test_it_is_the_algorithm_s(name: str, steps: int, fraction: float, max_dist: float) -> None:
    x, targets = images()
    network = NETWORKS[name]
    for batch in (2, 64):
        found = guided_ig(Score(network, batch=batch), x, targets, settings_of(steps, fraction, max_dist))
        assert found.baseline is not None and found.path_scores is not None
        for row, (image, target) in enumerate(zip(x, targets.tolist(), strict=True)):
            function = slow_paths.probability(network, target)
            start = found.baseline[row]
            expected, points = slow_paths.guided_ig(function, start, image, steps, fraction, max_dist)
            torch.testing.assert_close(found.values[row], expected, rtol=1e-7, atol=1e-8)
            along = torch.stack([function(point) for point in points])
            torch.testing.assert_close(found.path_scores[row], along, rtol=1e-7, atol=1e-8)


def test_no_distance_is_a_left_sum_on_the_straight_line() -> None:
    x, targets = images()
    found = guided_ig(Score(NETWORKS["smooth"]), x, targets, settings_of(8, 0.25, 0.0))
    assert found.baseline is not None
    nodes, weights = [j / 8 for j in range(8)], [1 / 8] * 8
    for row, (image, target) in enumerate(zip(x, targets.tolist(), strict=True)):
        function = slow_paths.probability(NETWORKS["smooth"], target)
        expected = slow_paths.integrated_gradients(function, found.baseline[row], image, nodes, weights)
        torch.testing.assert_close(found.values[row], expected, rtol=1e-7, atol=1e-9)


def test_the_sum_approaches_the_change_at_first_order() -> None:
    x, targets = images()
    gaps = []
    for steps in (50, 100, 200):
        found = guided_ig(Score(NETWORKS["smooth"]), x, targets, settings_of(steps, 0.25, 0.02))
        assert found.complete and found.gap is not None and found.change is not None
        gaps.append(float(found.gap.sum()))
    assert 1.5 < gaps[0] / gaps[1] < 3 and 1.5 < gaps[1] / gaps[2] < 3
    assert gaps[2] < 0.02 * float(found.change.abs().sum())


def test_an_image_that_is_its_baseline_gets_nothing_and_does_not_hold_up_the_others() -> None:
    x, targets = images()
    baseline = x.clone()
    baseline[1:] = 0
    score = Score(NETWORKS["relu"])
    found = guided_ig(score, x, targets, settings_of(5, 0.25, 0.1, baseline=baseline))
    assert not found.values[0].any() and found.values[1].any()
    assert found.change is not None and float(found.change[0]) == pytest.approx(0, abs=1e-15)
    alone = guided_ig(score, x[1:], targets[1:], settings_of(5, 0.25, 0.1, baseline=baseline[1:]))
    torch.testing.assert_close(found.values[1:], alone.values)


def test_equal_gradients_move_together_and_a_dead_network_ends() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(60, 2)).double().requires_grad_(False)
    network[1].weight.fill_(1)  # ties everywhere
    x, targets = images(2)
    score = Score(network, "logit")
    found = guided_ig(score, x, targets % 2, settings_of(4, 0.25, 0.02))
    assert found.gap is not None and float(found.gap.max()) < 1e-10
    network[1].weight.fill_(0)
    assert not guided_ig(score, x, targets % 2, settings_of(4, 0.25, 0.02)).values.any()


def test_a_step_keeps_arrived_pixels_stays_in_the_band_and_covers_its_distance() -> None:
    generator = torch.Generator().manual_seed(0)
    length = torch.rand(3, 40, generator=generator, dtype=torch.float64)
    length[1, :20] = 0
    place = torch.zeros_like(length)
    guide = Guide(0.2, 0.05)
    for step in range(10):
        share = (step + 1) / 10
        slope = torch.rand(3, 40, generator=generator, dtype=torch.float64).round(decimals=1)
        slope[2, 0] = torch.nan  # never chosen: it follows at the rear of the band
        after = advance(place, slope, length, share, guide)
        assert bool((after >= place).all()) and float(after.max()) <= min(share + 0.05, 1)
        assert float(after.min()) >= share - 0.05 - 1e-12
        left = (length * (1 - after)).sum(1) / length.sum(1)
        torch.testing.assert_close(left[:2], torch.full((2,), 1 - share, dtype=torch.float64), rtol=0, atol=1e-8)
        place = after


def test_it_ends_exactly_on_the_image_in_float32() -> None:
    seen: list[torch.Tensor] = []

    class Watch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.detach().clone())
            return x.flatten(1).tanh()

    x = torch.rand(2, 3, 4, 4)
    low, high = torch.full((3, 1, 1), -0.37), torch.full((3, 1, 1), 1.3)
    found = guided_ig(Score(Watch().eval(), "logit"), x, torch.tensor([0, 5]), Settings(steps=9, bounds=(low, high)))
    assert torch.equal(seen[0], low.expand_as(x)) and torch.equal(seen[-1], x) and len(seen) == 10
    assert found.values.dtype == torch.float32 and found.gap is not None and float(found.gap.max()) < 0.1


@pytest.mark.parametrize(("fraction", "max_dist"), [(0, 0.1), (1.1, 0.1), (0.5, -0.1), (0.5, 2)])
def test_impossible_options_are_said(fraction: float, max_dist: float) -> None:
    x, targets = images(1)
    with pytest.raises(UsageError, match="give"):
        guided_ig(Score(NETWORKS["relu"]), x, targets, settings_of(3, fraction, max_dist))
