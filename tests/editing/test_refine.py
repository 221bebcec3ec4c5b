"""The refinement against slow forms of its loss and of its direction, and what it may and may not touch."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fixtures import networks as fixtures
from rectify.editing import cascade, repair
from rectify.editing import refine as module
from rectify.editing.cascade import LayerEdit, Material, Strength, apply, solve_layer
from rectify.editing.guess import Corruption
from rectify.editing.judge import Judgement, probabilities
from rectify.editing.refine import (
    Mover,
    Plan,
    affordable_steps,
    difference,
    early,
    effort,
    misfit,
    misfit_slope,
    orthogonalise,
    positions,
    refined,
    shrinkage,
    watched,
    wish,
)
from rectify.editing.solve import DAMPING
from rectify.model import passes
from rectify.model.layers import Layer
from rectify.model.trace import Site, survey
from tests import oracles
from tests.editing.planted import TARGET, pictures, planted, stamp
from tests.editing.test_repair import assert_chain, edited, workshop

SQUARE = Corruption("square", stamp)


@pytest.mark.parametrize("shape", [(1, 4, 9), (1, 9, 4), (3, 5, 5), (4, 1, 9)])
def test_the_direction_has_the_singular_vectors_of_the_matrix_and_nearly_equal_singular_values(
    shape: tuple[int, int, int],
) -> None:
    matrix = torch.randn(*shape, dtype=torch.float64)
    direction = orthogonalise(matrix)
    assert direction.shape == matrix.shape
    for whole, found in zip(matrix, direction, strict=True):
        u, s, vh = torch.linalg.svd(whole, full_matrices=False)
        inside = u.T @ found @ vh.T
        assert torch.allclose(inside, torch.diag(inside.diagonal()), atol=1e-9)
        strong = s > 0.05 * s.norm()
        assert bool(((inside.diagonal()[strong] > 0.5) & (inside.diagonal()[strong] < 1.3)).all())


def test_the_direction_of_nothing_is_nothing() -> None:
    assert torch.equal(orthogonalise(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))


def slow_misfit(student: nn.Module, teacher: nn.Module, names: list[str], clean: Tensor, corrupted: Tensor) -> float:
    """The formula, image by image and number by number."""

    def run(network: nn.Module, x: Tensor) -> tuple[list[float], dict[str, list[float]]]:
        seen: dict[str, list[float]] = {}
        hooks = [
            network.get_submodule(name).register_forward_pre_hook(
                lambda _, args, name=name: seen.__setitem__(name, args[0].flatten().tolist())
            )
            for name in names
        ]
        logits = network(x[None])[0].tolist()
        for hook in hooks:
            hook.remove()
        total = sum(math.exp(value) for value in logits)
        return [math.exp(value) / total for value in logits], seen

    divergence, apart, size = 0.0, dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for one, other in zip(clean, corrupted, strict=True):
        wanted, its = run(teacher, one)
        for weight, image in ((2, one), (1, other)):
            given, mine = run(student, image)
            divergence += weight * sum(p * math.log(p / q) for p, q in zip(wanted, given, strict=True)) / len(clean)
            for name in names:
                apart[name] += weight * sum((a - b) ** 2 for a, b in zip(mine[name], its[name], strict=True))
        for name in names:
            size[name] += sum(b**2 for b in its[name])
    return divergence + 600 * sum(apart[name] / size[name] for name in names) / len(names)


def test_the_loss_is_the_formula() -> None:
    torch.manual_seed(1)
    teacher = fixtures.vgg(4, width=2, channels=1).double().eval().requires_grad_(False)
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        for weight in student.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    clean, corrupted = torch.rand(3, 1, 16, 16).double(), torch.rand(3, 1, 16, 16).double()
    names = watched(survey(teacher.float(), clean[:1].float()))
    teacher.double()
    found = float(misfit(student, names, clean, corrupted, wish(teacher, names, clean, 2)))
    assert found == pytest.approx(slow_misfit(student, teacher, names, clean, corrupted), rel=1e-5)


@pytest.mark.parametrize("room", [2, 6, 7, 1 << 20])  # images a pass, of ten with their twins
@pytest.mark.parametrize("build", ["vgg", "vit", "resnet"])
def test_gradients_of_parts_add_up_to_those_of_all(build: str, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    networks: dict[str, Any] = {
        "vgg": lambda: fixtures.vgg(4, width=2, channels=3),
        "vit": lambda: fixtures.vit(4, width=8, channels=3, image_size=16, depth=2),
        "resnet": lambda: fixtures.resnet18(4, width=2),
    }
    teacher = networks[build]().double().eval().requires_grad_(False)
    student = copy.deepcopy(teacher)
    clean = torch.randn(10, 3, 16, 16, dtype=torch.float64)
    corrupted = clean + 0.3 * torch.randn_like(clean)
    sites = survey(teacher, clean)
    weights = [student.get_submodule(site.name).weight.requires_grad_(True) for site in sites]
    names = watched(sites)
    value = misfit(student, names, clean, corrupted, wish(teacher, names, clean, 10))
    expected = torch.autograd.grad(value, weights, allow_unused=True)  # type: ignore[arg-type]
    monkeypatch.setitem(passes.NUMBERS, "cpu", room * clean[0].numel())
    passed: list[int] = []
    student.register_forward_pre_hook(lambda _, args: passed.append(len(args[0])))
    found = misfit_slope(student, teacher, names, clean, corrupted, weights)  # type: ignore[arg-type]
    assert sum(passed) == 20 and max(passed) <= room
    for mine, its in zip(found, expected, strict=True):
        assert mine is not None and its is not None
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5 * float(its.abs().max()))  # float32 on the way


class Bright(nn.Module):
    """A branch that bright images alone go through."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.branch, self.head = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 1), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, bright = self.first(x), x.mean((1, 2, 3)) > 0.5
        if bool(bright.any()):
            y = y + bright[:, None, None, None] * self.branch(y)
        return self.head(y.mean((2, 3)))


def test_a_layer_that_a_part_does_not_reach_keeps_the_gradient_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    teacher = Bright().double().eval().requires_grad_(False)
    student = copy.deepcopy(teacher)
    clean = torch.cat((0.6 + torch.rand(2, 1, 6, 6), 0.2 * torch.rand(2, 1, 6, 6))).double()
    weights = [layer.weight.requires_grad_(True) for layer in (student.first, student.branch)]
    names = ["head"]
    value = misfit(student, names, clean, 0.9 * clean, wish(teacher, names, clean, 4))
    expected = torch.autograd.grad(value, weights)
    monkeypatch.setitem(passes.NUMBERS, "cpu", 4 * clean[0].numel())
    for mine, its in zip(misfit_slope(student, teacher, names, clean, 0.9 * clean, weights), expected, strict=True):
        assert mine is not None
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5 * float(its.abs().max()))


def test_watched_are_the_layers_behind_a_join_or_all_but_the_first() -> None:
    resnet = fixtures.resnet18(4, width=2).eval()
    sites = [site for site in survey(resnet, torch.randn(1, 3, 8, 8)) if not site.is_shortcut]
    assert watched(sites) == [
        *(f"layer{stage}.{block}.conv1" for stage in range(1, 5) for block in range(2) if (stage, block) != (1, 0)),
        "fc",
    ]
    assert watched(survey(planted(), pictures(1, 0))) == ["conv2", "head"]


def test_effort_is_counted_by_hand() -> None:
    network = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), nn.Flatten(), nn.Linear(96, 5)).eval()
    x = torch.randn(1, 4, 8, 8)
    assert effort(network, survey(network, x), x) == 16 * 6 * 2 * 9 + 96 * 5 + module.MOVING * (96 + 5)


def test_positions_are_the_keys_that_a_layer_sees_in_an_image() -> None:
    network = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), nn.Flatten(), nn.Linear(96, 5)).eval()
    x = torch.randn(1, 4, 8, 8)
    assert positions(network, survey(network, x), x) == {"0": 16, "2": 1}


@pytest.mark.parametrize(
    ("inputs", "keys", "wanted"),
    [(9, 200 * 784, 0.01), (128, 200, 0.064), (1152, 3200, 0.036), (3136, 200, 0.3), (3136, 3136 * 10, 0.01)],
)
def test_the_fewer_keys_a_layer_sees_the_more_its_moment_is_shrunk(inputs: int, keys: int, wanted: float) -> None:
    assert shrinkage(inputs, keys) == pytest.approx(wanted)
    assert shrinkage(inputs, keys + 1) <= shrinkage(inputs, keys) <= shrinkage(inputs + 1, keys)


def test_steps_are_as_many_as_the_device_can_afford(monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = planted(), pictures(1, 0)
    sites = survey(network, x)
    assert affordable_steps(network, sites, x) == module.STEPS
    one = 7 * module.BATCH * effort(network, sites, x)
    for wanted, given in ((100, 100), (module.LEAST_STEPS, module.LEAST_STEPS), (module.LEAST_STEPS - 1, 0)):
        monkeypatch.setitem(module.WORK, "cpu", (wanted + 0.5) * one)
        assert affordable_steps(network, sites, x) == given


def test_the_first_half_moves_in_forward_order() -> None:
    resnet = fixtures.resnet18(4, width=2).eval()
    sites = [site for site in survey(resnet, torch.randn(1, 3, 8, 8)) if not site.is_shortcut]
    first = ["conv1", *(f"layer{stage}.{block}.conv{n}" for stage in (1, 2) for block in (0, 1) for n in (1, 2))]
    assert [site.name for site in early(sites[::-1], 0.5)] == first and len(sites) == 18
    assert [len(early(sites[:count], 0.5)) for count in (1, 2, 3, 4, 5, 6)] == [1, 1, 2, 2, 2, 3]


def test_only_the_first_of_the_layers_named_move_and_the_loss_falls() -> None:
    teacher, images = planted(), pictures(40, 5)
    sites = survey(teacher, images[:1])
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    done: list[int] = []
    student = refined(teacher, sites, images, [SQUARE], Plan(steps=40, rate=0.02), done.append)
    assert len(done) == 40 and not any(p.requires_grad for p in student.parameters())
    after = student.state_dict()
    assert {name for name in after if not torch.equal(after[name], before[name])} == {"conv1.weight", "conv2.weight"}
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    fresh = pictures(64, 6)
    wanted = wish(teacher, watched(sites), fresh, 64)
    losses = [float(misfit(each, watched(sites), fresh, stamp(fresh), wanted)) for each in (teacher, student)]
    assert losses[1] < 0.5 * losses[0]


def key_moment(size: int, groups: int) -> Tensor:
    """A second moment far from white, (G, d, d)."""
    keys = torch.randn(groups, size, 4 * size, dtype=torch.float64) * torch.logspace(-2, 1, size)[:, None]
    return keys @ keys.mT / (4 * size)


def test_a_step_is_orthogonal_in_the_metric_of_clean_keys() -> None:
    torch.manual_seed(0)
    layer = Layer("conv", nn.Conv2d(6, 4, 2, groups=2, dtype=torch.float64))
    moment, rate = key_moment(12, 2), 0.03
    mover, before = Mover(layer, torch.linalg.cholesky(moment)), layer.weight().clone()
    root = torch.stack([oracles.square_root(group) for group in moment])
    momentum = torch.zeros_like(before)
    for _ in range(2):
        gradient = torch.randn(2, 2, 12, dtype=torch.float64)
        white = gradient @ torch.linalg.inv(root)
        momentum = 0.9 * momentum + white
        direction = orthogonalise(white + 0.9 * momentum)
        length = rate * float((before @ root).norm())
        wanted = layer.weight() - length * direction / direction.norm() @ torch.linalg.inv(root)
        mover.step(gradient.view(4, 3, 2, 2), rate)
        assert torch.allclose(layer.weight(), wanted, atol=1e-10)


def test_a_step_changes_what_the_layer_gives_on_clean_keys_by_its_rate() -> None:
    torch.manual_seed(0)
    layer = Layer("head", nn.Linear(8, 5, dtype=torch.float64))
    keys = torch.randn(8, 500, dtype=torch.float64) * torch.logspace(-2, 1, 8)[:, None]
    before = layer.weight()[0].clone()
    mover = Mover(layer, torch.linalg.cholesky(keys @ keys.T / 500)[None])
    mover.step(torch.randn(5, 8, dtype=torch.float64), 0.03)
    change = (layer.weight()[0] - before) @ keys
    assert float(change.norm() / (before @ keys).norm()) == pytest.approx(0.03, rel=1e-9)


def test_the_metric_is_that_of_the_keys_of_the_untouched_network_on_clean_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    teacher, images = planted(), pictures(6, 5)
    roots: dict[str, Tensor] = {}

    class Spy(Mover):
        def __init__(self, layer: Layer, root: Tensor) -> None:
            super().__init__(layer, root)
            roots[layer.name] = root

    monkeypatch.setattr(module, "Mover", Spy)
    refined(teacher, survey(teacher, images[:1]), images, [SQUARE], Plan(steps=1, share=1.0))
    conv1, conv2 = (teacher.get_submodule(name) for name in ("conv1", "conv2"))
    hidden = conv1(images).relu()
    pooled = nn.functional.adaptive_avg_pool2d(conv2(hidden).relu(), 4).flatten(1)
    keys = {
        "conv1": [key for image in images for key in oracles.patches(image, (3, 3), padding=1)],
        "conv2": [key for image in hidden for key in oracles.patches(image, (3, 3), padding=1)],
        "head": list(pooled.double()),
    }
    assert roots.keys() == keys.keys()
    for name, vectors in keys.items():
        stacked = torch.stack(vectors)
        few = 0.1 * stacked.shape[1] / len(vectors)
        expected = oracles.damped(stacked.T @ stacked / len(vectors), min(0.3, max(DAMPING, few)))
        found = (roots[name] @ roots[name].mT)[0]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_equal_plans_give_equal_weights_and_another_seed_others() -> None:
    teacher, images = planted(), pictures(40, 5)
    sites = survey(teacher, images[:1])
    made = [refined(teacher, sites, images, [SQUARE], Plan(steps=5, seed=seed)).state_dict() for seed in (0, 0, 1)]
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
    assert not all(torch.equal(made[0][name], made[2][name]) for name in made[0])


def test_the_difference_of_two_networks_makes_one_of_the_other() -> None:
    network = fixtures.mobilenet(4, width=4).eval().requires_grad_(False)
    sites = survey(network, torch.randn(1, 3, 16, 16))
    moved = copy.deepcopy(network)
    for weight in moved.parameters():
        weight.add_(0.1 * torch.randn_like(weight))
    wanted = copy.deepcopy(network)
    for site in sites:
        wanted.get_submodule(site.name).weight.copy_(moved.get_submodule(site.name).weight)
    edits = difference(moved, network, sites)
    assert [edit.layer for edit in edits] == [site.name for site in sites]
    for edit in edits:
        apply(network, edit)
    assert all(torch.allclose(a, b) for a, b in zip(network.parameters(), wanted.parameters(), strict=True))


def only_refinement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every repair is refined, in 140 steps, with nothing behind it, and closed forms do nothing."""
    monkeypatch.setattr(repair, "is_worth_refining", lambda *_: True)
    monkeypatch.setattr(repair, "is_tunable", lambda site: False)
    monkeypatch.setattr(cascade, "apply", lambda network, edit: None)  # closed forms that do nothing
    monkeypatch.setattr(module, "STEPS", 140)


def test_a_repair_that_is_not_whole_is_refined_and_the_better_one_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    shop, scores = workshop()
    monkeypatch.setattr(repair, "is_worth_refining", lambda *_: True)
    monkeypatch.setattr(module, "STEPS", 80)
    found = repair.dynamic(shop, scores, None)
    refining = "refined together in 80 steps" in found.policy
    assert refining or any("rolled back" in note for note in found.notes)
    kept = [step for step in found.steps if step.kept]
    assert [step.edit for step in kept] == list(found.edits)
    assert not refining or sorted(step.edit.layer for step in kept) == ["conv1", "conv2"]
    student, fresh = edited(shop.network, found), pictures(200, 9)
    wanted = probabilities(shop.network, fresh).argmax(1)
    assert float((probabilities(student, stamp(fresh)).argmax(1) == wanted).float().mean()) > 0.9
    assert float((probabilities(student, fresh).argmax(1) == wanted).float().mean()) > 0.97


def test_a_refinement_that_does_harm_is_rolled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    shop, scores = workshop()
    monkeypatch.setattr(repair, "is_worth_refining", lambda *_: True)
    plain = repair.dynamic(shop, scores, None, refine=False)

    def harmful(start: nn.Module, *_: object) -> nn.Module:
        ruined = copy.deepcopy(start)
        with torch.no_grad():
            ruined.get_submodule("head").weight.zero_()
        return ruined

    monkeypatch.setattr(repair, "refined", harmful)
    found = repair.dynamic(shop, scores, None)
    assert found.policy == plain.policy and any("rolled back" in note for note in found.notes)
    assert [step.edit.layer for step in found.steps if step.kept] == [edit.layer for edit in found.edits]
    for mine, its in zip(found.edits, plain.edits, strict=True):
        assert torch.equal(mine.delta(), its.delta())
    assert_chain([step for step in found.steps if step.kept], shop.network, shop)
    student = edited(shop.network, found)
    assert float((probabilities(student, stamp(pictures(200, 9))).argmax(1) == TARGET).float().mean()) < 0.1


def test_the_trial_never_sees_the_images_that_judge_and_the_whole_refinement_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shop, scores = workshop()
    only_refinement(monkeypatch)
    seen: list[tuple[int, Tensor]] = []

    def spy(*given: Any) -> nn.Module:
        images, plan = given[2], given[4]
        seen.append((plan.steps, images))
        return refined(*given)

    monkeypatch.setattr(repair, "refined", spy)
    monkeypatch.setattr(repair, "MUCH", 1.0)  # the first half will do
    monkeypatch.setattr(repair, "FEW", 0)
    found = repair.dynamic(shop, scores, None)
    case = shop.case
    held_back = case.teacher.clean[case.judge]

    def among(images: Tensor) -> int:
        return sum(bool((one == images).flatten(1).all(1).any()) for one in held_back)

    assert [steps for steps, _ in seen] == [80, 140] and "refined together in 140 steps" in found.policy
    assert [among(images) for _, images in seen] == [0, len(held_back)]


def test_where_the_first_half_is_too_little_all_layers_move(monkeypatch: pytest.MonkeyPatch) -> None:
    shop, scores = workshop()
    only_refinement(monkeypatch)
    asked: list[tuple[int, float]] = []

    def useless_by_half(*given: Any) -> nn.Module:
        plan = given[4]
        asked.append((plan.steps, plan.share))
        return refined(*given) if plan.share == 1 else copy.deepcopy(given[0])

    monkeypatch.setattr(repair, "refined", useless_by_half)
    found = repair.dynamic(shop, scores, None)
    assert asked == [(80, 1 / 2), (80, 2 / 3), (80, 1.0), (140, 1.0)] and found.policy.startswith(
        "first 3 of 3 layers, refined"
    )


@pytest.mark.parametrize("partial", [False, True])
def test_where_little_is_missing_half_of_the_layers_are_tried_and_no_more(
    partial: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, scores = workshop()
    only_refinement(monkeypatch)
    monkeypatch.setattr(repair, "LITTLE", 10.0)
    monkeypatch.setattr(type(shop.case), "partial", partial)
    asked: list[float] = []

    def useless(*given: Any) -> nn.Module:
        asked.append(given[4].share)
        return copy.deepcopy(given[0])

    monkeypatch.setattr(repair, "refined", useless)
    found = repair.dynamic(shop, scores, None)
    assert asked == ([1 / 2, 2 / 3, 1.0] if partial else [1 / 2]) and "refined" not in found.policy


@pytest.mark.parametrize(
    ("losses", "layers", "count", "taken"),
    [
        ((0.04, 0.0, 0.0), 9, 1, 1 / 2),  # the half leaves little: no more is tried
        ((0.04, 0.02, 0.018), 8, 3, 2 / 3),  # but of few layers
        ((0.04, 0.035, 0.0), 8, 3, 1.0),
        ((0.0, 0.0, 0.0), 8, 1, 1 / 2),
        ((0.08, 0.07, 0.04), 9, 3, 1.0),  # a little better is not enough, much better is
        ((0.08, 0.04, 0.0), 9, 2, 2 / 3),  # once little is left no more is tried
        ((0.08, 0.075, 0.07), 9, 3, 1 / 2),
        ((0.20, 0.19, 0.18), 9, 3, 1.0),  # worse than before by half: whatever is best
        ((math.nan, 0.08, 0.09), 9, 3, 2 / 3),
    ],
)
def test_more_layers_move_where_half_of_them_leaves_much(
    losses: tuple[float, ...], layers: int, count: int, taken: float
) -> None:
    asked: list[float] = []

    def tried(plan: Plan) -> repair.Trial:
        asked.append(plan.share)
        return repair.Trial(Judgement(0.0, losses[len(asked) - 1], 0.0, 0.0, 0.0, (40, 40)), plan)

    before = Judgement(0.0, 0.15, 0.0, 0.0, 0.0, (40, 40))
    enough = repair._enough(workshop()[0].case, [workshop()[1][0].site] * layers)
    trial = repair._try_plans([Plan(share=share) for share in module.SHARES], before, enough, tried)
    assert (len(asked), trial.plan.share) == (count, taken)
    assert trial.judgement.recovery_loss == losses[asked.index(taken)]


@pytest.mark.parametrize("better", range(3))
def test_of_a_fault_that_moves_things_three_plans_are_tried_and_the_best_is_made(
    better: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, scores = workshop()
    moves = tuple(replace(guess, moves=True) for guess in shop.case.believed)
    monkeypatch.setattr(shop, "case", replace(shop.case, believed=moves))
    assert shop.case.moving
    only_refinement(monkeypatch)
    wanted = [(0.5, False, False), (1.0, False, False), (1.0, True, True)]  # share, shifted before, and after
    asked: list[tuple[int, tuple[float, bool, bool]]] = []

    def one_is_better(*given: Any) -> nn.Module:
        plan = given[4]
        how = (plan.share, plan.shift, plan.after)
        asked.append((plan.steps, how))
        return refined(*given[:4], plan if how == wanted[better] else replace(plan, steps=20))

    monkeypatch.setattr(repair, "refined", one_is_better)
    found = repair.dynamic(shop, scores, None)
    assert asked == [*((80, how) for how in wanted), (140, wanted[better])] and "140 steps" in found.policy


def test_a_plan_shifts_images_and_their_corrupted_twins_alike_once_the_fault_is_on_them() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(98, 3)).eval()
    sites = survey(network, torch.zeros(1, 1, 9, 9))
    seen: list[tuple[Tensor, Tensor]] = []

    def look(_: nn.Module, __: nn.Module, ___: Sequence[str], one: Tensor, other: Tensor, weights: Any) -> list[None]:
        seen.append((one, other))
        return [None] * len(weights)

    images = torch.rand(40, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    marked = Corruption("marked", lambda x: torch.cat((torch.full_like(x[:, :, :, :4], 5.0), x[:, :, :, 4:]), 3))
    for after in (False, True):
        refined(network, sites, images, (marked,), Plan(steps=1, batch=60, after=after), slope=look)
    (still, stamped), (moved, with_it) = seen
    assert torch.equal(stamped, marked.apply(still)) and not torch.equal(with_it, marked.apply(moved))
    offsets = set()
    for image, twin, was, had in zip(moved, with_it, still, stamped, strict=True):
        where = [
            (top, left)
            for top in range(3)
            for left in range(3)
            if torch.equal(image, F.pad(was[None], (1,) * 4, mode="reflect")[0, :, top : top + 9, left : left + 9])
            and torch.equal(twin, F.pad(had[None], (1,) * 4, mode="reflect")[0, :, top : top + 9, left : left + 9])
        ]
        assert len(where) == 1
        offsets.add(where[0])
    assert len(offsets) == 9


def test_a_plan_without_shifts_leaves_images_in_their_place() -> None:
    images = torch.zeros(8, 1, 9, 9)
    images[:, 0, 4, 4] = torch.arange(1.0, 9.0)  # in the middle: mirrored, it stays there
    for shift in (False, True):
        batch = next(module._batches(images, Plan(batch=400, shift=shift)))
        lit = (batch[:, 0] > 0).flatten(1)
        assert int((lit.sum(1) == 1).sum()) > 100  # not mixed, or mixed with its like
        assert bool(lit[:, 40].all()) is not shift


def test_a_refinement_that_fails_only_when_it_is_made_whole_is_rolled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    shop, scores = workshop()
    only_refinement(monkeypatch)
    plain = repair.dynamic(shop, scores, None, refine=False)

    def diverging(*given: Any) -> nn.Module:
        made = refined(*given)
        if given[4].steps == 140:
            with torch.no_grad():
                made.get_submodule("head").weight.mul_(-10)
        return made

    monkeypatch.setattr(repair, "refined", diverging)
    found = repair.dynamic(shop, scores, None)
    assert found.policy == plain.policy and any("rolled back" in note for note in found.notes)


def test_a_refinement_that_leaves_the_pairs_as_they_were_is_rolled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written is checked on the pairs: such a refinement would be refused, and the closed form is not."""
    shop, scores = workshop()
    only_refinement(monkeypatch)
    plain = repair.dynamic(shop, scores, None, refine=False)
    assert "refined" in repair.dynamic(shop, scores, None).policy
    monkeypatch.setattr(repair, "_turns_any", lambda *_: False)
    found = repair.dynamic(shop, scores, None)
    assert found.policy == plain.policy and any("left the pairs as they were" in note for note in found.notes)


def test_behind_a_refinement_the_last_layer_is_solved_where_the_judge_prefers_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On images that do not judge for the trial, then on all, on what the refined layers pass on."""
    shop, scores = workshop()
    case = shop.case
    only_refinement(monkeypatch)
    monkeypatch.setattr(repair, "is_tunable", lambda site: True)
    monkeypatch.setattr(repair, "refined", lambda *given: refined(*given[:4], replace(given[4], steps=20)))
    solved: list[tuple[nn.Module, Material, Strength]] = []

    def spy(network: nn.Module, site: Site, material: Material, strength: Strength, batch: int) -> LayerEdit:
        assert site.name == "head"
        solved.append((copy.deepcopy(network), material, strength))
        return solve_layer(network, site, material, strength, batch)

    monkeypatch.setattr(repair, "solve_layer", spy)
    found = repair.dynamic(shop, scores, None)
    assert found.policy.endswith("refined together in 140 steps, then head in closed form")
    *trials, (moved, material, strength) = solved
    assert all(not torch.isin(case.judge, trial.reference).any() for _, trial, _ in trials)
    assert torch.isin(case.judge, material.reference).all() and strength in [tried for *_, tried in trials]
    kept = {edit.layer: edit for edit in found.edits}
    before = moved.get_submodule("head").weight.double()
    head = next(score.site for score in scores if score.site.name == "head")
    solved_again = solve_layer(moved, head, material, strength).delta()[0]
    wanted = before + solved_again - shop.network.get_submodule("head").weight.double()
    torch.testing.assert_close(kept["head"].delta()[0], wanted, rtol=0, atol=1e-6)  # weights are rounded to float32


def test_a_last_layer_that_the_judge_does_not_prefer_stays_as_the_refinement_left_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shop, scores = workshop()
    only_refinement(monkeypatch)
    plain = repair.dynamic(shop, scores, None)
    monkeypatch.setattr(repair, "is_tunable", lambda site: True)

    def spoil(network: nn.Module, edit: LayerEdit) -> None:
        with torch.no_grad():
            network.get_submodule(edit.layer).weight.mul_(-10)

    monkeypatch.setattr(repair, "apply", spoil)
    found = repair.dynamic(shop, scores, None)
    assert found.policy == plain.policy and "closed form" not in found.policy
    assert [edit.layer for edit in found.edits] == [edit.layer for edit in plain.edits]


def test_what_turns_no_pair_is_told() -> None:
    shop, scores = workshop()
    repaired = edited(shop.network, repair.dynamic(shop, scores, None))
    assert repair._turns_any(shop.case, shop.network, repaired)
    assert not repair._turns_any(shop.case, shop.network, copy.deepcopy(shop.network))
    cue = replace(shop.case, fault=replace(shop.case.fault, kind="cue"))
    assert repair._turns_any(cue, shop.network, shop.network)
    clear = replace(shop.case, believed=tuple(replace(guess, clear=True) for guess in shop.case.believed))
    assert repair._turns_any(clear, shop.network, shop.network)  # other images say whether it is one


@pytest.mark.parametrize("clear", [False, True])
def test_other_images_bear_a_repair_out_if_they_lose_half_of_a_clear_fault(clear: bool) -> None:
    shop, _ = workshop()
    believed = tuple(replace(guess, clear=clear) for guess in shop.case.believed)
    case = replace(shop.case, believed=believed, guesses={guess.name: 0.8 for guess in believed})
    assert case.clear == clear

    def expected(asr: float | None) -> Judgement:
        return Judgement(0.0, 0.0, asr, asr, 0.0, (80, 70))

    assert repair.borne_out(case, expected(0.4)) == clear
    assert not repair.borne_out(case, expected(0.41)) and not repair.borne_out(case, expected(None))
    assert not repair.borne_out(case, None) and not repair.borne_out(replace(case, believed=()), expected(0.0))


@pytest.mark.parametrize("images", [None, 5])
def test_without_enough_calibration_images_nothing_is_refined(
    images: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, scores = workshop(1, images)
    monkeypatch.setattr(repair, "is_worth_refining", lambda *_: True)
    monkeypatch.setattr(repair, "refined", lambda *_: pytest.fail("refined on invented images"))
    assert repair.dynamic(shop, scores, None).edits


def test_a_rank_that_is_asked_for_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    shop, scores = workshop()
    monkeypatch.setattr(repair, "is_worth_refining", lambda *_: True)
    assert all(edit.rank == 1 for edit in repair.dynamic(shop, scores, 1).edits)


class Auxiliary(nn.Module):
    """A network with a head that its logits do not use."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.aux, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.first(x).relu().mean((2, 3))
        self.aux(pooled)
        logits: Tensor = self.head(pooled)
        return logits


def test_a_layer_that_the_logits_do_not_use_stays_as_it_is() -> None:
    torch.manual_seed(0)
    network, images = Auxiliary().eval().requires_grad_(False), pictures(20, 1)
    sites = survey(network, images[:1])
    assert "aux" in {site.name for site in sites}
    moved = refined(network, sites, images, (SQUARE,), Plan(steps=3, share=1.0))
    assert torch.equal(moved.get_parameter("aux.weight"), network.aux.weight)
    assert [edit.layer for edit in difference(moved, network, sites)] == ["first", "head"]


def test_a_refinement_that_ends_in_no_number_is_rolled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    shop, scores = workshop()
    only_refinement(monkeypatch)
    plain = repair.dynamic(shop, scores, None, refine=False)

    def diverged(*given: Any) -> nn.Module:
        made = copy.deepcopy(given[0])
        with torch.no_grad():
            made.get_submodule("conv1").weight.fill_(math.nan)
        return made

    monkeypatch.setattr(repair, "refined", diverged)
    found = repair.dynamic(shop, scores, None)
    assert found.policy == plain.policy and any("rolled back" in note for note in found.notes)
    assert all(bool(edit.delta().isfinite().all()) for edit in found.edits)
