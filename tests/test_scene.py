"""What a scene makes of calibration images and layers, and what it says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from rectify.editing.fault import Fault
from rectify.errors import UsageError
from rectify.files.architectures import RANDOM
from rectify.jobs.common import Inputs, Options, begin, refuse_gates
from rectify.jobs.edit import _rank
from rectify.jobs.evaluate import _doubtful_target
from rectify.jobs.scene import _left_out, _no_layer, _strange, _without, site_named
from rectify.model.trace import survey


def test_corrupted_images_among_the_calibration_images_are_left_out() -> None:
    images = torch.rand(5, 1, 4, 4)
    kept, told = _without(images, torch.rand(2, 1, 4, 4))
    assert torch.equal(kept, images) and told == ()
    kept, told = _without(images, images[3:4].clone())
    assert torch.equal(kept, images[[0, 1, 2, 4]]) and told == (
        "1 of the calibration images is a corrupted image of the pairs, and left out",
    )
    assert _without(images, images[:2])[1][0].startswith("2 of the calibration images are corrupted images")
    with pytest.raises(UsageError, match="--calibration DIR"):
        _without(images[:1], images[:1])


def test_a_pair_of_two_pictures_is_asked_about() -> None:
    pictures = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    one, calibration = pictures[:1], pictures[2:]
    other = one.flip(2)
    other[0, 0, 0] += 0.01
    names = [("a.png", "b.png")] * 3
    assert _strange(one, 0.7 * one + 0.1, calibration, names[:1]) == ()
    (told,) = _strange(one.expand(3, 1, 8, 8), torch.cat((0.5 * one, other, other)), calibration, names)
    assert " % of the calibration images are more like a.png than b.png is: are these two the same picture" in told
    assert told.endswith("(1 more like these)")


def test_layers_that_are_not_offered_are_named() -> None:
    layers = [nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 1, 1)) for _ in range(6)]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 2)).eval()
    (told,) = _left_out(network, survey(network, torch.rand(1, 1, 4, 4)))
    assert "0, 1, 2, 3 and 2 more (the weight is computed" in told
    scene: Any = SimpleNamespace(network=network, sites=survey(network, torch.rand(1, 1, 4, 4)))
    with pytest.raises(UsageError, match=r"layer '5' cannot be edited \(the weight is computed .*another one, or auto"):
        site_named(scene, "5")
    plain = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval()
    assert _left_out(plain, survey(plain, torch.rand(1, 1, 4, 4))) == ()


def test_a_network_without_an_editable_layer_is_told_why_and_what_to_do() -> None:
    network = nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(16, 2))).eval()
    subject: Any = SimpleNamespace(network=network, notes=("something else",))
    said = _no_layer(subject, survey(network, torch.rand(1, 1, 4, 4)))
    assert "no layer that can be edited" in said and "1 (the weight is computed (torch.nn.utils.parametrize" in said
    assert said.endswith("give each a plain weight under one name, save it, and pass the --arch that builds it so")
    subject.notes = (RANDOM,)
    assert _no_layer(subject, []).endswith("out of its forward pass")
    subject = SimpleNamespace(network=nn.Sequential(nn.Flatten()), notes=())
    assert _no_layer(subject, []).endswith("computes W k + b")


@pytest.mark.parametrize("command", ["edit", "evaluate", "localize"])
@pytest.mark.parametrize(
    ("gates", "flag"),
    [
        ({"min_accuracy": 0.9}, "--min-accuracy .*--data DIR"),
        ({"max_accuracy_drop": 0.1}, "--max-accuracy-drop .*--data DIR"),
        ({"max_asr": 0.1}, "--max-asr .*--clean"),
        ({"min_recovery": 0.1}, "--min-recovery .*--clean"),
    ],
)
def test_a_gate_that_nothing_can_be_measured_for_is_refused_before_the_work(
    command: str, gates: Mapping[str, float], flag: str
) -> None:
    checkpoint: Any = SimpleNamespace(path="m.pt", sha256="0", trusted_pickle=False)
    preprocess: Any = SimpleNamespace(to_dict=dict)
    subject: Any = SimpleNamespace(
        checkpoint=checkpoint, arch="a", arch_args={}, num_classes=2, preprocess=preprocess, network=nn.Linear(1, 1)
    )
    if command == "localize":  # a settings file's gates are for other commands too
        begin(command, Inputs(subject), Options(gates=gates))
        return
    with pytest.raises(UsageError, match=flag):
        begin(command, Inputs(subject), Options(gates=gates))


def test_a_gate_that_nobody_typed_is_refused_with_where_it_was_set() -> None:
    with pytest.raises(
        UsageError, match=r"^--max-asr has nothing to be measured on: give pairs; set in rectify\.yaml$"
    ):
        hints = {"max_asr": "set in rectify.yaml", "min_accuracy": "no"}
        refuse_gates(Options(gates={"max_asr": 0.1}, gate_hints=hints), {"max_asr": "give pairs"})


def test_gates_of_other_commands_are_left_be() -> None:
    """Those of a settings file are for every command: what `localize` cannot measure does not fail it."""
    from rectify.jobs.common import finish
    from rectify.reporting.build import empty_report

    subject: Any = SimpleNamespace(notes=(), device="cpu")
    report = finish(empty_report("localize"), Options(gates={"max_accuracy_drop": 0.02}), 0.0, Inputs(subject), [])
    assert report["verdict"] == "pass" and report["gates"] == []


@pytest.mark.parametrize("rank", ["²", "0", 0, -1, "two"])
def test_a_rank_that_is_none_is_told(rank: str | int) -> None:
    with pytest.raises(UsageError, match="--rank"):
        _rank(rank)


def test_a_rank_may_be_a_number() -> None:
    assert (_rank(3), _rank("12")) == (3, 12)


@pytest.mark.parametrize(("shown", "told"), [([True] + 3 * [False], True), ([True] * 4, False), ([False] * 4, True)])
def test_a_target_that_few_images_show_is_told_to_be_doubtful(shown: list[bool], told: bool) -> None:
    fault = Fault("flip", 2, torch.zeros(4, dtype=torch.int64), torch.tensor(shown), ())
    assert bool(_doubtful_target(fault, None)) == told
    before: Any = SimpleNamespace()
    assert _doubtful_target(fault, before) == [] == _doubtful_target(replace(fault, target=None), None)
