"""A small folder of the layout of torchvision's Flowers102."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

CLASSES = (1, 3, 2, 1, 3, 2, 1, 2, 3, 1, 2, 3)  # of images 1, 2, …, counted from 1 as in the published file
PARTS = {"trnid": [7, 2, 3, 1, 5, 6], "valid": [4, 8, 9], "tstid": [12, 10, 11]}


def flowers(root: Path, inner: str = "flowers-102") -> Path:
    """``root/flowers-102`` with ``jpg/``, ``imagelabels.mat`` and ``setid.mat``, as row vectors of small integers."""
    folder = root / inner
    (folder / "jpg").mkdir(parents=True)
    random = np.random.default_rng(0)
    for number, label in enumerate(CLASSES, 1):
        pixels = 60 * label + random.integers(0, 50, (30 + number, 40, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "jpg" / f"image_{number:05d}.jpg")
    savemat(folder / "imagelabels.mat", {"labels": np.array([CLASSES], np.uint8)})
    savemat(folder / "setid.mat", {key: np.array([ids], np.uint16) for key, ids in PARTS.items()})
    return folder
