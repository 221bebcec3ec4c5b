"""Each rival's formula against a slow oracle or a property, on networks of a few channels."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
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
from benchmarks.zoo import datasets
from benchmarks.zoo.recipes import RECIPES
from benchmarks.zoo.train import make_trigger, poison
from fixtures.networks import resnet18

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


def test_of_many_keys_the_factor_is_least_squares() -> None:
    generator = torch.Generator().manual_seed(0)
    keys, residuals = torch.randn(6, 5, generator=generator), torch.randn(4, 5, generator=generator)
    delta = rectifying.rank_one(keys, residuals, torch.eye(6))
    along = (keys.double().mean(1) @ keys.double()).unsqueeze(1)
    expected = np.linalg.lstsq(along.numpy(), residuals.double().numpy().T, rcond=None)[0][0]
    found = delta @ keys.double().mean(1) / keys.double().mean(1).square().sum()
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


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
    rows = json.loads((rivals.RESULTS / "rivals.json").read_text())
    assert (rivals.RESULTS / "rivals.md").read_text() == markdown(rows, False, rivals.TESTS)


def test_rows_that_are_there_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int, list[str]]] = []

    def rows_of(name: str, seed: int, methods: list[str], *_: Any) -> Iterator[dict[str, Any]]:
        asked.append((name, seed, methods))
        for method in methods:
            more = {"with": 1.0, "without": 0.5} if "cue" in name else {}
            yield {**row(name, method, **more), "seed": seed, "tried": []}

    monkeypatch.setattr(rivals, "rows_of", rows_of)
    names = ["mnist-resnet-patch", "fashion-resnet-cue"]
    words = ["x", "--networks", *names, "--out", str(tmp_path), "--methods"]
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
    assert {"ft-clean", "anp", "i-bau", "ft-sam", "fine-pruning", "a-clarc"} <= labelled
