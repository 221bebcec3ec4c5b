"""Trainings that are stopped: SIGTERM, SIGKILL, in a step or in a save; what is kept, said, and gone on with.

Every run here ends, after --resume, with the tensors of one that nobody touched, bit by bit.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.train_samples import FRESH, NETS, QUICK, pictures
from tests.conftest import Said, run_here
from tests.trouble import stopped_in_a_save, stopped_in_a_step

WORDS = [*FRESH, *QUICK, "--epochs", "40", "--objective", "ig-norm", "--format", "json"]
KEPT = [*WORDS, "-o", "m.safetensors", "--save-every", "0"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The run that nobody touched: its file and its report."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "nets.py").write_text(NETS)
    pictures(folder / "data")
    said = run_here([*WORDS, "-o", "whole.safetensors"], folder)
    sys.modules.pop("nets", None)
    assert said.code == 0, said.err
    return folder / "whole.safetensors", said.report


def resumes_to(whole: tuple[Path, dict[str, Any]], place: Path) -> None:
    """The run in ``place`` was stopped; gone on with it is the whole one."""
    assert not (place / "m.safetensors").exists()
    said = run_here([*KEPT, "--resume"], place)
    assert said.code == 0, said.err
    one, other = load_file(whole[0]), load_file(place / "m.safetensors")
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert said.report["train"]["history"] == whole[1]["train"]["history"]
    assert not list(place.glob(".*.partial")) and not (place / "m.safetensors.resume").exists()


def told(said: Said) -> str:
    """The one line that an interrupted run says how to go on."""
    lines = [line for line in said.err.splitlines() if line.startswith("interrupted")]
    assert (said.code, said.out, len(lines)) == (130, "", 1), said.err
    assert "Traceback" not in said.err
    return lines[0]


@pytest.mark.parametrize("step", [0, 39])
def test_killed(step: int, place: Path, whole: tuple[Path, dict[str, Any]]) -> None:
    assert stopped_in_a_step("SIGKILL", step, KEPT, place).code == -signal.SIGKILL
    assert torch.load(place / "m.safetensors.resume", weights_only=True)["position"]["step"] == step
    refused = run_here(KEPT, place)
    assert refused.code == 2 and "is an unfinished training: --resume goes on with it" in refused.err
    resumes_to(whole, place)


@pytest.mark.parametrize(("step", "every", "where"), [(0, "3600", "step 1 of epoch 1"), (9, "0", "the end of epoch 5")])
def test_sigterm_keeps_the_step_under_way(
    step: int, every: str, where: str, place: Path, whole: tuple[Path, dict[str, Any]]
) -> None:
    """With no state due for an hour as well, and in a quiet run: one line says where it stands and what to type."""
    line = told(stopped_in_a_step("SIGTERM", step, [*KEPT, "--save-every", every, "-q"], place))
    go_on = "is kept in m.safetensors.resume: the same command with --resume goes on with it"
    assert line == f"interrupted: the state at {where} {go_on}"
    kept = torch.load(place / "m.safetensors.resume", weights_only=True)
    assert (kept["position"]["step"], kept["where"]) == (step + 1, where)
    resumes_to(whole, place)


def test_sigterm_in_a_save_lets_it_finish(place: Path, whole: tuple[Path, dict[str, Any]]) -> None:
    assert "step 1 of epoch 3" in told(stopped_in_a_save("SIGTERM", 1, 6, KEPT, place))
    assert not list(place.glob(".*.partial"))
    assert torch.load(place / "m.safetensors.resume", weights_only=True)["position"]["step"] == 5
    resumes_to(whole, place)


def test_a_second_sigterm_in_a_save_leaves_the_state_before(place: Path, whole: tuple[Path, dict[str, Any]]) -> None:
    assert "the state at the end of epoch 2 is kept" in told(stopped_in_a_save("SIGTERM", 2, 6, KEPT, place))
    assert not list(place.glob(".*.partial"))
    assert torch.load(place / "m.safetensors.resume", weights_only=True)["position"]["step"] == 4
    resumes_to(whole, place)


def test_killed_in_a_save_leaves_the_state_before(place: Path, whole: tuple[Path, dict[str, Any]]) -> None:
    assert stopped_in_a_save("SIGKILL", 1, 6, KEPT, place).code == -signal.SIGKILL
    assert len(list(place.glob(".*.partial"))) == 1  # half a file, which the resumed run removes
    assert torch.load(place / "m.safetensors.resume", weights_only=True)["position"]["step"] == 4
    resumes_to(whole, place)


def test_stopped_before_there_is_a_state(place: Path) -> None:
    assert told(stopped_in_a_save("SIGTERM", 2, 1, KEPT, place)) == "interrupted: nothing was trained yet"
    assert not list(place.glob("*safetensors*")) and not list(place.glob(".*.partial"))
