"""Expected gradients against a loop over the same draws, and in expectation."""

from __future__ import annotations

import pytest
import torch

from rectify.attribution.attribution import Settings
from rectify.attribution.expected_gradients import draws, expected_gradients
from rectify.attribution.score import Score
from rectify.errors import UsageError
from tests.attribution import slow_paths
from tests.attribution.tiny import images, tiny

NETWORK = tiny()
REFERENCE = images(5, seed=7)[0]


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_it_is_a_loop_s(batch: int) -> None:
    x, targets = images()
    score = Score(NETWORK, batch=batch)
    found = expected_gradients(score, x, targets, Settings(steps=8, reference=REFERENCE, seed=2))
    drawn, alphas = draws(5, 8, torch.Generator().manual_seed(2))
    baselines = [REFERENCE[i] for i in drawn.tolist()]
    assert found.change is not None and found.complete and found.baseline is None
    for row, (image, target) in enumerate(zip(x, targets.tolist(), strict=True)):
        function = slow_paths.probability(NETWORK, target)
        expected = slow_paths.expected_gradients(function, image, baselines, alphas.tolist())
        torch.testing.assert_close(found.values[row], expected, rtol=1e-8, atol=1e-10)
        mean = sum(float(function(baseline)) for baseline in baselines) / 8
        assert float(found.change[row]) == pytest.approx(float(function(image)) - mean)


def test_every_reference_image_and_every_stratum_has_its_turn() -> None:
    drawn, alphas = draws(5, 12, torch.Generator().manual_seed(0))
    assert sorted(drawn[:5].tolist()) == sorted(drawn[5:10].tolist()) == [0, 1, 2, 3, 4]
    assert (alphas * 12).floor().tolist() == list(range(12))
    assert len(set(draws(100, 3, torch.Generator().manual_seed(0))[0].tolist())) == 3


def test_with_many_samples_it_is_the_mean_of_integrated_gradients_and_complete() -> None:
    x, targets = images(1)
    found = expected_gradients(Score(NETWORK), x, targets, Settings(steps=2000, reference=REFERENCE))
    function = slow_paths.probability(NETWORK, 0)
    nodes, weights = [(k + 0.5) / 20 for k in range(20)], [1 / 20] * 20
    expected = sum(slow_paths.integrated_gradients(function, b, x[0], nodes, weights) for b in REFERENCE) / 5
    assert float((found.values[0] - expected).norm() / expected.norm()) < 0.1
    assert found.gap is not None and found.change is not None
    assert float(found.gap[0]) < 0.05 * float(found.change[0].abs())


def test_a_linear_network_is_complete_with_any_samples() -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(60, 4)).double().requires_grad_(False)
    x, targets = images()
    found = expected_gradients(Score(network, "logit"), x, targets, Settings(steps=3, reference=REFERENCE))
    assert found.gap is not None and float(found.gap.max()) < 1e-12


def test_the_map_does_not_depend_on_the_images_beside_it() -> None:
    x, targets = images()
    settings = Settings(steps=6, reference=REFERENCE)
    together = expected_gradients(Score(NETWORK), x, targets, settings)
    alone = expected_gradients(Score(NETWORK), x[1:2], targets[1:2], settings)
    torch.testing.assert_close(together.values[1:2], alone.values)
    other = expected_gradients(Score(NETWORK), x, targets, Settings(steps=6, reference=REFERENCE, seed=1))
    assert not torch.allclose(other.values, together.values)


def test_it_says_what_to_give() -> None:
    x, targets = images(1)
    for reference in (None, REFERENCE[:0]):
        with pytest.raises(UsageError, match="--calibration DIR"):
            expected_gradients(Score(NETWORK), x, targets, Settings(reference=reference))
    with pytest.raises(UsageError, match="2x5x5 do not fit images of 2x5x6"):
        expected_gradients(Score(NETWORK), x, targets, Settings(reference=REFERENCE[..., :5]))
