"""Names and tensor files of explanations: ``<image stem>.<method>.png`` and ``.safetensors`` in a folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from rectify.errors import OutputError
from rectify.files.atomic import check_target, files_at
from rectify.files.checkpoint import write_tensors
from rectify.files.words import plain, reason


def stems(paths: Sequence[Path]) -> list[str]:
    """A name of its own for each image: its stem, else ``<folder>-<stem>``, else with a number.

    ``clean/0.png`` and ``poisoned/0.png`` become ``clean-0`` and ``poisoned-0``.
    """
    names = [path.stem for path in paths]
    for candidate in ([f"{p.parent.name}-{p.stem}" for p in paths], [f"{p.stem}-{p.suffix[1:]}" for p in paths]):
        shared = _shared(names)
        names = [other if name.lower() in shared else name for name, other in zip(names, candidate, strict=True)]
    return _numbered(names)


def _numbered(names: Sequence[str]) -> list[str]:
    """Names with numbers for those that several have; a number that would give a name that is taken is passed over."""
    shared, seen = _shared(names), Counter[str]()
    taken = {name.lower() for name in names} - shared
    found = []
    for name in names:
        own = name
        if name.lower() in shared:
            own = _free(name, taken, seen)
            taken.add(own.lower())
        found.append(own)
    return found


def _free(name: str, taken: Collection[str], seen: Counter[str]) -> str:
    while True:
        seen[name.lower()] += 1
        own = f"{name}-{seen[name.lower()]}"
        if own.lower() not in taken:
            return own


def _shared(names: Sequence[str]) -> set[str]:
    counts = Counter(name.lower() for name in names)  # some file systems do not tell the case
    return {name for name, count in counts.items() if count > 1}


def open_folder(folder: Path) -> None:
    """Make the folder that explanations go to.

    Raises
    ------
    OutputError
        If it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--out {plain(folder)} cannot be made a folder: {reason(error)}; name another") from None


def check_files(files: Sequence[Path], inputs: Collection[Path], instead: str = "give --out another folder") -> None:
    """Refuse to write over an input, before the work; an earlier explanation may be replaced.

    ``instead`` is what to do where one may not be written.

    Raises
    ------
    OutputError
        If a file may not be written.
    """
    never = [*(path for path in inputs if os.path.isdir(path)), *files_at(files, inputs)]
    for file in files:
        if not os.path.isdir(file.parent):
            continue  # the folder is still to be made, so nothing can lie there
        check_target(file, force=True, never=never, instead=instead)


def write_map(path: Path, values: Tensor, baseline: Tensor | None, told: Mapping[str, Any]) -> None:
    """Write one map: tensor ``attribution`` (C, H, W) float32, signed, and ``baseline`` where it was found, not chosen.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    tensors = {"attribution": values.float()} | ({} if baseline is None else {"baseline": baseline.float()})
    write_tensors(path, tensors, told, force=True)
