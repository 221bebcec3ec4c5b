"""The same repair on every device: equal bytes on each, the same figures on all, and the time.

    python -m benchmarks.devices [--devices cpu cuda] [--networks NAME ...]

``rectify edit`` repairs each network twice on each device: the shipped fixtures, or the networks of the zoo that are
named. Compared are the two files that a device wrote, byte by byte; and between devices what became of the network:
accuracy, attack success and recovery, of fixtures on their holdout, of the zoo's on 2,000 test images. Results:
``benchmarks/results/devices.{json,md}``; a row that is there is replaced. ``--quick``: the first of
the fixtures, on a processor.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.recovery import edited_from, lay_out, pair_of
from benchmarks.runs import ROOT, conclude, keep, options, stored
from benchmarks.zoo.recipes import RECIPES
from benchmarks.zoo.train import DEVICE, measure

FIXTURES = ("cifar10-patch", "mnist-blend")
TESTS = 2_000
Row = dict[str, Any]


def of_fixture(name: str, device: str, folder: Path) -> Row:
    """One repair of a shipped fixture: the file's digest, its figures and the seconds."""
    out, shown = folder / "out.safetensors", folder / "report.html"
    words = ["edit", "--config", f"fixtures/{name}/rectify.yaml", "--device", device, "-o", out, "--report", shown]
    given = [sys.executable, "-m", "rectify", *map(str, words), "--delta", str(folder / "delta.safetensors")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    began = time.perf_counter()
    done = subprocess.run(
        [*given, "--force", "--no-cache", "--format", "json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    seconds = time.perf_counter() - began
    if not done.stdout:
        return {"error": done.stderr[-300:]}
    report = json.loads(done.stdout)
    after, pairs = report["metrics"]["after"], report["metrics"]["holdout"]["after"]
    figures = {"accuracy": after["accuracy"], "asr": pairs["asr"], "recovery": pairs["recovery"]}
    return {**figures, "policy": report["edit"]["policy"], "seconds": seconds, "sha256": _digest(out)}


def of_zoo(name: str, device: str, folder: Path) -> Row:
    """The same of a trained network of the zoo."""
    judged, _ = lay_out(name, folder, 200, TESTS)
    began = time.perf_counter()
    extra = ("--calibration", folder / "calibration", "--device", device)
    done = edited_from(name, folder, pair_of(folder, 0), *extra)
    seconds = time.perf_counter() - began
    if done.network is None:
        return {"error": done.error}
    found = measure(done.network.to(DEVICE), RECIPES[name], judged)
    figures = {"accuracy": found.accuracy, "asr": found.asr, "recovery": found.recovery}
    digest = _digest(folder / "out.safetensors")
    return {**figures, "policy": done.report["edit"]["policy"], "seconds": seconds, "sha256": digest}


def row(name: str, device: str) -> Row:
    """Two repairs of one network on one device; the seconds are those of the second."""
    found = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as temporary:
            one = (of_fixture if name in FIXTURES else of_zoo)(name, device, Path(temporary))
            found.append(one)
            print(name, device, one, flush=True)
    told = found[1] | {"equal_bytes": "sha256" in found[0] and found[0].get("sha256") == found[1].get("sha256")}
    processor = f"{torch.get_num_threads()} threads" if device == "cpu" else torch.cuda.get_device_name()
    return {"network": name, "device": device, "processor": processor, **told}


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = [
        "# One repair, two devices\n",
        "Made by `python -m benchmarks.devices`. Percent; seconds of wall clock, loading included.\n",
        "| network | device | accuracy | ASR | recovery | what was done | s | twice the same bytes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in rows:
        place = f"{one['device']} ({one['processor']})"
        if "error" in one:
            lines.append(f"| {one['network']} | {place} | {one['error']} |")
            continue
        figures = [f"{100 * one[key]:.2f}" for key in ("accuracy", "asr", "recovery")]
        last = [one["policy"], f"{one['seconds']:.1f}", "yes" if one["equal_bytes"] else "no"]
        lines.append("| " + " | ".join([one["network"], place, *figures, *last]) + " |")
    return "\n".join(lines) + "\n"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    """Run what was asked for and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", nargs="+", default=["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
    parser.add_argument("--networks", nargs="+", default=list(FIXTURES))
    asked = options(parser, "devices", networks=FIXTURES[:1], devices=["cpu"])
    rows = stored(asked.results)
    for name in asked.networks:
        for device in asked.devices:
            new = row(name, device)
            rows = [one for one in rows if (one["network"], one["device"]) != (name, device)] + [new]
            keep(asked, rows, table(rows))
    conclude(asked)


if __name__ == "__main__":
    main()
