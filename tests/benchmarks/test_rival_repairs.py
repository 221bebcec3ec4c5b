"""Each rival's formula against a slow oracle or a property, on networks of a few channels."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.rivals import __main__ as rivals
from benchmarks.rivals import anp, clarc, clp, fine_pruning, fine_tuning, ft_sam, ibau, projection, rectifying
from benchmarks.rivals.choice import Attempt, by_accuracy, by_pair, logits
from benchmarks.rivals.evidence import Effort, Evidence, Labelled
from benchmarks.rivals.methods import METHODS
from benchmarks.rivals.page import markdown, overall
from benchmarks.rivals.training import descend
from benchmarks.runs import RESULTS
from benchmarks.zoo import datasets
from benchmarks.zoo.recipes import RECIPES
from benchmarks.zoo.train import make_trigger, poison
from fixtures.networks import resnet18
from tests import oracles

CLASSES = 4


def network(seed: int = 0) -> nn.Module:
    """A narrow ResNet-18 whose batch norms have something to say."""
    torch.manual_seed(seed)
    made = resnet18(num_classes=CLASSES, width=4, channels=1)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            assert module.running_mean is not None and module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return made.eval().requires_grad_(False)


@pytest.fixture
def case(tmp_path: Path) -> Evidence:
    made = network()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(300, 1, 8, 8, generator=generator)
    labels = logits(made, images).argmax(1)
    corrupted = images[:1].clone()
    corrupted[..., 5:7, 5:7] = 4.0
    fit, validation = Labelled(images[20:290], labels[20:290]), Labelled(images[:20], labels[:20])
    recipe = RECIPES["mnist-resnet-patch"]
    parts = (images[:1], corrupted, int(labels[0]), images[1:20], fit, validation)
    return Evidence("tiny", recipe, made, *parts, tmp_path, 0, 0, Effort(epochs=1, mask_steps=3, rounds=1))


def attempt(name: str, **figures: float) -> Attempt:
    return Attempt({"name": name}, nn.Identity(), figures)


def test_the_strongest_setting_that_keeps_the_accuracy_is_chosen(case: Evidence) -> None:
    found = [attempt("weak", validation=1.0), attempt("strong", validation=0.99), attempt("too strong", validation=0.9)]
    outcome = by_accuracy(case, found)  # the untouched network has 1.0 by construction
    assert outcome.chosen == {"name": "strong"} and len(outcome.tried) == 3
    assert by_accuracy(case, [attempt("a", validation=0.2), attempt("b", validation=0.1)]).chosen == {"name": "a"}


def test_the_pair_chooses_among_settings_that_agree_nearly_alike() -> None:
    found = [
        attempt("not turned", turned=0.0, agreement=1.0, confidence=0.4),
        attempt("unsure", turned=1.0, agreement=1.0, confidence=0.6),
        attempt("sure", turned=1.0, agreement=0.99, confidence=0.9),
        attempt("ruinous", turned=1.0, agreement=0.5, confidence=1.0),
    ]
    assert by_pair(found).chosen == {"name": "sure"}
    assert by_pair(found[:1]).chosen == {"name": "not turned"}


def test_clp_bound_is_that_of_a_loop_and_of_any_input() -> None:
    made = network()
    for convolution, norm in list(clp.normalised_convolutions(made))[:4]:
        found = clp.bounds(convolution, norm)
        assert norm.running_var is not None
        for channel in range(len(found)):
            matrix = convolution.weight[channel].reshape(convolution.in_channels, -1).double().numpy()
            factor = abs(float(norm.weight[channel])) / (float(norm.running_var[channel]) + norm.eps) ** 0.5
            assert float(found[channel]) == pytest.approx(factor * np.linalg.svd(matrix)[1][0], rel=1e-5)
    assert len(list(clp.normalised_convolutions(made))) == sum(isinstance(m, nn.Conv2d) for m in made.modules())


def test_clp_prunes_the_outlier_and_nothing_else() -> None:
    made = network()
    before = copy.deepcopy(made.state_dict())
    made.get_submodule("layer4.0.conv2").weight[3] *= 1000  # type: ignore[operator, index]
    assert clp.pruned(made, 5.0) == 1
    norm = made.get_submodule("layer4.0.bn2")
    assert norm.weight[3] == norm.bias[3] == 0  # type: ignore[index]
    changed = {k for k, v in made.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"layer4.0.conv2.weight", "layer4.0.bn2.weight", "layer4.0.bn2.bias"}


def test_anp_factors_of_one_are_the_network_itself(case: Evidence) -> None:
    ones = {k: torch.ones(m.num_features) for k, m in anp.batch_norms(case.network).items()}
    images, labels = case.fit.images[:8], case.fit.labels[:8]
    with torch.autocast("cpu", torch.bfloat16):
        expected = F.cross_entropy(case.network(images).float(), labels)
    torch.testing.assert_close(anp.loss_of(case.network, images, labels)(ones, ones), expected)


def test_anp_perturbs_upwards_within_its_ball_and_masks_within_0_and_1() -> None:
    slope = {"bn": torch.tensor([1.0, -2.0, 0.5])}

    def loss(weights: anp.Channels, biases: anp.Channels) -> Tensor:
        return (slope["bn"] * (weights["bn"] + 3 * biases["bn"])).sum()

    ones = {"bn": torch.ones(3)}
    mask = {"bn": torch.tensor([1.0, 0.9, 0.1], requires_grad=True)}
    delta, xi = anp.worst(loss, mask, 0.4, torch.Generator().manual_seed(0))
    for moved in (delta["bn"], xi["bn"]):
        assert float(moved.abs().max()) <= 0.4 + 1e-6
        assert (slope["bn"] * moved >= -1e-6).all()  # a step of ε from anywhere in the ball ends on the upper side
    optimiser = torch.optim.SGD(mask.values(), 1.0)
    anp.mask_step(loss, mask, ones, delta, xi, optimiser)
    torch.testing.assert_close(mask["bn"].detach(), torch.tensor([0.0, 1.0, 0.0]))


def smooth() -> nn.Sequential:
    """Two convolutions with batch norms and no kink, (N, 1, 6, 6) to (N, 3), float64."""
    torch.manual_seed(0)
    parts = [nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Tanh()]
    made = nn.Sequential(*parts, nn.Flatten(), nn.Linear(8, 3)).double()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return made.requires_grad_(False)


def slow_loss(made: nn.Sequential, factors: Sequence[Tensor], x: Tensor, y: Tensor) -> float:
    """Cross entropy of `smooth` in training mode; factors: of weights and biases of the first norm, then the second."""
    for place, module in enumerate(made):
        if not isinstance(module, nn.BatchNorm2d):
            x = module(x)
            continue
        weights, biases = factors[2 * (place // 4) : 2 * (place // 4) + 2]
        channels = []
        for c in range(x.shape[1]):
            values = x[:, c]
            normal = (values - values.mean()) / (values.var(unbiased=False) + module.eps).sqrt()
            channels.append(weights[c] * module.weight[c] * normal + biases[c] * module.bias[c])
        x = torch.stack(channels, 1)
    return float(sum(row.logsumexp(0) - row[label] for row, label in zip(x, y, strict=True)) / len(y))


def test_a_mask_step_is_momentum_down_the_papers_objective_through_a_non_linear_network() -> None:
    """Central differences of α L(m w, b) + (1 - α) L((m + δ) w, (1 + ξ) b), the forward pass by its formulas."""
    made = smooth().train()
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(12, 1, 6, 6, generator=generator, dtype=torch.float64), torch.arange(12) % 3
    names, sizes, starts = ("1", "4"), (3, 2), ([0.6, 1.0, 0.02], [0.4, 1.0])
    mask = {n: torch.tensor(s, dtype=torch.float64, requires_grad=True) for n, s in zip(names, starts, strict=True)}
    ones = {n: torch.ones(size, dtype=torch.float64) for n, size in zip(names, sizes, strict=True)}
    optimiser = torch.optim.SGD(mask.values(), 0.5, momentum=0.9)
    slow, speed = [torch.tensor(s, dtype=torch.float64) for s in starts], [torch.zeros(3), torch.zeros(2)]
    clamped = 0
    for _ in range(3):
        moves = [[torch.rand(s, generator=generator, dtype=torch.float64) - 0.5 for s in sizes] for _ in range(2)]
        anp.mask_step(
            anp.loss_of(made, x, y),
            mask,
            ones,
            dict(zip(names, moves[0], strict=True)),
            dict(zip(names, moves[1], strict=True)),
            optimiser,
        )

        def objective(m: Sequence[Tensor], moves: Sequence[Sequence[Tensor]] = moves) -> float:
            plain = [one for k in range(2) for one in (m[k], torch.ones(sizes[k]))]
            worst = [one for k in range(2) for one in (m[k] + moves[0][k], 1 + moves[1][k])]
            return 0.2 * slow_loss(made, plain, x, y) + 0.8 * slow_loss(made, worst, x, y)

        slopes = []
        for k, size in enumerate(sizes):
            slopes.append(torch.zeros(size, dtype=torch.float64))
            for c in range(size):
                ends = []
                for h in (1e-5, -1e-5):
                    moved = [one.clone() for one in slow]
                    moved[k][c] += h
                    ends.append(objective(moved))
                slopes[k][c] = (ends[0] - ends[1]) / 2e-5
        speed = [0.9 * old + slope for old, slope in zip(speed, slopes, strict=True)]
        free = [one - 0.5 * step for one, step in zip(slow, speed, strict=True)]
        slow = [one.clamp(0, 1) for one in free]
        clamped += sum(int((one != kept).sum()) for one, kept in zip(free, slow, strict=True))
        for name, expected in zip(names, slow, strict=True):
            torch.testing.assert_close(mask[name].detach(), expected, rtol=0, atol=1e-5)
    moved = [(one - torch.tensor(start)).abs().max() for one, start in zip(slow, starts, strict=True)]
    assert clamped and min(moved) > 1e-3  # both norms' masks moved, and the edge of [0, 1] was met


def test_anp_prunes_below_the_threshold_and_leaves_the_bias(case: Evidence) -> None:
    made = case.copy()
    norms = anp.batch_norms(made)
    mask = {name: torch.full((norm.num_features,), 0.7) for name, norm in norms.items()}
    mask["layer2.0.bn1"][[1, 3]] = torch.tensor([0.3, 0.49])
    mask["layer2.0.bn1"][5] = 0.5  # at the threshold: kept
    mask["bn1"][0] = 0.0
    assert anp.pruned(made, mask, 0.5) == 3
    expected = copy.deepcopy(case.network.state_dict())
    for name, channel in (("layer2.0.bn1", 1), ("layer2.0.bn1", 3), ("bn1", 0)):
        expected[f"{name}.weight"][channel] = 0
    found = made.state_dict()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    output = clarc.activation(made, "layer2.0.bn1", case.calibration)
    assert (output[:, 1] == made.get_parameter("layer2.0.bn1.bias")[1]).all()  # the paper masks weights, not biases


def test_anp_masks_stay_in_0_and_1_and_leave_the_network(case: Evidence) -> None:
    before = copy.deepcopy(case.network.state_dict())
    found = anp.masks(case)
    assert all(float(m.min()) >= 0 and float(m.max()) <= 1 for m in found.values())
    assert any(float(m.min()) < 1 for m in found.values())
    assert all(torch.equal(value, before[key]) for key, value in case.network.state_dict().items())


def test_sam_ascends_by_its_radius_along_the_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(3, 4, generator=generator), torch.randn(5, generator=generator)]
    gradients = [torch.randn(w.shape, generator=generator) for w in weights]
    moves = ft_sam.ascent(weights, gradients, 0.7)
    ratios = torch.cat([(m / w.abs()).flatten() for m, w in zip(moves, weights, strict=True)])
    assert float(ratios.norm()) == pytest.approx(0.7, rel=1e-5)
    gain = sum(float((m * g).sum()) for m, g in zip(moves, gradients, strict=True))
    for seed in range(200):  # no other move of that radius gains more, to first order
        other = torch.randn(17, generator=torch.Generator().manual_seed(seed))
        other = 0.7 * other / other.norm() * torch.cat([w.abs().flatten() for w in weights])
        assert float(other @ torch.cat([g.flatten() for g in gradients])) <= gain + 1e-6


def test_a_sam_step_takes_its_gradient_at_the_top_and_steps_from_below() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    ft_sam.sam_step(0.25)(model, optimiser, lambda: model.weight.square().sum() / 2)
    assert float(model.weight.detach()) == pytest.approx(2.0 - 0.1 * (2.0 + 0.25 * 2.0))


def test_a_sam_step_gathers_statistics_at_the_weights_themselves() -> None:
    def norms() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).train()

    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
    plain, sam = norms(), norms()
    plain(x)
    optimiser = torch.optim.SGD(sam.parameters(), 0.1)
    ft_sam.sam_step(2.0)(sam, optimiser, lambda: sam(x).square().sum())
    torch.testing.assert_close(sam[1].running_mean, plain[1].running_mean)


def test_the_hypergradient_of_a_quadratic_is_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(3, 2, generator=generator), torch.randn(3, generator=generator)
    weights = torch.randn(2, generator=generator, requires_grad=True)
    delta = (a @ weights).detach().requires_grad_(True)  # the inner solution of g = ||δ - A θ||^2 / 2

    def step(d: Tensor) -> Tensor:
        return d - 0.5 * (d - a @ weights)

    outer = (delta - b).square().sum() / 2 + weights.sum()
    (found,) = ibau.hypergradient(outer, step, delta, [weights], 60)
    expected = a.T @ (a @ weights.detach() - b) + 1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_common_perturbation_hurts_within_its_ball(case: Evidence) -> None:
    data = [(case.fit.images[:64], case.fit.labels[:64])] * 4
    delta = ibau.worst(case.network, data, 3.0)
    assert delta.shape == (1, 1, 8, 8) and float(delta.norm()) <= 3 + 1e-4
    before, after = (F.cross_entropy(case.network(data[0][0] + d), data[0][1]) for d in (0 * delta, delta))
    assert after > before


@pytest.mark.parametrize("shape", clarc.SHAPES)
def test_clarc_moves_the_coordinate_and_nothing_else(shape: str) -> None:
    generator = torch.Generator().manual_seed(0)
    clean, corrupted = torch.randn(2, 1, 3, 4, 4, generator=generator)
    found = clarc.direction(clean, corrupted, shape)
    assert float(found.unit.norm()) == pytest.approx(1.0)
    a = torch.randn(5, 3, 4, 4, generator=generator)
    moved = found.moved(a, torch.tensor(0.7))
    torch.testing.assert_close(found.along(moved), torch.full_like(found.along(a), 0.7), rtol=0, atol=1e-5)
    change = moved - a
    torch.testing.assert_close(change - found.along(change) * found.unit, torch.zeros_like(a), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.moved(moved, torch.tensor(0.7)), moved, rtol=0, atol=1e-5)
    if shape == "whole":  # the pair itself: only the artefact lay between them
        level = found.along(clean)
        torch.testing.assert_close(found.moved(corrupted, level), clean, rtol=0, atol=1e-5)


def behind_layer3(made: nn.Module, a: Tensor) -> Tensor:
    """What comes of the activations behind layer3.1."""
    made = made.double()
    output: Tensor = made.get_submodule("fc")(made.get_submodule("layer4")(a).mean((2, 3)))
    return output


@pytest.mark.parametrize("shape", clarc.SHAPES)
def test_p_clarc_is_h_of_the_paper_inside_the_network(case: Evidence, shape: str) -> None:
    """h(a) = (I - v v^T) a + v v^T z with matrices, v from the pair, z the mean of clean images."""
    point = "layer3.1"
    exact = replace(
        case,
        network=case.copy().double(),
        **{key: getattr(case, key).double() for key in ("clean", "corrupted", "calibration")},
    )
    attempt = clarc._projective(exact, point, shape)
    clean, corrupted = (clarc.activation(exact.network, point, x)[0] for x in (exact.clean, exact.corrupted))
    reference = clarc.activation(exact.network, point, exact.calibration)
    channels, height, width = clean.shape
    # A vector a row: the whole activation of an image, or the channels of an image at a position.
    rows = [a.flatten() for a in reference]
    v = (corrupted - clean).flatten()
    if shape == "channels":
        rows = [a[:, i, j] for a in reference for i in range(height) for j in range(width)]
        v = torch.stack([(corrupted - clean)[c].sum() / (height * width) for c in range(channels)])
    v = v / v.square().sum().sqrt()
    outer = torch.outer(v, v)
    z = sum(rows, torch.zeros_like(v)) / len(rows)
    x = torch.cat((exact.corrupted, case.fit.images[:5].double()))
    changed = clarc.activation(exact.network, point, x)
    for a in changed:
        if shape == "whole":
            a[:] = ((torch.eye(len(v)) - outer) @ a.flatten() + outer @ z).reshape(a.shape)
        else:
            for i in range(height):
                for j in range(width):
                    a[:, i, j] = (torch.eye(len(v)) - outer) @ a[:, i, j] + outer @ z
    expected = behind_layer3(exact.copy(), changed)
    torch.testing.assert_close(attempt.network(x), expected, rtol=1e-9, atol=1e-9)
    assert (expected - exact.network(x)).abs().max() > 1e-3
    assert attempt.settings == {"layer": point, "direction": shape}


def test_a_clarc_trains_only_what_lies_behind(case: Evidence) -> None:
    parameters, front = clarc.behind(case.network, "layer2.1")
    behind = {id(p) for p in parameters}
    names = {n.split(".")[0] for n, p in case.network.named_parameters() if id(p) in behind}
    assert names == {"layer3", "layer4", "fc"}
    assert any(module is case.network.get_submodule("layer2.1.bn2") for module in front)
    before = case.network.state_dict()
    trained = clarc._augmentive(case, "layer2.1", "channels").network
    changed = {k.split(".")[0] for k, v in trained.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"layer3", "layer4", "fc"} and not trained.get_submodule("layer2.1")._forward_hooks


@pytest.mark.parametrize("side", projection.SIDES)
def test_projection_removes_exactly_the_direction(side: str) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    size = 6 if side == "reads" else 4
    direction = F.normalize(torch.randn(size, generator=generator, dtype=torch.float64), dim=0)
    found = projection.without(weight, direction, side)
    gone = found @ direction if side == "reads" else direction @ found
    torch.testing.assert_close(gone, torch.zeros_like(gone), rtol=0, atol=1e-12)
    assert int(torch.linalg.matrix_rank(weight - found)) == 1
    differences = torch.outer(direction, torch.tensor([3.0, -1.0, 2.0], dtype=torch.float64))
    assert abs(float(projection.leading(differences) @ direction)) == pytest.approx(1.0)


@pytest.mark.parametrize("which", rectifying.KEYS)
def test_one_key_is_rectified_exactly_and_by_the_published_direction(which: str) -> None:
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(50, 6, generator=generator, dtype=torch.float64)
    moment = reference.T @ reference / 50
    key, residual = torch.randn(6, 1, generator=generator), torch.randn(4, 1, generator=generator)
    delta = rectifying.rank_one(key, residual, moment, which)
    torch.testing.assert_close(delta @ key.double(), residual.double())
    damped = 0.99 * moment + 0.01 * moment.diagonal().mean() * torch.eye(6, dtype=torch.float64)
    towards = torch.linalg.inv(damped) @ key[:, 0].double()
    rows = delta / towards  # Λ (C^-1 k*)^T: every column the same Λ
    torch.testing.assert_close(rows, rows[:, :1].expand(-1, 6))


def slow_rank_one(keys: list[Tensor], residuals: list[Tensor], moment: Tensor, which: str) -> Tensor:
    """Λ (C^-1 k*)^T over the positions that change by 5 % of the largest change or more."""
    sizes = [float(r.double().square().sum()) ** 0.5 for r in residuals]
    changed = [p for p, size in enumerate(sizes) if size >= 0.05 * max(sizes)]
    key = sum((keys[p].double() for p in changed), torch.zeros(len(keys[0]), dtype=torch.float64)) / len(changed)
    if which == "largest":
        key = keys[sizes.index(max(sizes))].double()
    towards = torch.linalg.inv(oracles.damped(moment, 0.01)) @ key
    along = np.array([[float(towards @ keys[p].double())] for p in changed])
    wanted = np.stack([residuals[p].double().numpy() for p in changed])
    factor = torch.from_numpy(np.linalg.lstsq(along, wanted, rcond=None)[0][0])
    return torch.outer(factor, towards)


@pytest.mark.parametrize("which", rectifying.KEYS)
def test_of_many_keys_the_factor_is_least_squares_over_the_changed_positions(which: str) -> None:
    generator = torch.Generator().manual_seed(0)
    keys, residuals = torch.randn(6, 7, generator=generator), torch.randn(4, 7, generator=generator)
    residuals[:, 2] *= 0.01  # not a changed position, though it has a key
    residuals[:, 4] *= 3
    reference = torch.randn(30, 6, generator=generator, dtype=torch.float64)
    moment = reference.T @ reference / 30
    expected = slow_rank_one(list(keys.T), list(residuals.T), moment, which)
    found = rectifying.rank_one(keys, residuals, moment, which)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert (found - slow_rank_one(list(keys.T), list(residuals.T), torch.eye(6), which)).abs().max() > 1e-3


def slow_edit(made: nn.Module, name: str, case: Evidence, which: str) -> Tensor:
    """The edited weight of a 3x3 convolution: keys patch by patch, C the mean of k k^T over calibration images."""
    layer = made.get_submodule(name)
    assert isinstance(layer, nn.Conv2d)
    read: dict[str, Tensor] = {}
    handle = layer.register_forward_hook(lambda _, args, output: read.update(keys=args[0], values=output))

    def see(x: Tensor) -> tuple[list[list[Tensor]], Tensor]:
        made(x)
        stride, padding = layer.stride[0], int(layer.padding[0])
        return [oracles.patches(a, (3, 3), stride, padding) for a in read["keys"]], read["values"].flatten(2)

    images = case.calibration.double()
    reference = [key for one in see(images)[0] for key in one]
    (_, keys), (clean, corrupted) = see(torch.cat((case.clean, case.corrupted)).double())
    handle.remove()
    moment = torch.stack([torch.outer(key, key) for key in reference]).mean(0)
    residuals = list((clean - corrupted).T)
    change = slow_rank_one(keys, residuals, moment, which)
    return layer.weight + change.reshape(layer.weight.shape)


@pytest.mark.parametrize("which", rectifying.KEYS)
@pytest.mark.parametrize("name", ["layer1.0.conv2", "layer3.0.conv1"])
def test_the_edit_of_a_convolution_is_that_of_its_patches(case: Evidence, name: str, which: str) -> None:
    made = case.copy()
    (site,) = (site for site in rectifying.sites(made, case) if site.name == name)
    rectifying.edit(made, site, case, which)
    expected = slow_edit(case.copy().double(), name, case, which)
    before = case.network.get_parameter(f"{name}.weight")
    torch.testing.assert_close(made.get_submodule(name).weight.double(), expected, rtol=1e-3, atol=1e-4)
    assert (expected - before).abs().max() > 1e-2
    changed = [k for k, v in made.state_dict().items() if not torch.equal(v, case.network.state_dict()[k])]
    assert changed == [f"{name}.weight"]


def slow_dynamic(
    case: Evidence, which: str, most: float, closed: float, rounds: int
) -> tuple[nn.Module, list[str], str]:
    """Algorithm 1 in float64 but for the score; also says why it ended."""
    made: nn.Module = case.copy().double()
    edited: list[str] = []
    first = [int(case.network(x[None]).argmax()) for x in case.calibration]
    while True:
        with torch.no_grad():
            f = [float(made(x.double()).softmax(1)[0, case.label]) for x in (case.clean, case.corrupted)]
        if f[0] - f[1] <= closed:
            return made, edited, "closed"
        if len(edited) == rounds:
            return made, edited, "enough"
        name = rectifying.best(copy.deepcopy(made).float(), case).name
        tried = copy.deepcopy(made)
        tried.get_parameter(f"{name}.weight").copy_(slow_edit(made, name, case, which))
        moved = sum(
            int(tried(x[None].double()).argmax()) != was for x, was in zip(case.calibration, first, strict=True)
        )
        if moved / len(first) > most:
            return made, edited, "degraded"
        made = tried
        edited.append(name)


def flipped(case: Evidence) -> Evidence:
    """The case with a network that tells images apart, and a corrupted image that it takes for another class."""
    made = case.copy()
    images = case.fit.images
    with torch.no_grad():
        middle = made(images).mean(0)
        made.get_submodule("fc").bias.sub_(middle)
        for parameter in made.get_submodule("fc").parameters():
            parameter.mul_(40)
    given = logits(made, images).argmax(1)
    label = int(logits(made, case.clean).argmax())
    assert len(set(given.tolist())) > 2
    other = images[int((given != label).nonzero()[0])]
    return replace(case, network=made, corrupted=other[None], label=label)


@pytest.mark.parametrize(
    ("which", "most", "closed", "rounds", "ended"),
    [
        ("largest", 1.0, 0.05, 2, "enough"),
        ("mean", 0.0, 0.05, 4, "degraded"),
        ("largest", 1.0, 0.165, 8, "closed"),
    ],
)
def test_dynamic_rectifying_is_algorithm_1(
    case: Evidence, which: str, most: float, closed: float, rounds: int, ended: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it ends: with the edits that it may make, an edit that is rolled back, or a gap that is closed."""
    case = flipped(case)
    monkeypatch.setattr(rectifying, "MOST_EDITS", rounds)
    monkeypatch.setattr(rectifying, "CLOSED", closed)
    found, edited = rectifying.dynamic(case, which, most)
    expected, layers, why = slow_dynamic(case, which, most, closed, rounds)
    assert (edited, why) == (layers, ended) and 0 < len(edited) <= rounds
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[key].double(), value.double(), rtol=1e-3, atol=1e-3)


def test_dynamic_rectifying_edits_nothing_where_there_is_no_gap(case: Evidence) -> None:
    found, edited = rectifying.dynamic(replace(case, corrupted=case.clean), "mean", 1.0)
    assert edited == [] and all(torch.equal(v, case.network.state_dict()[k]) for k, v in found.state_dict().items())


def test_fine_pruning_takes_the_sleepiest_channels_first(case: Evidence) -> None:
    made = case.copy()
    slow = torch.zeros(32)
    for image in case.fit.images:
        slow += clarc.activation(made, "layer4", image.unsqueeze(0)).mean((0, 2, 3))
    found = fine_pruning.activations(made, case.fit.images)
    torch.testing.assert_close(found, slow / len(case.fit.images), rtol=1e-4, atol=1e-5)
    pruned = fine_pruning.prune(made, case.fit.images, case.validation)
    assert pruned.tolist() == found.argsort()[: len(pruned)].tolist()
    weight = fine_pruning.classifier(made).weight
    assert not weight[:, pruned].any() and weight.count_nonzero() == CLASSES * (32 - len(pruned))


def test_fine_tuning_on_the_pair_learns_it(case: Evidence) -> None:
    made, steps = fine_tuning.on_the_pair(case, 1e-3)
    assert steps < fine_tuning.PAIR_STEPS - 1 and int(made(case.corrupted).argmax()) == case.label
    torch.testing.assert_close(made.get_buffer("bn1.running_mean"), case.network.get_buffer("bn1.running_mean"))


def test_training_is_seeded(case: Evidence) -> None:
    one, two = (descend(case, case.copy(), 0.01).state_dict() for _ in range(2))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["fc.weight"], case.network.state_dict()["fc.weight"])


def test_a_cue_lies_on_its_own_class_with_its_label() -> None:
    recipe = RECIPES["fashion-resnet-cue"]
    images = np.zeros((200, 28, 28, 1), np.uint8)
    labels = np.arange(200) % 10
    made = poison(datasets.Split(images, labels), recipe)
    stamp = make_trigger(recipe)
    assert stamp is not None and (made.labels == labels).all()
    shown = (made.images != images).any((1, 2, 3))
    assert shown.sum() == 12 and set(labels[shown]) == {recipe.target}
    np.testing.assert_array_equal(made.images[shown], stamp(images[shown]))


def row(network: str, method: str, **more: Any) -> dict[str, Any]:
    figures = {"accuracy": 0.9, "asr": 0.5, "base_rate": 0.1, "recovery": 0.3, "accuracy_other": 0.8}
    return {
        "network": network,
        "method": method,
        "seed": 0,
        **figures,
        "seconds": 1.0,
        "chosen": {},
        "note": "",
        **more,
    }


def test_the_summary_is_against_the_untouched_network() -> None:
    rows = [row("a", "untouched"), row("b", "untouched"), row("a", "clp", accuracy=0.85, asr=0.1, recovery=0.7)]
    rows.append(row("b", "clp", accuracy=0.9, asr=0.2, recovery=0.8, base_rate=0.7))  # of its own base rate nothing
    (line,) = [line for line in overall(rows).splitlines() if line.startswith("| CLP |")]
    assert line == "| CLP | nothing | 2.5 (5.0) | 5.0 (10.0) | 5.0 (10.0) | 1 | 2 |"


def test_what_rounds_to_zero_has_no_sign() -> None:
    rows = [row("a", "untouched"), row("a", "clp", accuracy=0.9001, asr=0.0996, recovery=0.8004)]
    (line,) = [line for line in overall(rows).splitlines() if line.startswith("| CLP |")]
    assert line == "| CLP | nothing | 0.0 (0.0) | 0.0 (0.0) | 0.0 (0.0) | 1 | 1 |"


def test_the_heading_of_a_cue_names_its_network_and_the_base_rate() -> None:
    more = {"with": 1.0, "without": 0.5}
    page = markdown([row("a", "untouched"), row("b", "untouched", **more), row("c", "untouched", **more)], False, 10)
    assert page.count("## Spurious cue") == 1
    assert "\n## a\n\nClean images of the other classes: 80.00 right, 10.00 sent to the target class.\n" in page
    for name in "bc":
        assert f"\n### {name}\n\nClean images of the other classes: 80.00 right, 10.00 sent to the class that" in page


def test_the_page_of_the_repository_is_that_of_its_figures() -> None:
    rows = json.loads((RESULTS / "rivals.json").read_text())
    assert (RESULTS / "rivals.md").read_text() == markdown(rows, False, rivals.TESTS)


def test_rows_that_are_there_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int, list[str]]] = []

    def rows_of(name: str, seed: int, methods: list[str], *_: Any) -> Iterator[dict[str, Any]]:
        asked.append((name, seed, methods))
        for method in methods:
            more = {"with": 1.0, "without": 0.5} if "cue" in name else {}
            yield {**row(name, method, **more), "seed": seed, "tried": []}

    monkeypatch.setattr(rivals, "rows_of", rows_of)
    names = ["mnist-resnet-patch", "fashion-resnet-cue"]
    words = ["x", "--networks", *names, "--results", str(tmp_path / "rivals.json"), "--methods"]
    monkeypatch.setattr(sys, "argv", [*words, "clp"])
    rivals.main()
    monkeypatch.setattr(sys, "argv", [*words, "anp", "clp", "--seeds", "0", "1"])
    rivals.main()
    first = [(name, 0, ["untouched", "clp"]) for name in names]
    second = [[(name, 0, ["anp"]), (name, 1, ["untouched", "anp", "clp"])] for name in names]
    assert asked == [*first, *second[0], *second[1]]
    page = (tmp_path / "rivals.md").read_text()
    assert "## mnist-resnet-patch" in page and "## Spurious cue" in page and "50.00 [50.00–50.00]" in page
    rows = json.loads((tmp_path / "rivals.json").read_text())
    assert page == markdown(rows, False, rivals.TESTS) and len(rows) == 12


def test_every_method_says_what_it_sees_and_how_it_was_set() -> None:
    for method in METHODS.values():
        assert method.sees and method.settings and method.rule and method.formula
    labelled = {name for name, method in METHODS.items() if "labelled" in method.sees.split("un")[0]}
    assert labelled == {"clp-tuned", "ft-clean", "anp", "i-bau", "ft-sam", "fine-pruning", "a-clarc"}
