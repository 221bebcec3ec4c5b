"""Repairs that are stopped while the edited file is judged: what is left, and that the next run clears it away."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.conftest import ROOT, Said, model_flags, pair_flags, run_here
from tests.trouble import stopped_while_judged

EDIT = ["edit", str(ROOT / "fixtures/mnist-blend/model.safetensors"), *model_flags(), *pair_flags()]
EDIT += ["--mode", "static", "--layer", "fc", "--rank", "1", "-o", "out.safetensors", "--no-cache", "-q"]


def test_sigterm_leaves_no_candidate(tmp_path: Path) -> None:
    assert stopped_while_judged("SIGTERM", EDIT, tmp_path) == Said(130, "", "interrupted\n")
    assert not list(tmp_path.iterdir())


def test_the_next_edit_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    assert stopped_while_judged("SIGKILL", EDIT, tmp_path).code == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".out.safetensors.") and left.suffix == ".candidate"
    os.utime(left, (0, 0))  # long ago
    said = run_here(EDIT, tmp_path)
    assert said.code == 0, said.err
    assert [path.name for path in tmp_path.iterdir()] == ["out.safetensors"]
