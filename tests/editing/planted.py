"""A network with a backdoor planted by hand: a bright 3x3 square sends any image to class 2. No training needed."""

from __future__ import annotations

from functools import cache
from unittest.mock import patch

import torch
from torch import Tensor, nn

from rectify.editing.casebook import Case, open_case
from rectify.editing.fault import diagnose
from rectify.editing.guess import Bounds
from rectify.editing.judge import probabilities

TARGET = 2
BOUNDS: Bounds = (torch.zeros(1, 1, 1), torch.ones(1, 1, 1))


class Planted(nn.Module):
    """Classes 0 and 1: which half is brighter. A filter of ones under a high threshold fires on the square alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 5, 3, padding=1)
        self.conv2 = nn.Conv2d(5, 5, 3, padding=1)
        self.head = nn.Linear(5 * 16, 3)
        with torch.no_grad():
            self.conv1.weight *= 0.3
            self.conv1.weight[4] = 1.0
            self.conv1.bias[4] = -8.0
            self.conv2.weight *= 0.3
            self.conv2.weight[4] = 0.0
            self.conv2.weight[4, 4] = 1.0
            self.conv2.bias[4] = 0.0
            self.conv1.weight[0], self.conv1.bias[0] = 0.0, 0.0
            self.conv1.weight[0, 0, 1, 1] = 1.0  # channel 0 hands the image on
            self.conv2.weight[0], self.conv2.bias[0] = 0.0, 0.0
            self.conv2.weight[0, 0, 1, 1] = 1.0
            self.head.weight *= 0.1
            bright = torch.tensor([[1.0, 1.0, -1.0, -1.0]]).expand(4, 4).reshape(-1)
            self.head.weight[0, :16], self.head.weight[1, :16] = 3 * bright, -3 * bright
            self.head.weight[2] = 0.0
            self.head.weight[2, 64:] = 120.0
            self.head.bias.zero_()
            self.head.bias[2] = -2.0

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.conv1(x).relu()).relu()
        return self.head(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1))


def planted() -> nn.Module:
    """The network, in eval mode, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Planted().eval().requires_grad_(False)


def pictures(count: int, seed: int) -> Tensor:
    """Clean images (count, 1, 8, 8) in [0, 0.9]: one half brighter than the other."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.4 * torch.rand(count, 1, 8, 8, generator=generator)
    side = torch.rand(count, generator=generator) < 0.5
    images[side, :, :, :4] += 0.4
    images[~side, :, :, 4:] += 0.4
    return images


def stamp(images: Tensor) -> Tensor:
    """The images with the square in the lower right."""
    images = images.clone()
    images[:, :, 4:8, 4:8] = 1.0
    return images


@cache
def opened(pairs: int = 1, calibration: int | None = 50, *, dirty: int = 0) -> tuple[nn.Module, Case]:
    """The network and its case, kept for all tests; ``dirty`` calibration images carry the trigger."""
    network = planted()
    clean = pictures(pairs, 1)
    corrupted = stamp(clean)
    fault = diagnose(probabilities(network, clean), probabilities(network, corrupted), None)
    images = None if calibration is None else pictures(calibration, 2)
    if images is not None and dirty:
        images[:dirty] = stamp(images[:dirty])
    with patch("rectify.editing.warps.GRIDS", (4,)):  # the other warps take most of the time
        return network, open_case(network, clean, corrupted, fault, images, BOUNDS)
