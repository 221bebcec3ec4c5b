"""The files of an edit: written where nobody sees them, reopened, judged, and only then given their names."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from rectify.editing.cascade import LayerEdit
from rectify.editing.patch import Patch, check_written, delta_tensors
from rectify.files.architectures import Subject, load_into
from rectify.files.atomic import ABANDONED, clear_partials, rename, shortened
from rectify.files.checkpoint import WrittenFile, check_target, read_checkpoint, write_tensors
from rectify.model.copies import copied

_LONGEST = 180  # bytes of its name that its candidates have: so that what half-written ones add does not shorten it
_YOUNG = 60.0  # seconds in which a candidate that was just written gets its lock


@dataclass
class EditFiles:
    """The files of one edit: a candidate that nobody sees until it is judged."""

    out: Path
    delta: Path | None
    force: bool
    never: list[Path]
    dry_run: bool

    def candidate(self, made: Patch, metadata: dict[str, Any], subject: Subject) -> Candidate:
        """Write the candidate beside ``out`` (a dry run: in a temporary folder), reopen and check it."""
        return Candidate(self, made, metadata, subject)

    def keep(self, written: WrittenFile) -> WrittenFile:
        """Give the judged candidate its name."""
        check_target(self.out, force=self.force, never=self.never)
        rename(written.path, self.out)
        return WrittenFile(self.out, written.sha256, written.bytes)

    def write_delta(self, edits: Sequence[LayerEdit], metadata: dict[str, Any]) -> WrittenFile:
        """Write the factors."""
        assert self.delta is not None
        check_target(self.delta, force=self.force, never=self.never, flag="--delta")
        return write_tensors(
            self.delta, delta_tensors(edits), {**metadata, "kind": "delta"}, force=self.force, never=self.never
        )


class Candidate:
    """Context of a written file that is removed at the end unless it was renamed."""

    def __init__(self, files: EditFiles, made: Patch, metadata: dict[str, Any], subject: Subject) -> None:
        self.files, self.made, self.metadata, self.subject = files, made, metadata, subject
        folder = files.out.parent
        if files.dry_run:
            self.folder: Any = tempfile.TemporaryDirectory(prefix="rectify-")
            folder = Path(self.folder.name)
        else:
            self.folder = None
        self.path = folder / f"{_stem(files.out)}.{secrets.token_hex(4)}.candidate"
        self.lock: int | None = None

    def __enter__(self) -> tuple[nn.Module, WrittenFile]:
        if self.folder is None:
            clear_stale(self.files.out)
        try:
            written = write_tensors(self.path, self.made.state, self.metadata)
            self.lock = _locked(self.path)
            check_written(self.path, self.subject.checkpoint.state, self.made)
            network = copied(self.subject.network)
            load_into(network, read_checkpoint(self.path))
        except BaseException:
            self.__exit__()
            raise
        return network, written

    def __exit__(self, *_: object) -> None:
        self.path.unlink(missing_ok=True)
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None
        if self.folder is not None:
            self.folder.cleanup()


def clear_stale(out: Path) -> None:
    """Remove candidates for ``out`` that killed runs have left, whole or half-written.

    A run holds a lock on its candidate until it is over, however it ends; where the file system has no locks, or the
    file is young, it stays.
    """
    name = glob.escape(_stem(out))
    for path in out.parent.glob(f"{name}.????????.candidate"):
        if _age(path) > _YOUNG:
            lock = _locked(path)
            if lock is not None:
                with contextlib.suppress(OSError):
                    path.unlink()
                os.close(lock)
    clear_partials(out.parent, f"{name}.????????.candidate", ABANDONED)


def _stem(out: Path) -> str:
    """How the names of all candidates for a file begin."""
    return f".{shortened(out.name, _LONGEST)}"


def _age(path: Path) -> float:
    """Seconds since a file was last written to; 0 where it is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _locked(path: Path) -> int | None:
    """A descriptor that holds the file's lock until it is closed; None where somebody has it, or there are no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
