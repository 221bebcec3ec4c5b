"""Traces of torchvision's networks, with random weights and random batch-norm statistics."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from rectify.model.trace import Site, survey
from tests import oracles
from tests.model.networks import join_error, pull_back_error, randomised

# Names of the layers that end a residual branch, and of those that lie beside one; all other layers have no business
# with a sum of their own (see test_survey.OWN_REST for layers that begin a branch and are its other operand).
ENDS = {
    "resnet18": r"layer\d\.\d\.(conv2|downsample\.0)",
    "resnet50": r"layer\d\.\d\.(conv3|downsample\.0)",
    "mobilenet_v2": r"features\.(3|5|6|8|9|10|12|13|15|16)\.conv\.2",
    "efficientnet_b0": r"features\.(2\.1|3\.1|4\.[12]|5\.[12]|6\.[123])\.block\.3\.0",
    "convnext_tiny": r"features\.[1357]\.\d\.block\.5",
    "swin_t": r"features\.\d\.\d\.mlp\.3",
    "vit_b_16": r"encoder\.layers\.encoder_layer_\d+\.mlp\.3",
}
NAMES = pytest.mark.parametrize("name", ENDS)
IMAGE = (3, 32, 32)


@cache
def opened(name: str) -> tuple[nn.Module, tuple[Site, ...]]:
    """A network for images of 32 pixels and its sites; kept for all tests of it, which must not change it."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"image_size": 32} if name == "vit_b_16" else {}
    network = randomised(torchvision.models.get_model(name, weights=None, num_classes=5, **options))
    return network, tuple(survey(network, torch.randn(1, *IMAGE)))


@pytest.fixture(scope="module", autouse=True)
def closed() -> Iterator[None]:
    """Let go of the networks, some of which are large."""
    yield
    opened.cache_clear()


@NAMES
def test_every_called_layer_is_found_in_the_order_of_execution(name: str) -> None:
    network, sites = opened(name)
    called: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, n=n: called.append(n))
        for n, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    network(torch.randn(2, *IMAGE))
    for handle in handles:
        handle.remove()
    assert [site.name for site in sites] == called


@NAMES
def test_the_ends_of_residual_branches_are_joined(name: str) -> None:
    _, sites = opened(name)
    ends = {site.name for site in sites if re.fullmatch(ENDS[name], site.name)}
    assert ends and ends <= {site.name for site in sites if site.join}
    numbers = [site.join.index for site in sites if site.join and site.name in ends]
    assert numbers == sorted(numbers)


@NAMES
def test_the_sum_moves_by_scale_times_the_change(name: str) -> None:
    network, sites = opened(name)
    x = torch.randn(2, *IMAGE)
    ends = [site for site in sites if site.join and re.fullmatch(ENDS[name], site.name)]
    for site in ends[:: 4 if name == "vit_b_16" else 1]:
        assert join_error(network, site, x) < 1e-4, site.name
        assert pull_back_error(site, 2) < 1e-5, site.name


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_b0", "swin_t", "convnext_tiny"])
def test_no_other_layer_is_joined_to_a_sum_whose_rest_depends_on_it(name: str) -> None:
    network, sites = opened(name)
    x = torch.randn(2, *IMAGE)
    for site in sites:
        assert site.join is None or join_error(network, site, x) < 1e-4, site.name


@NAMES
def test_only_the_projections_of_resnets_are_shortcuts(name: str) -> None:
    found = {site.name for site in opened(name)[1] if site.is_shortcut}
    first = {"resnet18": 2, "resnet50": 1}.get(name, 5)
    assert found == {f"layer{stage}.0.downsample.0" for stage in range(first, 5)}


@NAMES
def test_cuts_are_the_layers_that_the_answer_hangs_on(name: str) -> None:
    network, sites = opened(name)
    one, other = torch.randn(2, 1, *IMAGE)
    cuts = {site.name for site in sites if site.is_cut}
    assert cuts and sites[-1].name in cuts
    others = [site for site in sites if not site.is_cut]
    for site in [site for site in sites if site.is_cut][::3] + others[:: len(others) // 6]:
        kept = oracles.depends_on_input(network, site.layer.module, one, other)
        assert kept != (site.name in cuts), site.name


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "convnext_tiny"])
def test_depth_is_the_longest_chain(name: str) -> None:
    network, sites = opened(name)
    modules = {site.name: site.layer.module for site in sites}
    assert {site.name: site.depth for site in sites} == oracles.depths(network, modules, torch.randn(1, *IMAGE))


def test_layers_that_only_lend_their_weight_are_left_out() -> None:
    for name, missing in (("swin_t", "attn"), ("vit_b_16", "self_attention")):
        assert not any(missing in site.name for site in opened(name)[1])


def test_a_network_of_timm_with_weight_standardisation_and_dynamic_padding() -> None:
    layers = pytest.importorskip("timm.layers")
    network = nn.Sequential(
        layers.StdConv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        layers.Conv2dSame(4, 4, 3, 2),
        nn.ReLU(),
        layers.ScaledStdConv2d(4, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    assert [site.name for site in survey(randomised(network), torch.randn(1, 3, 16, 16))] == ["2", "6", "9"]
