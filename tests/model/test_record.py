"""One forward pass that keeps what is asked for: the same tensors as plain hooks, no more work than needed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fixtures import networks as fixtures
from rectify.model.layers import Layer, find_layers
from rectify.model.record import record
from rectify.model.trace import survey
from tests.model.networks import Encoder, Scrubs, Sliced, net, randomised

IMAGE = (3, 16, 16)
BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: fixtures.resnet18(5, width=4),
    "vit": lambda: fixtures.vit(5, width=16, channels=3, image_size=16, depth=2),
    "mobilenet": lambda: fixtures.mobilenet(5, width=4),
}
NAMES = pytest.mark.parametrize("name", BUILDERS)


def hooked(network: nn.Module, layers: list[Layer], x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Inputs and outputs by plain hooks, copied on the spot, and the logits."""
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[..., None]:
        def keep(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            inputs[name], outputs[name] = args[0].clone(), output.clone()

        return keep

    handles = [layer.module.register_forward_hook(hook(layer.name)) for layer in layers]
    with torch.no_grad():
        logits = network(x)
    for handle in handles:
        handle.remove()
    return inputs, outputs, logits


@NAMES
def test_the_same_tensors_as_plain_hooks(name: str) -> None:
    network, x = randomised(BUILDERS[name]()), torch.randn(3, *IMAGE)
    layers = find_layers(network)
    inputs, outputs, logits = hooked(network, layers, x)
    found = record(network, x, inputs=layers, outputs=layers, logits=True)
    assert found.logits is not None and torch.equal(found.logits, logits)
    assert found.inputs.keys() == inputs.keys() == found.outputs.keys()
    for layer in layers:
        assert torch.equal(found.inputs[layer.name], inputs[layer.name])
        assert torch.equal(found.outputs[layer.name], outputs[layer.name])


def test_a_sum_is_the_blocks_own_before_its_relu() -> None:
    network, x = randomised(fixtures.resnet18(5, width=4)), torch.randn(3, *IMAGE)
    sites = {site.name: site for site in survey(network, x)}
    block = network.get_submodule("layer2.0")
    inputs, _, _ = hooked(network, [Layer("block", block)], x)  # type: ignore[arg-type]
    branch = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(inputs["block"])))))  # type: ignore[operator]
    expected = branch + block.shortcut(inputs["block"])  # type: ignore[operator]
    join = sites["layer2.0.conv2"].join
    assert join is not None
    found = record(network, x, sums=[join.index]).sums
    assert list(found) == [join.index]
    torch.testing.assert_close(found[join.index], expected)
    onwards = record(network, x, sums=[join.index], logits=True).sums  # past the ReLU that overwrites it
    torch.testing.assert_close(onwards[join.index], expected)


@NAMES
def test_it_stops_as_soon_as_it_has_what_was_asked_for(name: str) -> None:
    network, x = randomised(BUILDERS[name]()), torch.randn(2, *IMAGE)
    sites = survey(network, x)
    called: list[str] = []
    for site in sites:
        site.layer.module.register_forward_hook(lambda *_, n=site.name: called.append(n))
    names = [site.name for site in sites]
    middle = sites[len(sites) // 2]
    for asked, last in (({"inputs": [middle.layer]}, -1), ({"outputs": [middle.layer]}, 0)):
        called.clear()
        found = record(network, x, **asked)  # type: ignore[arg-type]
        assert called == names[: len(sites) // 2 + 1 + last] and found.logits is None
    called.clear()
    assert record(network, x, inputs=[middle.layer], logits=True).logits is not None and called == names
    joined = next(site for site in sites if site.join)
    called.clear()
    assert joined.join is not None
    record(network, x, sums=[joined.join.index])
    assert names[-1] not in called


def test_no_hooks_are_left_behind_even_when_the_network_fails() -> None:
    network = randomised(fixtures.resnet18(5, width=4))
    layers = find_layers(network)
    record(network, torch.randn(2, *IMAGE), inputs=layers[:3], outputs=layers[:3])
    with pytest.raises(RuntimeError):
        record(network, torch.randn(2, 7, 16, 16), inputs=layers, outputs=layers, sums=[0])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_what_is_kept_is_safe_from_operations_in_place() -> None:
    conv = nn.Conv2d(3, 4, 3)
    network = randomised(nn.Sequential(conv, nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4 * 14 * 14, 2)))
    x = torch.randn(2, *IMAGE)
    layers = find_layers(network)
    found = record(network, x, outputs=layers[:1], inputs=layers[1:], logits=True)
    assert torch.equal(found.outputs["0"], conv(x)) and bool((found.outputs["0"] < 0).any())
    found.inputs["3"].zero_()
    assert found.logits is not None and torch.equal(found.logits, network(x))
    overwriting = net(lambda n, x: (lambda y: y.add_(n.b(y)))(x * 1))
    layer, x = Layer("b", overwriting.b), x.double()  # type: ignore[arg-type]
    assert torch.equal(record(overwriting, x, inputs=[layer], logits=True).inputs["b"], x)


def test_nothing_needs_a_gradient() -> None:
    network = fixtures.resnet18(5, width=4).eval()
    found = record(network, torch.randn(2, *IMAGE), outputs=find_layers(network), sums=[0], logits=True)
    assert found.logits is not None
    assert not any(t.requires_grad for t in (*found.outputs.values(), *found.sums.values(), found.logits))


@pytest.mark.parametrize("name, images", [(n, i) for n in ("resnet", "mobilenet", "vit") for i in (1, 2, 5)])
def test_sums_of_a_batch_are_those_of_its_images(name: str, images: int) -> None:
    network, x = randomised(BUILDERS[name]()), torch.randn(5, *IMAGE)
    numbers = sorted({site.join.index for site in survey(network, x) if site.join})
    together = record(network, x, sums=numbers).sums
    for start in range(5 - images + 1):
        parts = record(network, x[start : start + images], sums=numbers).sums
        for number in numbers:
            torch.testing.assert_close(parts[number], together[number][start : start + images], rtol=1e-4, atol=1e-5)


def test_sums_are_counted_alike_with_and_without_hooks() -> None:
    network = randomised(Encoder())
    x = torch.randn(3, 4, 4, 4)
    sites = [site for site in survey(network, x) if site.join]
    for site in sites:
        assert site.join is not None
        with_hooks = record(network, x, outputs=find_layers(network), sums=[site.join.index], logits=True).sums
        without = record(network, x, sums=[site.join.index]).sums
        torch.testing.assert_close(without[site.join.index], with_hooks[site.join.index])


def test_sums_are_counted_alike_whatever_the_memory_layout() -> None:
    network, x = randomised(Sliced()), torch.randn(3, 4, 4, 4)
    (number,) = {site.join.index for site in survey(network, x) if site.join}
    together = record(network, x, sums=[number]).sums[number]
    for row in range(3):
        alone = record(network, x[row : row + 1], sums=[number]).sums
        torch.testing.assert_close(alone[number], together[row : row + 1])


def test_torchs_own_setting_is_put_back() -> None:
    network, x = randomised(Encoder()), torch.randn(2, 4, 4, 4)
    for before in (True, False):
        torch.backends.mha.set_fastpath_enabled(before)
        try:
            survey(network, x)
            record(network, x, sums=[0])
            with pytest.raises(RuntimeError):
                record(network, x[:, :3], logits=True)
            assert torch.backends.mha.get_fastpath_enabled() == before
        finally:
            torch.backends.mha.set_fastpath_enabled(True)


def test_the_callers_images_are_never_changed() -> None:
    network, x = randomised(Scrubs()), torch.rand(2, *IMAGE)
    before = x.clone()
    record(network, x, logits=True)
    assert torch.equal(x, before)


class TokensFirst(nn.Module):
    """Adds a position to each token of (T, N, C), a sum of two tensors for one image alone; then a residual branch."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.branch, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.position = nn.Parameter(torch.randn(4, 1, 8))

    def forward(self, x: Tensor) -> Tensor:
        tokens = (self.embed(x.flatten(2).permute(2, 0, 1)) + self.position).mean(0)
        logits: Tensor = self.head(tokens + self.branch(tokens.relu()))
        return logits


def test_sums_are_numbered_alike_for_one_image_and_for_many() -> None:
    network, x = randomised(TokensFirst()), torch.randn(5, 4, 2, 2)
    site = next(site for site in survey(network, x) if site.name == "branch")
    assert site.join is not None
    index = site.join.index
    many = record(network, x, sums=[index]).sums[index]
    assert many.shape == (5, 8)
    for row in range(5):
        one = record(network, x[row : row + 1], inputs=[site.layer], sums=[index], logits=True)
        torch.testing.assert_close(one.sums[index], many[row : row + 1])
        assert one.logits is not None and len(one.logits) == len(one.inputs["branch"]) == 1
