"""Small networks, checkpoints and pictures for the tests of the edge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from rectify.files.preprocess import Preprocess

NETS = """
from __future__ import annotations
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes: int = 10, width: int = 4, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3)))


def net(num_classes=10, width=4, channels=3):
    print("building")
    return Net(num_classes, width, channels)


def fixed(width=4):
    return Net(7, width)


def required(num_classes):
    return Net(num_classes)


def anything(**how):
    return Net(**how)


def not_a_module(num_classes=10):
    return [1]


def fails(num_classes=10):
    raise ValueError("no such thing")


def stops(num_classes=10):
    class Stop(BaseException):
        pass
    raise Stop("enough")


def tuple_net(num_classes=10):
    class Two(Net):
        def forward(self, x):
            return super().forward(x), x
    return Two(num_classes)


def segmenter(num_classes=10):
    class Map(Net):
        def forward(self, x):
            return self.conv(x)
    return Map(num_classes)


def quitter(num_classes=10):
    class Quits(Net):
        def forward(self, x):
            raise SystemExit(0)
    return Quits(num_classes)


def a_class(num_classes=10):
    return Net


CONSTANT = 3
READY = Net(10)
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's, in the current folder; returns its name, which no other test uses."""
    name = f"nets_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    return name


class Net(nn.Module):
    """The same network as in `NETS`."""

    def __init__(self, num_classes: int = 10, width: int = 4, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3)))
        return out


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def rgb8() -> Preprocess:
    """Colour, 8x8, plain normalisation."""
    return Preprocess((3, 8, 8), (0.5, 0.4, 0.3), (0.2, 0.25, 0.5))


@pytest.fixture
def picture(tmp_path: Path) -> Callable[..., Path]:
    """Write a random picture: ``picture("a/b.png", seed=1, size=(8, 8), mode="RGB")``."""

    def write(name: str, seed: int = 0, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(values).convert(mode).save(path)
        return path

    return write
