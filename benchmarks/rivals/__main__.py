"""Every rival beside ours, in one run.

    python -m benchmarks.rivals [--quick] [--networks NAME ...] [--methods NAME ...] [--seeds 0 ...]

For each of ten networks of the zoo (shipped as a fixture or trained first, where one is missing), each seed and each
method a row: accuracy, attack success, recovery on 2,000 test images that no method has seen, of a spurious cue also
the accuracies on its class, processor seconds, what was tried and what was chosen. Results:
``benchmarks/results/rivals.{json,md}``; a row that is there is not run again. ``--quick``: less training, the shipped
network of MNIST, 500 test images. What the figures say is written by hand, in
``rivals-reading.md``.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.rivals.evidence import FULL, QUICK, Effort, Evidence, gather
from benchmarks.rivals.methods import METHODS
from benchmarks.rivals.page import markdown
from benchmarks.runs import conclude, keep, options, stored
from benchmarks.seeds import merged
from benchmarks.zoo import datasets
from benchmarks.zoo.recipes import RECIPES
from benchmarks.zoo.train import class_figures, measure

TRIGGERS = ("patch", "blend", "warp", "sinusoid")
NETWORKS = (
    *(f"{data}-resnet-{kind}" for data in ("mnist", "fashion") for kind in TRIGGERS),
    "cifar-resnet-patch-scratch",
    "fashion-resnet-cue",
)
QUICK_NETWORKS = ("mnist-resnet-blend",)
TESTS, QUICK_TESTS = 2_000, 500
Row = dict[str, Any]


def run(case: Evidence, method: str, judged: datasets.Split) -> Row:
    """One row: the repair, then the measurement."""
    began = _processor_seconds()
    outcome = METHODS[method].repair(case)
    seconds = _processor_seconds() - began
    network = case.network if outcome.network is None else outcome.network
    return {
        "network": case.name,
        "method": method,
        "seed": case.seed,
        **vars(measure(network, case.recipe, judged)),
        **class_figures(network, case.recipe, judged),
        "seconds": round(seconds, 1),
        "chosen": outcome.chosen,
        "tried": list(outcome.tried),
        "note": outcome.note,
    }


def rows_of(name: str, seed: int, methods: list[str], effort: Effort, tests: int) -> Iterator[Row]:
    """The rows of one network and seed, one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        case, judged = gather(name, Path(folder), seed, effort, tests)
        for method in methods:
            yield run(case, method, judged)


def main() -> None:
    """Run what was asked for and is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", choices=RECIPES, default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS), metavar="NAME")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    asked = options(parser, "rivals", networks=QUICK_NETWORKS)
    effort, tests = (QUICK, QUICK_TESTS) if asked.quick else (FULL, TESTS)
    rows = stored(asked.results)
    wanted = list(dict.fromkeys(["untouched", *asked.methods]))  # the table measures all against the untouched network
    for name in asked.networks:
        for seed in asked.seeds:
            there = {row["method"] for row in rows if (row["network"], row["seed"]) == (name, seed)}
            missing = [method for method in wanted if method not in there]
            for row in rows_of(name, seed, missing, effort, tests) if missing else ():
                print({key: value for key, value in row.items() if key != "tried"}, flush=True)
                rows = merged(rows, row, {"network": NETWORKS, "method": tuple(METHODS)})
                keep(asked, rows, markdown(rows, asked.quick, tests))
    keep(asked, rows, markdown(rows, asked.quick, tests))
    conclude(asked)


def _processor_seconds() -> float:
    return sum(os.times()[:4])  # children, as the command line, included


if __name__ == "__main__":
    main()
