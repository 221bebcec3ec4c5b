"""Batch norm behind a flatten and a transpose: its gradient against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rectify.model.mend import mend_batch_norm


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
