"""A layer is ``W k + b``: whatever stride, dilation, padding and groups a convolution has."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from rectify.model.layers import Layer, find_layers, fitting, holds, left_out
from tests import oracles


def assert_memory(module: nn.Conv2d | nn.Linear, x: Tensor) -> None:
    """``weight() @ keys + bias()`` is the module's output, and `holds` says so."""
    layer, images = Layer("layer", module), len(x)
    with torch.no_grad():
        output = module(x)
    keys, values = layer.keys(x, images), layer.values(output, images)
    assert keys.shape == (images, layer.groups, layer.key_size, values.shape[-1])
    torch.testing.assert_close(layer.weight() @ keys + layer.bias(), values, atol=1e-12, rtol=1e-10)
    assert values.numel() == output.numel()
    assert holds(layer, x, output, images)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [0, 1, (1, 2), "valid", "same"])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_convolution_is_a_matrix_on_patches(mode: Any, padding: Any, groups: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 7, 9, dtype=torch.float64)
    for stride, dilation, bias, kernel in product([1, 2, (1, 2)], [1, (1, 2)], [True, False], [1, 3, (3, 2)]):
        if padding == "same" and (stride != 1 or kernel == (3, 2)):
            continue
        conv = nn.Conv2d(
            4, 8, kernel, stride, padding, dilation, groups=groups, bias=bias, padding_mode=mode, dtype=torch.float64
        )
        assert_memory(conv, x)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_same_padding_of_an_even_kernel_is_lopsided() -> None:
    assert_memory(nn.Conv2d(2, 3, (2, 4), padding="same").double(), torch.randn(3, 2, 6, 5, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(3, 5), (3, 7, 5), (3, 2, 4, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_a_matrix_on_tokens(shape: tuple[int, ...], bias: bool) -> None:
    assert_memory(nn.Linear(5, 6, bias=bias).double(), torch.randn(*shape, dtype=torch.float64))


def test_keys_are_the_patches_in_reading_order() -> None:
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    keys = Layer("conv", nn.Conv2d(3, 2, (3, 2), 2, 1).double()).keys(x, 2)
    for image in range(2):
        expected = torch.stack(oracles.patches(x[image], (3, 2), 2, 1), 1)
        torch.testing.assert_close(keys[image, 0], expected, rtol=0, atol=0)


def test_keys_of_a_group_are_its_own_channels() -> None:
    x = torch.randn(1, 6, 4, 4, dtype=torch.float64)
    keys = Layer("conv", nn.Conv2d(6, 6, 3, groups=3).double()).keys(x, 1)
    for group in range(3):
        own = oracles.patches(x[0, 2 * group : 2 * group + 2], (3, 3))
        torch.testing.assert_close(keys[0, group], torch.stack(own, 1), rtol=0, atol=0)


@pytest.mark.parametrize("groups, kind", [(1, "conv"), (2, "grouped"), (4, "depthwise")])
def test_kind(groups: int, kind: str) -> None:
    layer = Layer("conv", nn.Conv2d(4, 8, 3, groups=groups))
    assert (layer.kind, layer.groups, layer.key_size) == (kind, groups, 9 * 4 // groups)
    assert not layer.is_pointwise and Layer("conv", nn.Conv2d(4, 8, 1, groups=groups)).is_pointwise
    assert Layer("fc", nn.Linear(3, 2)).kind == "linear" and not Layer("fc", nn.Linear(3, 2)).is_pointwise


def test_weight_shares_memory_with_the_parameter() -> None:
    conv = nn.Conv2d(4, 8, 3, groups=2)
    weight = Layer("conv", conv).weight()
    assert weight.shape == (2, 4, 18) and not weight.requires_grad
    weight.zero_()
    assert not conv.weight.detach().any()


class Standardised(nn.Conv2d):
    """Weight standardisation: what it convolves with is not its parameter."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Before(nn.Conv2d):
    """Pads its input before it convolves, the odd row and column in front."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (1, 0, 1, 0)))


class Wrapped(nn.Conv2d):
    """Pads circularly on its own without saying so: the shape is right, the values are not."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (1, 1, 1, 1), mode="circular")
        return F.conv2d(x, self.weight, self.bias)


@pytest.mark.parametrize(
    "conv", [Standardised(3, 4, 3, padding=1), Before(3, 4, 3, 2), Wrapped(3, 4, 3, padding=1)], ids=lambda c: type(c)
)
def test_a_subclass_that_computes_something_else_does_not_fit(conv: nn.Conv2d) -> None:
    x = torch.rand(2, 3, 8, 8) + 1
    with torch.no_grad():
        assert not holds(Layer("conv", conv), x, conv(x), 2)
        assert fitting(Layer("conv", conv), x, conv(x), 2) is None


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("size", [(7, 9), (8, 8), (2, 5)])
def test_a_convolution_that_pads_itself_is_a_matrix_on_what_it_pads(groups: int, size: tuple[int, int]) -> None:
    same = pytest.importorskip("timm.layers").Conv2dSame
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    for kernel, stride, dilation in product([1, 2, 3, (5, 2)], [1, 2, (3, 1)], [1, (1, 2)]):
        conv = same(4, 8, kernel, stride, dilation=dilation, groups=groups, dtype=torch.float64)
        with torch.no_grad():
            output = conv(x)
        layer = fitting(Layer("conv", conv), x, output, 2)
        assert layer is not None
        values = layer.values(output, 2)
        torch.testing.assert_close(layer.weight() @ layer.keys(x, 2) + layer.bias(), values, atol=1e-12, rtol=1e-10)
        direction = torch.randn(groups, layer.key_size, dtype=torch.float64)
        expected = torch.einsum("gd,ngdp->np", direction, layer.keys(x, 2))
        torch.testing.assert_close(layer.similarity(direction, x, 2), expected, atol=1e-12, rtol=1e-10)


def test_holds_on_numbers_of_any_size() -> None:
    for size in (1e-20, 1e-4, 1.0, 1e6):
        conv = nn.Conv2d(2, 3, 3, bias=False)
        x = size * torch.randn(2, 2, 5, 5)
        with torch.no_grad():
            output = conv(x)
        assert holds(Layer("conv", conv), x, output, 2)
        if size >= 1e-4:
            assert not holds(Layer("conv", conv), x, 1.01 * output, 2)


def test_find_layers_takes_plain_weights_only_in_order_of_definition() -> None:
    network = nn.Sequential()
    network.add_module("first", nn.Conv2d(3, 4, 3))
    network.add_module("weighted", parametrizations.weight_norm(nn.Conv2d(4, 4, 3)))
    network.add_module("spectral", parametrizations.spectral_norm(nn.Linear(4, 4)))
    network.add_module("norm", nn.BatchNorm2d(4))
    network.add_module("block", nn.Sequential(nn.Conv1d(4, 4, 3), nn.Linear(4, 2), nn.ConvTranspose2d(2, 2, 3)))
    assert [layer.name for layer in find_layers(network)] == ["first", "block.1"]
    assert find_layers(network)[1].module is network.get_submodule("block.1")


def test_what_is_left_out_is_told_with_its_reason() -> None:
    network = nn.Sequential()
    network.add_module("first", nn.Conv2d(3, 4, 3))
    network.add_module("weighted", parametrizations.weight_norm(nn.Conv2d(4, 4, 3)))
    network.add_module("one", nn.Linear(4, 4))
    network.add_module("other", nn.Linear(4, 4))
    network.add_module("twice", nn.Linear(4, 4))
    network.get_submodule("other").weight = network.get_submodule("one").weight
    found = left_out(network, {"first"})
    assert list(found.values()) == [["weighted"], ["one", "other"], ["twice"]]
    assert "remove_parametrizations" in next(iter(found)) and "the weight is shared" in found
    assert left_out(nn.Sequential(nn.Linear(2, 2)), {"0"}) == {}


class OneStorage(nn.Module):
    """Two parameters over the numbers of one, a third over some of them, a buffer and an attribute over others."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.part = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.seen, self.alone, self.turned = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.view = self.turned.weight.data.T
        self.b.weight = nn.Parameter(self.a.weight.data)
        self.part.weight = nn.Parameter(self.a.weight.data[1:3])
        self.register_buffer("copy", self.seen.weight.data)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.alone(self.seen(self.b(self.a(x)))) + self.part(x).sum() + self.turned(x) @ self.view
        return out


def test_weights_over_one_storage_are_shared_as_tied_ones_are() -> None:
    network = OneStorage()
    found = [layer.name for layer in find_layers(network)]
    assert found == ["alone"]
    assert left_out(network, found) == {"the weight is shared": ["a", "b", "part", "seen", "turned"]}
    halves = torch.randn(4, 4)
    beside = nn.Sequential(*(nn.Linear(4, 2) for _ in range(4)))
    beside[0].weight, beside[1].weight = nn.Parameter(halves[:2]), nn.Parameter(halves[2:])  # as in flat parameters
    beside[2].weight, beside[3].weight = (nn.Parameter(torch.empty(2, 0)) for _ in range(2))
    assert len(find_layers(beside)) == 4
    assert len(find_layers(nn.Sequential(nn.Linear(2, 2, device="meta"), nn.Linear(2, 2, device="meta")))) == 2


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
def test_what_makes_a_computed_weight_plain_is_named() -> None:
    network = nn.Sequential(*(nn.Linear(4, 4) for _ in range(5)))
    parametrizations.spectral_norm(network[0])
    nn.utils.weight_norm(network[1])  # type: ignore[no-untyped-call]
    nn.utils.spectral_norm(network[2])
    prune.identity(network[3], "weight")  # type: ignore[no-untyped-call]
    whole = nn.ModuleDict({"net": network, "last": network[4]})
    found = {names[0]: why for why, names in left_out(whole, [layer.name for layer in find_layers(whole)]).items()}
    assert found.pop("net.4") == "one module under several names"
    undone = ("parametrize.remove_parametrizations", "remove_weight_norm", "remove_spectral_norm", "prune.remove")
    for name, function in enumerate(undone):
        assert found[f"net.{name}"] == f"the weight is computed (torch.nn.utils.{function} makes it a plain one)"
