"""Passes that begin in the middle: what they show is what whole passes show, and where none can begin none does."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn

from fixtures import networks as fixtures
from rectify.model import resume
from rectify.model.layers import Layer, find_layers
from rectify.model.record import Begin, Place, Start, record
from rectify.model.resume import Relay, starts
from rectify.model.trace import Site, survey
from tests.model.networks import Encoder, Folded, Scrubs, SequenceFirst, net, randomised

BUILDERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {  # network, image, starts at the least
    "resnet": (lambda: fixtures.resnet18(5, width=4), (3, 16, 16), 9),
    "vgg": (lambda: fixtures.vgg(5, width=4), (3, 16, 16), 7),
    "vit": (lambda: fixtures.vit(5, width=16, channels=3, image_size=16, depth=3), (3, 16, 16), 3),
    "mobilenet": (lambda: fixtures.mobilenet(5, width=4), (3, 16, 16), 10),
    "densenet": (lambda: torchvision.models.DenseNet(4, (2, 2), 8, num_classes=3), (3, 32, 32), 3),
    "mobilenet_v3": (lambda: torchvision.models.mobilenet_v3_small(num_classes=3), (3, 32, 32), 20),
    "shufflenet": (lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=3), (3, 32, 32), 16),
    "encoder": (Encoder, (4, 4, 4), 2),
    "normalised in place": (Scrubs, (3, 8, 8), 1),
}


def opened(name: str) -> tuple[nn.Module, list[Site], list[Start], Tensor]:
    """A network, its sites, its starts, and images that it has not seen."""
    torch.manual_seed(3)
    build, shape, _ = BUILDERS[name]
    network = randomised(build())
    sites = survey(network, torch.randn(1, *shape))
    return network, sites, starts(network, torch.randn(1, *shape), sites), torch.randn(4, *shape)


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("images", [1, 4])
def test_a_pass_from_a_start_shows_what_a_whole_pass_shows(name: str, images: int) -> None:
    network, sites, found, x = opened(name)
    x = x[:images]
    assert len(found) >= BUILDERS[name][2]
    layers = [site.layer for site in sites]
    sums = sorted({site.join.index for site in sites if site.join})
    whole = record(network, x, inputs=layers, outputs=layers, sums=sums, logits=True)
    for start in found:
        place = Place(start.name, network.get_submodule(start.name))
        values = record(network, x, inputs=[place]).inputs[start.name]
        assert start.size == values[0].numel() * values.element_size()
        behind = [site for site in sites if site.order >= start.order]
        assert 0 < len(behind) < len(sites)
        theirs = sorted({site.join.index for site in behind if site.join})
        their_layers = [site.layer for site in behind]
        part = record(
            network,
            x,
            inputs=their_layers,
            outputs=their_layers,
            sums=theirs,
            logits=True,
            begin=Begin(start, values),
        )
        rounding = 0.0 if images > 1 else 1e-5  # sums of one image are read in a pass of two
        for mine, its in (
            ({"": part.logits}, {"": whole.logits}),
            (part.inputs, whole.inputs),
            (part.outputs, whole.outputs),
            (part.sums, whole.sums),
        ):
            for key, value in mine.items():  # type: ignore[attr-defined]
                torch.testing.assert_close(value, its[key], rtol=rounding, atol=rounding)  # type: ignore[index]
        assert list(part.sums) == theirs and part.outputs.keys() == {site.name for site in behind}


@pytest.mark.parametrize("name", ["resnet", "mobilenet", "vit"])
def test_nothing_before_a_start_is_computed(name: str) -> None:
    network, sites, found, x = opened(name)
    called: list[str] = []
    for site in sites:
        site.layer.module.register_forward_hook(lambda *_, n=site.name: called.append(n))
    for start in found:
        values = record(network, x, inputs=[Place(start.name, network.get_submodule(start.name))]).inputs[start.name]
        called.clear()
        record(network, x, logits=True, begin=Begin(start, values))
        computed = [name for name in called if name not in start.skipped]  # hooks run where zeros stand in, too
        assert computed == [site.name for site in sites if site.order >= start.order]


class Skips(nn.Module):
    """What the first layer gives is needed at the end once more."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = (nn.Conv2d(3, 3, 3, 1, 1) for _ in range(3))
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = self.last(self.middle(x).relu() * x)
        return self.head(x.mean((2, 3)))


class Remembers(nn.Module):
    """The first layer leaves something behind that the last one reads."""

    class First(nn.Module):
        """Remembers how bright its images were."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3)
            self.bright: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            self.bright = x.mean((1, 2, 3))
            y: Tensor = self.conv(x)
            return y

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = self.First(), nn.Conv2d(3, 3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x)).mean((2, 3))
        assert self.first.bright is not None
        return self.head(y * self.first.bright[: len(y), None])


class Twice(nn.Module):
    """A layer that is called twice; the second time its input is the first one's output."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.head = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(self.again(self.first(x)).relu())
        return self.head(x.mean((2, 3)))


class RemembersInside(nn.Module):
    """The same, and what it leaves behind is read by a layer that a pass could begin before."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.body, self.last, self.head = Bright(), nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 1), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(self.first(x))
        return self.head(self.last(y * self.first.bright[: len(y), None, None, None]).mean((2, 3)))


class Bright(nn.Module):
    """Two layers that remember how bright their images were."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 1), nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
        self.bright = torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        self.bright = x.mean((1, 2, 3))
        y: Tensor = self.b(self.a(x).relu())
        return y


class Zero(nn.Module):
    """A layer that is zero yet, on a skip: what it gives does not show that it is needed, but its input does."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.z = (nn.Conv2d(3, 3, 1) for _ in range(4))
        self.head = nn.Linear(3, 2)
        for parameter in self.z.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        return self.head((self.c(self.b(a)) + self.z(a)).mean((2, 3)))


class Unbiased(nn.Module):
    """A U-Net without biases: of an image of zeros all is zero, skip or none."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.m, self.u = (nn.Conv2d(3, 3, 1, bias=False) for _ in range(3))
        self.d, self.head = nn.Conv2d(6, 3, 1, bias=False), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        e = self.e(x)
        return self.head(self.d(torch.cat((e, self.u(self.m(e).relu())), 1)).mean((2, 3)))


class Sometimes(nn.Module):
    """A layer that runs unless the features are zero, another that runs on bright images alone, and a temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.aux, self.bright = (nn.Conv2d(3, 3, 1) for _ in range(4))
        self.soft, self.head = nn.Softplus(), nn.Linear(3, 2)
        self.temperature = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor) -> Tensor:
        f = self.a(x)
        y = self.b(f)
        if bool(f.abs().sum() > 0):
            y = y + 0 * self.aux(f)
        if bool(x.mean() > 1):
            y = self.bright(y)
        return self.head((y * self.soft(self.temperature)).mean((2, 3)))


class Choosy(nn.Module):
    """Takes no image with a number below zero."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        assert bool((x >= 0).all())
        return self.head(self.b(self.a(x)).mean((2, 3)))


class Views(nn.Module):
    """A part that can view what it is given only as it lies in memory: tokens that were channels."""

    class Part(nn.Module):
        """Channels before tokens again, by a view."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(9, 9)

        def forward(self, x: Tensor) -> Tensor:
            n, tokens, channels = x.shape
            y: Tensor = self.layer(x.transpose(1, 2).view(n * channels, tokens))
            return y.view(n, channels, tokens)

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.part, self.head = nn.Conv2d(3, 4, 1), self.Part(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.part(self.embed(x).flatten(2).transpose(1, 2)).mean(2))


@pytest.mark.parametrize(
    ("network", "shape", "names"),
    [
        (Skips, (3, 8, 8), ["last", "head"]),
        (Remembers, (3, 8, 8), []),
        (Twice, (3, 8, 8), ["head"]),
        (SequenceFirst, (4, 3, 3), []),  # tokens come first before the head, which is the only site
        (Folded, (4, 3, 3), ["head"]),
        (RemembersInside, (3, 8, 8), ["first.b"]),
        (Zero, (3, 8, 8), ["head"]),
        (Unbiased, (3, 8, 8), ["d", "head"]),
        (Sometimes, (3, 8, 8), ["head"]),
        (Views, (3, 3, 3), ["part", "head"]),
    ],
)
def test_it_begins_only_where_nothing_else_is_needed(
    network: Callable[[], nn.Module], shape: tuple[int, ...], names: list[str]
) -> None:
    torch.manual_seed(5)
    made = randomised(network())
    sites = survey(made, torch.rand(1, *shape))
    assert [start.name for start in starts(made, torch.zeros(1, *shape), sites)] == names
    found = starts(made, torch.rand(4, *shape), sites)
    assert [start.name for start in found] == names
    x = torch.rand(5, *shape)
    student = copy.deepcopy(made)
    relay = Relay(student, found, x, batch=2)
    for site in sites:
        layer = Layer(site.name, student.get_submodule(site.name))  # type: ignore[arg-type]
        for rows in (slice(0, 5), slice(1, 3), torch.tensor([4, 0])):
            part = record(student, x[rows], inputs=[layer], outputs=[layer], begin=relay.begin(site, rows))
            whole = record(student, x[rows], inputs=[layer], outputs=[layer])
            torch.testing.assert_close(part.inputs[site.name], whole.inputs[site.name])
            torch.testing.assert_close(part.outputs[site.name], whole.outputs[site.name])
        edit(student, site)


def test_a_network_that_does_not_take_such_images_has_whole_passes() -> None:
    made = randomised(Choosy())
    sites = survey(made, torch.rand(1, 3, 8, 8))
    assert [start.name for start in starts(made, torch.rand(3, 3, 8, 8), sites)] == ["b", "head"]
    assert starts(made, -torch.rand(3, 3, 8, 8), sites) == []


def test_the_network_is_put_back_even_when_it_fails() -> None:
    network, _, found, x = opened("resnet")
    before = network(x)
    place = Place(found[3].name, network.get_submodule(found[3].name))
    values = record(network, x, inputs=[place]).inputs[place.name]
    network.get_submodule("conv1").forward = own = network.get_submodule("conv1").forward  # type: ignore[method-assign]
    with pytest.raises(RuntimeError):
        record(network, x, logits=True, begin=Begin(found[3], values[:, :1]))
    assert network.get_submodule("conv1").__dict__["forward"] is own
    assert not any("forward" in m.__dict__ for n, m in network.named_modules() if n != "conv1")
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert torch.equal(network(x), before)


def test_without_sites_there_is_no_start() -> None:
    assert starts(randomised(fixtures.vgg(3, width=4)), torch.randn(1, 3, 16, 16), []) == []


def edit(network: nn.Module, site: Site) -> None:
    """Change a layer's weight."""
    with torch.no_grad():
        network.get_submodule(site.name).weight.mul_(1.1)  # type: ignore[operator, union-attr]


@pytest.mark.parametrize("name", ["resnet", "vit", "mobilenet", "densenet"])
@pytest.mark.parametrize("room", [1 << 30, 6_000, 0])
def test_a_relay_follows_the_edits(name: str, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network, sites, found, x = opened(name)
    monkeypatch.setattr(resume, "MEMORY", room)
    student = copy.deepcopy(network)
    relay = Relay(student, found, x, batch=3)
    began = []
    for site in [*sites, sites[0], sites[len(sites) // 2]]:  # and back again
        layer = Layer(site.name, student.get_submodule(site.name))  # type: ignore[arg-type]
        for rows in (slice(1, 3), torch.tensor([3, 0])):
            begin = relay.begin(site, rows)
            part = record(student, x[rows], inputs=[layer], outputs=[layer], begin=begin)
            whole = record(student, x[rows], inputs=[layer], outputs=[layer])
            torch.testing.assert_close(part.inputs[site.name], whole.inputs[site.name])
            torch.testing.assert_close(part.outputs[site.name], whole.outputs[site.name])
            began.append(begin.start.name if begin else None)
            assert begin is None or begin.values[0].numel() * 4 * len(x) <= room
        if site is not sites[0]:
            edit(student, site)
    if room > 6_000:
        assert set(began) == {None, *(start.name for start in found)}
    assert (set(began) == {None}) == (room == 0)


def test_images_that_wait_are_safe_from_operations_in_place() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3))
    network = randomised(nn.Sequential(nn.Conv2d(3, 4, 3), body, nn.Flatten(), nn.Linear(64, 2)))
    x = torch.randn(3, 3, 8, 8)
    sites = survey(network, x)
    relay = Relay(network, starts(network, x, sites), x)
    for _ in range(2):
        begin = relay.begin(sites[1], slice(0, 3))
        assert begin is not None and begin.start.name == "1" and bool((begin.values < 0).any())
        record(network, x, logits=True, begin=begin)


def test_a_sum_is_numbered_as_in_a_whole_pass() -> None:
    twice = net(lambda n, x: (lambda y: y + n.b(y.relu()))(x + n.a(x)))
    x = torch.randn(3, 3, 5, 5).double()
    sites = {site.name: site for site in survey(twice, x)}
    assert sites["a"].join is not None and sites["b"].join is not None
    assert (sites["a"].join.index, sites["b"].join.index) == (0, 1)
    assert [start.name for start in starts(twice, x, list(sites.values()))] == ["head"]
    assert find_layers(twice)[0].name == "a"
