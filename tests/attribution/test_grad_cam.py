"""Grad-CAM against loops straight from the paper, against captum, and the layer it chooses by itself."""

from __future__ import annotations

from collections.abc import Callable
from math import floor

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from fixtures import networks as fixtures
from rectify.attribution.attribution import Attribution, Settings
from rectify.attribution.grad_cam import Grid, choose_layer, find_grid, grad_cam
from rectify.attribution.score import Score
from rectify.errors import UsageError
from tests.model.networks import randomised


def seen(network: nn.Module, x: Tensor, layer: str | None = None, batch: int = 64) -> Attribution:
    """Grad-CAM of the classes 0, 1, 2, ..."""
    return grad_cam(Score(network, "logit", batch), x, torch.arange(len(x)), Settings(layer=layer))


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bilinear(heat: list[list[float]], height: int, width: int) -> Tensor:
    """Pixel centres of the large grid in the small one, clamped to its border."""
    rows, columns = len(heat), len(heat[0])
    out = torch.zeros(height, width, dtype=torch.float64)
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * rows / height - 0.5, 0), rows - 1)
            x = min(max((j + 0.5) * columns / width - 0.5, 0), columns - 1)
            top, left = floor(y), floor(x)
            below, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            v, u = y - top, x - left
            upper = (1 - u) * heat[top][left] + u * heat[top][right]
            out[i, j] = (1 - v) * upper + v * ((1 - u) * heat[below][left] + u * heat[below][right])
    return out


def slow_map(activation: Tensor, gradient: Tensor, height: int, width: int) -> Tensor:
    """relu(sum_k mean(G_k) A_k) of (K, h, w), upsampled."""
    channels, rows, columns = activation.shape
    weights = [sum(float(g) for g in gradient[k].flatten()) / (rows * columns) for k in range(channels)]
    heat = [
        [max(0.0, sum(weights[k] * float(activation[k, i, j]) for k in range(channels))) for j in range(columns)]
        for i in range(rows)
    ]
    return bilinear(heat, height, width)


def test_it_is_the_papers_formula() -> None:
    front = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 5, 2)).double().eval()
    back = nn.Sequential(nn.Tanh(), nn.Flatten(), nn.Linear(5 * 3 * 4, 3)).double().eval()
    x = images(2, 3, 9, 11)
    found = seen(nn.Sequential(front, back), x, "0")
    for image in range(2):
        activation = front(x[image : image + 1]).detach().requires_grad_(True)
        f = back(activation)[0, image]
        (gradient,) = torch.autograd.grad(f, activation)
        expected = slow_map(activation.detach()[0], gradient[0], 9, 11)
        torch.testing.assert_close(found.heat()[image], expected)
        assert float(found.confidence[image]) == pytest.approx(float(f.detach()))
    assert found.values.shape == x.shape and bool((found.values >= 0).all())
    torch.testing.assert_close(found.values[:, 0], found.values[:, 2])
    assert found.baseline is None and found.change is None and not found.complete and found.gap is None


@pytest.mark.parametrize("layer", ["0", "3", "layer3.0.conv1", "layer4.1.bn2"])
def test_it_agrees_with_captum(layer: str) -> None:
    from captum.attr import LayerAttribution, LayerGradCam

    network = randomised((fixtures.resnet18 if "layer" in layer else fixtures.vgg)(4, width=4).double())
    x = images(3, 3, 16, 16)
    target = dict(network.named_modules())[layer]
    plain = LayerGradCam(network, target).attribute(x, target=torch.arange(3), relu_attributions=True)
    expected = LayerAttribution.interpolate(plain, (16, 16), "bilinear").detach()[:, 0]
    torch.testing.assert_close(seen(network, x, layer).heat(), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_map_is_the_sum_over_channels(channels: int) -> None:
    network = randomised(fixtures.resnet18(4, width=4, channels=channels).double())
    found = seen(network, images(2, channels, 12, 12))
    assert found.values.shape == (2, channels, 12, 12) and bool(found.values.any())
    torch.testing.assert_close(found.heat(), found.values[:, 0] * channels)


# ---------------------------------------------------------------- the layer

CHOSEN: dict[str, tuple[Callable[[], nn.Module], int, str]] = {
    "resnet18": (models.resnet18, 64, "layer4"),
    "vgg16_bn": (lambda: nn.Sequential(models.vgg16_bn().features, nn.Flatten(), nn.Linear(2048, 4)), 64, "0"),
    "efficientnet_v2_s": (models.efficientnet_v2_s, 64, "features"),
    "convnext_tiny": (models.convnext_tiny, 64, "features"),
    "swin_t": (models.swin_t, 64, "permute"),
    "vit": (lambda: models.VisionTransformer(64, 16, 2, 4, 32, 64), 64, "encoder.layers.encoder_layer_1.ln_1"),
    "small resnet": (lambda: fixtures.resnet18(4, width=4), 16, "layer4"),
    "small vgg": (lambda: fixtures.vgg(4, width=4), 16, "20"),
    "small vit": (lambda: fixtures.vit(4, width=8, channels=3, image_size=16, depth=1), 16, "norm"),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_it_chooses_the_last_layer_that_has_places(name: str) -> None:
    make, size, expected = CHOSEN[name]
    network = randomised(make())
    x = images(1, 3, size, size).float()
    found = seen(network, x)
    assert found.settings["layer"] == expected
    assert bool(found.values.isfinite().all()) and found.values.shape == x.shape
    torch.testing.assert_close(found.values, seen(network, x, expected).values)
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "resnet10t"])
def test_it_works_on_timm(name: str) -> None:
    timm = pytest.importorskip("timm")
    small = {"img_size": 64, "depth": 2} if "patch" in name else {}
    network = randomised(timm.create_model(name, num_classes=4, **small))
    found = seen(network, images(1, 3, 64, 64).float())
    assert found.settings["layer"] == ("blocks.1.norm1" if "patch" in name else "layer4")
    assert bool(found.values.isfinite().all())


def test_tokens_are_laid_out_row_by_row_behind_the_class_token() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mix = nn.Conv2d(3, 5, 2, 2), nn.Identity()
            self.head = nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.embed(x).flatten(2).transpose(1, 2)
            tokens = self.mix(torch.cat((tokens[:, :1] * 0 + 1, tokens), 1))
            return self.head(tokens[:, 1:].square().mean(1) + tokens[:, 0])

    network = Tokens().double()
    x = images(2, 3, 4, 12)
    torch.testing.assert_close(seen(network, x, "mix").heat(), seen(network, x, "embed").heat())


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((2, 512, 7, 7), (224, 224), Grid("NCHW", 7, 7)),
        ((2, 7, 7, 768), (224, 224), Grid("NHWC", 7, 7)),
        ((2, 7, 7, 7), (224, 224), Grid("NCHW", 7, 7)),
        ((2, 64, 5, 10), (160, 320), Grid("NCHW", 5, 10)),
        ((2, 64, 6, 7), (181, 224), Grid("NCHW", 6, 7)),
        ((2, 5, 10, 64), (160, 320), Grid("NHWC", 5, 10)),
        ((2, 196, 192), (224, 224), Grid("tokens", 14, 14)),
        ((2, 197, 192), (224, 224), Grid("tokens", 14, 14, 1)),
        ((2, 198, 192), (224, 224), Grid("tokens", 14, 14, 2)),
        ((2, 201, 192), (224, 224), Grid("tokens", 14, 14, 5)),
        ((2, 33, 8), (64, 128), Grid("tokens", 4, 8, 1)),
        ((2, 512, 1, 1), (224, 224), None),
        ((2, 1000), (224, 224), None),
        ((64, 49, 96), (224, 224), None),
        ((2, 3, 197, 64), (224, 224), None),
        ((), (224, 224), None),
    ],
)
def test_layouts(shape: tuple[int, ...], size: tuple[int, int], expected: Grid | None) -> None:
    assert find_grid(shape, 2, size) == expected


def test_operations_in_place_change_nothing() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 4)]
    in_place = [nn.ReLU(inplace=True) if isinstance(layer, nn.ReLU) else layer for layer in layers]
    x = images(2, 3, 8, 8)
    expected = seen(nn.Sequential(*layers).double(), x, "0").values
    assert torch.equal(seen(nn.Sequential(*in_place), x, "0").values, expected)


def test_batches_change_nothing_and_no_trace_is_left() -> None:
    network = randomised(fixtures.resnet18(8, width=2).double())
    x = images(5, 3, 8, 8)
    with torch.no_grad():
        expected = seen(network, x)
        torch.testing.assert_close(seen(network, x, batch=2).values, expected.values)
    assert not expected.values.requires_grad and not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize(
    ("layer", "line"),
    [
        ("layer5", "no layer 'layer5'; did you mean layer4"),
        ("", "no layer"),
        ("fc", "no spatial output"),
        ("layer1.0.relu", "called 2 times"),
    ],
)
def test_a_layer_that_does_not_do_is_refused(layer: str, line: str) -> None:
    with pytest.raises(UsageError, match=line) as caught:
        seen(randomised(fixtures.resnet18(4, width=2)), torch.randn(1, 3, 8, 8), layer)
    assert "\n" not in str(caught.value)


def test_a_network_without_places_is_refused() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(UsageError, match="--layer"):
        choose_layer(Score(network), torch.randn(1, 3, 4, 4), torch.zeros(1, dtype=torch.long))
