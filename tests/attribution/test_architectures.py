"""Every method on the six architectures of the UNI paper: shape, finiteness, and what completeness promises.

Random weights, the smallest images that each takes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision import models

from rectify.attribution.attribution import Settings
from rectify.attribution.methods import METHODS, attribute
from rectify.attribution.score import Score

BUILDERS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (lambda: models.resnet18(num_classes=5), 32),
    "efficientnet_v2_s": (lambda: models.efficientnet_v2_s(num_classes=5), 48),
    "convnext_tiny": (lambda: models.convnext_tiny(num_classes=5), 64),
    "vgg16_bn": (lambda: models.vgg16_bn(num_classes=5, init_weights=False), 32),
    "vit_b_16": (lambda: models.vision_transformer.VisionTransformer(32, 16, 12, 12, 768, 3072, num_classes=5), 32),
    "swin_t": (lambda: models.swin_t(num_classes=5), 64),
}
BOUNDS = (torch.full((3, 1, 1), -2.0), torch.full((3, 1, 1), 2.0))


@pytest.fixture(scope="module", params=BUILDERS)
def subject(request: pytest.FixtureRequest) -> tuple[nn.Module, torch.Tensor]:
    """A network with random weights and two images for it."""
    torch.manual_seed(1)
    build, size = BUILDERS[request.param]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # GoogLeNet-style notes on initialisation
        network = build().eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.Linear) and module.out_features == 5:
            nn.init.normal_(module.weight, std=0.2)  # ViT's head begins at zero: it would say nothing
    return network, torch.randn(2, 3, size, size).clamp(-2, 2)


@pytest.mark.parametrize("name", METHODS)
def test_a_map_of_each_image(subject: tuple[nn.Module, torch.Tensor], name: str) -> None:
    network, x = subject
    score = Score(network, "logit", batch=4)
    targets = score.predictions(x)
    settings = Settings(bounds=BOUNDS, steps=None if name == "grad-cam" else 3, reference=x.flip(3))
    found = attribute(name, score, x, targets, settings)
    assert found.values.shape == x.shape and bool(found.values.isfinite().all())
    assert bool(found.values.flatten(1).any(1).all())
    torch.testing.assert_close(found.confidence, score.values(x, targets))
    if name == "deeplift":
        assert found.gap is not None and found.change is not None
        assert bool((found.gap <= 1e-3 * found.change.abs() + 1e-5).all())


def test_the_gap_of_ig_closes_with_the_steps(subject: tuple[nn.Module, torch.Tensor]) -> None:
    network, x = subject
    score = Score(network, "logit", batch=16)
    targets = score.predictions(x[:1])
    gaps = []
    for steps in (2, 24):
        found = attribute("ig", score, x[:1], targets, Settings(bounds=BOUNDS, steps=steps))
        assert found.gap is not None and found.change is not None
        gaps.append(float(found.gap) / max(1e-6, float(found.change.abs())))
    assert gaps[1] < 0.05 or gaps[1] < gaps[0] / 2
