"""Batch norm behind a flatten and a transpose: its gradient against finite differences."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from rectify.model.mend import keep_input, mend_batch_norm, tie


class Tokens(nn.Module):
    """Batch norm whose output is read as tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(5)
        self.head = nn.Linear(5, 3)
        with torch.no_grad():
            for value in (self.norm.weight, self.norm.bias, self.norm.running_mean):
                value.normal_()
            self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        return (self.head(tokens) * torch.arange(tokens.shape[1]).view(1, -1, 1)).sum(1)


@pytest.mark.parametrize("count", [1, 2])
def test_the_gradient_is_that_of_finite_differences(count: int) -> None:
    network = Tokens().double().eval().requires_grad_(False)
    mend_batch_norm(network)
    x = torch.randn(count, 5, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(network, (x,))


def test_it_is_done_once_and_changes_no_value() -> None:
    network = Tokens().eval()
    x = torch.randn(2, 5, 3, 3)
    before = network(x)
    mend_batch_norm(network)
    mend_batch_norm(network)
    assert len(network.norm._forward_hooks) == 1
    assert torch.equal(network(x), before)


class Normalising(nn.Module):
    """Changes what it is given in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.sub_(0.5).div_(0.25)).mean((2, 3))


def test_a_network_that_changes_its_input_in_place_gets_a_copy() -> None:
    network = Normalising().eval()
    keep_input(network)
    keep_input(network)
    assert len(network._forward_pre_hooks) == 1
    x = torch.rand(2, 1, 4, 4)
    before = x.clone()
    first, second = network(x), copy.deepcopy(network)(x)
    assert torch.equal(x, before) and torch.equal(first, second)
    leaf = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(network(leaf).sum(), leaf)
    assert gradient.shape == x.shape and bool(gradient.any())


def test_parameters_over_one_storage_become_one_and_stay_one_in_a_copy() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3, bias=False))
    network[1].weight = nn.Parameter(network[0].weight.data)
    network[2].weight = nn.Parameter(network[0].weight.data.T)  # the same memory, other numbers
    x = torch.randn(2, 3)
    before = network(x)
    tie(network)
    assert torch.equal(network(x), before)
    other = copy.deepcopy(network)
    assert other[1].weight is other[0].weight and other[2].weight is not other[0].weight
