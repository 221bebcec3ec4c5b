"""The walk over weights and dampings, and what it is worth on a layer that learns few images by heart."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from rectify.editing import tune
from rectify.editing.cascade import Material, Strength, apply, equations, solution, solve_layer
from rectify.editing.judge import Bench
from rectify.editing.tune import DAMPINGS, WEIGHTS, Place, downhill, is_tunable, tuned
from rectify.editing.values import Teacher
from rectify.model.trace import survey
from tests.editing.planted import opened


def bowl(bottom: Place) -> tuple[Callable[[Place], float], list[Place]]:
    """A convex loss with its least value there, and the places that it has been asked of."""
    asked: list[Place] = []

    def loss(place: Place) -> float:
        asked.append(place)
        return float((place[0] - bottom[0]) ** 2 + (place[1] - bottom[1]) ** 2)

    return loss, asked


@pytest.mark.parametrize("bottom", list(itertools.product(range(4), range(3))))
def test_the_walk_finds_the_bottom_of_a_bowl_and_asks_each_place_once(bottom: Place) -> None:
    loss, asked = bowl(bottom)
    assert downhill(loss, (4, 3)) == bottom
    assert len(set(asked)) == len(asked)
    assert all(0 <= row < 4 and 0 <= column < 3 for row, column in asked)


def test_the_walk_stays_where_nothing_around_is_better() -> None:
    losses = {(0, 0): 1.0, (0, 1): 1.0, (1, 0): 2.0, (1, 1): 0.0}
    assert downhill(losses.__getitem__, (2, 2)) == (0, 0)
    assert downhill(lambda place: float("inf"), (2, 2)) == (0, 0)


@pytest.mark.parametrize("layer", ["conv1", "head"])
def test_what_is_tuned_is_no_worse_than_its_neighbours_by_forms_solved_one_by_one(layer: str) -> None:
    network, case = opened(1, 50)
    before = copy.deepcopy(network.state_dict())
    site = next(site for site in survey(network, case.teacher.clean[:1]) if site.name == layer)
    material, bench, first = case.material(everything=False, copies=1), case.bench(), Strength(energy=0.99)

    def loss(strength: Strength) -> float:
        student = copy.deepcopy(network)
        apply(student, solve_layer(student, site, material, strength))
        return bench.judge(student).loss

    seen: list[Strength] = []
    best = tuned(network, site, material, first, bench, advance=seen.append)
    found = best.strength
    torch.testing.assert_close(best.edit.delta(), solve_layer(network, site, material, found).delta(), rtol=0, atol=0)
    assert best.judgement.loss == loss(found)
    assert found.energy == first.energy and found.rank is None
    row, column = WEIGHTS.index(found.weight), DAMPINGS.index(found.damping)
    around = [(row + a, column + b) for a, b in ((0, 1), (1, 0), (0, -1), (-1, 0))]
    beside = [
        replace(first, weight=WEIGHTS[a], damping=DAMPINGS[b])
        for a, b in around
        if 0 <= a < len(WEIGHTS) and 0 <= b < len(DAMPINGS)
    ]
    assert {first, found, *beside} <= set(seen)
    assert loss(found) <= loss(first)
    assert all(loss(found) <= loss(strength) for strength in beside)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_walk_begins_at_the_first_of_the_weights_that_are_given() -> None:
    network, case = opened(1, 50)
    site = next(site for site in survey(network, case.teacher.clean[:1]) if site.name == "head")
    material, seen = case.material(everything=False), list[Strength]()
    found = tuned(network, site, material, Strength(), case.bench(), weights=(7.0, 5.0), advance=seen.append)
    assert {strength.weight for strength in seen} == {7.0, 5.0} and found.strength in seen
    assert any((strength.weight, strength.damping) == (7.0, DAMPINGS[0]) for strength in seen)


def test_equations_are_summed_once_and_solve_to_the_edit_of_any_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    network, case = opened(1, 50)
    site = next(site for site in survey(network, case.teacher.clean[:1]) if site.name == "conv1")
    material = case.material(everything=False)
    asked = equations(network, site, material)
    for weight, damping in itertools.product(WEIGHTS, DAMPINGS):
        strength = Strength(weight=weight, damping=damping)
        apart = solve_layer(network, site, material, strength).delta()
        torch.testing.assert_close(solution(site.name, asked, strength).delta(), apart, rtol=0, atol=0)
    calls: list[str] = []
    monkeypatch.setattr(tune, "equations", lambda *rest: calls.append("summed") or asked)
    tuned(network, site, material, Strength(), case.bench())
    assert calls == ["summed"]


def test_a_layer_that_learns_few_images_by_heart_is_edited_less() -> None:
    """A wide linear layer, few images: of what the strongest edit takes from other images the tuned one leaves most.

    The fault is one direction of the input; the rest of it is noise, which the strongest edit fits too.
    """
    generator = torch.Generator().manual_seed(0)
    inputs, classes, images = 300, 5, 60
    network = nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes)).eval().requires_grad_(False)
    site = survey(network, torch.zeros(1, 3, 10, 10))[0]
    assert is_tunable(site)

    def draw(count: int) -> torch.Tensor:
        return torch.randn(count, 3, 10, 10, generator=generator)

    mark = 0.5 * draw(1)
    with torch.no_grad():
        network[1].weight.copy_(torch.randn(classes, inputs, generator=generator) / inputs**0.5)
        network[1].weight[0] += 0.05 * mark.flatten()  # the trojan
    clean, others = draw(images), draw(1000)
    noisy = 0.5 * draw(images)
    rows = torch.arange(images)
    material = Material(Teacher(network, clean, 64), clean + mark + noisy, rows, rows)

    def bench(x: torch.Tensor) -> Bench:
        return Bench(x, network(x).softmax(1), x + mark, torch.arange(len(x)), 0)

    found = tuned(network, site, material, Strength(), bench(draw(200))).strength
    losses = []
    for strength in (Strength(), found):
        student = copy.deepcopy(network)
        apply(student, solve_layer(student, site, material, strength))
        losses.append(bench(others).judge(student).loss)
    assert found != Strength() and losses[1] < 0.9 * losses[0]


def test_a_layer_of_too_many_inputs_is_not_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
    site = survey(network, torch.zeros(1, 3, 2, 2))[0]
    monkeypatch.setattr(tune, "MOST_INPUTS", 12)
    assert is_tunable(site)
    monkeypatch.setattr(tune, "MOST_INPUTS", 11)
    assert not is_tunable(site)
