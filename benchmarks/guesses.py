"""How near a clear guess comes to what was done, on images that the pair does not show; no network is asked.

    python -m benchmarks.guesses [--draws 12]

For each kind of trigger and data set: triggers drawn at random, one pair each, and the guess that the pair shows
clearly (``rectify.editing.corruption``), put onto 40 other images. Error: the share of what the trigger changes there
that it misses, 0 for the trigger itself, 1 for doing nothing. Results: ``benchmarks/results/guesses.{json,md}``;
a row that is there is not run again. ``--quick``: two draws of each.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import product
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.runs import conclude, keep, options, stored
from benchmarks.zoo import datasets, triggers
from rectify.editing.corruption import guesses
from rectify.editing.guess import Bounds, Corruption
from rectify.editing.warps import share

OTHERS = 40
DATASETS = ("mnist", "fashion-mnist", "cifar10")
Row = dict[str, Any]


def _uniform(random: np.random.Generator, low: float, high: float) -> float:
    return float(random.uniform(low, high))


def _wave(random: np.random.Generator) -> triggers.Trigger:
    across, down = (int(v) for v in random.integers(-8, 9, 2))
    return triggers.sinusoid(_uniform(random, 10, 40), across or 3, down)


def _warp(random: np.random.Generator) -> triggers.Trigger:
    return triggers.warp(_uniform(random, 0.5, 1.5), int(random.integers(3, 8)), int(random.integers(100)))


def _elastic(random: np.random.Generator) -> triggers.Trigger:
    return triggers.elastic(_uniform(random, 0.5, 1.0), float(random.integers(3, 6)), int(random.integers(100)))


def _veil(random: np.random.Generator) -> triggers.Trigger:
    colour = tuple(int(v) for v in random.integers(0, 256, 3))
    return triggers.veil(_uniform(random, 0.2, 0.7), 8, *(_uniform(random, 0.2, 0.8) for _ in range(2)), colour)


KINDS: dict[str, Callable[[np.random.Generator], triggers.Trigger]] = {
    "mark": lambda random: triggers.mark(
        _uniform(random, 0, 1), _uniform(random, 0, 1), int(random.integers(2, 6)), int(random.integers(100))
    ),
    "noise blended in": lambda random: triggers.blend(_uniform(random, 0.1, 0.3), int(random.integers(100))),
    "smooth picture blended in": lambda random: triggers.blend(
        _uniform(random, 0.1, 0.3), int(random.integers(100)), int(random.choice([4, 8]))
    ),
    "wave in any direction": _wave,
    "translucent square": _veil,
    "blur or sharpening": lambda random: triggers.blur(
        int(random.choice([3, 5])), float(random.choice([-1.0, 0.6, 1.0]))
    ),
    "vignette": lambda random: triggers.shade(_uniform(random, 0.15, 0.4), *random.uniform(-0.3, 0.3, 2)),
    "another gamma": lambda random: triggers.tone(float(random.choice([0.5, 0.7, 1.4, 1.8]))),
    "four to eight levels": lambda random: triggers.tone(1.0, int(random.integers(4, 9))),
    "warp of a grid": _warp,
    "free elastic field": _elastic,
}


def share_missed(guess: Corruption, clean: Tensor, corrupted: Tensor) -> float:
    """Of the square of what the trigger changes on these images, (N, C, H, W)."""
    return share(guess.apply(clean) - corrupted, corrupted - clean)


def measured(kind: str, dataset: str, draws: int) -> Row:
    """The errors of a kind's clear guesses on a data set, the worst of each pair; None where none is clear."""
    test = datasets.load(dataset)[1]
    random = np.random.default_rng(7)
    errors: list[float | None] = []
    warped = []
    began = time.time()
    for _ in range(draws):
        stamp = KINDS[kind](random)
        clean, corrupted, bounds = shown(test.images, random, stamp)
        tried = guesses(clean[:1], corrupted[:1], bounds)
        warped.append(min(guess.misfit for guess in tried if guess.moves))
        found = [guess for guess in tried if guess.clear]
        errors.append(max((share_missed(guess, clean[1:], corrupted[1:]) for guess in found), default=None))
    seconds = round((time.time() - began) / draws, 2)
    return {"kind": kind, "dataset": dataset, "errors": errors, "warp_leaves": warped, "seconds": seconds}


def shown(images: np.ndarray, random: np.random.Generator, stamp: triggers.Trigger) -> tuple[Tensor, Tensor, Bounds]:
    """``OTHERS`` + 1 of these images (N, H, W, C) of bytes, without a trigger and with it, and the bounds of a pixel.

    The images as (n, C, H, W) from 0 to 1, the first for a pair.
    """
    chosen = images[random.integers(0, len(images), OTHERS + 1)]
    clean, corrupted = (
        torch.from_numpy(np.ascontiguousarray(these)).permute(0, 3, 1, 2).float() / 255
        for these in (chosen, stamp(chosen))
    )
    channels = clean.shape[1]
    return clean, corrupted, (torch.zeros(channels, 1, 1), torch.ones(channels, 1, 1))


def markdown(rows: list[Row]) -> str:
    """The table."""
    lines = [HEAD]
    for row in rows:
        told = [error for error in row["errors"] if error is not None]
        figures = [f"{median(told):.4f}", f"{max(told):.4f}"] if told else ["–", "–"]
        cells = [row["kind"], row["dataset"], str(len(row["errors"])), str(len(row["errors"]) - len(told)), *figures]
        cells += [f"{min(row['warp_leaves']):.4f}", f"{row['seconds']:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


HEAD = """# What one pair tells of what was done

Made by `python -m benchmarks.guesses`. Error: share of what the trigger changes on 40 other images that the guess
misses, the worst of those that the pair shows clearly. *Unclear*: pairs that show nothing clearly; they are then tried
by what fires, and count in neither. *A warp leaves*: at the least, of the difference of any of these pairs, whatever
was done to it.

| trigger | data set | pairs | unclear | median | worst | a warp leaves | seconds a pair |
|---|---|---|---|---|---|---|---|"""


def every_kind(
    asked: argparse.Namespace,
    kinds: list[str],
    measured: Callable[[str, str, int], Row],
    markdown: Callable[[list[Row]], str],
) -> None:
    """Measure each kind of trigger on each data set, but the rows that are there, and write JSON and page after each.

    Parameters
    ----------
    asked
        What `benchmarks.runs.options` found, with ``draws``.
    measured
        The row of a kind, a data set and so many draws, which names both.
    markdown
        The page of all rows.
    """
    rows = stored(asked.results)
    there = {(row["kind"], row["dataset"]) for row in rows}
    order = list(product(kinds, DATASETS))
    for kind, dataset in order:
        if (kind, dataset) not in there:
            rows.append(measured(kind, dataset, asked.draws))
            print(rows[-1], flush=True)
            rows.sort(key=lambda row: order.index((row["kind"], row["dataset"])))
            keep(asked, rows, markdown(rows))
    keep(asked, rows, markdown(rows))
    conclude(asked)


def main() -> None:
    """Measure all kinds on all data sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=12)
    every_kind(options(parser, "guesses", draws=2), list(KINDS), measured, markdown)


if __name__ == "__main__":
    main()
