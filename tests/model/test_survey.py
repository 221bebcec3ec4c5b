"""What a trace shows of a network, against slow oracles: order, depth, cuts, shortcuts, and joins."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fixtures import networks as fixtures
from rectify.model.trace import Site, survey
from tests import oracles
from tests.model.networks import (
    Encoder,
    Fixed,
    Folded,
    Keyword,
    Net,
    SequenceFirst,
    Tied,
    join_error,
    net,
    pull_back_error,
    randomised,
)

IMAGE = (3, 16, 16)
BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: fixtures.resnet18(5, width=4),
    "vgg": lambda: fixtures.vgg(5, width=4),
    "vit": lambda: fixtures.vit(5, width=16, channels=3, image_size=16, depth=2),
    "mobilenet": lambda: fixtures.mobilenet(5, width=4),
}
NAMES = pytest.mark.parametrize("name", BUILDERS)


def watched(name: str) -> tuple[nn.Module, dict[str, Site]]:
    """A randomised fixture in float64 and its sites by name."""
    network = randomised(BUILDERS[name]().double())
    return network, sites_of(network)


def sites_of(network: nn.Module, shape: tuple[int, ...] = IMAGE) -> dict[str, Site]:
    """The sites by name, in the order in which the survey gives them."""
    return {site.name: site for site in survey(network, torch.randn(1, *shape).to(next(network.parameters())))}


@NAMES
def test_order_is_that_of_execution(name: str) -> None:
    network, sites = watched(name)
    called: list[str] = []
    for site in sites.values():
        site.layer.module.register_forward_hook(lambda *_, n=site.name: called.append(n))
    network(torch.randn(2, *IMAGE, dtype=torch.float64))
    assert list(sites) == called
    assert [site.order for site in sites.values()] == sorted(site.order for site in sites.values())


@NAMES
def test_every_layer_of_the_fixtures_is_found(name: str) -> None:
    network, sites = watched(name)
    expected = {n for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert set(sites) == expected


@NAMES
def test_depth_is_the_longest_chain(name: str) -> None:
    network, sites = watched(name)
    modules = {n: site.layer.module for n, site in sites.items()}
    expected = oracles.depths(network, modules, torch.randn(2, *IMAGE, dtype=torch.float64))
    assert {n: site.depth for n, site in sites.items()} == expected


@NAMES
def test_a_layer_is_a_cut_if_the_answer_hangs_on_it_alone(name: str) -> None:
    network, sites = watched(name)
    one, other = torch.randn(2, 1, *IMAGE, dtype=torch.float64)
    for site in sites.values():
        bypassed = oracles.depends_on_input(network, site.layer.module, one, other)
        assert site.is_cut != bypassed, site.name


def test_joins_of_the_fixtures_are_the_ends_of_their_branches() -> None:
    joined = {name: {n for n, s in watched(name)[1].items() if s.join} for name in BUILDERS}
    blocks = [f"layer{stage}.{block}" for stage in range(1, 5) for block in range(2)]
    shortcuts = {f"layer{stage}.0.shortcut.0" for stage in range(2, 5)}
    assert joined["resnet"] == {f"{block}.conv2" for block in blocks} | shortcuts
    assert joined["vgg"] == set()
    ends = {f"blocks.{block}.{end}" for block in range(2) for end in ("attention.proj", "fc2")}
    assert joined["vit"] >= ends and joined["vit"] <= ends | {"embed"}
    assert joined["mobilenet"] >= {f"{block}.project.0" for block in (3, 5, 7)}


@NAMES
def test_the_sum_moves_by_scale_times_the_change(name: str) -> None:
    network, sites = watched(name)
    x = torch.randn(3, *IMAGE, dtype=torch.float64)
    ends = [site for site in sites.values() if site.join and ("project" not in site.name and site.name != "embed")]
    if name == "mobilenet":
        ends = [sites[f"{block}.project.0"] for block in (3, 5, 7)]
    for site in ends:
        assert join_error(network, site, x) < 1e-10, site.name
        assert pull_back_error(site, 3) < 1e-10, site.name


def test_shortcuts_are_the_projections_beside_a_branch() -> None:
    for name, expected in (("vgg", set()), ("vit", set()), ("mobilenet", set())):
        assert {n for n, s in watched(name)[1].items() if s.is_shortcut} == expected
    found = {n for n, s in watched("resnet")[1].items() if s.is_shortcut}
    assert found == {f"layer{stage}.0.shortcut.0" for stage in range(2, 5)}


def test_norm_scale_is_the_factor_of_the_batch_norm_behind() -> None:
    network, sites = watched("resnet")
    norm = network.get_submodule("layer1.0.bn2")
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None
    factor = torch.stack([w / (v + norm.eps) ** 0.5 for w, v in zip(norm.weight, norm.running_var, strict=True)])
    found = sites["layer1.0.conv2"].norm_scale
    assert found is not None
    torch.testing.assert_close(found, factor.detach())
    assert sites["fc"].norm_scale is None


@NAMES
def test_a_survey_leaves_no_trace(name: str) -> None:
    network = BUILDERS[name]()
    randomised(network)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    x = torch.randn(2, *IMAGE)
    before, images, generator = network(x), x.clone(), torch.random.get_rng_state()
    survey(network, x)
    assert torch.equal(generator, torch.random.get_rng_state())
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m.training for m in network.modules())
    assert torch.equal(x, images) and torch.equal(network(x), before)


@NAMES
def test_the_example_does_not_matter(name: str) -> None:
    network, sites = watched(name)
    for example in (torch.zeros(1, *IMAGE), torch.randn(5, *IMAGE), torch.ones(2, *IMAGE)):
        for site in survey(network, example.double()):
            mine = sites[site.name]
            assert (site.order, site.depth, site.is_cut, site.is_shortcut) == (
                mine.order,
                mine.depth,
                mine.is_cut,
                mine.is_shortcut,
            )
            assert (site.join is None) == (mine.join is None)
            if site.join and mine.join:
                assert site.join.index == mine.join.index and torch.equal(site.join.source, mine.join.source)
                torch.testing.assert_close(site.join.scale, mine.join.scale)


# ---------------------------------------------------------------- how a layer's output may reach a sum


def alone(flow: Callable[[Net, Tensor], Tensor]) -> tuple[nn.Module, Site]:
    """The network of a flow and the site of its layer ``b``."""
    network = net(flow)
    return network, sites_of(network)["b"]


LINEAR: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "plainly": lambda n, x: x + n.b(x),
    "from the left": lambda n, x: n.b(x) + x,
    "in place": lambda n, x: n.b(x).add_(x),
    "through a norm": lambda n, x: x + n.norm(n.b(x)),
    "through a norm of each image with known statistics": lambda n, x: (
        x + nn.functional.instance_norm(n.b(x), x.new_zeros(x.shape[1]), x.new_ones(x.shape[1]) / 3, None, None, False)
    ),
    "through two norms": lambda n, x: x + n.norm(n.norm(n.b(x))),
    "times a number": lambda n, x: x + 0.25 * n.b(x),
    "times a number in place": lambda n, x: x + n.b(x).mul_(0.25),
    "times a parameter": lambda n, x: x + n.gain * n.b(x),
    "parameter behind": lambda n, x: x + n.norm(n.b(x)) * n.gain,
    "plus a parameter": lambda n, x: x + (n.b(x) + n.gain),
    "turned": lambda n, x: x.transpose(2, 3) + n.b(x).transpose(2, 3),
    "as tokens": lambda n, x: (x.flatten(2).mT + n.b(x).flatten(2).mT).mT.view(x.shape),
    "rolled": lambda n, x: x + n.b(x).roll((1, 2), (2, 3)),
    "to a nonlinear branch": lambda n, x: n.b(x) + n.a(x).tanh(),
    "then another": lambda n, x: (x + n.b(x)) + n.a(x),
}


@pytest.mark.parametrize("flow", LINEAR.values(), ids=LINEAR)
def test_an_affine_road_to_a_sum_is_followed(flow: Callable[[Net, Tensor], Tensor]) -> None:
    network, site = alone(flow)
    assert site.join is not None
    assert join_error(network, site, torch.randn(3, *IMAGE, dtype=torch.float64)) < 1e-10
    assert pull_back_error(site, 2) < 1e-10


def test_of_two_sums_the_first_counts() -> None:
    network, site = alone(lambda n, x: (lambda y: (x + y.transpose(2, 3)).relu() + (x + y).tanh())(n.b(x)))
    assert site.join is not None and site.join.index == 0
    assert join_error(network, site, torch.randn(2, *IMAGE, dtype=torch.float64)) < 1e-10


CROOKED: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "a nonlinearity": lambda n, x: x + n.b(x).relu(),
    "a nonlinearity in place": lambda n, x: x + n.b(x).relu_(),
    "a crop": lambda n, x: x[:, :, 1:] + n.b(x)[:, :, 1:],
    "a pooling": lambda n, x: x + nn.functional.avg_pool2d(n.b(x), 3, 1, 1),
    "a product with another layer": lambda n, x: x + n.b(x) * n.a(x).sigmoid(),
    "a gate of its own": lambda n, x: x + n.b(x) * n.b.bias.mean() * n.a(x).mean((2, 3), keepdim=True),
    "a norm of each image": lambda n, x: x + nn.functional.instance_norm(n.b(x)),
    "a norm of the batch": lambda n, x: x + nn.functional.batch_norm(n.b(x), None, None, training=True),
    "a norm of the batch that has known others": lambda n, x: (
        x + nn.functional.batch_norm(n.b(x), x.new_zeros(x.shape[1]), x.new_ones(x.shape[1]), training=True)
    ),
    "a concatenation": lambda n, x: x + torch.cat([n.b(x)[:, :1], x[:, 1:]], 1),
    "no sum at all": lambda n, x: n.b(x),
    "a sum with a constant only": lambda n, x: (n.b(x) + n.gain).relu(),
}


@pytest.mark.parametrize("flow", CROOKED.values(), ids=CROOKED)
def test_any_other_road_is_not(flow: Callable[[Net, Tensor], Tensor]) -> None:
    assert alone(flow)[1].join is None


OWN_REST: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "a branch that starts at the layer": lambda n, x: (lambda y: y + n.a(y.relu()))(n.b(x)),
    "its own mean, broadcast": lambda n, x: (lambda y: x + (y + y.mean((2, 3), keepdim=True)))(n.b(x)),
    "its own gate, broadcast": lambda n, x: (lambda y: x + (y + n.gate(y.mean((2, 3)))[:, :, None, None]))(n.b(x)),
}


@pytest.mark.parametrize("flow", OWN_REST.values(), ids=OWN_REST)
def test_the_rest_of_a_sum_does_not_depend_on_the_layer(flow: Callable[[Net, Tensor], Tensor]) -> None:
    network, site = alone(flow)
    assert site.join is None or join_error(network, site, torch.randn(2, *IMAGE, dtype=torch.float64)) < 1e-10


def test_a_sum_with_a_factor() -> None:
    network, site = alone(lambda n, x: torch.add(x, n.b(x), alpha=0.25))
    assert site.join is None or join_error(network, site, torch.randn(2, *IMAGE, dtype=torch.float64)) < 1e-10


def test_a_factor_that_depends_on_the_image() -> None:
    network, site = alone(lambda n, x: x + n.b(x) * x.std((1, 2, 3), keepdim=True))
    assert site.join is None or join_error(network, site, torch.randn(2, *IMAGE, dtype=torch.float64)) < 1e-10


def test_channels_that_a_norm_switches_off_are_left_alone() -> None:
    network = Net(lambda n, x: x + n.norm(n.b(x)))
    randomised(network)
    network.norm.weight[1] = 0
    join = sites_of(network)["b"].join
    assert join is not None
    back = join.pull_back(torch.ones(2, *IMAGE)).view(2, *IMAGE)
    assert not back[:, 1].any() and bool(back[:, [0, 2]].all()) and bool(torch.isfinite(back).all())


# ---------------------------------------------------------------- layers that are left out, and odd networks


def test_a_layer_called_twice_is_left_out() -> None:
    sites = sites_of(net(lambda n, x: n.a(n.b(n.a(x)).relu())))
    assert list(sites) == ["b", "head"]


def test_a_layer_that_is_never_called_is_left_out() -> None:
    assert list(sites_of(net(lambda n, x: n.a(x)))) == ["a", "head"]


def test_a_layer_that_is_called_without_its_own_forward_is_left_out() -> None:
    assert list(sites_of(net(lambda n, x: nn.functional.conv2d(n.a(x), n.b.weight)))) == ["a", "head"]


def test_cuts_beside_a_skip() -> None:
    sites = sites_of(net(lambda n, x: n.a(x) + n.b(x)))
    assert [site.is_cut for site in sites.values()] == [False, False, True]
    sites = sites_of(net(lambda n, x: n.b(n.a(x).relu())))
    assert [site.is_cut for site in sites.values()] == [True, True, True]


def test_a_projection_is_a_shortcut_only_beside_a_longer_branch() -> None:
    sites = sites_of(net(lambda n, x: n.a(x) + n.b(x)))
    assert not any(site.is_shortcut for site in sites.values())


def test_tokens_folded_into_the_batch_are_found_and_joined() -> None:
    network = randomised(Folded().double())
    sites = sites_of(network, (4, 4, 4))
    assert list(sites) == ["embed", "middle", "inner", "head"]
    assert sites["middle"].join is not None
    assert join_error(network, sites["middle"], torch.randn(3, 4, 4, 4, dtype=torch.float64)) < 1e-10


def test_layers_that_have_tokens_before_images_are_left_out() -> None:
    sites = sites_of(randomised(SequenceFirst()), (4, 4, 4))
    assert "embed" not in sites and "middle" not in sites and "head" in sites


def test_a_layer_called_by_keyword_does_not_crash_the_survey() -> None:
    assert "conv" in sites_of(randomised(Keyword()))


def test_a_layer_that_never_sees_the_image_is_left_out() -> None:
    sites = sites_of(randomised(Fixed()))
    assert list(sites) == ["conv", "head"] and sites["conv"].is_cut


def test_layers_with_one_weight_between_them_are_left_out() -> None:
    assert list(sites_of(randomised(Tied()))) == ["head"]


class Lopsided(nn.Conv2d):
    """Pads, more behind than in front, so that images smaller than the kernel are fine."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(x, (1, 3, 1, 3)))


def test_a_layer_that_pads_in_its_own_way_is_left_out_on_a_tiny_input_too() -> None:
    network = nn.Sequential(Lopsided(3, 4, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    assert list(sites_of(randomised(network), (3, 2, 2))) == ["3"]


def test_torchs_own_encoder_is_read() -> None:
    sites = sites_of(randomised(Encoder()), (4, 4, 4))
    ends = [f"encoder.layers.{n}.linear2" for n in range(2)]
    assert set(ends) <= set(sites) and all(sites[end].join for end in ends)
