"""timm's networks, whose forward passes are written in many ways: seen, localised and edited without a crash."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from rectify.editing.cascade import Material, Strength, cascade, solve_layer
from rectify.editing.fault import Fault
from rectify.editing.localize import localize
from rectify.editing.values import Teacher
from rectify.model.trace import survey
from tests.model.networks import join_error, randomised

timm = pytest.importorskip("timm")

NETWORKS: dict[str, dict[str, Any]] = {
    "tf_mobilenetv3_small_075": {},  # pads by the size of its input
    "vit_tiny_patch16_224": {"img_size": 32, "depth": 2},
    "swin_tiny_patch4_window7_224": {
        "img_size": 32,
        "window_size": 4,
        "embed_dim": 24,
        "depths": (2, 2),
        "num_heads": (2, 2),
    },  # folds windows into the batch
    "mobilevit_xxs": {},  # folds patches into the batch
    "pvt_v2_b0": {},  # its bias is added in a step of its own for two images only
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_timm_is_seen_localised_and_edited(name: str) -> None:
    network = randomised(timm.create_model(name, num_classes=4, **NETWORKS.get(name, {})))
    size = NETWORKS.get(name, {}).get("img_size", 64)
    clean = torch.randn(3, 3, size, size)
    corrupted = clean[2:] + 0.3 * torch.randn(1, 3, size, size)
    sites = survey(network, clean)
    assert len(sites) > 8
    if name.startswith("tf_"):
        convolutions = [name for name, module in network.named_modules() if isinstance(module, torch.nn.Conv2d)]
        assert set(convolutions) <= {site.name for site in sites}
        assert any(site.layer.pads_itself for site in sites)
    for site in [site for site in sites if site.join][::3]:
        assert join_error(network, site, clean[:2]) < 1e-3, site.name
    some = [site for site in sites if site.layer.key_size < 600][:: max(1, len(sites) // 6)]
    fault = Fault("flip", 1, torch.tensor([0]), torch.tensor([True]), ())
    scores = localize(network, some, clean[2:], corrupted, fault, clean, steps=2).scores
    assert all(score.editability is not None and score.editability >= 0 for score in scores)

    teacher = Teacher(network, clean, batch=2)
    material = Material(teacher, corrupted, torch.tensor([2]), torch.tensor([0, 1]))
    for site in some:
        teacher._kept.clear()
        read = solve_layer(network, site, material, Strength()).delta()
        teacher.prepare([site])
        remembered = solve_layer(network, site, material, Strength(), 1).delta()
        assert float((read - remembered).norm()) <= 1e-3 * float(read.norm()) + 1e-9, site.name
    student = copy.deepcopy(network)
    cascade(student, some, material, Strength())
    assert bool(torch.isfinite(student(corrupted)).all())
