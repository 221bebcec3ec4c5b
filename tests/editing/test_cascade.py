"""Edits of one layer and of many, on networks small enough for the oracles."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fixtures import networks as fixtures
from rectify.editing import cascade as cascade_module
from rectify.editing import values
from rectify.editing.cascade import LayerEdit, Material, Strength, apply, cascade, solve_layer
from rectify.editing.values import Teacher, bind
from rectify.model.trace import Site, survey
from tests import oracles
from tests.model.networks import Folded, randomised


def two_layers() -> nn.Module:
    """Flatten - linear - linear, no nonlinearity, float64."""
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Linear(5, 3)).double().eval().requires_grad_(False)


def convolutions() -> nn.Module:
    """Convolution - tanh - strided convolution - pooling, float64."""
    network = nn.Sequential(nn.Conv2d(2, 3, 3, 1, 1), nn.Tanh(), nn.Conv2d(3, 2, 3, 2, 1), nn.Flatten(2))
    return network.double().eval().requires_grad_(False)


def case(network: nn.Module, shape: tuple[int, ...], clean: int = 9, corrupted: int = 4) -> tuple[list[Site], Material]:
    """Sites of a network and random material: the last clean images have corrupted twins."""
    kind = next(network.parameters()).dtype
    images = torch.randn(clean, *shape, dtype=kind)
    rows = torch.arange(clean - corrupted, clean)
    shifted = images[rows] + 0.5 * torch.randn(corrupted, *shape, dtype=kind)
    reference = torch.arange(clean - corrupted + 1)  # one of the twins is a reference as well
    return survey(network, images), Material(Teacher(network, images), shifted, rows, reference)


def expected_delta(
    clean: tuple[list[Tensor], list[Tensor]],
    faulty: tuple[list[Tensor], list[Tensor]],
    strength: Strength,
) -> Tensor:
    """The ridge solution from (keys, residuals) of clean and of corrupted images, one tensor (d or o, P) an image."""
    c, s = oracles.moments([k[None] for k in clean[0]], [r[None] for r in clean[1]], 0)
    f, t = oracles.moments([k[None] for k in faulty[0]], [r[None] for r in faulty[1]], 0, strength.changed_only)
    scale = float(c.diagonal().mean())
    return (s + strength.weight * t) @ torch.linalg.inv(
        oracles.damped(c + strength.weight * f, strength.damping, scale)
    )


STRENGTHS = pytest.mark.parametrize(
    "strength", [Strength(), Strength(weight=30.0, damping=1e-3), Strength(weight=0.1, damping=0.5, changed_only=0.3)]
)


@STRENGTHS
def test_linear_layers_are_solved_as_the_oracle_says(strength: Strength) -> None:
    network = two_layers()
    (first, second), material = case(network, (6, 1, 1))
    student = copy.deepcopy(network)
    clean = material.teacher.clean.flatten(1)
    corrupted, twins, reference = material.corrupted.flatten(1), clean[material.rows], clean[material.reference]
    one, two = network[1], network[2]  # type: ignore[index]
    faulty = (
        [x[:, None] for x in corrupted],
        [(one(x) - one(z))[:, None] for x, z in zip(twins, corrupted, strict=True)],
    )
    still = [x[:, None] for x in reference], [torch.zeros(5, 1, dtype=torch.float64) for _ in reference]
    edit = solve_layer(student, first, material, strength, batch=2)
    expected = expected_delta(still, faulty, strength)
    torch.testing.assert_close(edit.delta()[0], expected)

    apply(student, edit)
    keys = lambda x: (one.weight + expected) @ x + one.bias  # noqa: E731
    lacks = lambda x, z: (two(one(x)) - two(keys(z)))[:, None]  # noqa: E731
    faulty = [keys(z)[:, None] for z in corrupted], [lacks(x, z) for x, z in zip(twins, corrupted, strict=True)]
    still = [keys(x)[:, None] for x in reference], [lacks(x, x) for x in reference]
    edit = solve_layer(student, second, material, strength, batch=3)
    torch.testing.assert_close(edit.delta()[0], expected_delta(still, faulty, strength))


@STRENGTHS
def test_convolutions_are_solved_as_the_oracle_says(strength: Strength) -> None:
    network = convolutions()
    (_, site), material = case(network, (2, 5, 4))
    hidden = network[:2]  # type: ignore[index]
    last = network[2]  # type: ignore[index]

    def keys(images: Tensor) -> list[Tensor]:
        return [torch.stack(oracles.patches(image, (3, 3), 2, 1), 1) for image in hidden(images)]

    def lacks(wanted: Tensor, images: Tensor) -> list[Tensor]:
        return list((last(hidden(wanted)) - last(hidden(images))).flatten(2))

    teacher = material.teacher
    reference = teacher.clean[material.reference]
    expected = expected_delta(
        (keys(reference), lacks(reference, reference)),
        (keys(material.corrupted), lacks(teacher.clean[material.rows], material.corrupted)),
        strength,
    )
    edit = solve_layer(copy.deepcopy(network), site, material, strength, batch=2)
    torch.testing.assert_close(edit.delta()[0], expected)


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_the_size_of_the_batches_does_not_matter(batch: int) -> None:
    network = fixtures.resnet18(4, width=2).double().eval().requires_grad_(False)
    sites, material = case(network, (3, 8, 8))
    for site in sites[::5]:
        whole = solve_layer(network, site, material, Strength()).delta()
        torch.testing.assert_close(solve_layer(network, site, material, Strength(), batch).delta(), whole)


def test_with_room_enough_the_corrupted_images_give_the_clean_answer() -> None:
    network = two_layers()
    sites, material = case(network, (6, 1, 1), clean=5, corrupted=3)  # 3 references, 3 corrupted keys, 6 dimensions
    teacher = material.teacher
    student = copy.deepcopy(network)
    cascade(student, sites[:1], material, Strength(damping=1e-13))
    torch.testing.assert_close(student(material.corrupted), network(teacher.clean[material.rows]), rtol=1e-6, atol=1e-6)
    untouched = teacher.clean[material.reference]
    torch.testing.assert_close(student(untouched), network(untouched), rtol=1e-6, atol=1e-6)


def test_clean_residuals_pull_the_network_back() -> None:
    network = two_layers()
    sites, material = case(network, (6, 1, 1))
    student = copy.deepcopy(network)
    student[1].weight += 0.3 * torch.randn_like(student[1].weight)  # type: ignore[index]
    before = float((student(material.teacher.clean) - network(material.teacher.clean)).norm())
    calm = replace(material, corrupted=material.teacher.clean, rows=torch.arange(len(material.teacher.clean)))
    cascade(student, sites[1:], calm, Strength(damping=1e-6))
    assert float((student(material.teacher.clean) - network(material.teacher.clean)).norm()) < 0.5 * before


# ---------------------------------------------------------------- the block's sum as target


class Block(nn.Module):
    """A residual block with a projection beside it, float64."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.shortcut = nn.Conv2d(2, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return (self.norm(self.conv(x)) + self.shortcut(x)).relu().flatten(1)


def test_the_block_target_cancels_what_leaks_through_the_shortcut() -> None:
    network = randomised(Block().double())
    sites, material = case(network, (2, 3, 3), clean=3, corrupted=1)
    site = next(site for site in sites if site.name == "conv")
    assert site.join is not None
    wanted = network(material.teacher.clean[material.rows])
    strength, left = Strength(weight=1e6, damping=1e-9), {}
    for name, target in (("sum", site), ("own", replace(site, join=None))):
        student = copy.deepcopy(network)
        cascade(student, [target], replace(material, teacher=Teacher(network, material.teacher.clean)), strength)
        left[name] = float((student(material.corrupted) - wanted).norm())
        if name == "own":  # it does what it was asked for, which is not enough
            own = network.get_submodule("conv")(material.teacher.clean[material.rows])
            mine = student.get_submodule("conv")(material.corrupted)
            assert float((mine - own).norm()) < 0.05 * float(own.norm())
    assert left["sum"] < 0.05 * left["own"] and left["own"] > 0.1 * float(wanted.norm())


# ---------------------------------------------------------------- rank


@pytest.mark.parametrize("rank", [1, 2])
def test_a_kept_rank_is_the_truncation_in_the_metric_of_the_fit(rank: int) -> None:
    network = two_layers()
    (site, _), material = case(network, (6, 1, 1))
    clean = material.teacher.clean.flatten(1)
    c = torch.stack([k.outer(k) for k in clean[material.reference]]).mean(0)
    f = torch.stack([k.outer(k) for k in material.corrupted.flatten(1)]).mean(0)
    whole = solve_layer(network, site, material, Strength()).delta()[0]
    edit = solve_layer(network, site, material, Strength(rank=rank))
    assert edit.rank == rank == int(torch.linalg.matrix_rank(edit.delta()[0], rtol=1e-9))
    metric = oracles.damped(c + f, Strength().damping, float(c.diagonal().mean()))
    torch.testing.assert_close(edit.delta()[0], oracles.truncated(whole, metric, rank))


def test_energy_keeps_as_many_ranks_as_it_needs() -> None:
    network = two_layers()
    (site, _), material = case(network, (6, 1, 1))
    ranks = [solve_layer(network, site, material, Strength(energy=energy)).rank for energy in (0.01, 0.9, 0.9999)]
    assert ranks[0] == 1 and ranks == sorted(ranks) and ranks[2] <= 5


def test_no_edit_has_more_ranks_than_its_weight() -> None:
    network = two_layers()
    (site, _), material = case(network, (6, 1, 1))
    whole = solve_layer(network, site, material, Strength()).delta()
    for strength in (Strength(), Strength(rank=5), Strength(rank=99)):
        edit = solve_layer(network, site, material, strength)
        assert edit.rank <= 5 and edit.left.shape == (1, 5, edit.rank) and edit.right.shape == (1, edit.rank, 6)
        torch.testing.assert_close(edit.delta(), whole)
    wide = nn.Sequential(nn.Flatten(), nn.Linear(3, 7)).double().eval().requires_grad_(False)
    (site,), material = case(wide, (3, 1, 1))
    assert solve_layer(wide, site, material, Strength()).rank <= 3


# ---------------------------------------------------------------- applying


def test_apply_changes_one_tensor_by_the_delta_and_nothing_else() -> None:
    network = fixtures.mobilenet(4, width=4).eval().requires_grad_(False)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    weight = network.state_dict()["3.depthwise.0.weight"]
    groups, area = len(weight), weight[0].numel()
    edit = LayerEdit("3.depthwise.0", torch.randn(groups, 1, 1).double(), torch.randn(groups, 1, area).double())
    apply(network, edit)
    for name, value in network.state_dict().items():
        if name != "3.depthwise.0.weight":
            assert torch.equal(value, state[name]), name
    expected = state["3.depthwise.0.weight"].double() + edit.delta().reshape(weight.shape)
    assert torch.equal(network.state_dict()["3.depthwise.0.weight"], expected.float())


def test_a_delta_too_small_for_its_weight_is_lost_in_one_rounding_only() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 1, bias=False)).requires_grad_(False)
    network[1].weight.fill_(1.0)
    small = torch.full((1, 1, 1), 2.0**-26, dtype=torch.float64)
    apply(network, LayerEdit("1", 4 * small, torch.ones(1, 1, 1, dtype=torch.float64)))
    assert float(network[1].weight) == 1.0  # below half a unit of the last place
    apply(network, LayerEdit("1", torch.full_like(small, 2.0**-23), torch.ones(1, 1, 1, dtype=torch.float64)))
    assert float(network[1].weight) == 1.0 + 2.0**-23


def test_the_teacher_and_its_images_are_left_alone() -> None:
    network = fixtures.resnet18(4, width=2).eval().requires_grad_(False)
    sites, material = case(network, (3, 8, 8))
    state = {name: value.clone() for name, value in network.state_dict().items()}
    images = material.teacher.clean.clone(), material.corrupted.clone()
    student = copy.deepcopy(network)
    made = cascade(student, sites, material, Strength())
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert torch.equal(material.teacher.clean, images[0]) and torch.equal(material.corrupted, images[1])
    assert [edit.layer for edit in made] == [site.name for site in sites]
    changed = {name for name, value in student.state_dict().items() if not torch.equal(value, state[name])}
    assert changed <= {f"{edit.layer}.weight" for edit in made} and len(changed) > len(made) // 2


def test_the_edits_returned_are_the_edits_made() -> None:
    network = fixtures.vgg(4, width=2).eval().requires_grad_(False)
    sites, material = case(network, (3, 8, 8))
    student, again = copy.deepcopy(network), copy.deepcopy(network)
    told: list[LayerEdit] = []
    made = cascade(student, sites[::-1], material, Strength(energy=0.9), advance=told.append)
    assert [edit.layer for edit in made] == [site.name for site in sites] and told == made
    for edit in made:
        apply(again, edit)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in student.state_dict().items())


# ---------------------------------------------------------------- the teacher's memory


@pytest.mark.parametrize("name", ["resnet", "vit", "mobilenet"])
def test_remembered_values_are_those_that_are_read_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    build = {
        "resnet": lambda: fixtures.resnet18(4, width=2),
        "vit": lambda: fixtures.vit(4, width=8, channels=3, image_size=8, depth=1),
        "mobilenet": lambda: fixtures.mobilenet(4, width=2),
    }[name]
    network = randomised(build().double())
    sites, material = case(network, (3, 8, 8), clean=7)
    images = material.teacher.clean
    kept, forgetful = Teacher(network, images, batch=3 if name != "vit" else 7), Teacher(network, images)
    kept.prepare(sites)
    monkeypatch.setattr("rectify.editing.values.MEMORY", 0)
    forgetful.prepare(sites)
    assert not forgetful._kept and kept._kept.keys() == {site.name for site in sites}
    rows = torch.tensor([5, 0, 5, 2])
    for site in sites:
        torch.testing.assert_close(kept.values(site, rows), forgetful.values(site, rows))


def test_a_last_batch_of_one_image_is_like_any_other() -> None:
    network = randomised(fixtures.vit(4, width=8, channels=3, image_size=8, depth=1).double())
    sites, material = case(network, (3, 8, 8), clean=7)
    kept = Teacher(network, material.teacher.clean, batch=3)
    kept.prepare(sites)
    for site in sites:
        if site.join:
            alone = Teacher(network, material.teacher.clean).values(site, torch.arange(7))
            torch.testing.assert_close(kept.values(site, torch.arange(7)), alone)


def test_a_layer_with_tokens_folded_into_the_batch_can_be_edited() -> None:
    network = randomised(Folded().double())
    sites, material = case(network, (4, 4, 4))
    for site in sites:
        whole = solve_layer(network, site, material, Strength())
        material.teacher.prepare([site])
        torch.testing.assert_close(solve_layer(network, site, material, Strength(), 2).delta(), whole.delta())
    student = copy.deepcopy(network)
    cascade(student, sites, material, Strength())
    wanted = network(material.teacher.clean[material.rows])
    left = float((student(material.corrupted) - wanted).norm())
    assert left < float((network(material.corrupted) - wanted).norm())


def test_bind_takes_the_copys_own_module() -> None:
    network = two_layers()
    site = survey(network, torch.randn(1, 6, 1, 1, dtype=torch.float64))[0]
    student = copy.deepcopy(network)
    assert bind(student, site).layer.module is student[1] and bind(student, site).join is site.join  # type: ignore[index]
    assert cascade_module.bind is bind


def test_values_kept_stay_within_the_bound_and_make_room_for_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    network = fixtures.vgg(4, width=2).eval().requires_grad_(False)
    sites, material = case(network, (3, 8, 8))
    teacher = material.teacher
    sizes = [teacher._bytes([site]) for site in sites]
    monkeypatch.setattr("rectify.editing.values.MEMORY", sizes[0] + sizes[1])

    def kept() -> set[str]:
        assert sum(value.numel() * value.element_size() for value in teacher._kept.values()) <= sizes[0] + sizes[1]
        return set(teacher._kept)

    teacher.prepare(sites[:2])
    assert kept() == {site.name for site in sites[:2]}
    teacher.prepare(sites)  # too much: what is there stays
    assert kept() == {site.name for site in sites[:2]}
    teacher.prepare([sites[1], sites[2]])
    assert kept() == {sites[1].name, sites[2].name}


@pytest.mark.parametrize("memory", [2 << 30, 1 << 10])
@pytest.mark.parametrize("name", ["resnet", "vit", "mobilenet"])
def test_images_that_wait_on_their_way_change_no_edit(name: str, memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    build: dict[str, Callable[[], nn.Module]] = {
        "resnet": lambda: fixtures.resnet18(4, width=4),
        "vit": lambda: fixtures.vit(4, width=16, channels=3, image_size=16, depth=2),
        "mobilenet": lambda: fixtures.mobilenet(4, width=4),
    }
    monkeypatch.setattr(values, "MEMORY", memory)
    network = randomised(build[name]()).double()
    sites, material = case(network, (3, 16, 16))
    read = 0

    def count(*_: object) -> None:
        nonlocal read
        read += 1

    counts, made = [], []
    for waiting in (True, False):
        with monkeypatch.context() as patch:
            if not waiting:
                patch.setattr(Teacher, "starts", [])
            student, read = copy.deepcopy(network), 0
            student.get_submodule(sites[1].name).register_forward_hook(count)
            teacher = Teacher(network, material.teacher.clean)
            made.append(cascade(student, sites, replace(material, teacher=teacher), Strength(energy=0.99)))
            assert teacher._relay is None  # which would hold images for whoever asks next
            counts.append(read)
    assert counts[0] < 0.7 * counts[1]
    for one, other in zip(*made, strict=True):
        torch.testing.assert_close(one.delta(), other.delta(), rtol=1e-7, atol=1e-9)
