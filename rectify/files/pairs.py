"""Pairs of a clean image and its corrupted twin."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from rectify.errors import ImageError, UsageError
from rectify.files.decode import as_input, decode, read_bytes
from rectify.files.listing import SUFFIX_HINT, Row, images_below, read_table
from rectify.files.preprocess import Preprocess
from rectify.files.words import plain


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...


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


def read_pairs(
    clean: Sequence[Path],
    corrupted: Sequence[Path],
    source: Path | None,
    preprocess: Preprocess,
    num_classes: int | None = None,
) -> Pairs:
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
    num_classes : int, optional
        Classes of the network, which labels have to be of: told here, where the line of the file is known.

    Returns
    -------
    Pairs
        All pairs, in order (of names for a folder).

    Raises
    ------
    ImageError
        If a file is missing or no image, the counts or sizes differ, a pair is the same image twice, or a label is
        none of the network's classes.
    UsageError
        If neither or both ways are used.
    """
    labels: list[int] | None = None
    if source is not None:
        if clean or corrupted:
            raise UsageError("give either --clean with --poisoned or --pairs, not both")
        rows, labels = _pairs_of(source, num_classes)
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


def _pairs_of(source: Path, num_classes: int | None) -> tuple[list[tuple[Path, Path]], list[int] | None]:
    if os.path.isdir(source):
        return _pairs_in_folder(source), None
    rows = read_table(source, (("clean",), ("poisoned", "corrupted")), "clean,poisoned")
    labels = [row.label for row in rows]
    given = [label for label in labels if label is not None]
    if given and len(given) < len(labels):
        line = next(row.line for row in rows if row.label is None)
        raise ImageError(f"{plain(source)}, line {line}: the label is missing; give every pair one, or none")
    if num_classes is not None:
        _check_labels(source, rows, num_classes)
    return [(row.paths[0], row.paths[1]) for row in rows], given or None


def _check_labels(source: Path, rows: Sequence[Row], num_classes: int) -> None:
    for row in rows:
        if row.label is not None and row.label >= num_classes:
            raise ImageError(
                f"{plain(source)}, line {row.line}: label {row.label} of a network of {num_classes} classes; labels "
                f"are 0 to {num_classes - 1}: give the class of the clean image, or leave out the column"
            )


def _pairs_in_folder(folder: Path) -> list[tuple[Path, Path]]:
    other = next((folder / n for n in ("poisoned", "corrupted") if (folder / n).is_dir()), None)
    if not (folder / "clean").is_dir() or other is None:
        raise ImageError(f"{plain(folder)} needs two folders, clean/ and poisoned/, with equal file names")
    ones = {path.relative_to(folder / "clean"): path for path in images_below(folder / "clean")}
    others = {path.relative_to(other): path for path in images_below(other)}
    lone = sorted(ones.keys() ^ others.keys())
    if lone:
        has, lacks = ("clean", other.name) if lone[0] in ones else (other.name, "clean")
        more = f" (and {len(lone) - 1} more without partner)" if len(lone) > 1 else ""
        raise ImageError(f"{plain(folder)}: {has}/{plain(lone[0])} has no partner in {lacks}/{more}")
    if not ones:
        raise ImageError(f"{plain(folder)}: clean/ and {other.name}/ hold no images ({SUFFIX_HINT})")
    return [(ones[name], others[name]) for name in sorted(ones)]


def _read_pair(one: Path, other: Path, preprocess: Preprocess, digest: _Digest) -> tuple[Tensor, Tensor]:
    contents = read_bytes(one), read_bytes(other)
    for content in contents:
        digest.update(len(content).to_bytes(8, "little") + content)
    first, second = decode(one, contents[0]), decode(other, contents[1])
    if first.size != second.size:
        sizes = [f"{image.width}x{image.height}" for image in (first, second)]
        raise ImageError(f"{plain(one)} is {sizes[0]} and {plain(other)} {sizes[1]}: a pair must have one size")
    a, b = as_input(one, first, preprocess), as_input(other, second, preprocess)
    if torch.equal(a, b):
        same = first.mode == second.mode and first.tobytes() == second.tobytes()
        where = " once resized and cropped: check --input-size and --crop-pct"
        where = ": give the corrupted one as --poisoned" if same else where
        raise ImageError(f"{plain(one)} and {plain(other)} are the same image{where}")
    return a, b
