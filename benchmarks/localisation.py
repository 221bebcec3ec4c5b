"""Does the layer that ranks first deserve it? Every layer edited alone, measured from outside, against each score.

    python -m benchmarks.localisation [NAME ...] [--calibration 200] [--test 1000]

For each network of the zoo and one pair: the static rank-one edit of every candidate layer (what ``rectify edit --mode
static --layer NAME`` makes) is measured on test images that no edit saw. The worth of an edit is the mean of its clean
accuracy and its recovery; the regret of a score is the worth of the best layer less that of the layer it ranks first,
in points. Spearman's correlation is of the score with the worth over all layers. Results:
``benchmarks/results/localisation.{json,md}``; a network that is there is not run again. ``--quick``: the shipped
network of MNIST.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.opened import opened
from benchmarks.recovery import lay_out
from benchmarks.runs import conclude, keep, options, stored
from benchmarks.zoo.recipes import RECIPES
from benchmarks.zoo.train import measure
from rectify.editing.cascade import apply
from rectify.editing.localize import LayerScore, localize
from rectify.editing.repair import static, trials
from rectify.editing.workshop import Workshop
from rectify.model.trace import survey

NETWORKS = (
    *("cifar-resnet-patch-scratch", "cifar-resnet-warp", "cifar-resnet-sinusoid", "fashion-resnet-patch"),
    *("fashion-resnet-blend", "fashion-resnet-sinusoid", "fashion-resnet-warp", "mnist-resnet-blend"),
    *("mnist-resnet-warp", "mnist-vgg-blend", "mnist-vit-blend", "mnist-mobilenet-blend"),
)
SCORES = ("published", "scale_free", "leverage", "attribution", "trial", "last_layer")


def score_of(score: LayerScore, name: str) -> float:
    """What a score says of a layer; larger is better."""
    if name == "trial":
        return -score.trial.loss if score.trial else -1e9
    if name == "last_layer":
        return float(score.site.order)
    field = {"published": "editability"}.get(name, name)
    return float(getattr(score, field) or 0.0)


def run(name: str, calibration: int, tests: int) -> dict[str, Any]:
    """All layers of one network."""
    recipe = RECIPES[name]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        judged, _ = lay_out(name, folder, calibration, tests)
        its = opened(name, folder)
    network, case = its.network, its.case(recipe.dataset)
    found = localize(network, survey(network, its.clean), its.clean, its.corrupted, its.fault, its.reference)
    shop = Workshop(network, case)
    scores = trials(shop, [s for s in found.scores if s.candidate], 1)
    layers = []
    for score in scores:
        student = copy.deepcopy(network)
        for edit in static(shop, score.site, None).edits:
            apply(student, edit)
        figures = measure(student, recipe, judged)
        row = {"layer": score.site.name, "accuracy": figures.accuracy, "asr": figures.asr, "recovery": figures.recovery}
        layers.append({**row, **{which: score_of(score, which) for which in SCORES}})
        print(name, {k: v if isinstance(v, str) else round(v or 0.0, 4) for k, v in layers[-1].items()}, flush=True)
    return {"name": name, "calibration": calibration, "test_images": tests, "layers": layers, **regrets(layers)}


def regrets(layers: list[dict[str, Any]]) -> dict[str, Any]:
    """Best layer, and of each score its choice, its regret in points and its rank correlation."""
    worth = np.array([(layer["accuracy"] + layer["recovery"]) / 2 for layer in layers])
    out: dict[str, Any] = {"best": layers[int(worth.argmax())]["layer"]}
    for which in SCORES:
        values = np.array([layer[which] for layer in layers])
        pick = int(values.argmax())
        out[which] = {
            "layer": layers[pick]["layer"],
            "regret": float(100 * (worth.max() - worth[pick])),
            "spearman": spearman(values, worth),
        }
    return out


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Rank correlation."""
    ranks = [values.argsort().argsort().astype(float) for values in (one, other)]
    return float(np.corrcoef(*ranks)[0, 1])


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: regret in points (rank correlation) of each score, a line a network, then median and worst."""
    lines = [f"# {(__doc__ or '').splitlines()[0]}\n", SAYS]
    lines += ["| network | best layer | " + " | ".join(SCORES) + " |", "|---|---|" + "---|" * len(SCORES)]
    for result in results:
        cells = [f"{result[w]['regret']:.1f} ({result[w]['spearman']:+.2f})" for w in SCORES]
        lines.append(f"| {result['name']} | {result['best']} | " + " | ".join(cells) + " |")
    for label, over in (("median", median), ("worst", max)):
        cells = [f"{over([r[w]['regret'] for r in results]):.1f}" for w in SCORES]
        lines.append(f"| **{label}** | | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


SAYS = """Made by `python -m benchmarks.localisation`. Regret of a score: mean of accuracy and recovery after the edit
of the best layer, less that of the layer that the score ranks first, in points; in brackets its rank correlation with
that mean over all layers.
"""


def main() -> None:
    """Run what was asked for and is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(NETWORKS))
    parser.add_argument("--calibration", type=int, default=200)
    parser.add_argument("--test", type=int, default=1000)
    asked = options(parser, "localisation", names=["mnist-resnet-blend"], test=500)
    results = stored(asked.results)
    for name in asked.names:
        if all(result["name"] != name for result in results):
            results.append(run(name, asked.calibration, asked.test))
            keep(asked, results, table(results))
    conclude(asked)


if __name__ == "__main__":
    main()
