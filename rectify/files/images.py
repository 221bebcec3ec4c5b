"""Images, pairs of clean and corrupted images, and folders of images, as tensors with the sha256 of their content."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rectify.errors import ImageError, UsageError
from rectify.files.decode import SUFFIXES, decode, read_bytes
from rectify.files.preprocess import Preprocess
from rectify.files.words import did_you_mean, listed, no_such_file, plain, reason

_BLOCK = 1 << 20


def read_image(path: Path, preprocess: Preprocess) -> Tensor:
    """Read one picture as the network's input.

    EXIF rotation is applied, transparency goes over white, 16 bit is scaled to 8, of an animation the first frame
    counts.

    Parameters
    ----------
    path : Path
        The file.
    preprocess : Preprocess
        Size and normalisation.

    Returns
    -------
    Tensor
        (C, H, W), float32.

    Raises
    ------
    ImageError
        If it is no image that can be read.
    """
    return preprocess.tensor(decode(path, read_bytes(path)))


@dataclass(frozen=True)
class Pairs:
    """Clean images and their corrupted twins.

    Attributes
    ----------
    clean, corrupted : Tensor
        (n, C, H, W) each, normalised.
    labels : Tensor or None
        (n,), int64: the true classes, if given.
    names : tuple of (str, str)
        The two paths of each pair.
    sha256 : str
        Over the files' bytes and the labels in order, not the paths.
    """

    clean: Tensor
    corrupted: Tensor
    labels: Tensor | None
    names: tuple[tuple[str, str], ...]
    sha256: str

    def __len__(self) -> int:
        return len(self.names)


def read_pairs(clean: Sequence[Path], corrupted: Sequence[Path], source: Path | None, preprocess: Preprocess) -> Pairs:
    """Read pairs, from two lists matched by order, or from a folder or CSV file.

    Parameters
    ----------
    clean, corrupted : sequence of Path
        ``--clean`` and ``--poisoned``.
    source : Path, optional
        ``--pairs``: a folder with ``clean/`` and ``poisoned/`` (or ``corrupted/``) holding equal names, or a CSV file
        with columns ``clean,poisoned[,label]``, paths relative to it.
    preprocess : Preprocess
        Size and normalisation.

    Returns
    -------
    Pairs
        All pairs, in order (of names for a folder).

    Raises
    ------
    ImageError
        If a file is missing or no image, the counts or sizes differ, or a pair is the same image twice.
    UsageError
        If neither or both ways are used.
    """
    labels: list[int] | None = None
    if source is not None:
        if clean or corrupted:
            raise UsageError("give either --clean with --poisoned or --pairs, not both")
        rows, labels = _pairs_of(source)
    else:
        rows = _matched(clean, corrupted)
    digest = hashlib.sha256()
    tensors = [_read_pair(one, other, preprocess, digest) for one, other in rows]
    for label in labels or ():
        digest.update(f"label {label}\n".encode())
    return Pairs(
        torch.stack([pair[0] for pair in tensors]),
        torch.stack([pair[1] for pair in tensors]),
        None if labels is None else torch.tensor(labels, dtype=torch.int64),
        tuple((str(one), str(other)) for one, other in rows),
        digest.hexdigest(),
    )


def _matched(clean: Sequence[Path], corrupted: Sequence[Path]) -> list[tuple[Path, Path]]:
    if not clean and not corrupted:
        raise UsageError("no pair: pass --clean a.png --poisoned b.png, or --pairs DIR")
    if len(clean) != len(corrupted):
        raise ImageError(
            f"--clean names {len(clean)} image(s) and --poisoned {len(corrupted)}: they are matched by order, "
            "so give as many of each"
        )
    return list(zip(clean, corrupted, strict=True))


def _pairs_of(source: Path) -> tuple[list[tuple[Path, Path]], list[int] | None]:
    if source.is_dir():
        return _pairs_in_folder(source), None
    rows = _read_table(source, (("clean",), ("poisoned", "corrupted")), "clean,poisoned")
    labels = [row.label for row in rows]
    given = [label for label in labels if label is not None]
    if given and len(given) < len(labels):
        line = next(row.line for row in rows if row.label is None)
        raise ImageError(f"{plain(source)}, line {line}: the label is missing; give every pair one, or none")
    return [(row.paths[0], row.paths[1]) for row in rows], given or None


def _pairs_in_folder(folder: Path) -> list[tuple[Path, Path]]:
    other = next((folder / n for n in ("poisoned", "corrupted") if (folder / n).is_dir()), None)
    if not (folder / "clean").is_dir() or other is None:
        raise ImageError(f"{plain(folder)} needs two folders, clean/ and poisoned/, with equal file names")
    ones = {path.relative_to(folder / "clean"): path for path in _images_below(folder / "clean")}
    others = {path.relative_to(other): path for path in _images_below(other)}
    lone = sorted(ones.keys() ^ others.keys())
    if lone:
        has, lacks = ("clean", other.name) if lone[0] in ones else (other.name, "clean")
        more = f" (and {len(lone) - 1} more without partner)" if len(lone) > 1 else ""
        raise ImageError(f"{plain(folder)}: {has}/{plain(lone[0])} has no partner in {lacks}/{more}")
    if not ones:
        raise ImageError(f"{plain(folder)}: clean/ and {other.name}/ hold no images ({_suffixes()})")
    return [(ones[name], others[name]) for name in sorted(ones)]


def _read_pair(one: Path, other: Path, preprocess: Preprocess, digest: hashlib._Hash) -> tuple[Tensor, Tensor]:
    contents = read_bytes(one), read_bytes(other)
    for content in contents:
        digest.update(len(content).to_bytes(8, "little") + content)
    first, second = decode(one, contents[0]), decode(other, contents[1])
    if first.size != second.size:
        sizes = [f"{image.width}x{image.height}" for image in (first, second)]
        raise ImageError(f"{plain(one)} is {sizes[0]} and {plain(other)} {sizes[1]}: a pair must have one size")
    a, b = preprocess.tensor(first), preprocess.tensor(second)
    if torch.equal(a, b):
        same = first.mode == second.mode and first.tobytes() == second.tobytes()
        where = "" if same else " once resized and cropped: check --input-size and --crop-pct"
        raise ImageError(f"{plain(one)} and {plain(other)} are the same image{where}")
    return a, b


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
    _require_folder(path)
    paths = _images_below(path)
    if not paths:
        raise ImageError(f"{plain(path)} holds no images ({_suffixes()})")
    return ImageSet(tuple(paths), None, None, preprocess, _digest(paths, None))


def read_labelled(path: Path, preprocess: Preprocess, num_classes: int) -> ImageSet:
    """Labelled images: one folder a class, or a CSV file with columns ``image,label``.

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
    if path.is_file():
        rows = _read_table(path, (("image", "path", "file"),), "image,label")
        paths, labels = [row.paths[0] for row in rows], [-1 if row.label is None else row.label for row in rows]
        for row, label in zip(rows, labels, strict=True):
            if not 0 <= label < num_classes:
                what = "the label is missing" if label == -1 else f"label {label} of a network of {num_classes} classes"
                raise ImageError(f"{plain(path)}, line {row.line}: {what}; labels are 0 to {num_classes - 1}")
    else:
        _require_folder(path)
        paths, labels, classes = _image_folder(path, num_classes)
    return ImageSet(tuple(paths), tuple(labels), classes, preprocess, _digest(paths, labels))


def _image_folder(path: Path, num_classes: int) -> tuple[list[Path], list[int], tuple[str, ...] | None]:
    names = sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))
    if not names:
        raise ImageError(
            f"{plain(path)} has no folder a class: put the images into {plain(path)}/0, {plain(path)}/1, …"
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
    found = [(image, index[name]) for name in names for image in _images_below(path / name)]
    if not found:
        raise ImageError(f"{plain(path)}: its {len(names)} class folders hold no images ({_suffixes()})")
    return [image for image, _ in found], [label for _, label in found], None if numbered else tuple(names)


def _require_folder(path: Path) -> None:
    if not path.exists():
        raise ImageError(no_such_file(path))
    if not path.is_dir():
        raise ImageError(f"{plain(path)} is a file: give the folder of images")


def _images_below(folder: Path) -> list[Path]:
    """Image files on all levels, hidden ones passed over, sorted by their parts."""
    found: list[Path] = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        found += [
            Path(parent, name) for name in files if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
        ]
    return sorted(found, key=lambda path: path.parts)


def _suffixes() -> str:
    return "png, jpg, bmp, webp, tif, gif, ppm"


def _digest(paths: Sequence[Path], labels: Sequence[int] | None) -> str:
    digest = hashlib.sha256()
    for number, path in enumerate(paths):
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


@dataclass(frozen=True)
class _Row:
    line: int
    paths: tuple[Path, ...]
    label: int | None


def _read_table(path: Path, columns: Sequence[Sequence[str]], header: str) -> list[_Row]:
    """Rows of a CSV file; each of `columns` lists the names that a column of paths may have."""
    if not path.exists():
        raise ImageError(no_such_file(path))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ImageError(f"{plain(path)} cannot be read as a CSV file: {reason(error)}") from None
    first = text.split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text), delimiter=";" if ";" in first and "," not in first else ",")
    lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(cell.strip() for cell in row)]
    names = [name.lower() for name in lines[0][1]] if lines else []
    places = [next((names.index(n) for n in wanted if n in names), None) for wanted in columns]
    if None in places:
        raise ImageError(f"{plain(path)}: the first line must be the header {header}; it is {plain(first)!r}")
    unknown = [name for name in names if name != "label" and all(name not in wanted for wanted in columns)]
    if unknown:
        hint = did_you_mean(unknown[0], [*(n for wanted in columns for n in wanted), "label"])
        raise ImageError(f"{plain(path)}: unknown column {plain(unknown[0])!r}; {hint}")
    if len(lines) < 2:
        raise ImageError(f"{plain(path)} has a header and no rows")
    label = names.index("label") if "label" in names else None
    return [_row(path, line, cells, [p for p in places if p is not None], label) for line, cells in lines[1:]]


def _row(path: Path, line: int, cells: list[str], places: list[int], label: int | None) -> _Row:
    where = f"{plain(path)}, line {line}"
    if any(place >= len(cells) or not cells[place] for place in places):
        raise ImageError(f"{where}: a path is missing")
    paths = tuple(path.parent / cells[place] for place in places)
    for each in paths:
        if not each.is_file():
            raise ImageError(f"{where}: {no_such_file(each)}")
    text = cells[label] if label is not None and label < len(cells) else ""
    if text and not (text.isascii() and text.isdecimal()):
        raise ImageError(f"{where}: the label {plain(text)!r} is not a class index (0, 1, …)")
    return _Row(line, paths, int(text) if text else None)
