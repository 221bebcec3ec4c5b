"""What ``rectify edit`` does with a spurious cue, from one pair of each kind that a user could have.

    python -m benchmarks.cue [--network fashion-resnet-cue]

The network has learnt the patch as a sign of one class (of which 60 % of the training images had it), and is unsure of
that class without it. One pair, an image without and with the patch, may be of that class and right both times
(``sure``), of that class and wrong without the patch (``wrong``), or of another class and drawn to that class by the
patch (``drawn``).
Results: ``benchmarks/results/cue.{json,md}``; a row that is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from benchmarks.recovery import RESULTS, ROOT, command, lay_out, save_png
from benchmarks.rivals.__main__ import class_figures
from benchmarks.rivals.evidence import CALIBRATION, fetch
from benchmarks.zoo import datasets
from benchmarks.zoo.recipes import RECIPES
from benchmarks.zoo.train import ZOO, build, make_trigger, measure, predict

TESTS = 2_000
CASES = (("sure", "auto"), ("wrong", "auto"), ("drawn", "auto"), ("drawn", "cue"))  # kind of pair, --fault
Row = dict[str, Any]


def figures(network: nn.Module, name: str, judged: datasets.Split) -> dict[str, float]:
    """Accuracy, pull and base rate, recovery, and the class's accuracy without and with the cue."""
    recipe = RECIPES[name]
    return {**vars(measure(network.eval(), recipe, judged)), **class_figures(network, recipe, judged)}


def lay_out_pairs(name: str, folder: Path) -> None:
    """The first pair of each kind among 300 images behind those that judge, as ``KIND-clean.png``, ``KIND-cue.png``."""
    recipe = RECIPES[name]
    network = build(recipe)
    network.load_state_dict(torch.load(ZOO / f"{name}.pt", weights_only=True))
    test = datasets.load(recipe.dataset)[1]
    order = np.random.default_rng(2026).permutation(len(test.labels))[TESTS + CALIBRATION :][:300]
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
    words = command(name, folder, 0, ["--calibration", str(folder / "calibration"), "--fault", fault])
    for option, end in (("--clean", "clean"), ("--poisoned", "cue")):
        words[words.index(option) + 1] = str(folder / f"{kind}-{end}.png")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        return {"note": f"exit code {done.returncode}: {done.stderr.strip()[-300:]}"}
    network = build(RECIPES[name])
    network.load_state_dict(load_file(folder / "out0.safetensors"))
    report = json.loads(done.stdout)
    note = "; ".join([report["edit"]["policy"], *report["run"]["notes"]])
    return {**figures(network, name, judged), "note": note}


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
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    name, results = asked.network, asked.out / "cue.json"
    rows: list[Row] = json.loads(results.read_text()) if results.exists() else []
    fetch(name)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        judged, _ = lay_out(name, folder, CALIBRATION, TESTS)
        lay_out_pairs(name, folder)
        for kind, fault in (("none", "–"), *CASES):
            if any((r["network"], r["pair"], r["fault"]) == (name, kind, fault) for r in rows):
                continue
            if kind == "none":
                network = build(RECIPES[name])
                network.load_state_dict(torch.load(ZOO / f"{name}.pt", weights_only=True))
                found = {**figures(network, name, judged), "note": "untouched"}
            else:
                found = repair(name, folder, kind, fault, judged)
            rows.append({"network": name, "pair": kind, "fault": fault, **found})
            print(rows[-1], flush=True)
            results.write_text(json.dumps(rows, indent=1) + "\n")
            results.with_suffix(".md").write_text(markdown(rows))


if __name__ == "__main__":
    main()
