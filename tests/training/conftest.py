"""Small networks and images for the tests of training."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import one_thread


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The networks are tiny, and equal runs are compared."""
    with one_thread():
        yield


def smooth_net(classes: int = 3, channels: int = 2, size: int = 4) -> nn.Sequential:
    """A float64 network without kinks: (N, channels, size, size) to (N, classes)."""
    width = 3 * (size - 2) ** 2
    layers = nn.Conv2d(channels, 3, 3), nn.Softplus(), nn.Flatten(), nn.Linear(width, classes)
    return nn.Sequential(*layers).double()


def pictures(count: int = 3, channels: int = 2, size: int = 4, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Images in [0, 1], float64, and their classes."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(count, channels, size, size, generator=generator, dtype=torch.float64)
    return x, torch.arange(count) % classes
