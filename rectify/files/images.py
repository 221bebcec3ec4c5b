"""Sets of images: folders and labelled folders, read in batches, with the sha256 of their content."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rectify.errors import ImageError, NotAnImage, UsageError
from rectify.files.decode import read_image
from rectify.files.endless import refuse_endless
from rectify.files.flowers import Part, flower_classes, flowers_folder, read_flowers
from rectify.files.listing import SUFFIX_HINT, Row, images_below, read_table, require_folder
from rectify.files.pairs import Pairs, read_pairs
from rectify.files.preprocess import Preprocess
from rectify.files.words import listed, no_such_file, plain, reason

__all__ = [
    "ImageSet",
    "Pairs",
    "image_files",
    "read_folder",
    "read_image",
    "read_images",
    "read_labelled",
    "read_mask",
    "read_pairs",
]

_BLOCK = 1 << 20


@dataclass(frozen=True)
class ImageSet:
    """Image files, read when they are asked for.

    Attributes
    ----------
    paths : tuple of Path
        The files.
    labels : tuple of int or None
        Class indices, if labelled.
    classes : tuple of str or None
        Folder names in the order of their indices, where names and not numbers were given.
    preprocess : Preprocess
        Size and normalisation.
    sha256 : str
        Over the files' bytes and the labels in order, not the paths.
    """

    paths: tuple[Path, ...]
    labels: tuple[int, ...] | None
    classes: tuple[str, ...] | None
    preprocess: Preprocess
    sha256: str

    def __len__(self) -> int:
        return len(self.paths)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """All images in order; the next batch is decoded while one is used.

        Parameters
        ----------
        size : int
            Images a batch, at least one.

        Yields
        ------
        images : Tensor
            (n, C, H, W), float32, with n = `size` but for the last.
        labels : Tensor or None
            (n,), int64.

        Raises
        ------
        ImageError
            If a file is no image.
        UsageError
            If `size` is less than one.
        """
        if size < 1:
            raise UsageError(f"--batch-size {size}: one or more")
        starts = range(0, len(self), size)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            ahead = [pool.submit(read_image, path, self.preprocess) for path in self.paths[:size]]
            for start in starts:
                now = ahead
                ahead = [
                    pool.submit(read_image, path, self.preprocess)
                    for path in self.paths[start + size : start + 2 * size]
                ]
                labels = self.labels[start : start + size] if self.labels is not None else None
                images = torch.stack([future.result() for future in now])
                yield images, None if labels is None else torch.tensor(labels, dtype=torch.int64)

    def stack(self, limit: int | None = None, seed: int = 0) -> Tensor:
        """The images as one tensor.

        Parameters
        ----------
        limit : int, optional
            At most so many: a sample without replacement, in the order of the paths.
        seed : int
            Of the sample.

        Returns
        -------
        Tensor
            (n, C, H, W), float32.

        Raises
        ------
        ImageError
            If a file is no image.
        """
        chosen: Iterable[int] = range(len(self))
        if limit is not None and limit < len(self):
            chosen = sorted(random.Random(seed).sample(range(len(self)), limit))
        picked = ImageSet(tuple(self.paths[i] for i in chosen), None, None, self.preprocess, "")
        return torch.cat([images for images, _ in picked.batches(64)])


def read_folder(path: Path, preprocess: Preprocess) -> ImageSet:
    """All images below a folder, unlabelled, in the order of their paths.

    Parameters
    ----------
    path : Path
        The folder, searched through all levels; hidden files and folders are passed over.
    preprocess : Preprocess
        Size and normalisation.

    Returns
    -------
    ImageSet
        Without labels.

    Raises
    ------
    ImageError
        If there is no such folder or no image in it.
    """
    require_folder(path)
    paths = images_below(path)
    if not paths:
        raise ImageError(f"{plain(path)} holds no images ({SUFFIX_HINT})")
    return ImageSet(tuple(paths), None, None, preprocess, _digest(paths, None))


def read_images(paths: Sequence[Path], preprocess: Preprocess, flag: str = "--image") -> ImageSet:
    """Images named one by one, and those in folders that are named, in order, each once.

    ``flag`` is what names them on the command line.

    Raises
    ------
    ImageError
        If there is no such file, a file that is named is no image, or a folder holds none.
    """
    found: list[Path] = []
    for path in paths:
        found += read_folder(path, preprocess).paths if os.path.isdir(path) else (path,)
    unique = tuple(dict.fromkeys(found))
    images = ImageSet(unique, None, None, preprocess, _digest(unique, None))
    for path in paths:
        if not os.path.isdir(path):
            _check_image(path, preprocess, flag)  # what is none is told now, and not after minutes of other work
    return images


def _check_image(path: Path, preprocess: Preprocess, flag: str) -> None:
    """Refuse what is no image, and say what the flag takes: of other flags a CSV file names images."""
    try:
        read_image(path, preprocess)
    except NotAnImage:
        takes = f"{flag} takes images (PNG, JPEG) and folders of images, no lists"
        raise NotAnImage(f"{plain(path)} is no image that can be read: {takes}") from None


def image_files(*read: ImageSet | Pairs | None) -> Iterator[Path]:
    """Every file that these were read from: no result may replace one."""
    for images in read:
        if isinstance(images, Pairs):
            yield from (Path(name) for names in images.names for name in names)
        elif images is not None:
            yield from images.paths


def read_mask(path: Path, preprocess: Preprocess) -> Tensor:
    """A region of the network's input, bool (H, W): true where the mask image is white.

    The mask is resized and cropped as the images are, without blending pixels.

    Raises
    ------
    ImageError
        If it is no image, or marks all or nothing.
    """
    plain_size = (1, *preprocess.input_size[1:])
    how = Preprocess(plain_size, (0.0,), (1.0,), preprocess.crop_pct, "nearest", preprocess.crop_mode)
    mask = read_image(path, how)[0] > 0.5
    if bool(mask.all()) or not bool(mask.any()):
        what = "all white" if bool(mask.all()) else "all black"
        raise ImageError(f"{plain(path)} is {what}: a mask is white on one region and black elsewhere")
    return mask


def read_labelled(path: Path, preprocess: Preprocess, num_classes: int, part: Part = "test") -> ImageSet:
    """Labelled images: one folder a class, a CSV file with columns ``image,label``, or torchvision's Flowers102.

    Folder names that are all whole numbers are the class indices themselves. Other names count in sorted order, as in
    torchvision's ImageFolder, and there must be as many as classes.

    Parameters
    ----------
    path : Path
        Folder or CSV file; its paths are relative to it.
    preprocess : Preprocess
        Size and normalisation.
    num_classes : int
        Classes of the network.
    part : str
        ``train``, ``val`` or ``test``, where the data set itself is split: Flowers102.

    Returns
    -------
    ImageSet
        With labels.

    Raises
    ------
    ImageError
        If there are no images, or the labels do not fit the network.
    """
    classes: tuple[str, ...] | None = None
    if os.path.isfile(path):
        rows = read_table(path, (("image", "path", "file"),), "image,label")
        paths, labels = [row.paths[0] for row in rows], [-1 if row.label is None else row.label for row in rows]
        for row, label in zip(rows, labels, strict=True):
            if not 0 <= label < num_classes:
                what = _no_label(rows) if label == -1 else f"label {label} of a network of {num_classes} classes"
                raise ImageError(f"{plain(path)}, line {row.line}: {what}; labels are 0 to {num_classes - 1}")
    elif flowers := flowers_folder(path):
        paths, labels = read_flowers(flowers, part)
        if (known := flower_classes(flowers)) > num_classes:
            raise ImageError(f"{plain(path)} has {known} classes, and the network {num_classes}")
    else:
        require_folder(path)
        paths, labels, classes = _image_folder(path, num_classes)
    return ImageSet(tuple(paths), tuple(labels), classes, preprocess, _digest(paths, labels))


def _no_label(rows: Sequence[Row]) -> str:
    """What is wrong where a row has no label; where none has, there is no column of them."""
    whole = all(row.label is None for row in rows)
    return "no image has a label: the header must be image,label" if whole else "the label is missing"


_PARTS = {"train", "training", "val", "valid", "validation", "test", "testing"}


def class_folders(path: Path) -> list[str]:
    """The names of the folders in a folder, sorted, hidden ones left out.

    Raises
    ------
    ImageError
        If they are the parts of a data set, not its classes: a network would learn to tell train from test.
    """
    names = sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))
    if len(names) > 1 and all(name.lower() in _PARTS for name in names):
        first = next((name for name in names if name.lower().startswith("train")), names[0])
        raise ImageError(
            f"the folders {listed(names)} in {plain(path)} are parts of a data set, not classes: give one of them, "
            f"such as {plain(path / first)}"
        )
    return names


def _image_folder(path: Path, num_classes: int) -> tuple[list[Path], list[int], tuple[str, ...] | None]:
    names = class_folders(path)
    if not names:
        raise ImageError(
            f"{plain(path)} has no folder for each class: put the images into {plain(path)}/0, {plain(path)}/1, …"
        )
    numbered = all(name.isdecimal() and name.isascii() for name in names)
    if numbered:
        index = {name: int(name) for name in names}
        names.sort(key=lambda name: (index[name], name))
        if index[names[-1]] >= num_classes:
            raise ImageError(
                f"{plain(path)} has a folder {plain(names[-1])}, and the network {num_classes} classes: "
                f"numbered folders are class indices, 0 to {num_classes - 1}"
            )
    else:
        index = {name: position for position, name in enumerate(names)}
        if len(names) != num_classes:
            raise ImageError(
                f"{plain(path)} has {len(names)} folders ({listed(names)}), and the network {num_classes} classes: "
                "name every class, or name the folders by class index (0, 1, …)"
            )
    found = [(image, index[name]) for name in names for image in images_below(path / name)]
    if not found:
        raise ImageError(f"{plain(path)}: its {len(names)} class folders hold no images ({SUFFIX_HINT})")
    return [image for image, _ in found], [label for _, label in found], None if numbered else tuple(names)


def _digest(paths: Sequence[Path], labels: Sequence[int] | None) -> str:
    digest = hashlib.sha256()
    for number, path in enumerate(paths):
        refuse_endless(path, ImageError, "give an image file")
        try:
            size = path.stat().st_size
            digest.update(size.to_bytes(8, "little"))
            with open(path, "rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
        except FileNotFoundError:
            raise ImageError(no_such_file(path)) from None
        except OSError as error:
            raise ImageError(f"cannot read {plain(path)}: {reason(error)}") from None
        if labels is not None:
            digest.update(f"label {labels[number]}\n".encode())
    return digest.hexdigest()
