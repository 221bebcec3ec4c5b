"""What each part of the refinement is worth: one setting changed at a time, measured from outside.

    python -m benchmarks.refining [NAME ...] [--only VARIANT ...] [--test 4000]

For each network and one pair the refinement of ``rectify.editing.refine`` is made from 200 unlabelled calibration
images, as ``rectify edit`` would make it, whether or not the judge would prefer it, and measured on test images that it
never saw. ``closed form`` is the cascade of all layers beside it; the last layer behind a refinement has weight and
damping of other closed forms here, where ``rectify edit`` tunes them.
Results: ``benchmarks/results/refining.{json,md}``; a row that is there is not run again. ``--quick``: two variants on
the shipped network of MNIST.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from torch import nn

from benchmarks.opened import opened
from benchmarks.recovery import lay_out
from benchmarks.runs import conclude, keep, options, stored
from benchmarks.zoo import datasets
from benchmarks.zoo.recipes import RECIPES
from benchmarks.zoo.train import measure
from rectify.editing import refine
from rectify.editing.cascade import CARRIED
from rectify.editing.casebook import Case
from rectify.editing.localize import is_candidate
from rectify.editing.together import finish
from rectify.editing.workshop import Rung, Workshop
from rectify.model.trace import Site, survey

NETWORKS = ("cifar-resnet-blend", "cifar-resnet-sinusoid", "fashion-resnet-blend", "fashion-resnet-sinusoid")
CALIBRATION = 200
UNTOUCHED, CLOSED = "untouched", "closed form"
Row = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """Constants of the module that are changed, and of the plan; whether the last layer is solved behind it."""

    constants: dict[str, float] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    finished: bool = False


VARIANTS = {
    "as it is": Variant(),
    "and the last layer behind it": Variant(finished=True),
    "another seed": Variant(plan={"seed": 1}),
    "a third of the layers": Variant(plan={"share": 1 / 3}),
    "two thirds of the layers": Variant(plan={"share": 2 / 3}),
    "all layers": Variant(plan={"share": 1.0}),
    "clean images weigh as corrupted ones": Variant({"CLEAN": 1.0}),
    "clean images weigh four times": Variant({"CLEAN": 4.0}),
    "activations weigh 100": Variant({"FEATURES": 100.0}),
    "no activations": Variant({"FEATURES": 0.0}),
    "200 steps": Variant(plan={"steps": 200}),
    "800 steps": Variant(plan={"steps": 800}),
    "rate 0.02": Variant(plan={"rate": 0.02}),
}


@contextmanager
def changed(variant: Variant) -> Iterator[refine.Plan]:
    """The module with the variant's constants, and its plan."""
    with ExitStack() as stack:
        for name, value in variant.constants.items():
            stack.enter_context(mock.patch.object(refine, name, value))
        yield refine.Plan(**variant.plan)


@dataclass(frozen=True)
class Ready:
    """A network with its case opened, and the images that judge."""

    network: nn.Module
    case: Case
    sites: tuple[Site, ...]
    judged: datasets.Split


def prepared(name: str, tests: int) -> Ready:
    """The network, its first pair and calibration images as ``benchmarks.recovery`` lays them out."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        judged, _ = lay_out(name, folder, CALIBRATION, tests)
        its = opened(name, folder)
    sites = tuple(site for site in survey(its.network, its.clean) if is_candidate(site))
    return Ready(its.network, its.case(RECIPES[name].dataset), sites, judged)


def made(ready: Ready, which: str) -> nn.Module:
    """The network that a variant, the closed form or nothing makes."""
    if which == UNTOUCHED:
        return ready.network
    case = ready.case
    material = case.material(everything=True, copies=case.copies)
    if which == CLOSED:
        return Workshop(ready.network, case).run(Rung("all", ready.sites, CARRIED), material)[0]
    with changed(VARIANTS[which]) as plan:
        network = refine.refined(ready.network, ready.sites, case.clean_images(None), case.believed, plan)
    if VARIANTS[which].finished:
        finish(network, max(ready.sites, key=lambda site: site.order), material, CARRIED, batch=64)
    return network


def markdown(rows: list[Row]) -> str:
    """A table for each network."""
    parts = [HEAD]
    order = (UNTOUCHED, CLOSED, *VARIANTS)
    for name in dict.fromkeys(row["name"] for row in rows):
        mine = sorted((row for row in rows if row["name"] == name), key=lambda row: order.index(row["variant"]))
        parts += [f"## {name}\n", "| variant | accuracy | others | ASR | base | recovery | seconds |", "|---" * 7 + "|"]
        for row in mine:
            keys = ("accuracy", "accuracy_other", "asr", "base_rate", "recovery")
            cells = [row["variant"], *(f"{100 * row[key]:.2f}" for key in keys), f"{row['seconds']:.0f}"]
            parts.append("| " + " | ".join(cells) + " |")
        parts.append("")
    return "\n".join(parts)


HEAD = """# What each part of the refinement is worth

Made by `python -m benchmarks.refining`; percent, of test images that the refinement never saw; one pair, 200
calibration images. *Others*: clean images of the other classes, what recovery is held against. Seconds on a busy
machine. What it says: [recovery-reading.md](recovery-reading.md).
"""


def main() -> None:
    """Run what was asked for and is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(NETWORKS))
    parser.add_argument(
        "--only", nargs="+", choices=[CLOSED, *VARIANTS], default=[CLOSED, *VARIANTS], metavar="VARIANT"
    )
    parser.add_argument("--test", type=int, default=4_000)
    few = [CLOSED, "as it is", "200 steps"]
    asked = options(parser, "refining", names=["mnist-resnet-blend"], only=few, test=1_000)
    rows = stored(asked.results)
    for name in asked.names:
        there = {row["variant"] for row in rows if row["name"] == name}
        wanted = [which for which in (UNTOUCHED, *asked.only) if which not in there]
        ready = prepared(name, asked.test) if wanted else None
        for which in wanted:
            assert ready is not None
            began = time.time()
            network = made(ready, which)
            found = vars(measure(network, RECIPES[name], ready.judged))
            rows.append({"name": name, "variant": which, "test_images": asked.test, **found})
            rows[-1]["seconds"] = round(time.time() - began, 1)
            print(rows[-1], flush=True)
            keep(asked, rows, markdown(rows))
    conclude(asked)


if __name__ == "__main__":
    main()
