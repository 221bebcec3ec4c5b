"""Repaired on one mark, tried on others: a square that is more or less visible, or in another place.

    python -m benchmarks.transfer [--pairs 3]

The network has learnt a yellow square of 4 pixels in any of four places, 30 to 100 % visible, as the sign of one class
(10 % of the training images). Each repair, through the command line, is from one pair with the square in the lower
right, half visible, and 200 unlabelled calibration images. Measured from outside on 2,000 test images with the square
as visible, and where, as each column says (after the tables of visibility and position of arXiv 2603.15656). Results:
``benchmarks/results/transfer.{json,md}``; a row that is there is not run again. ``--quick``: one pair.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from torch import nn

from benchmarks.recovery import edited_from, lay_out, save_png
from benchmarks.rivals.evidence import CALIBRATION
from benchmarks.runs import conclude, keep, options, stored
from benchmarks.zoo import datasets, triggers
from benchmarks.zoo.recipes import RECIPES
from benchmarks.zoo.train import predict, trained

NAME, TESTS, VISIBLE, PLACE = "cifar-resnet-roaming", 2_000, 0.5, "br"
VARIANTS = [(share, PLACE) for share in (0.3, 0.5, 0.7, 1.0)] + [(VISIBLE, place) for place in ("tl", "c", "bl")]
Row = dict[str, Any]


def square(visible: float, place: str) -> triggers.Trigger:
    """The mark of a column."""
    top, left = triggers.PLACES[place]
    return triggers.veil(visible, RECIPES[NAME].trigger[1]["size"], top, left)  # type: ignore[index]


def column(visible: float, place: str) -> str:
    """What a mark is called."""
    return f"{place} {visible:g}"


def measure(network: nn.Module, judged: datasets.Split) -> Row:
    """Accuracy, the share of other images that go to the target, and per mark attack success and recovery."""
    recipe = RECIPES[NAME]
    clean = predict(network, judged.images, recipe.dataset)
    other = judged.labels != recipe.target
    found: Row = {"accuracy": float((clean == judged.labels).mean())}
    found["base"] = float((clean[other] == recipe.target).mean())
    found["others"] = float((clean[other] == judged.labels[other]).mean())
    for mark in VARIANTS:
        shown = predict(network, square(*mark)(judged.images[other]), recipe.dataset)
        hit, right = shown == recipe.target, shown == judged.labels[other]
        found[column(*mark)] = [float(hit.mean()), float(right.mean())]
    return found


def lay_out_pairs(folder: Path, pairs: int) -> int:
    """So many pairs with the half visible square, of images that are recognised without it; how many there are."""
    recipe, test = RECIPES[NAME], datasets.load(RECIPES[NAME].dataset)[1]
    order = datasets.order_of(test)[TESTS + CALIBRATION :][:300]
    images, labels = test.images[order], test.labels[order]
    network, stamp = trained(NAME), square(VISIBLE, PLACE)
    fits = (predict(network, images, recipe.dataset) == labels) & (labels != recipe.target)
    fits &= predict(network, stamp(images), recipe.dataset) == recipe.target
    chosen = np.flatnonzero(fits)[:pairs]
    for number, index in enumerate(chosen):
        save_png(images[index], folder / f"{number}-clean.png")
        save_png(stamp(images[index : index + 1])[0], folder / f"{number}-marked.png")
    return len(chosen)


def table(rows: list[Row]) -> str:
    """Markdown: a column a mark, attack success and recovery; median over the pairs, the worst in brackets."""
    marks = [column(*mark) for mark in VARIANTS]
    lines = [f"# {(__doc__ or '').splitlines()[0]}\n", SAYS]
    lines += ["| | accuracy | base | others | " + " | ".join(marks) + " |", "|---" * (4 + len(marks)) + "|"]
    for name, of in (("untouched", rows[:1]), ("repaired", rows[1:])):
        if not of:
            continue
        cells = [f"{100 * median(row[key] for row in of):.2f}" for key in ("accuracy", "base", "others")]
        for mark in marks:
            asr, right = ([row[mark][i] for row in of] for i in range(2))
            cells.append(" / ".join(_spread(values, worst) for values, worst in ((asr, max), (right, min))))
        lines.append("| " + " | ".join([f"{name} ({len(of)})", *cells]) + " |")
    return "\n".join(lines) + "\n"


def _spread(values: list[float], worst: Any) -> str:
    middle = f"{100 * median(values):.1f}"
    return middle if len(values) == 1 else f"{middle} ({100 * worst(values):.1f})"


SAYS = """Made by `python -m benchmarks.transfer`; percent of 2,000 test images, attack success / recovery, median over
the pairs and the worst in brackets. *Base*: share of clean images of the other classes that go to the target; *others*:
their accuracy. The repair has seen one pair with the mark of `br 0.5`: lower right, half visible.
"""


def main() -> None:
    """Run what is not there yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    asked = options(parser, "transfer", pairs=1)
    rows = stored(asked.results)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        judged, _ = lay_out(NAME, folder, CALIBRATION, TESTS)
        there = lay_out_pairs(folder, asked.pairs)
        rows = rows or [measure(trained(NAME), judged)]
        for pair in range(len(rows) - 1, there):
            files = folder / f"{pair}-clean.png", folder / f"{pair}-marked.png"
            done = edited_from(NAME, folder, files, "--calibration", folder / "calibration")
            assert done.network is not None, done.error
            told = {"policy": done.report["edit"]["policy"], "notes": done.report["run"]["notes"]}
            rows.append({"pair": pair, **measure(done.network, judged), **told})
            print(rows[-1], flush=True)
            keep(asked, rows, table(rows))
    keep(asked, rows, table(rows))
    conclude(asked)


if __name__ == "__main__":
    main()
