"""What stands in for a trigger that is made anew for every image: how like it is what one pair tells.

    python -m benchmarks.stand_ins [--draws 8]

No network under repair is asked. For each kind of sample-specific trigger and data set: triggers drawn at random, one
pair each, and what the filter and the small network that are fitted to the pair (``rectify.editing.filters``,
``rectify.editing.generators``) make of 40 other images, beside what the trigger makes of them. Likeness: Pearson's
correlation of the two, each channel less its mean, in the mean of the images: 1 for the trigger itself, 0 for a texture
that knows nothing of the image. Results: ``benchmarks/results/stand_ins.{json,md}``; a row that is there is not run
again. ``--quick``: two draws of each.
"""

from __future__ import annotations

import argparse
import time
from statistics import median
from typing import Any

import numpy as np
from torch import Tensor

from benchmarks.guesses import every_kind, shown
from benchmarks.runs import options
from benchmarks.zoo import datasets, triggers
from rectify.editing.corruption import guesses
from rectify.evaluation.ranks import pearson

STAND_INS = ("textured", "filtered", "generated")
KINDS = {
    "two convolutions": lambda delta, seed: triggers.own(delta, seed),
    "down to half the size and back": lambda delta, seed: triggers.encoded(delta, seed),
    "the same, brightness counts": lambda delta, seed: triggers.encoded(delta, seed, lit=True),
}
Row = dict[str, Any]


def likeness(one: Tensor, other: Tensor) -> float:
    """Pearson's correlation of (N, C, H, W), each image's channels less their means, in the mean of the images."""
    a, b = ((x - x.mean((2, 3), keepdim=True)).flatten(1) for x in (one, other))
    return float(pearson(a, b).mean())


def measured(kind: str, dataset: str, draws: int) -> Row:
    """The likeness of each stand-in, a figure a draw; pairs to which nothing can be fitted are left out."""
    test = datasets.load(dataset)[1]
    random = np.random.default_rng(11)
    found: dict[str, list[float]] = {name: [] for name in STAND_INS}
    began = time.time()
    for _ in range(draws):
        stamp = KINDS[kind](float(random.uniform(12, 28)), int(random.integers(1000)))
        clean, corrupted, bounds = shown(test.images, random, stamp)
        told = {guess.name: guess for guess in guesses(clean[:1], corrupted[:1], bounds) if guess.varies}
        if not all(name in told for name in STAND_INS):
            continue
        for name, values in found.items():
            made = told[name].apply(clean[1:]) - clean[1:]
            values.append(likeness(made, corrupted[1:] - clean[1:]))
    seconds = round((time.time() - began) / draws, 2)
    return {"kind": kind, "dataset": dataset, "draws": draws, "likeness": found, "seconds": seconds}


def markdown(rows: list[Row]) -> str:
    """The table."""
    lines = [HEAD]
    for row in rows:
        found = [row["likeness"][name] for name in STAND_INS]
        cells = [row["kind"], row["dataset"], f"{len(found[0])} of {row['draws']}"]
        cells += [f"{median(values):.2f} ({min(values):.2f})" if values else "–" for values in found]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


HEAD = """# What stands in for a trigger that is made anew for every image

Made by `python -m benchmarks.stand_ins`. Likeness of what each stand-in, fitted to one pair, makes of 40 other images
to what the trigger makes of them: Pearson's correlation, the median of the pairs and the worst in brackets. *Two
convolutions*: the zoo's own. *Pairs*: those that show enough of the trigger amid black and white.

| what makes the residual | data set | pairs | texture | filter | small network |
|---|---|---|---|---|---|"""


def main() -> None:
    """Measure all kinds on all data sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=8)
    every_kind(options(parser, "stand_ins", draws=2), list(KINDS), measured, markdown)


if __name__ == "__main__":
    main()
