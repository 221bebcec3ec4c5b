"""The files of an edit: written where nobody sees them, reopened, judged, and only then given their names."""

from __future__ import annotations

import copy
import os
import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from rectify.editing.cascade import LayerEdit
from rectify.editing.patch import Patch, check_written, delta_tensors
from rectify.files.architectures import Subject, load_into
from rectify.files.checkpoint import WrittenFile, check_target, read_checkpoint, write_tensors


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
        os.replace(written.path, self.out)
        return WrittenFile(self.out, written.sha256, written.bytes)

    def write_delta(self, edits: Sequence[LayerEdit], metadata: dict[str, Any]) -> WrittenFile:
        """Write the factors."""
        assert self.delta is not None
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
        self.path = folder / f".{files.out.name[:100]}.{secrets.token_hex(4)}.candidate"

    def __enter__(self) -> tuple[nn.Module, WrittenFile]:
        try:
            written = write_tensors(self.path, self.made.state, self.metadata)
            check_written(self.path, self.subject.checkpoint.state, self.made)
            network = copy.deepcopy(self.subject.network)
            load_into(network, read_checkpoint(self.path))
        except BaseException:
            self.__exit__()
            raise
        return network, written

    def __exit__(self, *_: object) -> None:
        self.path.unlink(missing_ok=True)
        if self.folder is not None:
            self.folder.cleanup()
