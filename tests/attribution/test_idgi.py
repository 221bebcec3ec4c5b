"""IDGI against a loop, and its sum."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rectify.attribution.attribution import Settings
from rectify.attribution.idgi import direction, idgi
from rectify.attribution.score import Score
from rectify.errors import UsageError
from tests.attribution import slow_paths
from tests.attribution.tiny import BOUNDS, formula, images, pixels, tiny

NETWORK, SMOOTH = tiny(nn.ReLU), tiny()


@pytest.mark.parametrize("batch", [1, 4, 64])
@pytest.mark.parametrize("steps", [1, 7])
def test_it_is_a_loop_s(batch: int, steps: int) -> None:
    x, targets = images()
    found = idgi(Score(NETWORK, batch=batch), x, targets, Settings(steps=steps, bounds=BOUNDS))
    assert found.baseline is not None and found.path_scores is not None
    for row, (image, target) in enumerate(zip(x, targets.tolist(), strict=True)):
        function, start = slow_paths.probability(NETWORK, target), found.baseline[row]
        torch.testing.assert_close(
            found.values[row], slow_paths.idgi(function, start, image, steps), rtol=1e-8, atol=1e-11
        )
        along = torch.stack([function(start + j / steps * (image - start)) for j in range(steps + 1)])
        torch.testing.assert_close(found.path_scores[row], along)


def test_the_sum_is_the_change_with_any_steps() -> None:
    x, targets = images()
    for steps in (1, 3, 32):
        found = idgi(Score(SMOOTH), x, targets, Settings(steps=steps, bounds=BOUNDS))
        assert found.complete and found.gap is not None and float(found.gap.max()) < 1e-12


def test_a_step_from_where_the_gradient_is_zero_adds_nothing() -> None:
    score = formula(lambda one, other: torch.relu(one - 1.0))
    found = idgi(score, pixels(3, 1), torch.tensor([0]), Settings(steps=4, baseline="mean"))
    assert found.change is not None and found.gap is not None
    # points at 0, .75, 1.5, 2.25, 3: the rise of .5 from .75 to 1.5 starts on the flat part
    torch.testing.assert_close(found.values, pixels(1.5, 0))
    assert float(found.change) == 2 and float(found.gap) == pytest.approx(0.5)


def test_a_tiny_gradient_still_has_a_direction_in_float32() -> None:
    slope = torch.tensor([[3e-30, 4e-30], [0.0, 0.0]]).view(2, 1, 1, 2)
    torch.testing.assert_close(direction(slope).flatten(1), torch.tensor([[0.36, 0.64], [0.0, 0.0]]))


def test_no_steps_are_refused() -> None:
    x, targets = images(1)
    with pytest.raises(UsageError, match="at least 1"):
        idgi(Score(NETWORK), x, targets, Settings(steps=0, bounds=BOUNDS))
