"""The Oxford flowers as torchvision's Flowers102 lays them out: ``jpg/``, ``imagelabels.mat`` and ``setid.mat``.

Read here and not by torchvision's class, which takes the published files only, by their checksums, and would refuse a
subset or classes of one's own.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rectify.errors import ImageError
from rectify.files.words import plain, reason

Part = Literal["train", "val", "test"]
LABELS, SPLITS = "imagelabels.mat", "setid.mat"
_KEYS: dict[Part, str] = {"train": "trnid", "val": "valid", "test": "tstid"}
_INNER = "flowers-102"  # the folder that torchvision makes below its root


def flowers_folder(path: Path) -> Path | None:
    """The folder with ``jpg/``, where ``path`` is it, or holds it as torchvision's root does; else None.

    Raises
    ------
    ImageError
        If there is nothing but ``jpg/``: the two files beside it say which flower is which.
    """
    for folder in (path, path / _INNER):
        if not os.path.isdir(folder / "jpg"):
            continue
        there = [name for name in (LABELS, SPLITS) if os.path.isfile(folder / name)]
        others = [p for p in folder.iterdir() if p.is_dir() and p.name != "jpg" and not p.name.startswith((".", "__"))]
        if not there and others:
            continue  # folders a class, one of them called jpg
        if len(there) == 2:
            return folder
        missing = " and ".join(name for name in (LABELS, SPLITS) if name not in there)
        raise ImageError(
            f"{plain(folder)} looks like torchvision's Flowers102 and has no {missing}: put it beside jpg/, or give a "
            "folder with a folder a class"
        )
    return None


def flower_classes(folder: Path) -> int:
    """How many classes ``imagelabels.mat`` knows: 102 in the published one.

    Raises
    ------
    ImageError
        If it cannot be read.
    """
    return int(_numbers(folder / LABELS, "labels").max())


def read_flowers(folder: Path, part: Part) -> tuple[list[Path], list[int]]:
    """Images and classes (from 0) of one part, in the order of ``setid.mat``.

    Raises
    ------
    ImageError
        If one of the two files cannot be read, or names an image that the other does not know.
    """
    labels, numbers = _numbers(folder / LABELS, "labels"), _numbers(folder / SPLITS, _KEYS[part])
    if numbers.max() > len(labels):
        raise ImageError(
            f"{plain(folder / SPLITS)} names image {numbers.max()}, and {LABELS} has {len(labels)} labels: the two "
            "files do not belong together"
        )
    return [folder / "jpg" / f"image_{number:05d}.jpg" for number in numbers], (labels[numbers - 1] - 1).tolist()


def _numbers(file: Path, key: str) -> NDArray[np.int64]:
    """One row of whole numbers from 1."""
    from scipy.io import loadmat  # takes long to import, and few need it

    try:
        found = np.atleast_1d(np.asarray(loadmat(str(file), squeeze_me=True)[key])).astype(np.int64).ravel()
    except KeyError:
        raise ImageError(f"{plain(file)} has no {key!r}: it is not the file of torchvision's Flowers102") from None
    except Exception as error:  # scipy's reader raises what a damaged file leads it to
        raise ImageError(f"{plain(file)} cannot be read ({reason(error)}): copy it again") from None
    if not len(found) or found.min() < 1:
        raise ImageError(f"{plain(file)}: {key!r} must hold whole numbers from 1")
    return found
