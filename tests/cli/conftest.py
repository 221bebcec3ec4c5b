"""A library that only remembers what it was asked, so that the command line is tested alone."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rectify.cli import explain as cli_explain
from rectify.cli import inputs as cli_inputs
from rectify.cli.app import main
from rectify.reporting.build import conclude, empty_report
from rectify.reporting.verdict import decide, judge
from tests.cli.train_samples import NETS, pictures
from tests.conftest import Said


@dataclass(frozen=True)
class FakeInputs:
    subject: Any
    pairs: Any
    holdout: Any
    calibration: Any
    data: Any
    images: Any = None


@dataclass(frozen=True)
class FakeOptions:
    fault: str = "auto"
    batch_size: int = 64
    seed: int = 0
    gates: dict[str, float] = field(default_factory=dict)
    gate_hints: dict[str, str] = field(default_factory=dict)
    baseline: dict[str, Any] | None = None
    exit_zero: bool = False
    cache_dir: Path | None = None


@dataclass(frozen=True)
class Scan:
    images: Any
    layer: str = "auto"
    show: Any = None


@dataclass(frozen=True)
class Explaining:
    methods: tuple[str, ...] = ()
    target: str = "auto"
    output: str = "probability"
    faithfulness: bool = False


@dataclass
class FakeLibrary:
    """What the commands asked for, and what they get."""

    asked: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, float | None] = field(default_factory=lambda: {"accuracy": 0.9, "asr": 0.01, "recovery": 0.88})
    inconclusive: str | None = None
    during: Callable[[], None] = lambda: None
    fill: Callable[[dict[str, Any]], None] = lambda report: None

    def answer(self, command: str, inputs: FakeInputs, options: FakeOptions, more: dict[str, Any]) -> dict[str, Any]:
        self.asked = {"command": command, "inputs": inputs, "options": options, **more}
        more["progress"].start("working", 2)
        more["progress"].advance()
        self.during()
        more["progress"].stop()
        report = empty_report(command)
        self.fill(report)
        report["metrics"]["after"] = {"gap": None, "base_rate": None, **self.figures}
        gates = judge(options.gates, report, baseline=options.baseline)
        verdict = decide(gates, inconclusive=self.inconclusive, exit_zero=options.exit_zero)
        return conclude(report, verdict)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeLibrary:
    """`rectify.jobs` replaced; the current folder is an empty one, and the environment says nothing."""
    import rectify

    fake = FakeLibrary()
    module = types.ModuleType("rectify.jobs")
    module.Inputs, module.Options, module.Scan = FakeInputs, FakeOptions, Scan  # type: ignore[attr-defined]
    module.Editing = lambda out, **more: types.SimpleNamespace(out=out, **more)  # type: ignore[attr-defined]
    for command in ("localize", "edit", "explain", "evaluate"):

        def run(inputs: FakeInputs, options: FakeOptions, *, _command: str = command, **more: Any) -> dict[str, Any]:
            return fake.answer(_command, inputs, options, more)

        setattr(module, f"run_{command}", run)
    monkeypatch.setitem(sys.modules, "rectify.jobs", module)
    monkeypatch.setattr(rectify, "jobs", module, raising=False)
    for name in [name for name in os.environ if name.startswith("RECTIFY_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return fake


@pytest.fixture
def library(jobs: FakeLibrary, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeLibrary:
    """Nothing is opened either: inputs are the settings themselves. There is a model.pt to name."""

    def gather(settings: Any, terminal: Any) -> FakeInputs:
        cli_inputs.check_pairs(settings)
        model = cli_inputs.check_model(settings)
        pairs, holdout, calibration, data = (settings.get(n) for n in ("pairs", "holdout", "calibration", "data"))
        typed = list(zip(settings["clean"], settings["poisoned"], strict=True))
        return FakeInputs(
            model,
            pairs or typed or None,
            holdout,
            calibration,
            data,
            settings.get("image") or settings.get("scan") or None,
        )

    def explaining(settings: Any, subject: Any, reference: Any) -> Explaining:
        return Explaining(tuple(settings["method"]), settings["target"], settings["score"])

    def files(settings: Any, inputs: FakeInputs) -> types.SimpleNamespace:
        return types.SimpleNamespace(folder=settings["explain_out"], first=[])

    monkeypatch.setattr(cli_inputs, "gather", gather)
    monkeypatch.setattr(cli_inputs, "explaining", explaining)
    monkeypatch.setattr(cli_inputs, "forget_files", lambda *subjects: None)
    monkeypatch.setattr(cli_explain, "_files", files)
    monkeypatch.setattr(cli_inputs, "open_model", lambda path, settings, terminal, like=None: path)
    (tmp_path / "model.pt").write_bytes(b"weights")
    return jobs


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder with a network's code and images; every test's folder has its own modules ``nets`` and ``odd``."""
    (tmp_path / "nets.py").write_text(NETS)
    pictures(tmp_path / "data")
    pictures(tmp_path / "val", (3, 3, 3), seed=1)
    yield tmp_path
    for name in ("nets", "odd"):
        sys.modules.pop(name, None)


@pytest.fixture
def rectify_(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run the command line in this process."""

    def run(*words: Any) -> Said:
        capsys.readouterr()
        code = main([str(word) for word in words])
        streams = capsys.readouterr()
        return Said(code, streams.out, streams.err)

    return run


PAIR = ("--clean", "a.png", "--poisoned", "b.png")
