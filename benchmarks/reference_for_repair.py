"""UNI as the reference for repair: does the path of the attribution change which layer is chosen?

    python -m benchmarks.reference_for_repair [NAME ...]

`benchmarks.localisation` has edited every layer of each network alone and measured the result
(``benchmarks/results/localisation.json``). Here the layers are scored again along four paths: from the corrupted image
to the clean one (ours), from black, from the UNI baseline, and from an unlearned one of larger radius to the corrupted
image. The last three need no clean image. Of each path and score: the regret of its first layer and the rank
correlation with what the edits came to. Results: ``benchmarks/results/reference_for_repair.{json,md}``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
from torch import Tensor

from benchmarks.localisation import spearman
from benchmarks.opened import bounds_of, opened
from benchmarks.recovery import lay_out
from benchmarks.runs import COMMITTED, RESULTS, conclude, keep, options, stored
from benchmarks.zoo.recipes import RECIPES
from rectify.attribution.score import Score
from rectify.attribution.sweep import sweep
from rectify.attribution.uni import Unlearning, unlearned_baseline
from rectify.editing.localize import LayerScore, localize
from rectify.model.trace import survey

PATHS = ("corrupted to clean", "black", "uni", "uni, eps 1 in pixels")
FIELDS = ("editability", "scale_free", "attribution")


def scores(name: str) -> dict[str, dict[str, LayerScore]]:
    """Path to layer to its scores."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        lay_out(name, folder, 200, 1000)
        its = opened(name, folder)
    network, clean, corrupted = its.network, its.clean, its.corrupted
    low, high = bounds_of(RECIPES[name].dataset)
    target = Score(network).predictions(corrupted)
    wide = Unlearning(space="pixels", eps=1.0)
    starts = {
        "black": low.expand_as(corrupted),
        "uni": unlearned_baseline(Score(network), corrupted, target, Unlearning()),
        "uni, eps 1 in pixels": unlearned_baseline(Score(network), corrupted, target, wide, (low, high)),
    }
    found = {}
    for path in PATHS:

        def along(net: Any, layers: Any, start: Tensor, end: Tensor, *rest: Any, path: str = path) -> Any:
            ends = (start, end) if path not in starts else (starts[path], corrupted)
            return sweep(net, layers, *ends, *rest)

        with mock.patch("rectify.editing.localize.sweep", along):
            done = localize(network, survey(network, clean), clean, corrupted, its.fault, its.reference)
        found[path] = {score.site.name: score for score in done.scores}
    return found


def run(network: dict[str, Any]) -> dict[str, Any]:
    """One network: of each path and score its first layer, that layer's regret, and the rank correlation."""
    layers = network["layers"]
    worth = np.array([(layer["accuracy"] + layer["recovery"]) / 2 for layer in layers])
    out: dict[str, Any] = {"name": network["name"], "best": network["best"], "paths": {}}
    for path, by_layer in scores(network["name"]).items():
        out["paths"][path] = {}
        for field in FIELDS:
            values = np.array([float(getattr(by_layer[layer["layer"]], field) or 0.0) for layer in layers])
            pick = int(values.argmax())
            out["paths"][path][field] = {
                "layer": layers[pick]["layer"],
                "regret": float(100 * (worth.max() - worth[pick])),
                "accuracy": layers[pick]["accuracy"],
                "recovery": layers[pick]["recovery"],
                "spearman": spearman(values, worth),
            }
    return out


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: first layer and regret by the scale-free score, then median and worst of every score."""
    lines = ["# UNI as the reference for repair\n", "Made by `python -m benchmarks.reference_for_repair`.\n"]
    lines += ["First layer by the scale-free editability, and its regret in points (rank correlation), by path:\n"]
    lines += ["| network | best layer | " + " | ".join(PATHS) + " |", "|---" * (2 + len(PATHS)) + "|"]
    for one in results:
        rows = [one["paths"][path]["scale_free"] for path in PATHS]
        cells = [f"{row['layer']} {row['regret']:.1f} ({row['spearman']:+.2f})" for row in rows]
        lines.append(f"| {one['name']} | {one['best']} | " + " | ".join(cells) + " |")
    lines += ["", "Regret, median / worst, and median rank correlation, of every score:\n"]
    lines += ["| score | " + " | ".join(PATHS) + " |", "|---" * (1 + len(PATHS)) + "|"]
    for field in FIELDS:
        cells = []
        for path in PATHS:
            rows = [one["paths"][path][field] for one in results]
            regrets = [row["regret"] for row in rows]
            middle = median(row["spearman"] for row in rows)
            cells.append(f"{median(regrets):.1f} / {max(regrets):.1f} ({middle:+.2f})")
        lines.append(f"| {field} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--edits", type=Path, default=RESULTS / "localisation.json", help="what each edit came to")
    asked = options(parser, "reference_for_repair", edits=COMMITTED / "localisation.json")
    if not asked.edits.exists():
        raise SystemExit(f"{asked.edits} is missing: python -m benchmarks.localisation --results {asked.edits}")
    results = []
    for network in stored(asked.edits):
        if not asked.names or network["name"] in asked.names:
            results.append(run(network))
            first = {path: scores["scale_free"]["layer"] for path, scores in results[-1]["paths"].items()}
            print(results[-1]["name"], first, flush=True)
    keep(asked, results, table(results))
    conclude(asked)


if __name__ == "__main__":
    main()
