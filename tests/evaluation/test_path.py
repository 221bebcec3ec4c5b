"""Against scipy, and gaps made by hand."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import nn

from rectify.attribution.attribution import Attribution, Settings
from rectify.attribution.integrated_gradients import integrated_gradients
from rectify.attribution.score import Score
from rectify.errors import UsageError
from rectify.evaluation.path import completeness, monotonicity


def test_monotonicity_is_scipys_on_paths_of_any_lengths() -> None:
    paths = tuple(torch.randn(length).cumsum(0) for length in (5, 17, 5, 9))
    found = monotonicity(paths)
    expected = [stats.spearmanr(range(len(path)), path.numpy()).statistic for path in paths]
    assert found.values.tolist() == pytest.approx(expected)
    assert found.settings["points"] == [5, 9, 17] and found.settings["constant"] == 0


def test_monotonicity_of_rising_falling_and_level_paths() -> None:
    rising = torch.linspace(0, 1, 6) ** 3
    found = monotonicity((rising, -rising, torch.full((6,), 0.1)))
    assert found.values.tolist() == [1, -1, 0] and found.settings["constant"] == 1
    assert found.value == 0 and found.spread == pytest.approx((2 / 3) ** 0.5)


def test_monotonicity_of_integrated_gradients_of_a_linear_network() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    x = torch.randn(3, 3, 2, 2)
    found = integrated_gradients(Score(network, "logit"), x, torch.tensor([0, 1, 0]), Settings(baseline="mean"))
    assert monotonicity(found.path_scores).values.tolist() == pytest.approx(found.change.sign().tolist())


def test_monotonicity_needs_a_path() -> None:
    with pytest.raises(UsageError, match="none"):
        monotonicity(None)
    with pytest.raises(UsageError, match="2 points"):
        monotonicity((torch.zeros(3), torch.zeros(1)))


def attribution(sums: list[float], change: list[float], complete: bool = True) -> Attribution:
    values = torch.tensor(sums).view(-1, 1, 1, 1) * torch.tensor([0.75, 0.25]).view(1, 1, 1, 2)
    return Attribution(values, torch.zeros(len(sums)), change=torch.tensor(change), complete=complete)


def test_completeness_by_hand() -> None:
    absolute, relative = completeness(attribution([1.0, -0.5, 2.0], [0.5, -0.25, 2.0]))
    assert absolute.values.tolist() == [0.5, 0.25, 0] and relative.values.tolist() == [1, 1, 0]
    assert relative.settings["unresolved"] == 0


def test_a_change_of_nothing_is_not_divided_by() -> None:
    absolute, relative = completeness(attribution([1e-7, 0.0], [0.0, 0.0]))
    assert relative.values.tolist() == pytest.approx([0.1, 0]) and relative.settings["unresolved"] == 2
    assert absolute.values[0] == pytest.approx(1e-7)


def test_completeness_needs_the_promise() -> None:
    with pytest.raises(UsageError, match="sum to the change"):
        completeness(attribution([1.0], [1.0], complete=False))
