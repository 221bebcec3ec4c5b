"""The repair of a leak: the part found where it is, the loss in a slow form, and what comes of a small network."""

from __future__ import annotations

import copy
import math
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from rectify.editing import leak
from rectify.editing.casebook import Case, open_case
from rectify.editing.fault import diagnose
from rectify.editing.judge import probabilities
from rectify.editing.leak import Part, bench, misfit, sealed
from rectify.editing.localize import is_candidate
from rectify.editing.workshop import Workshop
from rectify.model.trace import survey
from tests.conftest import run_here
from tests.editing.planted import BOUNDS
from tests.editing.test_repair import edited

SIDE, PART = 12, 4
CROSS = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 1.0]])


def scenes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise with a bar, upright or lying, on one half, the class, and a cross that says nothing on the other half."""
    draw = torch.Generator().manual_seed(seed)
    x = 0.2 * torch.rand(count, 1, 2 * SIDE, SIDE, generator=draw)
    y, half = (torch.randint(0, 2, (count,), generator=draw) for _ in range(2))
    for row in range(count):
        top, other = int(half[row]) * SIDE, (1 - int(half[row])) * SIDE
        at = int(torch.randint(3, 8, (1,), generator=draw))
        if y[row]:
            x[row, 0, top + 2 : top + 10, at] = 1
        else:
            x[row, 0, top + at, 2:10] = 1
        x[row, 0, other + 4 : other + 8, 4:8] = CROSS
    return x, y


def without(x: Tensor) -> Tensor:
    """The scenes without their cross: black there."""
    out = x.clone()
    for row in range(len(x)):
        for top in (0, SIDE):
            if torch.equal(x[row, 0, top + 4 : top + 8, 4:8], CROSS):
                out[row, 0, top + 4 : top + 8, 4:8] = 0
    return out


def build(num_classes: int = 2) -> nn.Module:
    """The small convolutional network, untrained: a ``module:callable`` for the command line."""
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, num_classes),
    ]
    return nn.Sequential(*layers)


@cache
def network() -> nn.Module:
    """The same, trained for a second."""
    torch.manual_seed(0)
    made = build()
    optimiser = torch.optim.Adam(made.parameters(), 5e-3)
    for step in range(150):
        x, y = scenes(64, step)
        optimiser.zero_grad()
        nn.functional.cross_entropy(made(x), y).backward()
        optimiser.step()
    return made.eval().requires_grad_(False)


def shop(calibration: Tensor, whole: Tensor, empty: Tensor) -> tuple[Workshop, Case]:
    net = copy.deepcopy(network())
    fault = diagnose(probabilities(net, empty), probabilities(net, whole), None, "leak")
    case = open_case(net, empty, whole, fault, calibration, BOUNDS)
    return Workshop(net, case), case


def test_the_part_is_the_box_that_the_pair_differs_in() -> None:
    x, _ = scenes(1, 5)
    part = Part.of(without(x), x)
    assert part is not None and torch.equal(part.there[0, 0], CROSS) and part.gone.abs().max() == 0
    assert Part.of(x, x) is None and Part.of(1 - x, x) is None


def test_places_against_a_search_of_every_place() -> None:
    x = torch.rand(3, 2, 9, 8, dtype=torch.float64)
    part = Part(torch.rand(1, 2, 4, 3, dtype=torch.float64), torch.rand(1, 2, 4, 3, dtype=torch.float64))
    x[1, :, 2:6, 4:7] = part.there[0]
    shares, tops, lefts = part.places(x)
    for row in range(3):
        found = {
            (top, left): float((x[row, :, top : top + 4, left : left + 3] - part.there[0]).square().sum())
            for top in range(6)
            for left in range(6)
        }
        best = min(found, key=found.__getitem__)
        assert (int(tops[row]), int(lefts[row])) == best
        assert float(shares[row]) == pytest.approx(1 - found[best] / float((part.there - part.gone).square().sum()))
    assert float(shares[1]) == pytest.approx(1)


def test_it_is_taken_out_where_it_is_and_nowhere_else() -> None:
    x, _ = scenes(6, 7)
    part = Part.of(without(x[:1]), x[:1])
    assert part is not None
    out, was = part.taken_out(torch.cat((x, without(x))))
    assert torch.equal(out, torch.cat((without(x), without(x))))
    assert was[:6].flatten(1).sum(1).tolist() == [16] * 6 and not bool(was[6:].any())


def test_a_part_of_one_colour_is_found_too() -> None:
    x = torch.zeros(2, 1, 10, 10)
    x[0, 0, 2:5, 6:9] = 1
    part = Part(torch.ones(1, 1, 3, 3), torch.zeros(1, 1, 3, 3))
    shares, tops, lefts = part.places(x)
    assert (int(tops[0]), int(lefts[0])) == (2, 6) and shares.tolist() == [1, 0]


def test_a_mirrored_image_shows_it_mirrored() -> None:
    part = Part(torch.rand(1, 1, 3, 2), torch.zeros(1, 1, 3, 2))
    x = torch.zeros(1, 1, 8, 8)
    x[..., 2:5, 1:3] = part.there
    for image, was_at in ((x, slice(1, 3)), (x.flip(3), slice(5, 7))):
        out, was = part.taken_out(image)
        assert out.abs().max() == 0 and int(was.sum()) == 6 and bool(was[0, 2:5, was_at].all())


def slow_loss(
    student: nn.Module, teacher: nn.Module, names: list[str], x: Tensor, empty: Tensor, share: Tensor
) -> float:
    """The formula of the module's head, image by image."""

    def run(net: nn.Module, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        seen: dict[str, Tensor] = {}
        hooks = [
            net.get_submodule(name).register_forward_pre_hook(
                lambda _, args, name=name: seen.__setitem__(name, args[0].clone())
            )
            for name in names
        ]
        logits = net(image[None])[0]
        for hook in hooks:
            hook.remove()
        return logits, seen

    count, early, total = len(x), max(1, len(names) // 4), 0.0
    faded = [e + a * (w - e) for w, e, a in zip(x, empty, share, strict=True)]
    for weight, images in ((2.0, list(x)), (1.0, faded)):
        divergence = apart = size = 0.0
        far, long = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
        for image, one, bare in zip(images, x, empty, strict=True):
            (mine, seen), (its, wanted), (_, first) = run(student, image), run(teacher, one), run(teacher, bare)
            p, q = its.softmax(0), mine.softmax(0)
            divergence += sum(float(a) * math.log(float(a) / float(b)) for a, b in zip(p, q, strict=True)) / count
            apart += float(((mine - mine.mean()) - (its - its.mean())).square().sum())
            size += float((its - its.mean()).square().sum())
            for place, name in enumerate(names):
                goal = first[name] if place < early else wanted[name]
                far[name] += float((seen[name] - goal).square().sum())
                long[name] += float(goal.square().sum())
        total += weight * (leak.ANSWERS * divergence + leak.LOGITS * apart / size)
        total += sum(leak.FIRST / early * far[name] / long[name] for name in names[:early])
        total += sum(weight * leak.LATER / len(names[early:]) * far[name] / long[name] for name in names[early:])
    return total


def test_the_loss_is_the_formula() -> None:
    teacher = copy.deepcopy(network()).double()
    student = copy.deepcopy(teacher)
    student[2].weight += 0.05 * torch.randn_like(student[2].weight)
    x = scenes(5, 3)[0].double()
    names = ["2", "5", "9"]
    found = misfit(torch.Generator().manual_seed(4))(student, teacher, names, x, without(x))
    share = torch.rand(5, 1, 1, 1, generator=torch.Generator().manual_seed(4))
    slow = slow_loss(student, teacher, names, x, without(x), share.double())
    assert float(found) == pytest.approx(slow, rel=1e-5)  # what reaches a layer is compared in float32


def test_a_network_is_made_indifferent_and_keeps_its_accuracy() -> None:
    x, _ = scenes(81, 1)
    workshop, _ = shop(x[:80], x[80:], without(x[80:]))
    net = workshop.network
    sites = [site for site in survey(net, x[:1]) if is_candidate(site)]
    done, note = sealed(workshop, sites, x[80:], without(x[80:]), x[:80], BOUNDS)
    assert done is not None and "the part is in 100 % of the calibration images" in note
    assert {edit.layer for edit in done.edits} == {site.name for site in sites} == {"0", "2", "5", "9"}
    student = edited(net, done)
    new, labels = scenes(400, 99)
    right = [float((probabilities(one, new).argmax(1) == labels).float().mean()) for one in (net, student)]
    assert right[0] > 0.97 and right[1] >= right[0] - 0.01
    part = Part.of(without(x[80:]), x[80:])
    assert part is not None
    jury = bench(net, new, part, BOUNDS)
    before, after = jury.leakage(net), jury.leakage(student)
    assert after < 0.85 * before


def test_what_no_calibration_image_shows_cannot_be_taken_out() -> None:
    x, _ = scenes(41, 1)
    workshop, _ = shop(without(x[:40]), x[40:], without(x[40:]))
    sites = [site for site in survey(workshop.network, x[:1]) if is_candidate(site)]
    done, note = sealed(workshop, sites, x[40:], without(x[40:]), without(x[:40]), BOUNDS)
    assert done is None and note.startswith("what the pair differs in is found in 0 calibration images, and 10 would")
    done, note = sealed(workshop, sites, x[40:], x[40:], x[:40], BOUNDS)
    assert done is None and "differs nowhere or everywhere" in note
    done, note = sealed(workshop, sites, x[40:], 1 - x[40:], x[:40], BOUNDS)
    assert done is None and "differs nowhere or everywhere" in note


def test_a_descent_that_costs_accuracy_is_rolled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leak, "MOST_LOSS", -1.0)
    monkeypatch.setattr(leak, "STEPS", 80)
    x, _ = scenes(81, 1)
    workshop, _ = shop(x[:80], x[80:], without(x[80:]))
    sites = [site for site in survey(workshop.network, x[:1]) if is_candidate(site)]
    done, note = sealed(workshop, sites, x[80:], without(x[80:]), x[:80], BOUNDS)
    assert done is None and "was no better and was rolled back" in note


def save(images: Tensor, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        pixels = (255 * image[0]).round().to(torch.uint8).numpy()
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")


def read_back(images: Tensor) -> Tensor:
    """As a PNG keeps them."""
    return (255 * images).round() / 255


def test_by_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leak, "STEPS", 120)
    x, _ = scenes(61, 1)
    torch.save(network().state_dict(), tmp_path / "model.pt")
    for images, name in ((x[:60], "calibration"), (x[60:], "whole"), (without(x[60:]), "without")):
        save(images, tmp_path / name)
    (tmp_path / "preprocess.yaml").write_text("input_size: [1, 24, 12]\nmean: [0.0]\nstd: [1.0]\n")
    words = ["edit", "model.pt", "--arch", "tests.editing.test_leak:build", "--preprocess", "preprocess.yaml"]
    words += ["--clean", "without/000.png", "--poisoned", "whole/000.png", "--calibration", "calibration"]
    words += ["--fault", "leak", "-o", "out.safetensors", "--format", "json"]
    said = run_here(words, tmp_path)
    assert said.code == 0, said.err
    report = said.report
    assert report["pairs"]["fault"] == "leak" and report["pairs"]["target"] is None
    assert report["edit"]["policy"] == "all 4 layers, made indifferent to the part together in 120 steps"
    assert report["run"]["notes"][-1].startswith("the part is in 100 % of the calibration images; the judge expects")
    written = build()
    written.load_state_dict(load_file(tmp_path / "out.safetensors"))
    new = scenes(200, 98)[0]
    part = Part.of(without(x[60:]), x[60:])
    assert part is not None
    jury = bench(network(), new, part, BOUNDS)
    assert jury.leakage(written.eval()) < jury.leakage(network())
    own = bench(network(), read_back(x[:60]), part, BOUNDS)  # measured on the reopened weights, on calibration images
    for when, judged in (("before", network()), ("after", written)):
        assert report["metrics"][when]["leakage"] == pytest.approx(own.leakage(judged), rel=1e-3)


def test_calibration_images_without_the_part_are_told(tmp_path: Path) -> None:
    x, _ = scenes(31, 1)
    torch.save(network().state_dict(), tmp_path / "model.pt")
    for images, name in ((without(x[:30]), "calibration"), (x[30:], "whole"), (without(x[30:]), "without")):
        save(images, tmp_path / name)
    (tmp_path / "preprocess.yaml").write_text("input_size: [1, 24, 12]\nmean: [0.0]\nstd: [1.0]\n")
    words = ["edit", "model.pt", "--arch", "tests.editing.test_leak:build", "--preprocess", "preprocess.yaml"]
    words += ["--clean", "without/000.png", "--poisoned", "whole/000.png", "--calibration", "calibration"]
    words += ["--fault", "leak", "--mode", "static", "-o", "out.safetensors", "--format", "json", "--no-cache"]
    said = run_here(words, tmp_path)
    assert said.code == 0, said.err
    told = "leakage is not measured: no calibration image shows the part that the pair differs in"
    assert told in said.report["run"]["notes"] and said.report["metrics"]["before"].get("leakage") is None


def test_with_too_few_images_to_judge_there_is_no_descent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leak, "refined", lambda *_: pytest.fail("judged on the images that it descended on"))
    x, _ = scenes(31, 1)
    workshop, _ = shop(x[:30], x[30:], without(x[30:]))
    sites = [site for site in survey(workshop.network, x[:1]) if is_candidate(site)]
    done, note = sealed(workshop, sites, x[30:], without(x[30:]), x[:30], BOUNDS)
    assert done is None and "too few calibration images" in note
