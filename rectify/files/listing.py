"""Which images a folder or a CSV file names."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rectify.errors import ImageError
from rectify.files.decode import SUFFIXES
from rectify.files.endless import refuse_endless
from rectify.files.words import nearest, no_such_file, plain, quoted, reason

_OF_CLASSES = ("class", "class_id", "class_index", "category", "target", "truth", "y")  # as others call the label
_MOST_DIGITS = 9  # of a class index
SUFFIX_HINT = "png, jpg, bmp, webp, tif, gif, ppm"


def require_folder(path: Path) -> None:
    """Refuse a path that is no folder.

    Raises
    ------
    ImageError
        If it is missing or no folder.
    """
    if not os.path.exists(path):
        raise ImageError(no_such_file(path))
    refuse_endless(path, ImageError, "give the folder of images")
    if not os.path.isdir(path):
        raise ImageError(f"{plain(path)} is a file: give the folder of images")


def images_below(folder: Path) -> list[Path]:
    """Image files on all levels, hidden ones passed over, sorted by their parts; links are followed, loops are not."""
    found: list[Path] = []
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        found += [
            Path(parent, name) for name in files if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
        ]
    return sorted(found, key=lambda path: path.parts)


@dataclass(frozen=True)
class Row:
    """One line of a CSV file: its number, its image files, its class index if given."""

    line: int
    paths: tuple[Path, ...]
    label: int | None


def read_table(path: Path, columns: Sequence[Sequence[str]], header: str) -> list[Row]:
    """Rows of a CSV file with a header line.

    Parameters
    ----------
    path : Path
        The file; comma or semicolon between the cells.
    columns : sequence of sequences of str
        For each column of image paths, the names that its header may have.
    header : str
        What the header should be, for messages.

    Returns
    -------
    list of Row
        At least one; the paths are relative to the file's folder and exist.

    Raises
    ------
    ImageError
        If the file is missing or malformed, or an image is missing, naming the line.
    """
    lines = _cells(path)
    names = [name.lower() for name in lines[0][1]] if lines else []
    first = ",".join(lines[0][1]) if lines else ""
    places = [next((names.index(n) for n in wanted if n in names), None) for wanted in columns]
    if None in places:
        found = f"it is {quoted(first)}" if first else "the file is empty"
        raise ImageError(f"{plain(path)}: the first line must be the header {header}; {found}")
    if len(lines) < 2:
        raise ImageError(f"{plain(path)} has a header and no rows")
    _check_label_column(path, names, lines[1][1])
    label = names.index("label") if "label" in names else None
    return [_row(path, line, cells, [p for p in places if p is not None], label) for line, cells in lines[1:]]


def _check_label_column(path: Path, names: Sequence[str], first: Sequence[str]) -> None:
    """Refuse a column that seems to be of labels, and is not called so; other columns are let be.

    ``first``: the cells of the first row below the header.
    """
    if names.count("label") > 1:
        raise ImageError(f"{plain(path)}: two columns are called label; keep one")
    numbered = [name for name, cell in zip(names, first, strict=False) if name in _OF_CLASSES and cell.isdecimal()]
    mistyped = numbered or [name for name in names if nearest(name, ["label"])]
    if mistyped and "label" not in names:
        raise ImageError(f"{plain(path)}: unknown column {quoted(mistyped[0])}; did you mean label?")


def _cells(path: Path) -> list[tuple[int, list[str]]]:
    """Line number and stripped cells of every line that is not blank."""
    if not os.path.exists(path):
        raise ImageError(no_such_file(path))
    refuse_endless(path, ImageError, "give a folder or a CSV file", piped=True)
    try:
        text = path.read_text(encoding="utf-8-sig")
        first = text.split("\n", 1)[0]
        reader = csv.reader(io.StringIO(text), delimiter=";" if ";" in first and "," not in first else ",")
        return [(reader.line_num, [c.strip() for c in row]) for row in reader if any(c.strip() for c in row)]
    except UnicodeDecodeError:
        raise ImageError(f"{plain(path)} cannot be read as a CSV file: it is not UTF-8; save it as UTF-8") from None
    except (OSError, csv.Error) as error:
        raise ImageError(f"{plain(path)} cannot be read as a CSV file: {reason(error)}") from None


def _row(path: Path, line: int, cells: list[str], places: list[int], label: int | None) -> Row:
    where = f"{plain(path)}, line {line}"
    if any(place >= len(cells) or not cells[place] for place in places):
        raise ImageError(f"{where}: a path is missing")
    paths = tuple(path.parent / cells[place] for place in places)
    for each in paths:
        if not os.path.isfile(each):
            raise ImageError(f"{where}: {no_such_file(each)}")
    text = cells[label] if label is not None and label < len(cells) else ""
    if text and not (text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS):
        raise ImageError(f"{where}: the label {quoted(text)} is not a class index (0, 1, …)")
    return Row(line, paths, int(text) if text else None)
