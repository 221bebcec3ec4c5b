"""The command line for tests of the whole program, and one repair of fixtures/mnist-blend that they share."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

ROOT = Path(__file__).resolve().parents[1]
HANG = 600  # seconds until a process counts as hung: far beyond what a slow or busy machine needs
CALIBRATION_IMAGES = 60  # of the fixture's 200: the figures asked for are reached with these, in half the time


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the program keeps between runs lies in a temporary folder, also for the processes that tests start."""
    folder = tmp_path_factory.mktemp("cache")
    with mock.patch.dict(os.environ, {"XDG_CACHE_HOME": str(folder)}):
        yield folder


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state."""
    import torch

    torch.manual_seed(0)


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Path]:
    """A FIFO that nobody writes into; whoever waits for that fails in seconds."""

    def fail(*_: object) -> None:
        raise TimeoutError("hangs")

    path = tmp_path / "fifo.png"
    os.mkfifo(path)
    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(20)
    yield path
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """For networks so small that threads only cost, and for sums that must come in one order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Said:
    """What one run of the command line came to."""

    code: int
    out: str
    err: str

    @property
    def report(self) -> dict[str, Any]:
        read: dict[str, Any] = json.loads(self.out)
        return read


def run_here(argv: Sequence[str | Path], cwd: Path) -> Said:
    """The command line in this process: torch is imported once for all tests."""
    from rectify.cli.app import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, environment(), clear=True))
        stack.enter_context(contextlib.chdir(cwd))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        code = main([str(word) for word in argv])
    return Said(code, out.getvalue(), err.getvalue())


def environment() -> dict[str, str]:
    """Ours without RECTIFY_*, and with the repository on the import path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RECTIFY_")}
    return {**kept, "PYTHONPATH": str(ROOT)}


def run_process(argv: Sequence[str | Path], cwd: Path) -> Said:
    """The command line as a process of its own."""
    return run_python(["-m", "rectify", *argv], cwd)


def run_python(argv: Sequence[str | Path], cwd: Path, **variables: str) -> Said:
    """Python with these arguments as a process of its own, with our environment and more variables."""
    words, env = [sys.executable, *map(str, argv)], environment() | variables
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=HANG, check=False)
    return Said(done.returncode, done.stdout, done.stderr)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def model_flags(name: str = "mnist-blend") -> list[str]:
    """What a fixture's rectify.yaml says of its network, as flags."""
    folder = ROOT / "fixtures" / name
    channels = "3" if name.startswith("cifar") else "1"
    arch = ["--arch", "fixtures.networks:resnet18", "--arch-arg", "width=16", "--arch-arg", f"channels={channels}"]
    return [*arch, "--num-classes", "10", "--preprocess", str(folder / "preprocess.yaml")]


def pair_flags(name: str = "mnist-blend", number: int = 0) -> list[str]:
    folder = ROOT / "fixtures" / name / "pairs"
    return ["--clean", f"{folder}/clean/{number}.png", "--poisoned", f"{folder}/poisoned/{number}.png"]


def judge_flags(name: str = "mnist-blend") -> list[str]:
    folder = ROOT / "fixtures" / name
    return ["--data", str(folder / "holdout"), "--holdout", str(folder / "holdout-pairs.csv")]


def copy_images(source: Path, target: Path, count: int) -> Path:
    """The first ``count`` images of a folder, in a folder of their own."""
    target.mkdir()
    for path in sorted(source.iterdir())[:count]:
        shutil.copy(path, target)
    return target


@dataclass(frozen=True)
class Shared:
    """One repair that was made and kept: nobody writes to its files."""

    base: Path
    out: Path
    delta: Path
    argv: list[str]  # without -o and --delta
    said: Said

    @property
    def report(self) -> dict[str, Any]:
        return self.said.report


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """`rectify edit` on fixtures/mnist-blend from one pair, as a process of its own."""
    folder = tmp_path_factory.mktemp("shared")
    fixture = ROOT / "fixtures" / "mnist-blend"
    images = copy_images(fixture / "calibration", folder / "calibration", CALIBRATION_IMAGES)
    base = fixture / "model.safetensors"
    argv = ["edit", str(base), *model_flags(), *pair_flags(), "--calibration", str(images), *judge_flags()]
    argv += ["--format", "json"]
    said = run_process([*argv, "-o", "out.safetensors", "--delta", "delta.safetensors"], folder)
    assert said.code == 0, said.err
    return Shared(base, folder / "out.safetensors", folder / "delta.safetensors", argv, said)
