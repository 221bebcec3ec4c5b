"""The refinement against slow forms of its loss and of its direction, and what it may and may not touch."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fixtures import networks as fixtures
from rectify.editing import refine as module
from rectify.editing.cascade import apply
from rectify.editing.guess import Corruption
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
from rectify.model.trace import survey
from tests import oracles
from tests.editing.planted import pictures, planted, stamp

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
