"""What killed edits left goes with the next edit of the same file, and nothing else does."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from rectify.editing.candidate import _stem, clear_stale
from rectify.files.atomic import shortened

OLD = 7200.0


def lies(path: Path, age: float) -> Path:
    path.write_bytes(b"weights")
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_old_candidates_of_the_same_file_go(tmp_path: Path) -> None:
    out = tmp_path / "out[1].safetensors"
    gone = [
        lies(tmp_path / ".out[1].safetensors.0123abcd.candidate", OLD),
        lies(tmp_path / "..out[1].safetensors.0123abcd.candidate.4567abcd.partial", OLD),
    ]
    stay = [
        lies(tmp_path / ".out[1].safetensors.1123abcd.candidate", 5),  # about to be locked
        lies(tmp_path / "..out[1].safetensors.1123abcd.candidate.4567abcd.partial", 600),  # a slow disk
        lies(tmp_path / ".out1.safetensors.0123abcd.candidate", OLD),
        lies(tmp_path / ".out[1].safetensors.candidate", OLD),
        lies(tmp_path / "out[1].safetensors", OLD),
        lies(tmp_path / "model.candidate", OLD),
    ]
    clear_stale(out)
    assert not any(path.exists() for path in gone) and all(path.exists() for path in stay)


def test_a_candidate_that_somebody_judges_stays(tmp_path: Path) -> None:
    path = lies(tmp_path / ".out.safetensors.0123abcd.candidate", OLD)
    with open(path, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        clear_stale(tmp_path / "out.safetensors")
        assert path.exists()
    clear_stale(tmp_path / "out.safetensors")
    assert not path.exists()


def test_a_candidate_has_room_for_the_longest_name_that_a_file_can_have(tmp_path: Path) -> None:
    out = tmp_path / f"{'模' * 78}.safetensors"  # 246 bytes
    out.touch()
    name = f"{_stem(out)}.01234567.candidate"
    (tmp_path / name).touch()
    (tmp_path / f".{name}.01234567.partial").touch()
    assert shortened(name) == name  # so that what half-written ones are called still begins with it
