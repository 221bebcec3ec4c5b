"""The attacks on a trained network, and their report."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rectify import _Silence
from rectify.training.measure import AT_ONCE, Trial, attack

BOUNDS = (torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
TRIAL = Trial(0.1, top=5, attack_top=5, label_steps=3, map_steps=3, points=3, judge_points=5)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval().requires_grad_(False)


def test_figures_are_of_correctly_classified_images() -> None:
    net, x = network(), torch.rand(AT_ONCE + 5, 1, 6, 6)
    y = net(x).argmax(1)
    y[0] = (y[0] + 1) % 3
    found = attack(net, x, y, BOUNDS, TRIAL, _Silence())
    assert found.adversarial and found.top and found.kendall and found.settings
    assert len(found.adversarial.values) == len(x) and found.adversarial.value <= 1 - 1 / len(x) + 1e-9
    assert len(found.top.values) == len(found.kendall.values) == len(x) - 1
    assert 0 <= found.top.value <= 1 and found.kendall.value < 1
    assert found.settings["map"]["images"] == len(x) - 1 and found.settings["map"]["eps"] == 0.1
    assert found.settings["label"]["attack"] == "pgd" and found.settings["map"]["objective"] == "top-k"
    assert found.settings["label"]["images"] == len(x)  # an attack on so few says so


def test_the_attack_does_harm() -> None:
    net, x = network(), torch.rand(6, 1, 6, 6)
    y = net(x).argmax(1)
    small, large = (attack(net, x, y, BOUNDS, Trial(eps, 50, 5, 5, 3, 6, 3, 5), _Silence()) for eps in (1e-4, 0.2))
    assert small.kendall and large.kendall and small.top and large.top
    assert large.kendall.value < small.kendall.value and large.top.value < small.top.value


def test_nothing_right_leaves_nothing_to_attack() -> None:
    net, x = network(), torch.rand(3, 1, 6, 6)
    found = attack(net, x, (net(x).argmax(1) + 1) % 3, BOUNDS, TRIAL, _Silence())
    assert found.adversarial is not None and found.adversarial.value == 0
    assert found.top is None and found.kendall is None


@pytest.mark.parametrize(("count", "eps"), [(0, 0.1), (2, 0.0)])
def test_nothing_to_attack(count: int, eps: float) -> None:
    found = attack(
        network(), torch.rand(count, 1, 6, 6), torch.zeros(count, dtype=torch.int64), BOUNDS, Trial(eps), _Silence()
    )
    assert found.adversarial is None and found.settings is None
