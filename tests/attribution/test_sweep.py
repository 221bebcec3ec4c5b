"""Every layer's attribution from one sweep, against a loop over layers and path points, and against what is exact."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fixtures import networks as fixtures
from rectify.attribution.sweep import Sweep, sweep
from rectify.model.layers import find_layers
from rectify.model.trace import survey
from tests import oracles
from tests.model.networks import Fixed, Folded, randomised

IMAGE = (3, 8, 8)


def difference(logits: Tensor) -> Tensor:
    """f: the first logit less the second."""
    return logits[:, 0] - logits[:, 1]


def swept(
    network: nn.Module, steps: int, shape: tuple[int, ...] = IMAGE, seed: int = 0
) -> tuple[Sweep, Tensor, Tensor]:
    """A sweep over all layers along the path between two random images, and those images."""
    generator = torch.Generator().manual_seed(seed)
    corrupted, clean = (torch.randn(1, *shape, generator=generator).to(next(network.parameters())) for _ in range(2))
    return sweep(network, find_layers(network), corrupted, clean, difference, steps), corrupted, clean


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: fixtures.resnet18(4, width=2),  # in-place ReLUs right behind batch norms
    "vgg": lambda: fixtures.vgg(4, width=2),
    "vit": lambda: fixtures.vit(4, width=8, channels=3, image_size=8, depth=1),
    "mobilenet": lambda: fixtures.mobilenet(4, width=2),
    "in place": lambda: nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.ReLU6(inplace=True)),
        *(nn.Flatten(), nn.Linear(64, 4)),
    ),
}


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("steps", [1, 4])
def test_each_layer_is_what_a_loop_of_its_own_gives(name: str, steps: int) -> None:
    network = randomised(BUILDERS[name]().double())
    found, corrupted, clean = swept(network, steps)
    layers = find_layers(network)
    assert found.layers.keys() == {layer.name for layer in layers}
    for layer in layers if len(layers) < 8 else layers[::3]:
        m, conductance = oracles.layer_attribution(network, layer.module, corrupted, clean, difference, steps)
        assert found.layers[layer.name].attribution.shape == m.shape
        torch.testing.assert_close(found.layers[layer.name].attribution, m, rtol=1e-8, atol=1e-10)
        assert found.layers[layer.name].conductance == pytest.approx(conductance, rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_linear_network_is_exact_with_any_number_of_steps(steps: int) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Flatten(), nn.Linear(36, 5), nn.Linear(5, 4)).double()
    network.eval().requires_grad_(False)
    found, corrupted, clean = swept(network, steps)
    change = float((difference(network(clean)) - difference(network(corrupted))).item())
    assert found.change == pytest.approx(change) and found.input_gap == pytest.approx(0, abs=1e-12)
    behind = {"0": network[1:], "2": network[3:], "3": network[4:]}
    for name, layer in found.layers.items():
        assert layer.conductance == pytest.approx(change)
        assert float(layer.attribution.sum()) == pytest.approx(change)  # the gradient is the same all along the path
        before = network[: int(name) + 1]
        rise = (before(clean) - before(corrupted)).requires_grad_(True)
        (gradient,) = torch.autograd.grad(difference(behind[name](rise)).sum(), rise)
        torch.testing.assert_close(layer.attribution, (rise * gradient)[0].detach())


SMOOTH = pytest.mark.parametrize("activation", [nn.GELU(), nn.Softplus(), nn.Tanh()], ids=lambda a: type(a).__name__)


@SMOOTH
def test_cuts_of_a_smooth_network_are_complete(activation: nn.Module) -> None:
    front = [nn.Conv2d(3, 6, 3), activation, nn.Conv2d(6, 4, 3, 2), activation]
    back = [nn.Flatten(), nn.Linear(16, 8), activation, nn.Linear(8, 4)]
    network = nn.Sequential(*front, *back).double().eval().requires_grad_(False)
    errors = []
    for steps in (8, 128):
        found, _, _ = swept(network, steps)
        gaps = [abs(layer.conductance - found.change) for layer in found.layers.values()]
        errors.append(max(*gaps, found.input_gap) / abs(found.change))
    assert errors[1] < 1e-3 and errors[1] < errors[0] / 30  # the trapezoid rule is of second order: 256 in the limit


def test_the_conductances_of_two_branches_add_up_to_the_change() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((self.one(x).tanh() + self.two(x).sigmoid()).mean((2, 3)))

    network = Branches().double().eval().requires_grad_(False)
    found, _, _ = swept(network, 64)
    one, two, head = (found.layers[name].conductance for name in ("one", "two", "head"))
    assert one + two == pytest.approx(found.change, rel=1e-4) and head == pytest.approx(found.change, rel=1e-4)
    assert abs(one - found.change) > 0.05 * abs(found.change)


def test_completeness_holds_where_a_layer_cuts_the_graph_and_not_beside_a_shortcut() -> None:
    network = fixtures.resnet18(4, width=4)
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.ReLU):
            network.get_submodule(name.rpartition(".")[0]).relu = nn.Softplus()
    network = randomised(network.double())
    found, _, clean = swept(network, 256)
    for site in survey(network, clean):
        gap = abs(found.layers[site.name].conductance - found.change) / abs(found.change)
        if site.is_cut:
            assert gap < 1e-3, site.name
        elif site.name.endswith("conv1"):
            assert gap > 1e-2, site.name
    assert {site.name for site in survey(network, clean) if site.is_cut} == {"conv1", "fc"}


def test_a_pair_of_equal_images_attributes_nothing() -> None:
    network = randomised(fixtures.resnet18(4, width=2))
    image = torch.randn(1, *IMAGE)
    found = sweep(network, find_layers(network), image, image, difference)
    assert found.change == 0 and found.input_gap == 0
    assert all(layer.conductance == 0 and not layer.attribution.any() for layer in found.layers.values())


def test_turning_the_path_round_turns_every_sign() -> None:
    network = randomised(fixtures.vgg(4, width=2).double())
    there, corrupted, clean = swept(network, 8)
    back = sweep(network, find_layers(network), clean, corrupted, difference, 8)
    assert back.change == pytest.approx(-there.change)
    for name, layer in there.layers.items():
        torch.testing.assert_close(back.layers[name].attribution, -layer.attribution)


def test_a_layer_that_f_does_not_depend_on_gets_zero() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle, self.never = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.idle(x.flatten(1))
            return self.used(x.flatten(1))

    network = Idle().eval().requires_grad_(False)
    found = sweep(network, find_layers(network), torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2), difference)
    assert found.layers.keys() == {"used", "idle"}
    assert found.layers["idle"].conductance == 0 and not found.layers["idle"].attribution.any()
    assert abs(found.layers["used"].conductance - found.change) < 1e-5 and found.change != 0


def test_a_layer_that_never_sees_the_image_gets_zero() -> None:
    found, _, _ = swept(randomised(Fixed()), 100, (3, 16, 16))
    assert found.layers["conv"].conductance == pytest.approx(found.change, rel=0.02)
    assert "place" not in found.layers or not found.layers["place"].attribution.any()


def test_a_sweep_leaves_no_trace() -> None:
    network = randomised(fixtures.resnet18(4, width=2))
    x = torch.randn(2, *IMAGE)
    before = network(x)
    images = torch.randn(2, 1, *IMAGE)
    kept = images.clone()
    found = sweep(network, find_layers(network), images[0], images[1], difference, 4)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())
    assert not any(layer.attribution.requires_grad for layer in found.layers.values())
    assert torch.equal(images, kept) and torch.equal(network(x), before)
    with pytest.raises(RuntimeError):
        sweep(network, find_layers(network), images[0, :, :2], images[1, :, :2], difference)
    assert not any(m._forward_hooks for m in network.modules())


@pytest.mark.parametrize("needs", [True, False])
def test_it_works_under_no_grad_and_with_parameters_that_need_gradients(needs: bool) -> None:
    network = randomised(fixtures.vgg(4, width=2)).requires_grad_(needs)
    with torch.no_grad():
        found, _, _ = swept(network, 4)
    assert all(bool(layer.attribution.any()) for layer in found.layers.values())
    assert all(p.grad is None for p in network.parameters())


def test_a_layer_with_tokens_folded_into_the_batch_is_complete_where_it_cuts() -> None:
    network = randomised(Folded().double())
    found, _, _ = swept(network, 200, (4, 4, 4))
    assert found.layers["head"].conductance == pytest.approx(found.change, rel=0.02)
    assert found.layers["embed"].conductance == pytest.approx(found.change, rel=0.02)
