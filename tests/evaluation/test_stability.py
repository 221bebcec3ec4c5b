"""Against maps made one at a time; and that the settings say what was compared."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from rectify.attribution.attribution import Attribution, Settings
from rectify.attribution.integrated_gradients import integrated_gradients
from rectify.attribution.score import Score
from rectify.evaluation.measure import Measure
from rectify.evaluation.stability import compare, stability_over_baselines, stability_over_steps
from rectify.names import BASELINES

BOUNDS = (torch.full((2, 1, 1), -1.0).double(), torch.full((2, 1, 1), 2.0).double())
SETTINGS = Settings(bounds=BOUNDS, tolerance=0.001, seed=3)


def case() -> tuple[Score, Tensor, Tensor]:
    network = nn.Sequential(nn.Flatten(), nn.Linear(2 * 25, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    return Score(network, "probability"), torch.randn(3, 2, 5, 5, dtype=torch.float64), torch.tensor([0, 1, 2])


def expected(score: Score, x: Tensor, targets: Tensor, one: Settings, other: Settings, kind: str) -> list[float]:
    """By scipy and sums, an image at a time."""
    found = []
    for n in range(len(x)):
        # the images of a noisy baseline depend on how many there are: made for all, looked at one by one
        a, b = (integrated_gradients(score, x, targets, s).heat()[n].flatten() for s in (one, other))
        if kind == "spearman":
            found.append(float(stats.spearmanr(a.abs(), b.abs()).statistic))
        elif kind == "l1":
            found.append(float((a - b).abs().sum() / b.abs().sum()))
        else:
            found.append(float((a - b).square().sum().sqrt() / b.square().sum().sqrt()))
    return found


def by_name(found: list[Measure], key: str, value: object) -> dict[str, Measure]:
    return {m.metric.split("-")[-1]: m for m in found if m.settings[key] == value}


def test_steps_against_a_reference_of_many() -> None:
    score, x, targets = case()
    found = stability_over_steps(integrated_gradients, score, x, targets, SETTINGS, reference_steps=40)
    assert [m.settings["steps"] for m in found] == [1] * 3 + [15] * 3 + [30] * 3
    plain = replace(SETTINGS, tolerance=None)  # or the steps would be doubled
    for steps in (1, 15):
        for kind, measure in by_name(found, "steps", steps).items():
            pair = replace(plain, steps=steps), replace(plain, steps=40)
            assert measure.values.tolist() == pytest.approx(expected(score, x, targets, *pair, kind), abs=1e-12)
            assert measure.settings["reference_steps"] == 40 and measure.settings["rule"] == "gauss-legendre"
    distance = [by_name(found, "steps", steps)["l2"].value for steps in (1, 15)]
    assert distance[1] < 1e-6 < distance[0]


def test_baselines_against_the_chosen_one() -> None:
    score, x, targets = case()
    settings = replace(SETTINGS, baseline="white")
    found = stability_over_baselines(integrated_gradients, score, x, targets, settings, steps=4, reference_steps=40)
    assert [m.settings["baseline"] for m in found[::3]] == list(BASELINES)
    plain = replace(settings, tolerance=None)
    for baseline in ("black", "blur", "noise"):
        for kind, measure in by_name(found, "baseline", baseline).items():
            pair = replace(plain, baseline=baseline, steps=4), replace(plain, steps=40)
            assert measure.values.tolist() == pytest.approx(expected(score, x, targets, *pair, kind), abs=1e-12)
            assert measure.settings["reference_baseline"] == "white"
    values = {m.settings["baseline"]: m.value for m in found if m.metric == "baseline-stability-l2"}
    assert min(values, key=lambda name: values[name]) == "white" and values["white"] < 0.05


def test_a_baseline_may_be_an_image() -> None:
    score, x, targets = case()
    image = torch.full((1, 2, 5, 5), -1.0)
    found = stability_over_baselines(
        integrated_gradients, score, x, targets, SETTINGS, baselines=(image,), steps=9, reference_steps=9
    )
    assert [m.settings["baseline"] for m in found] == ["image"] * 3
    assert [m.value for m in found] == pytest.approx([1, 0, 0], abs=1e-12)


def test_a_method_without_steps_is_stable() -> None:
    def method(score: Score, x: Tensor, targets: Tensor, settings: Settings) -> Attribution:
        return Attribution(score.gradients(x, targets)[1], score.values(x, targets))

    found = stability_over_steps(method, *case(), Settings(), steps=(2,))
    assert [m.value for m in found] == pytest.approx([1, 0, 0]) and found[0].settings["rule"] is None


def test_maps_of_nothing_are_counted() -> None:
    some = torch.tensor([[1.0, -2.0, 3.0]]).double()
    heat = torch.cat([some, some, 0 * some, some])
    reference = torch.cat([some, 0 * some, 0 * some, -some])
    rank, one, two = compare(heat, reference, "s", {})
    assert rank.values.tolist() == pytest.approx([1, 0, 0, 1]) and rank.settings["constant"] == 2
    assert one.values.tolist() == pytest.approx([0, 1, 0, 2]) and two.values.tolist() == pytest.approx([0, 1, 0, 2])
    assert one.settings["empty_reference"] == 2
