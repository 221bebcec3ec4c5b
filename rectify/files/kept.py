"""Second moments kept between runs: a safetensors file a key, in a folder that is held below a size.

Nothing here is needed: a file that is missing, damaged or somebody else's counts as not there.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from rectify.errors import CheckpointError, OutputError
from rectify.files.atomic import ABANDONED, clear_partials, write_parts
from rectify.files.checkpoint import read_tensors
from rectify.files.words import plain, reason

LIMIT = 2 << 30  # bytes of all files together; the ones that were not used for longest go first
_OURS = re.compile(r"[0-9a-f]{64}\.safetensors")

Shapes = Mapping[str, tuple[int, ...]]


class KeptMoments:
    """The folder.

    Parameters
    ----------
    folder
        Made when the first file is written.
    limit
        Bytes of all its files together.
    """

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        self.folder, self.limit = folder, limit

    def fits(self, shapes: Shapes) -> bool:
        """Whether moments of these shapes are small enough to be kept at all."""
        return sum(8 * torch.Size(shape).numel() for shape in shapes.values()) < self.limit

    def load(self, key: str, shapes: Shapes) -> dict[str, Tensor] | None:
        """The moments that were kept under ``key``, float64 on the CPU, bit by bit as they were; else None.

        Parameters
        ----------
        key
            64 hexadecimal digits.
        shapes
            What they must be called, and the shape of each.
        """
        path = self._path(key)
        try:
            found, said = read_tensors(path)
        except (CheckpointError, OSError):
            return None
        alike = {name: tuple(moment.shape) for name, moment in found.items()} == dict(shapes)
        if not alike or any(moment.dtype is not torch.float64 for moment in found.values()):
            return None
        # Copies in torch's own memory: on the file's, whose alignment is another, BLAS may round differently.
        moments = {name: found[name].clone() for name in shapes}
        if said.get("key") != key or said.get("sha256") != _digest(moments):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # used now: the last to go
        return moments

    def keep(self, key: str, moments: Mapping[str, Tensor]) -> None:
        """Keep float64 moments under ``key``, and drop the oldest files beyond the limit.

        Raises
        ------
        OutputError
            If the folder cannot be written to; no harm is done.
        """
        ours = {name: moments[name].detach().cpu().contiguous() for name in sorted(moments)}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write into {plain(self.folder)}: {reason(error)}") from None
        write_parts(self._path(key), _file(ours, {"kind": "moments", "key": key, "sha256": _digest(ours)}))
        self._trim(self._path(key))

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _trim(self, newest: Path) -> None:
        """Hold the folder below the limit; only files that are called as ours are touched."""
        clear_partials(self.folder, "[0-9a-f]" * 64 + ".safetensors", ABANDONED)
        total = 0
        for _, size, path in sorted(_entries(self.folder), reverse=True):
            total += size
            if total > self.limit and path != newest:
                with contextlib.suppress(OSError):
                    path.unlink()


def _entries(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Time of last use, size and path of our files."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if _OURS.fullmatch(path.name):
                with contextlib.suppress(OSError):
                    told = path.stat()
                    yield told.st_mtime, told.st_size, path


def _digest(moments: Mapping[str, Tensor]) -> str:
    """Of the numbers, in the order of the names: a header alone does not show a byte that was lost."""
    digest = sha256()
    for name in sorted(moments):
        digest.update(_bytes(moments[name]))
    return digest.hexdigest()


def _bytes(moment: Tensor) -> memoryview:
    return moment.flatten().view(torch.uint8).numpy().data


def _file(moments: Mapping[str, Tensor], said: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """A safetensors file in parts. The library's own writer copies all tensors first, gigabytes of them."""
    header: dict[str, object] = {"__metadata__": {"format": "pt", "rectify": json.dumps(said, sort_keys=True)}}
    end = 0
    for name, moment in moments.items():
        start, end = end, end + 8 * moment.numel()
        header[name] = {"dtype": "F64", "shape": list(moment.shape), "data_offsets": [start, end]}
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    yield len(raw).to_bytes(8, "little") + raw
    yield from (_bytes(moment) for moment in moments.values())
