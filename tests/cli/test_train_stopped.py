"""Trainings that are stopped: SIGTERM, SIGKILL, in a step or in a save; what is kept, said, and gone on with.

Every run here ends, after --resume, with the tensors of one that nobody touched, bit by bit.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.train_samples import FRESH, NETS, QUICK, kill_at, pictures
from tests.conftest import ROOT, Said, environment, model_flags, pair_flags, run_here

WORDS = [*FRESH, *QUICK, "--epochs", "40", "--objective", "ig-norm", "--format", "json"]
KEPT = [*WORDS, "-o", "m.safetensors", "--save-every", "0"]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


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


@pytest.mark.parametrize("step", [0, 40])
def test_killed(step: int, place: Path, whole: tuple[Path, dict[str, Any]]) -> None:
    assert kill_at(step, KEPT, place).code == -signal.SIGKILL
    refused = run_here(KEPT, place)
    assert refused.code == 2 and "is an unfinished training: --resume goes on with it" in refused.err
    resumes_to(whole, place)


@pytest.mark.parametrize(("step", "every"), [(0, "3600"), (9, "0")])
def test_sigterm_keeps_the_step_under_way(
    step: int, every: str, place: Path, whole: tuple[Path, dict[str, Any]]
) -> None:
    """With no state due for an hour as well, and in a quiet run: one line says where it stands and what to type."""
    line = told(kill_at(step, [*KEPT, "--save-every", every, "-q"], place, signal.SIGTERM))
    assert line.endswith("is kept in m.safetensors.resume: the same command with --resume goes on with it")
    kept = torch.load(place / "m.safetensors.resume", weights_only=True)
    assert kept["position"]["step"] >= step and kept["where"] in line
    resumes_to(whole, place)


STOPPED_IN_A_SAVE = """
import os, signal, sys
from rectify.files import atomic
from rectify.cli.app import main

name, times, save, *words = sys.argv[1:]
write, seen = atomic._write_and_sync, 0


def half(partial, content):
    global seen
    seen += ".resume." in partial.name
    if seen == int(save) and ".resume." in partial.name:
        write(partial, content[: len(content) // 2])
        for _ in range(int(times)):
            os.kill(os.getpid(), getattr(signal, name))
        partial.unlink()
    write(partial, content)


atomic._write_and_sync = half
if name == "SIGTERM":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for what it runs in the background
sys.exit(main(words))
"""


def in_a_save(name: str, times: int, save: int, place: Path, words: list[str] = KEPT) -> Said:
    """Run the command in a process that gets a signal, so many times, when the so-manieth state is half written."""
    command = [sys.executable, "-c", STOPPED_IN_A_SAVE, name, str(times), str(save), *words]
    # As many threads as the whole run had: sums of another order are other sums.
    env = environment() | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, timeout=300, check=False)
    return Said(done.returncode, done.stdout, done.stderr)


def test_sigterm_in_a_save_lets_it_finish(place: Path, whole: tuple[Path, dict[str, Any]]) -> None:
    assert "step 1 of epoch 3" in told(in_a_save("SIGTERM", 1, 6, place))
    assert not list(place.glob(".*.partial"))
    assert torch.load(place / "m.safetensors.resume", weights_only=True)["position"]["step"] == 5
    resumes_to(whole, place)


def test_a_second_sigterm_in_a_save_leaves_the_state_before(place: Path, whole: tuple[Path, dict[str, Any]]) -> None:
    assert "the state at the end of epoch 2 is kept" in told(in_a_save("SIGTERM", 2, 6, place))
    assert not list(place.glob(".*.partial"))
    assert torch.load(place / "m.safetensors.resume", weights_only=True)["position"]["step"] == 4
    resumes_to(whole, place)


def test_killed_in_a_save_leaves_the_state_before(place: Path, whole: tuple[Path, dict[str, Any]]) -> None:
    assert in_a_save("SIGKILL", 1, 6, place).code == -signal.SIGKILL
    assert len(list(place.glob(".*.partial"))) == 1  # half a file, which the resumed run removes
    assert torch.load(place / "m.safetensors.resume", weights_only=True)["position"]["step"] == 4
    resumes_to(whole, place)


def test_stopped_before_there_is_a_state(place: Path) -> None:
    assert told(in_a_save("SIGTERM", 2, 1, place)) == "interrupted: nothing was trained yet"
    assert not list(place.glob("*safetensors*")) and not list(place.glob(".*.partial"))


WHILE_IT_IS_JUDGED = """
import sys, time
from rectify.cli.app import main
from rectify.jobs import edit


def judge(*_):
    print("judging", file=sys.stderr, flush=True)
    time.sleep(60)


edit._judge_written = judge
sys.exit(main(sys.argv[1:]))
"""


EDIT = ["edit", str(ROOT / "fixtures/mnist-blend/model.safetensors"), *model_flags(), *pair_flags()]
EDIT += ["--mode", "static", "--layer", "fc", "--rank", "1", "-o", "out.safetensors", "--no-cache", "-q"]


def stop_while_it_is_judged(place: Path, how: signal.Signals) -> Said:
    """Start an edit and send the signal while its candidate lies there; what it then said."""
    command = [sys.executable, "-c", WHILE_IT_IS_JUDGED, *EDIT]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=place, env=environment() | ONE_THREAD, text=True, **pipes) as process:
        assert process.stderr is not None
        seen = next((line for line in process.stderr if line == "judging\n"), "")
        assert seen and len(list(place.glob(".*.candidate"))) == 1
        process.send_signal(how)
        out, err = process.communicate(timeout=60)
    return Said(process.returncode, out, err)


def test_sigterm_in_edit_leaves_no_candidate(tmp_path: Path) -> None:
    assert stop_while_it_is_judged(tmp_path, signal.SIGTERM) == Said(130, "", "interrupted\n")
    assert not list(tmp_path.iterdir())


def test_the_next_edit_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    stop_while_it_is_judged(tmp_path, signal.SIGKILL)
    (left,) = tmp_path.iterdir()
    os.utime(left, (0, 0))
    said = run_here(EDIT, tmp_path)
    assert said.code in (0, 1), said.err
    assert [path.name for path in tmp_path.iterdir()] == ["out.safetensors"]
