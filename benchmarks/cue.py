"""What ``rectify edit`` does with a spurious cue, from one pair of each kind that a user could have.

    python -m benchmarks.cue [--network fashion-resnet-cue]

The network has learnt the patch as a sign of one class (of which 60 % of the training images had it), and is unsure of
that class without it. One pair, an image without and with the patch, may be of that class and recognised without
the patch too (``sure``), of that class and recognised only with it (``wrong``), or of another class and drawn to that
class by the patch (``drawn``).
Results: ``benchmarks/results/cue.{json,md}``; a row that is there is not run again. ``--quick``: the first kind alone.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from benchmarks.recovery import edited_from, lay_out, save_png
from benchmarks.rivals.evidence import CALIBRATION
from benchmarks.runs import conclude, keep, options, stored
from benchmarks.zoo import datasets
from benchmarks.zoo.recipes import RECIPES
from benchmarks.zoo.train import DEVICE, class_figures, make_trigger, measure, predict, trained

TESTS = 2_000
CASES = (("sure", "auto"), ("wrong", "auto"), ("drawn", "auto"), ("drawn", "cue"))  # kind of pair, --fault
UNTOUCHED = ("none", "–")
Row = dict[str, Any]


def figures(network: nn.Module, name: str, judged: datasets.Split) -> dict[str, float]:
    """Accuracy, pull and base rate, recovery, and the class's accuracy without and with the cue."""
    recipe, network = RECIPES[name], network.to(DEVICE)
    return {**vars(measure(network, recipe, judged)), **class_figures(network, recipe, judged)}


def lay_out_pairs(name: str, folder: Path) -> None:
    """The first pair of each kind among 300 images behind those that judge, as ``KIND-clean.png``, ``KIND-cue.png``."""
    recipe = RECIPES[name]
    network = trained(name).to(DEVICE)
    test = datasets.load(recipe.dataset)[1]
    order = datasets.order_of(test)[TESTS + CALIBRATION :][:300]
    images, own = test.images[order], test.labels[order] == recipe.target
    stamp = make_trigger(recipe)
    assert stamp is not None
    without, shown = (predict(network, x, recipe.dataset) for x in (images, stamp(images)))
    right = without == test.labels[order]
    drawn = shown == recipe.target
    for kind, fits in {"sure": own & right, "wrong": own & ~right & drawn, "drawn": ~own & right & drawn}.items():
        first = int(np.flatnonzero(fits)[0])
        save_png(images[first], folder / f"{kind}-clean.png")
        save_png(stamp(images[first : first + 1])[0], folder / f"{kind}-cue.png")


def repair(name: str, folder: Path, kind: str, fault: str, judged: datasets.Split) -> Row:
    """One repair through the command line, and what it came to."""
    pair = folder / f"{kind}-clean.png", folder / f"{kind}-cue.png"
    done = edited_from(name, folder, pair, "--calibration", folder / "calibration", "--fault", fault)
    if done.network is None:
        return {"note": f"exit code {done.code}: {done.error}"}
    note = "; ".join([done.report["edit"]["policy"], *done.report["run"]["notes"]])
    return {**figures(done.network, name, judged), "note": note}


def rows_of(name: str, cases: list[tuple[str, str]]) -> Iterator[Row]:
    """The rows of one network, one after the other."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        judged, _ = lay_out(name, folder, CALIBRATION, TESTS)
        lay_out_pairs(name, folder)
        for kind, fault in cases:
            if (kind, fault) == UNTOUCHED:
                found = {**figures(trained(name), name, judged), "note": "untouched"}
            else:
                found = repair(name, folder, kind, fault, judged)
            yield {"network": name, "pair": kind, "fault": fault, **found}


def markdown(rows: list[Row]) -> str:
    """A line for every case, the untouched network first."""
    head = "| network | pair | `--fault` | accuracy | class without | with | pull | base | recovery | edit |"
    lines = [f"# {(__doc__ or '').splitlines()[0]}\n", HEAD, head, "|---" * 10 + "|"]
    for row in rows:
        keys = ("accuracy", "without", "with", "asr", "base_rate", "recovery")
        found = [f"{100 * row[key]:.2f}" if key in row else "–" for key in keys]
        lines.append("| " + " | ".join([row["network"], row["pair"], row["fault"], *found, row["note"]]) + " |")
    return "\n".join([*lines, ""])


HEAD = """Made by `python -m benchmarks.cue`; percent, of 2,000 test images. *Pull* is the share of images
of other classes that the patch sends to the class, *base* the share that goes there without it, *recovery* the share
that the patch leaves right.
"""


def main() -> None:
    """Run the cases that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="fashion-resnet-cue")
    parser.set_defaults(cases=CASES)
    asked = options(parser, "cue", cases=CASES[:1])
    name, rows = asked.network, stored(asked.results)
    there = {(row["pair"], row["fault"]) for row in rows if row["network"] == name}
    missing = [case for case in (UNTOUCHED, *asked.cases) if case not in there]
    for row in rows_of(name, missing) if missing else ():
        rows.append(row)
        print(row, flush=True)
        keep(asked, rows, markdown(rows))
    keep(asked, rows, markdown(rows))
    conclude(asked)


if __name__ == "__main__":
    main()
