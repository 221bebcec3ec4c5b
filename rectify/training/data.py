"""Labelled images that a training draws from: a folder, a CSV file or a packaged set, in memory where they fit."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rectify.errors import ImageError
from rectify.files.decode import SUFFIXES
from rectify.files.flowers import LABELS, SPLITS, Part, flower_classes, flowers_folder
from rectify.files.images import ImageSet, class_folders, read_labelled
from rectify.files.listing import require_folder
from rectify.files.packaged import SETS, Split, load
from rectify.files.preprocess import Preprocess
from rectify.files.words import listed, nearest, plain

ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
IN_MEMORY = 2**30  # bytes of decoded images that are kept; more are decoded whenever they are asked for


@dataclass(frozen=True)
class Labelled:
    """Images with their classes.

    Attributes
    ----------
    images
        (N, C, H, W) float32, normalised; or files that are read when they are asked for.
    labels
        (N,) int64.
    classes
        Names in the order of the labels, where folders gave them.
    sha256
        Of what was read.
    files
        What was read, which no result may replace.
    notes
        What is odd about it, a line each.
    """

    images: Tensor | ImageSet
    labels: Tensor
    classes: tuple[str, ...] | None
    sha256: str
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The images (n, C, H, W) and labels (n,) of these rows (n,), in their order.

        Raises
        ------
        ImageError
            If a file is no image any more.
        """
        if isinstance(self.images, Tensor):
            return self.images[rows], self.labels[rows]
        chosen = replace(self.images, paths=tuple(self.images.paths[i] for i in rows.tolist()), labels=None)
        return next(iter(chosen.batches(len(rows))))[0], self.labels[rows]

    def sample(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """At most ``count`` images and labels, drawn without replacement, in the order of the set."""
        rows = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:count].sort().values
        return self.take(rows)


def from_files(found: ImageSet) -> Labelled:
    """The images of a labelled folder or CSV file; decoded at once where they fit into `IN_MEMORY`."""
    labels = torch.tensor(found.labels, dtype=torch.int64)
    channels, height, width = found.preprocess.input_size
    if 4 * len(found) * channels * height * width > IN_MEMORY:
        return Labelled(found, labels, found.classes, found.sha256, found.paths)
    return Labelled(found.stack(), labels, found.classes, found.sha256, found.paths)


def from_arrays(split: Split, preprocess: Preprocess) -> Labelled:
    """A packaged split, resized where the network takes another size."""
    digest = hashlib.sha256(split.images.tobytes() + split.labels.tobytes()).hexdigest()
    channels, height, width = preprocess.input_size
    if split.images.shape[1:] == (height, width, channels):
        pixels = torch.from_numpy(np.ascontiguousarray(split.images)).permute(0, 3, 1, 2).contiguous().float().div_(255)
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (preprocess.mean, preprocess.std))
        return Labelled(pixels.sub_(mean).div_(std), torch.from_numpy(split.labels), None, digest)
    pictures = (Image.fromarray(image.squeeze()) for image in split.images)
    return Labelled(torch.stack([preprocess.tensor(p) for p in pictures]), torch.from_numpy(split.labels), None, digest)


def packaged_name(source: Path) -> str | None:
    """The packaged set that is meant: its name, and nothing of that name lies here."""
    return source.name if source.name in SETS and not os.path.lexists(source) else None


def read(source: Path, preprocess: Preprocess, num_classes: int, part: Part = "test") -> Labelled:
    """A folder a class, a CSV file with columns ``image,label``, or a part of torchvision's Flowers102.

    Raises
    ------
    ImageError
        If it is not there, holds no images, or does not fit the number of classes.
    """
    _check_there(source)
    found = from_files(read_labelled(source, preprocess, num_classes, part))
    if source.is_file():
        return replace(found, files=(source, *found.files))
    if flowers := flowers_folder(source):
        return replace(found, files=(flowers / LABELS, flowers / SPLITS, *found.files))
    return replace(found, notes=_deep_classes(found, source))


def read_to_train(
    source: Path | Labelled, preprocess: Preprocess, num_classes: int, val: Path | Labelled | None = None
) -> tuple[Labelled, Labelled | None]:
    """What to train on, and what judges: ``val``, else what the data set brings along, as Flowers102 does, else None.

    Raises
    ------
    ImageError
        See `read` and `check_alike`.
    """
    data = source if isinstance(source, Labelled) else read(source, preprocess, num_classes, "train")
    if isinstance(val, Path):
        val = read(val, preprocess, num_classes)
    if val is not None:
        check_alike(data, val)
    elif isinstance(source, Path) and flowers_folder(source):
        val = read(source, preprocess, num_classes, "val")
    return data, val


def read_packaged(name: str, preprocess: Preprocess, folder: Path) -> tuple[Labelled, Labelled]:
    """Train and test split of a packaged set; see `rectify.files.packaged.load`."""
    train, test = load(name, folder)
    return from_arrays(train, preprocess), from_arrays(test, preprocess)


def count_classes(source: Path) -> int:
    """How many classes a data set has: numbered folders up to the greatest, else as many as there are.

    Raises
    ------
    ImageError
        If it is no folder with folders in it.
    """
    _check_there(source)
    if os.path.isfile(source):
        if source.suffix.lower() in ARCHIVES:
            raise ImageError(f"{plain(source)} is an archive: unpack it, and give the folder with a folder a class")
        raise ImageError(f"{plain(source)} does not say how many classes there are: pass --num-classes N")
    require_folder(source)
    if flowers := flowers_folder(source):
        return flower_classes(flowers)
    names = class_folders(source)
    if names and all(name.isdecimal() and name.isascii() for name in names):
        return max(int(name) for name in names) + 1
    if len(names) < 2:
        found = f"{len(names)} class folder{'s' * (len(names) != 1)}"
        inside = any(p.suffix.lower() in SUFFIXES for p in source.iterdir()) and _has_classes(source.resolve().parent)
        hint = f"; did you mean {plain(source.parent)}?" if inside and not names else ""
        raise ImageError(f"{plain(source)} has {found}: a classifier needs two or more{hint}")
    return len(names)


def _has_classes(folder: Path) -> bool:
    """Whether a folder can be read as one with a folder a class."""
    try:
        return len(class_folders(folder)) > 1
    except (ImageError, OSError):
        return False


def _deep_classes(data: Labelled, source: Path) -> tuple[str, ...]:
    """A line where no class has an image of its own, but all have folders of the same names: one level too high?"""
    classes = data.classes or ()
    if not classes or any(file.parent.parent == source for file in data.files):
        return ()
    inner = [{p.name for p in (source / name).iterdir() if p.is_dir()} for name in classes]
    shared = sorted(set.intersection(*inner))
    if len(shared) < 2:
        return ()
    hint = f"if those are the classes, give {plain(source / classes[0])}"
    return (f"note: classes {listed(classes)} all hold folders {listed(shared)} and no images of their own: {hint}",)


def scarce_classes(data: Labelled, num_classes: int) -> list[str]:
    """A line for every class with one image or none, the first few by name."""
    counts = torch.bincount(data.labels, minlength=num_classes).tolist()
    names = data.classes or tuple(str(number) for number in range(num_classes))
    found = []
    for few, verb in ((0, "no images: nothing is learned of"), (1, "one image")):
        which = [plain(name) for name, count in zip(names, counts, strict=False) if count == few]
        if which:
            classes = f"class {which[0]} has" if len(which) == 1 else f"classes {listed(which)} have"
            end = "" if few else " it" if len(which) == 1 else " them"
            each = " each" if few and len(which) > 1 else ""
            found.append(f"{classes} {verb}{end}{each}")
    return found


def _check_there(source: Path) -> None:
    """A bare name that is neither here nor a packaged set is most likely a slip in the set's name."""
    if not os.path.lexists(source) and source.parent == Path():
        near = nearest(source.name, [*SETS, *(p.name for p in Path().iterdir() if p.is_dir())])
        hint = f"did you mean {listed(near)}?" if near else f"packaged are {listed(SETS)}"
        raise ImageError(f"{plain(source)}: no such folder, nor a packaged set; {hint}")


def check_alike(data: Labelled, val: Labelled) -> None:
    """Refuse a validation set whose folders name other classes.

    Raises
    ------
    ImageError
        With the first name that differs.
    """
    if data.classes is None or val.classes is None or data.classes == val.classes:
        return
    odd = sorted(set(val.classes) ^ set(data.classes))
    raise ImageError(f"--val has other class folders than --data: {plain(odd[0])} is only in one of them")
