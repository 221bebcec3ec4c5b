"""Ours, as a user runs it: ``rectify edit`` with its defaults, one PNG pair, 200 unlabelled PNGs. And the untouched."""

from __future__ import annotations

import json
import os
import subprocess

from safetensors.torch import load_file

from benchmarks.recovery import ROOT, command
from benchmarks.rivals.evidence import Evidence, Method, Outcome
from benchmarks.zoo.train import build


def _repair(case: Evidence) -> Outcome:
    words = command(case.name, case.folder, case.pair, ["--calibration", str(case.folder / "calibration")])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        return Outcome(None, {}, note=f"exit code {done.returncode}: {done.stderr.strip()[-200:]}")
    network = build(case.recipe)
    network.load_state_dict(load_file(case.folder / f"out{case.pair}.safetensors"))
    return Outcome(network.eval(), {"edit": json.loads(done.stdout)["edit"]["policy"]})


def _nothing(case: Evidence) -> Outcome:
    return Outcome(case.copy(), {})


OURS = Method(
    title="ours",
    source="this project",
    formula="`rectify edit`",
    sees="pair, 200 unlabelled",
    settings="the defaults of the command line",
    rule="its own, on the pair and the calibration images",
    repair=_repair,
)
UNTOUCHED = Method(
    title="untouched",
    source="",
    formula="the network as it is",
    sees="nothing",
    settings="none",
    rule="none",
    repair=_nothing,
)
