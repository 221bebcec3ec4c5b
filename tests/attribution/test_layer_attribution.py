"""Attribution to a module's output against loops over images and path points, against captum, and what is exact."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fixtures import networks as fixtures
from rectify.attribution.attribution import Attribution, Settings
from rectify.attribution.layers import LAYER_METHODS, layer_attribution
from rectify.attribution.methods import attribute
from rectify.attribution.score import Score
from rectify.errors import UsageError
from tests.model.networks import Encoder, Fixed, Folded, SequenceFirst, randomised

IMAGE = (3, 8, 8)


def attributed(
    method: str,
    network: nn.Module,
    x: Tensor,
    layer: str | None,
    *,
    base: Tensor | str = "mean",
    batch: int = 64,
    steps: int | None = None,
    given: Tensor | None = None,
) -> Attribution:
    """Of the classes 0, 1, 2, ..."""
    settings = Settings(layer=layer, baseline=base, steps=steps)
    return layer_attribution(method, Score(network, "logit", batch), x, torch.arange(len(x)), settings, given)


def pair(*shape: int, images: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(images, *shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return one, other


def slow(network: nn.Module, module: nn.Module, x: Tensor, target: int) -> tuple[Tensor, Tensor]:
    """Value and gradient of one module for one image (1, C, H, W)."""
    caught: list[Tensor] = []

    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        caught.append(first.detach().clone().requires_grad_(True))
        return (caught[0] * 1.0, *output[1:]) if isinstance(output, tuple) else caught[0] * 1.0

    handle = module.register_forward_hook(hook)
    f = network(x)[0, target]
    handle.remove()
    (gradient,) = torch.autograd.grad(f, caught)
    return caught[0].detach(), gradient


def slow_conductance(network: nn.Module, module: nn.Module, x: Tensor, base: Tensor, target: int, steps: int) -> Tensor:
    """sum_k (g_k + g_{k+1}) / 2 * (v_{k+1} - v_k) of one image."""
    points = [slow(network, module, base + k / steps * (x - base), target) for k in range(steps + 1)]
    total = torch.zeros_like(points[0][0])
    for (value, gradient), (next_value, next_gradient) in pairwise(points):
        total = total + (gradient + next_gradient) / 2 * (next_value - value)
    return total


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[str]]] = {
    "resnet": (lambda: fixtures.resnet18(4, width=2), IMAGE, ["conv1", "bn1", "layer2.0.shortcut.1", "layer4", "fc"]),
    "vgg": (lambda: fixtures.vgg(4, width=2), IMAGE, ["0", "1", "2", "6", "20", "24"]),
    "vit": (lambda: fixtures.vit(4, width=8, channels=3, image_size=8, depth=1), IMAGE, ["embed", "blocks.0", "norm"]),
    "mobilenet": (lambda: fixtures.mobilenet(4, width=2), IMAGE, ["3.squeeze", "7", "8"]),
    "tuple": (Encoder, (4, 4, 4), ["embed", "encoder.layers.0.self_attn", "encoder.layers.1"]),
}
CASES = [(name, layer) for name, (_, _, layers) in NETWORKS.items() for layer in layers]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "layer"), CASES)
def test_it_is_what_loops_give(name: str, layer: str) -> None:
    make, shape, _ = NETWORKS[name]
    torch.manual_seed(0)
    network = randomised(make().double())
    module = dict(network.named_modules())[layer]
    x, base = pair(*shape, images=2)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        found = {
            m: attributed(m, network, x, layer, base=base, steps=3) for m in ("gradient", "gradient-x-input", "ig")
        }
        for image in range(2):
            one = slice(image, image + 1)
            value, gradient = slow(network, module, x[one], image)
            torch.testing.assert_close(found["gradient"].values[one], gradient)
            torch.testing.assert_close(found["gradient-x-input"].values[one], value * gradient)
            expected = slow_conductance(network, module, x[one], base[one], image, 3)
            torch.testing.assert_close(found["ig"].values[one], expected)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert found["ig"].complete and not found["gradient"].complete and found["gradient"].baseline is None


@pytest.mark.parametrize("layer", ["0", "2", "5"])
def test_it_agrees_with_captum_up_to_quadrature(layer: str) -> None:
    from captum.attr import LayerConductance

    torch.manual_seed(0)
    body: list[nn.Module] = [nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Conv2d(6, 4, 3, 2), nn.GELU(), nn.Flatten()]
    network = (
        nn.Sequential(*body, nn.Linear(16, 8), nn.Softplus(), nn.Linear(8, 4)).double().eval().requires_grad_(False)
    )
    x, base = pair(*IMAGE)
    # captum takes one gradient a step, which is of first order: 500 steps for three digits
    method = LayerConductance(network, network[int(layer)])
    expected = method.attribute(x, base, target=torch.arange(3), n_steps=500, internal_batch_size=500).detach()
    fine = attributed("ig", network, x, layer, base=base, steps=512).values
    torch.testing.assert_close(fine, expected, rtol=0.01, atol=0.005 * float(expected.abs().max()))
    errors = []
    for steps in (8, 64):
        found = attributed("ig", network, x, layer, base=base, steps=steps)
        errors.append(float((found.values - fine).abs().max() / fine.abs().max()))
        assert found.gap is not None and float((found.gap / found.change.abs()).max()) < 0.5 / steps  # type: ignore[union-attr]
    assert errors[1] < 1e-3 and errors[1] < errors[0] / 30  # second order: 64 in the limit


@pytest.mark.parametrize("steps", [1, 5])
def test_a_linear_network_is_exact(steps: int) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Flatten(), nn.Linear(36, 5), nn.Linear(5, 4)).double().eval()
    x, base = pair(*IMAGE)
    for layer in ("0", "1", "2", "3"):
        found = attributed("ig", network, x, layer, base=base, steps=steps)
        torch.testing.assert_close(found.values.flatten(1).sum(1), found.change)
        rise = network[: int(layer) + 1](x) - network[: int(layer) + 1](base)
        gradient = attributed("gradient", network, x, layer).values
        torch.testing.assert_close(found.values, (gradient * rise).detach())


def test_it_is_complete_where_the_layer_cuts_and_not_beside_a_shortcut() -> None:
    network = randomised(fixtures.vit(4, width=16, channels=3, image_size=8, depth=2).double())
    x, base = pair(*IMAGE)
    for layer, whole in (("embed", True), ("blocks.0", True), ("norm", True), ("blocks.0.fc2", False)):
        found = attributed("ig", network, x, layer, base=base, steps=256)
        share = float((found.gap / found.change.abs()).max())  # type: ignore[operator, union-attr]
        assert (share < 1e-2) == whole, (layer, share)
    found = attributed("ig", network, x, "head", base=base, steps=2)
    chosen = torch.nn.functional.one_hot(torch.arange(3), 4) * found.change.unsqueeze(1)  # type: ignore[union-attr]
    torch.testing.assert_close(found.values, chosen)


def test_uni_takes_the_baseline_it_is_given() -> None:
    network = randomised(fixtures.vgg(4, width=2).double())
    x, base = pair(*IMAGE)
    found = attributed("uni", network, x, "6", given=base, steps=4)
    assert torch.equal(found.values, attributed("ig", network, x, "6", base=base, steps=4).values)
    assert found.baseline is not None and torch.equal(found.baseline, base)
    assert found.settings == {"rule": "trapezoid", "steps": 4, "layer": "6", "baseline": "image"}
    with pytest.raises(UsageError, match="baseline"):
        attributed("uni", network, x, "6")


def test_the_path_is_the_networks_own() -> None:
    network = randomised(fixtures.vgg(4, width=2).double())
    x, base = pair(*IMAGE)
    found = attributed("ig", network, x, "6", base=base, steps=4)
    assert found.path_scores is not None
    for image, path in enumerate(found.path_scores):
        along = torch.stack([base[image] + k / 4 * (x[image] - base[image]) for k in range(5)])
        torch.testing.assert_close(path, network(along)[:, image])
    torch.testing.assert_close(found.confidence, network(x)[torch.arange(3), torch.arange(3)])


@pytest.mark.parametrize("method", LAYER_METHODS)
def test_batches_change_nothing(method: str) -> None:
    network = randomised(fixtures.resnet18(4, width=2).double())
    x, base = pair(*IMAGE)
    given = base if method == "uni" else None
    expected = attributed(method, network, x, "layer2", given=given, steps=4)
    for batch in (1, 2, 4, 7):
        found = attributed(method, network, x, "layer2", given=given, steps=4, batch=batch)
        torch.testing.assert_close(found.values, expected.values)
        torch.testing.assert_close(found.confidence, expected.confidence)


def test_what_is_folded_into_the_batch_is_unfolded() -> None:
    network = randomised(Folded().double())
    x, base = pair(4, 4, 4)
    for layer in ("embed", "inner", "head"):
        found = attributed("ig", network, x, layer, base=base, steps=64)
        assert found.values.shape == ((3, 3) if layer == "head" else (3, 16, 8))
        if layer != "inner":
            assert float((found.gap / found.change.abs()).max()) < 0.05  # type: ignore[operator, union-attr]
        alone = attributed("ig", network, x[:1], layer, base=base[:1], steps=64)
        torch.testing.assert_close(alone.values, found.values[:1])


def test_tokens_before_images_are_refused() -> None:
    with pytest.raises(UsageError, match="image by image"):
        attributed("gradient", randomised(SequenceFirst().double()), pair(4, 4, 4)[0], "embed")


def test_operations_in_place_change_nothing_and_no_trace_is_left() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 4)]
    in_place = [nn.ReLU(inplace=True) if isinstance(layer, nn.ReLU) else layer for layer in layers]
    plain, other = nn.Sequential(*layers).double(), nn.Sequential(*in_place)
    x, _ = pair(*IMAGE)
    for method in ("ig", "gradient", "gradient-x-input"):
        with torch.no_grad():
            found = attributed(method, other, x, "0")
        assert torch.equal(found.values, attributed(method, plain, x, "0").values) and not found.values.requires_grad
    assert not any(module._forward_hooks for module in other.modules())
    assert all(p.grad is None for p in other.parameters())


def test_a_layer_that_f_does_not_use_gets_zero() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle, self.never = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.idle(x.flatten(1))
            return self.used(x.flatten(1))

    x = torch.ones(1, 1, 2, 2)
    found = attributed("ig", Idle(), x, "idle")
    assert not found.values.any() and bool(found.change.any())  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="never called"):
        attributed("ig", Idle(), x, "never")


def test_what_cannot_be_is_refused_in_one_line() -> None:
    network = randomised(fixtures.resnet18(4, width=2).double())
    x, _ = pair(*IMAGE)
    for method, layer, line in (
        ("deeplift", "fc", "deeplift has no layer form: with a layer use ig, uni, gradient, gradient-x-input"),
        ("ig", "layer5", "did you mean layer4"),
        ("ig", None, "name"),
        ("ig", "layer1.0.relu", "called 2 times"),
    ):
        with pytest.raises(UsageError, match=line) as caught:
            attributed(method, network, x, layer)
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="does not depend on the image"):
        attributed("gradient", randomised(Fixed().double()), pair(3, 16, 16, images=2)[0], "place")
    with pytest.raises(UsageError, match="steps"):
        attributed("ig", network, x, "fc", steps=-1)


def test_a_wrong_layer_is_told_before_uni_learns_its_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rectify.attribution.uni.unlearned_baseline", lambda *_: pytest.fail("learned in vain"))
    network = randomised(fixtures.resnet18(4, width=2))
    x = torch.rand(1, 3, 8, 8)
    with pytest.raises(UsageError, match="no layer 'layer5'; did you mean layer4"):
        attribute("uni", Score(network), x, torch.zeros(1, dtype=torch.int64), Settings(layer="layer5"))
