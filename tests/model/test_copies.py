"""Networks that `copy.deepcopy` refuses are copied all the same, where that can be done soundly."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rectify.errors import ArchitectureError
from rectify.model.copies import copied


class Keeps(nn.Module):
    """Holds a lock, a module of the standard library, and what its layers said last."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 3), nn.Linear(3, 2)
        self.seen: dict[str, list[Any]] = {}
        self.ready, self.threads, self.lock = threading.Condition(), threading, threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            hidden = self.body(x).relu()
            self.seen["hidden"] = [hidden, hidden]
            self.last: Tensor = self.head(hidden)
        return self.last


def test_what_a_forward_pass_leaves_behind_does_not_hinder_a_copy() -> None:
    network, x = Keeps(), torch.randn(2, 4)
    output = network(x)
    other = copied(network)
    assert isinstance(other, Keeps)
    assert torch.equal(other.last, output) and other.last.is_leaf and other.seen["hidden"][0] is other.seen["hidden"][1]
    assert not network.last.is_leaf and other.lock is network.lock and other.threads is threading
    with torch.no_grad():
        other.body.weight.zero_()
        other.body.bias.zero_()
    assert torch.equal(network(x), output) and torch.equal(other(x), other.head.bias.expand(2, 2))


def test_a_network_that_can_be_copied_is_copied_as_ever() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[1].weight = network[0].weight
    other = copied(network)
    assert isinstance(other, nn.Sequential)
    assert other[1].weight is other[0].weight and other[0].weight is not network[0].weight


@pytest.mark.parametrize("what", ["view", "iterator"])
def test_what_no_copy_can_hold_is_told_in_a_line(what: str) -> None:
    network = nn.Linear(2, 2)
    # a copy of a view of the weight would stay behind when the copy is edited
    network.odd = network.weight.T if what == "view" else (number for number in range(3))  # type: ignore[assignment]
    with pytest.raises(ArchitectureError, match="Linear cannot be copied") as caught:
        copied(network)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
