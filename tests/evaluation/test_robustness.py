"""Maps before and after an attack are compared as scipy and sets do."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from rectify.attribution.attribution import Attribution, Settings
from rectify.attribution.integrated_gradients import integrated_gradients
from rectify.attribution.score import Score
from rectify.evaluation.attacks import Perturbed, robustness
from tests.evaluation.attacked import BOUNDS, heat, images, trained


def pixels(score: Score, x: Tensor, targets: Tensor, settings: Settings) -> Attribution:
    """A method whose map is the image."""
    return Attribution(x, score.values(x, targets))


def test_robustness_by_scipy_and_sets() -> None:
    score = Score(trained())
    x, other = torch.randn(3, 2, 4, 4).round(decimals=1), torch.randn(3, 2, 4, 4)
    plain = Score(nn.Sequential(nn.Flatten(), nn.Linear(32, 2)))
    perturbed = Perturbed(other, torch.ones(3, dtype=torch.bool), torch.zeros(3), {"attack": "by hand"})
    found = {m.metric: m for m in robustness(pixels, plain, x, torch.zeros(3).long(), Settings(), perturbed, k=5)}
    for n in range(3):
        a, b = heat(x)[n], heat(other)[n]
        assert float(found["robustness-spearman"].values[n]) == pytest.approx(stats.spearmanr(a, b).statistic)
        assert float(found["robustness-kendall"].values[n]) == pytest.approx(stats.kendalltau(a, b).statistic)
        best = [set(z.sort(descending=True, stable=True).indices[:5].tolist()) for z in (a, b)]
        assert float(found["robustness-top-k"].values[n]) == pytest.approx(len(best[0] & best[1]) / 5)
    assert found["robustness-top-k"].settings == {
        "attack": "by hand", "map": "|channel sum|", "constant": 0, "k": 5
    }  # fmt: skip
    assert score.batch == plain.batch


def test_ties_of_a_black_background_are_reported_and_are_why_tau_falls() -> None:
    x, labels = images(3, background=-0.5)
    score = Score(trained(), "logit")
    noise = x + 1e-6 * torch.rand(x.shape)
    perturbed = Perturbed(noise, torch.ones(3, dtype=torch.bool), torch.zeros(3))
    found = {
        m.metric: m
        for m in robustness(integrated_gradients, score, x, labels, Settings(bounds=BOUNDS), perturbed, k=16)
    }
    assert found["robustness-tie-share-before"].values.tolist() == [0.75] * 3  # 48 of 64 pixels are black
    assert found["robustness-tie-share-after"].value < 0.5
    assert found["robustness-zero-share-before"].values.tolist() == [0.75] * 3
    assert found["robustness-kendall"].value < 0.9 and found["robustness-top-k"].value > 0.9
