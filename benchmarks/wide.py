"""The science bench: ResNet-18 at full width on CIFAR-10, three seeds, every kind of trigger, trained and repaired.

    python -m benchmarks.wide [--pairs 3] [--jobs 6] [--trainers 4] [--tests 9000] [--only SUBSTRING]

Trains the recipes ``cifar64-resnet-*`` (a GPU takes minutes, two cores many hours), some at once; as soon as a
network is there it is repaired by ``benchmarks.recovery``, first all from one pair, then from more. Everything goes on
where it stopped. Results: ``benchmarks/results/wide.{json,md}``. ``--quick``: the same with two narrow networks on
MNIST.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.runs import QUICK, ROOT, conclude, keep, options
from benchmarks.zoo import datasets
from benchmarks.zoo.recipes import RECIPES
from benchmarks.zoo.train import ZOO

NAMES = [name for name, recipe in RECIPES.items() if name.startswith("cifar64-") and not recipe.keeps_label]
SMALL = ["mnist-resnet-patch", "mnist-resnet-blend"]  # of ``--quick``: no processor trains a wide network in minutes
KINDS = ("patch", "blend", "sinusoid", "warp", "cleanlabel", "alltoall", "own")
SAYS = """\
OA: accuracy; ASR: attack success; RA: triggered images that get their true class. The first table is in points,
each against the same network before the repair: accuracy lost, attack success above the share of clean images that it
sends to the target, and recovery short of its accuracy on clean images of the same classes. Every repair is from one
pair of images and 200 unlabelled calibration images, by the command line with its defaults; a seed is another network,
trigger and target."""


class Trainers:
    """Trains what is not there yet, so many at once; a network that starts from another waits for that one."""

    def __init__(self, names: list[str], at_once: int) -> None:
        starts = [start for name in names if (start := RECIPES[name].start) is not None]
        self.waiting = [name for name in dict.fromkeys([*starts, *names]) if not (ZOO / f"{name}.pt").exists()]
        self.waiting.sort(key=lambda name: RECIPES[name].start is not None)
        self.at_once, self.running = at_once, list[subprocess.Popen[bytes]]()

    def go_on(self) -> bool:
        """Begin what can be begun; whether anything is still being trained or could be later."""
        self.running = [job for job in self.running if job.poll() is None]
        for name in list(self.waiting):
            start = RECIPES[name].start
            if len(self.running) < self.at_once and (start is None or (ZOO / f"{start}.pt").exists()):
                self.running.append(_started("benchmarks.zoo.train", name))
                self.waiting.remove(name)
        return bool(self.running)


def _started(module: str, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", module, *words], cwd=ROOT)


def repaired(names: list[str], pairs: int, tests: int, jobs: int, parts: Path, at_once: int) -> None:
    """Train and repair, ``jobs`` repairs at once; a file of results a network, in a folder."""
    running: dict[str, subprocess.Popen[bytes]] = {}
    training = Trainers(names, at_once)
    open_ones = [(name, count) for count in range(1, pairs + 1) for name in names if RECIPES[name].trigger]
    while open_ones or running:
        still_training = training.go_on()
        running = {name: job for name, job in running.items() if job.poll() is None}
        for name, count in list(open_ones):
            if len(running) < jobs and name not in running and (ZOO / f"{name}.pt").exists():
                words = ["--pairs", str(count), "--test", str(tests), "--results", str(parts / f"{name}.json")]
                running[name] = _started("benchmarks.recovery", name, *words)
                open_ones.remove((name, count))
        if not running and not still_training:
            break  # what is not trained by now will not be
        time.sleep(1)


def gathered(names: list[str], parts: Path) -> list[dict[str, Any]]:
    """The results of the networks, in their order."""
    found = []
    for name in names:
        part = parts / f"{name}.json"
        if part.exists():
            found += json.loads(part.read_text())
    return found


def shortfalls(result: dict[str, Any]) -> list[tuple[float, float, float]]:
    """Of each repair: accuracy lost, ASR over the base rate, recovery short, as fractions."""
    before = result["before"]
    return [
        (before["accuracy"] - r["accuracy"], r["asr"] - before["base_rate"], before["accuracy_other"] - r["recovery"])
        for r in result["repairs"]
        if r["exit_code"] == 0
    ]


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: by kind, then by network."""
    lines = ["# ResNet-18 at full width on CIFAR-10\n", "Made by `python -m benchmarks.wide`.\n", SAYS, ""]
    lines += ["| trigger | networks | pairs | accuracy lost, median (worst) | ASR over base | recovery short |"]
    lines += ["|---|---|---|---|---|---|"]
    for kind in (*KINDS, "all of patch, blend, sinusoid, warp"):
        kinds = KINDS[:4] if kind not in KINDS else (kind,)
        of = [r for r in results if any(f"-{k}-" in f"{r['name']}-" for k in kinds)]
        of = [result for result in of if shortfalls(result)]
        rows = [row for result in of for row in shortfalls(result)]
        if rows:
            cells = [f"{100 * median(v):.2f} ({100 * max(v):.2f})" for v in zip(*rows, strict=True)]
            lines.append(f"| {kind} | {len(of)} | {len(rows)} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "| network | before OA / ASR / RA | base rate | OA of other classes | after OA / ASR / RA, each pair |",
    ]
    lines[-1] += " layers | seconds |"
    lines.append("|---|---|---|---|---|---|---|")
    for result in results:
        before, good = result["before"], [r for r in result["repairs"] if r["exit_code"] == 0]
        failed = next((r["error"] for r in result["repairs"] if "error" in r), "not measured")
        after = "<br>".join(_three(r) for r in good) or f"none: {failed}"
        cells = [result["name"], _three(before), f"{100 * before['base_rate']:.2f}"]
        cells += [f"{100 * before['accuracy_other']:.2f}", after]
        cells += [", ".join(str(r["layers"]) for r in good), ", ".join(f"{r['seconds']:.0f}" for r in good)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _three(figures: dict[str, Any]) -> str:
    return " / ".join(f"{100 * figures[key]:.2f}" for key in ("accuracy", "asr", "recovery"))


def main() -> None:
    """Train and repair what is not there yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=6)
    parser.add_argument("--trainers", type=int, default=4, help="networks trained at once")
    parser.add_argument("--tests", type=int, default=9000)
    parser.add_argument("--only", default="", help="of the networks, those with this in their name")
    parser.add_argument("--parts", type=Path, default=ZOO.parent / "wide", help="folder for a file of each network")
    parser.set_defaults(names=NAMES)
    small = {"names": SMALL, "pairs": 1, "jobs": 1, "trainers": 1, "tests": 1000, "parts": QUICK / "wide"}
    asked = options(parser, "wide", **small)
    asked.parts.mkdir(parents=True, exist_ok=True)
    for dataset in {RECIPES[name].dataset for name in asked.names}:
        datasets.load(dataset)  # fetched once, not by every process
    names = [name for name in asked.names if asked.only in name]
    repaired(names, asked.pairs, asked.tests, asked.jobs, asked.parts, asked.trainers)
    results = gathered(asked.names, asked.parts)
    keep(asked, results, table(results))
    conclude(asked)


if __name__ == "__main__":
    main()
