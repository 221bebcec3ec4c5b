"""Guided backpropagation against a backward pass by hand, and AGI against a loop."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.attribution_rivals import agi, false_classes, guided_backprop
from fixtures import networks as fixtures
from rectify.attribution.attribution import Settings
from rectify.attribution.score import Score
from rectify.errors import UsageError
from tests.attribution import slow_paths
from tests.attribution.tiny import BOUNDS, images, tiny
from tests.model.networks import randomised

RELUS = {
    "module": lambda: nn.ReLU(),
    "in place": lambda: nn.ReLU(inplace=True),
    "six": lambda: nn.ReLU6(),
    "six in place": lambda: nn.ReLU6(inplace=True),
}


@pytest.mark.parametrize("name", RELUS)
def test_guided_backprop_is_the_backward_pass_by_hand(name: str) -> None:
    network = tiny(RELUS[name])
    with torch.no_grad():
        network[0].weight.mul_(4)  # some values beyond six
    x, targets = images()
    for batch in (1, 64):
        found = guided_backprop(Score(network, "logit", batch), x, targets, Settings())
        for row, (image, target) in enumerate(zip(x, targets.tolist(), strict=True)):
            expected = slow_paths.guided_backprop(list(network), image, target)
            torch.testing.assert_close(found.values[row], expected, rtol=1e-9, atol=1e-12)
        plain = Score(network, "logit").gradients(x, targets)[1]
        assert not torch.allclose(found.values, plain) and not found.complete and found.change is None


def pieces(x: Tensor) -> Tensor:
    """Half of the channels rectified in place, through a view that is then forgotten."""
    x[:, :2].relu_()
    return x


CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "functional": F.relu,
    "functional in place": lambda x: F.relu(x, True),
    "torch": torch.relu,
    "method": lambda x: x.relu(),
    "method in place": lambda x: x.relu_(),
    "forgotten result": lambda x: (x.relu_(), x)[1],
    "changed after": lambda x: x.relu_().add_(1).mul_(2),
}


class Called(nn.Module):
    """Calls what it is given twice, around and behind a convolution."""

    def __init__(self, relu: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(2, 3, 2), nn.Conv2d(3, 3, 2), nn.Linear(36, 4)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.second(self.relu(self.first(x)))).flatten(1))


class ByHand(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, signal: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return signal * (x > 0) * (signal > 0)


@pytest.mark.parametrize("name", [*CALLS, "pieces"])
def test_every_way_to_call_a_relu_is_guided(name: str) -> None:
    network = Called(pieces if name == "pieces" else CALLS[name]).double().requires_grad_(False)
    x, targets = images()
    found = guided_backprop(Score(network, "logit"), x, targets, Settings())
    if name == "pieces":
        network.relu = lambda x: torch.cat([ByHand.apply(x[:, :2]), x[:, 2:]], 1)
    elif name == "changed after":
        network.relu = lambda x: (ByHand.apply(x) + 1) * 2
    else:
        network.relu = ByHand.apply
    expected = Score(network, "logit").gradients(x, targets)
    torch.testing.assert_close(found.values, expected[1])
    torch.testing.assert_close(found.confidence, expected[0])


def test_reused_relus_of_a_resnet_are_guided() -> None:
    network = randomised(fixtures.resnet18(4, width=2))  # one ReLU module called twice in each block
    x, targets = torch.randn(2, 3, 8, 8), torch.tensor([1, 3])
    found = guided_backprop(Score(network, "logit"), x, targets, Settings())

    for module in network.modules():
        if "relu" in module._modules:
            del module._modules["relu"]
            module.relu = ByHand.apply
    torch.testing.assert_close(found.values, Score(network, "logit").gradients(x, targets)[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "activation", [nn.GELU, nn.SiLU, nn.LeakyReLU, nn.ELU, nn.Hardswish, nn.Softplus, nn.PReLU, nn.Hardtanh, nn.Mish]
)
def test_it_is_never_silently_a_gradient(activation: Callable[[], nn.Module]) -> None:
    x, targets = images(1)
    with pytest.raises(ValueError, match="no rule for"):
        guided_backprop(Score(tiny(activation)), x, targets, Settings())


def test_mixed_networks_and_networks_without_relus_are_refused() -> None:
    x, targets = images(1)
    mixed = nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.SiLU(), nn.Flatten(), nn.Linear(60, 4)).double()
    with pytest.raises(ValueError, match="silu"):
        guided_backprop(Score(mixed), x, targets, Settings())
    for network in (tiny(nn.Tanh), nn.Sequential(nn.Flatten(), nn.Linear(60, 4)).double()):
        with pytest.raises(ValueError, match="needs a network with ReLUs"):
            guided_backprop(Score(network), x, targets, Settings())
    vit = fixtures.vit(4, width=8, channels=3, image_size=8, depth=1).eval()
    with pytest.raises(ValueError, match="gelu"):
        guided_backprop(Score(vit), torch.rand(1, 3, 8, 8), targets, Settings())


def test_the_network_is_left_as_it_was() -> None:
    network = tiny(lambda: nn.ReLU(inplace=True))
    x, targets = images()
    before = Score(network).gradients(x, targets)
    guided_backprop(Score(network), x, targets, Settings())
    assert torch.equal(Score(network).gradients(x, targets)[1], before[1])


# ---------------------------------------------------------------- AGI


@pytest.mark.parametrize("batch", [1, 4, 64])
@pytest.mark.parametrize("classes", [2, 20])
def test_agi_is_a_loop_s(batch: int, classes: int) -> None:
    network = tiny()
    x, targets = images()
    settings = Settings(steps=6, bounds=BOUNDS, seed=4, options={"step_size": 0.08, "classes": classes})
    found = agi(Score(network, batch=batch), x, targets, settings)
    false = false_classes(4, targets, classes, torch.Generator().manual_seed(4))
    for row, (image, target) in enumerate(zip(x, targets.tolist(), strict=True)):
        expected = slow_paths.agi(network, image, target, false[row].tolist(), 6, 0.08 * 2.5, -1, 1.5)
        torch.testing.assert_close(found.values[row], expected, rtol=1e-8, atol=1e-10)
    assert found.settings["classes"] == min(classes, 3) and not found.complete


def test_small_steps_add_up_to_what_f_has_lost() -> None:
    network = tiny(seed=1)
    x, _ = images(1)
    score = Score(network)
    targets = score.predictions(x)
    target, false = int(targets), int(false_classes(4, targets, 1, torch.Generator().manual_seed(0)))
    found = agi(score, x, targets, Settings(steps=400, options={"step_size": 0.002, "classes": 1}))
    point, function = x[0].clone(), slow_paths.probability(network, target)
    for _ in range(400):
        if int(network(point[None]).argmax()) == false:
            break
        point = point + 0.002 * slow_paths.slope(slow_paths.probability(network, false), point).sign()
    lost = float(function(x[0]) - function(point))
    assert lost > 0.1 and float(found.values.sum()) == pytest.approx(lost, rel=0.05)


def test_false_classes_are_different_and_never_the_image_s_own() -> None:
    targets = torch.tensor([0, 3, 3, 9])
    drawn = false_classes(10, targets, 6, torch.Generator().manual_seed(0))
    assert drawn.shape == (4, 6)
    for row, target in zip(drawn.tolist(), targets.tolist(), strict=True):
        assert len(set(row)) == 6 and target not in row


@pytest.mark.parametrize("options", [{"step_size": 0}, {"classes": 0}])
def test_agi_says_what_cannot_be(options: dict[str, float]) -> None:
    x, targets = images(1)
    with pytest.raises(UsageError, match="more than 0 and at least 1"):
        agi(Score(tiny()), x, targets, Settings(options=options))
