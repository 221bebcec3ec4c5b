"""What the tests of `rectify train` share: a user's network, folders of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.conftest import Said

NETS = """
from torch import nn


def net(num_classes=3, width=4):
    body = [nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2)]
    return nn.Sequential(*body, nn.Linear(16 * width, num_classes))


def broken(num_classes=3):
    network = net(num_classes)
    network[5].weight.data.fill_(float("inf"))
    return network
"""
FRESH = ["train", "--arch", "nets:net", "--input-size", "1,6,6", "--mean", "0", "--std", "1", "--data", "data"]
QUICK = ["--epochs", "2", "--batch-size", "6", "--path-steps", "2", "--attack-steps", "2", "--lr", "0.02"]
QUICK += ["--eps", "0.1", "--attack-samples", "4"]


def pictures(root: Path, each: tuple[int, ...] = (5, 5, 1), names: str = "abc", seed: int = 0) -> Path:
    """A folder a class, told apart by brightness; by default one class has a single image."""
    random = np.random.default_rng(seed)
    for place, (name, count) in enumerate(zip(names, each, strict=True)):
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = (90 * place + random.integers(0, 60, (6, 6))).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def one_line(said: Said, words: str) -> None:
    """Exit code 2, one line of error with these words, nothing on stdout."""
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert said.code == 2 and len(errors) == 1 and words in errors[0], said.err
    assert "Traceback" not in said.err and said.out == ""
