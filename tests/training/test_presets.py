"""The presets are the paper's settings, number by number, and plans make sense."""

from __future__ import annotations

import pytest
import torch

from rectify.errors import UsageError
from rectify.files.architectures import build
from rectify.files.preprocess import Preprocess
from rectify.training.networks import small_cnn, small_resnet, standardised
from rectify.training.path import integrated, right_riemann
from rectify.training.presets import OBJECTIVES, PRESETS, Plan, preset

# eps, attack steps, attack step, m, m in the attack, batch, steps; from the official configuration files
ROWS = {
    "mnist": (0.3, 40, 0.01, 50, 10, 50, 100_000),
    "fashion-mnist": (0.1, 20, 0.01, 50, 10, 50, 100_000),
    "gtsrb": (8 / 255, 7, 2 / 255, 50, 5, 64, 70_000),
    "flower": (8 / 255, 7, 2 / 255, 50, 5, 16, 70_000),
}
WEIGHTS = {"mnist": (1.0, 0.1), "fashion-mnist": (1.0, 0.1), "gtsrb": (1.0, 1.0), "flower": (0.1, 0.1)}


@pytest.mark.parametrize("name", ROWS)
def test_a_preset_is_the_papers_row(name: str) -> None:
    row, eps_row = preset(name), ROWS[name]
    plan = row.plan
    found = (plan.eps, plan.attack_steps, plan.attack_step, plan.path_points, plan.attack_points, plan.batch_size)
    assert found == pytest.approx(eps_row[:6])
    steps = plan.epochs * -(-row.images // plan.batch_size)
    assert eps_row[6] <= steps < eps_row[6] * 1.02  # whole epochs
    assert (preset(name, "ig-norm").plan.weight, preset(name, "ig-sum-norm").plan.weight) == WEIGHTS[name]
    assert plan.ramp == 0 and plan.epoch_size is None


def test_optimisers_and_learning_rates() -> None:
    for name in ("mnist", "fashion-mnist"):
        plan = preset(name).plan
        assert (plan.optimiser, plan.schedule, plan.weight_decay) == ("adam", ((0, 1e-4),), 0.0)
        assert preset(name, "natural").plan.epochs == pytest.approx(preset(name).plan.epochs / 4, abs=1)
    road, flower = preset("gtsrb").plan, preset("flower").plan
    assert (road.optimiser, road.momentum, road.weight_decay, road.summed) == ("momentum", 0.9, 2e-4, True)
    assert [road.learning_rate(step) for step in (0, 499, 500, 60_000)] == [1e-3, 1e-3, 1e-2, 1e-3]
    assert [flower.learning_rate(step) for step in (0, 500, 60_000)] == pytest.approx([1e-4, 1e-3, 1e-4])
    natural = preset("flower", "natural").plan
    assert natural.learning_rate(500) == 1e-2 and not natural.summed


def test_k_of_attack_and_evaluation() -> None:
    assert (preset("mnist").attack_top, preset("mnist").top) == (200, 100)
    assert (preset("fashion-mnist").attack_top, preset("gtsrb").top) == (100, 100)
    assert (preset("flower").attack_top, preset("flower").top) == (1000, 1000)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_a_network_for_its_images(name: str) -> None:
    row = preset(name)
    size = Preprocess.from_dict(row.preprocess, name).input_size
    network = build(row.arch, num_classes=row.num_classes, arch_args=row.arch_args)
    assert network(torch.zeros(1, *size)).shape == (1, row.num_classes)


@pytest.mark.parametrize("name", [name for name in PRESETS if name.endswith("-quick")])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_quick_form_keeps_ball_and_weight(name: str, objective: str) -> None:
    quick, whole = preset(name, objective).plan, preset(name.removesuffix("-quick"), objective).plan
    assert (quick.eps, quick.weight, quick.objective) == (whole.eps, whole.weight, objective)
    assert (quick.path_points, quick.attack_steps) == (10, 7)
    assert quick.attack_steps * quick.attack_step > quick.eps
    assert quick.epochs * (quick.epoch_size or 0) <= 50_000


@pytest.mark.parametrize("name", ["mnits", "mnist-fast", "quick", "mnist-quick-quick"])
def test_an_unknown_preset_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match="no such preset"):
        preset(name)


def test_the_command_line_knows_the_names() -> None:
    from rectify.cli.flags_train import ROWS as NAMES
    from rectify.training import objectives

    assert (*NAMES, *(f"{name}-quick" for name in NAMES)) == PRESETS
    assert all(callable(getattr(objectives, name.replace("-", "_"))) for name in OBJECTIVES)


def test_the_ball_grows_over_the_ramp() -> None:
    plan = Plan(eps=0.2, ramp=0.5)
    radii = [plan.radius(step, 100) for step in (0, 24, 49, 50, 99)]
    assert radii == pytest.approx([0.004, 0.1, 0.2, 0.2, 0.2])
    assert Plan(eps=0.2).radius(0, 100) == 0.2


def test_the_networks_of_the_paper() -> None:
    assert sum(p.numel() for p in small_cnn().parameters()) == 3_274_634
    network = small_resnet()
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())
    assert network.units[2](torch.zeros(1, 16, 9, 9)).shape == (1, 32, 5, 5)  # odd sizes as well
    assert network(torch.rand(2, 3, 33, 31)).shape == (2, 43)


def test_an_image_of_one_colour_has_no_nan() -> None:
    x, y = torch.full((2, 3, 8, 8), 0.5), torch.tensor([0, 1])
    assert standardised(x).abs().max() == 0
    network = small_resnet(4)
    total = integrated(network, x, x + 0.1 * torch.rand(2, 3, 8, 8), y, right_riemann(2)).abs().sum()
    total.backward()
    assert all(bool(p.grad.isfinite().all()) for p in network.parameters() if p.grad is not None)


WRONG = [
    {"objective": "ig-nrom"},
    {"optimiser": "sgd"},
    {"objective": "madry", "eps": 0.0},
    {"epochs": 0},
    {"epoch_size": 0},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_plan_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Plan(**wrong)  # type: ignore[arg-type]
    assert Plan(objective="natural", eps=0.0).eps == 0
