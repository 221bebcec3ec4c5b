"""Does a network trained with IG-SUM-NORM take a trojan less deeply, and is it easier to repair?

    python -m benchmarks.robust_trojan [--triggers patch] [--objectives natural madry ig-sum-norm]

MNIST, the paper's network at half its width, the ``-quick`` plans, 10 % of the images poisoned: one network for each
objective and trigger, trained from scratch on the poisoned images. Measured on 2,000 test images before and after
``rectify edit`` from one pair and 200 calibration images. Results: ``benchmarks/results/robust-trojan.{json,md}``; a
row that is there is not run again. One seed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import yaml
from torch import Tensor, nn

from benchmarks.recovery import ROOT, save_png
from benchmarks.robust_attribution import Lines
from benchmarks.zoo import datasets
from benchmarks.zoo.recipes import RECIPES, Recipe
from benchmarks.zoo.train import make_trigger, measure, poison, predict
from rectify.files.preprocess import Preprocess
from rectify.training.data import from_arrays
from rectify.training.loop import Training, train
from rectify.training.networks import small_cnn
from rectify.training.presets import preset

RESULTS = ROOT / "benchmarks" / "results" / "robust-trojan.json"
CACHE = ROOT / "cache" / "robust"
TESTS, CALIBRATION = 2_000, 200


class FromNormalised(nn.Module):
    """The network, which takes pixels in 0..1, for the zoo's measuring code, which normalises by mean and deviation."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval()
        (self.mean,), (self.std,) = datasets.MEAN_STD["mnist"]

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, 28, 28) normalised to (N, 10)."""
        out: Tensor = self.network(x * self.std + self.mean)
        return out


def train_poisoned(recipe: Recipe, objective: str) -> nn.Module:
    """A network trained on poisoned images by an objective."""
    made = preset("mnist-quick", objective)
    preprocess = Preprocess.from_dict(made.preprocess, "mnist")
    split = poison(datasets.load("mnist")[0], recipe)
    torch.manual_seed(0)
    network = small_cnn(num_classes=10, **made.arch_args)
    kept = CACHE / f"trojan-{recipe.trigger[0] if recipe.trigger else ''}-{objective}.pt"
    if kept.exists():
        network.load_state_dict(torch.load(kept, weights_only=True))
        return network.eval().requires_grad_(False)
    plan = replace(made.plan, seed=0)
    train(Training(network, plan, from_arrays(split, preprocess), preprocess.bounds(), torch.device("cpu")), Lines())
    kept.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), kept)
    return network


def repair(network: nn.Module, recipe: Recipe, made_args: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One repair from one pair, and what it came to on images that it never saw."""
    test = datasets.load("mnist")[1]
    order = np.random.default_rng(2026).permutation(len(test.labels))
    images, labels = test.images[order], test.labels[order]
    judged = datasets.Split(images[:TESTS], labels[:TESTS])
    found: dict[str, Any] = {"before": asdict(measure(FromNormalised(network), recipe, judged))}
    for number in range(CALIBRATION):
        save_png(images[TESTS + number], folder / "calibration" / f"{number:03d}.png")
    stamp = make_trigger(recipe)
    assert stamp is not None
    rest = slice(TESTS + CALIBRATION, TESTS + CALIBRATION + 300)
    reader = FromNormalised(network)
    right = predict(reader, images[rest], "mnist") == labels[rest]
    fires = predict(reader, stamp(images[rest]), "mnist") == recipe.target
    chosen = np.flatnonzero(right & fires & (labels[rest] != recipe.target))
    if not len(chosen):
        return {**found, "after": None, "note": "the trigger fires on no image: nothing to repair"}
    one = images[rest][chosen[:1]]
    save_png(one[0], folder / "clean.png")
    save_png(stamp(one)[0], folder / "poisoned.png")
    torch.save(network.state_dict(), folder / "model.pt")
    (folder / "preprocess.yaml").write_text(yaml.safe_dump(preset("mnist-quick").preprocess))
    words = [sys.executable, "-m", "rectify", "edit", str(folder / "model.pt"), "--num-classes", "10"]
    words += ["--arch", "rectify.training.networks:small_cnn", "--preprocess", str(folder / "preprocess.yaml")]
    words += [word for key, value in made_args.items() for word in ("--arch-arg", f"{key}={value}")]
    words += ["--clean", str(folder / "clean.png"), "--poisoned", str(folder / "poisoned.png")]
    words += ["--calibration", str(folder / "calibration"), "-o", str(folder / "out.safetensors"), "--format", "json"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        return {**found, "after": None, "note": done.stderr.strip()[-300:]}
    edited = small_cnn(num_classes=10, **made_args).eval()
    edited.load_state_dict(safetensors.torch.load_file(folder / "out.safetensors"))
    policy = json.loads(done.stdout)["edit"]["policy"]
    return {**found, "after": asdict(measure(FromNormalised(edited), recipe, judged)), "note": policy}


def markdown(rows: list[dict[str, Any]]) -> str:
    """A line a network."""
    lines = [f"# {(__doc__ or '').splitlines()[0]}\n", "Made by `python -m benchmarks.robust_trojan`; percent.\n"]
    lines += [
        "| trigger | training | accuracy | ASR | triggered images right | after: accuracy | ASR | recovery | edit |"
    ]
    lines += ["|---" * 9 + "|"]
    for row in rows:
        before, after = row["before"], row["after"]
        cells = [row["trigger"], row["objective"], *(_p(before[k]) for k in ("accuracy", "asr", "recovery"))]
        cells += ["–"] * 3 if after is None else [_p(after[k]) for k in ("accuracy", "asr", "recovery")]
        lines.append("| " + " | ".join([*cells, row["note"]]) + " |")
    return "\n".join([*lines, "", SAYS]) + "\n"


SAYS = """Of a patch: no. It changes pixels by the whole range, far outside the ball of 0.3 that the training defends,
and every objective learns it to the full. Nor is the repair harder or easier: one rank-one edit of the same layer
brings all three back to within 0.2 points of their clean accuracy on images of the other classes. One seed, one pair; a
trigger inside the ball (a faint blend) was not tried."""


def _p(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def main() -> None:
    """Run what was asked for and is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--triggers", nargs="*", default=["patch"])
    parser.add_argument("--objectives", nargs="*", default=["natural", "madry", "ig-sum-norm"])
    options = parser.parse_args()
    rows: list[dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    for trigger in options.triggers:
        for objective in options.objectives:
            if any((row["trigger"], row["objective"]) == (trigger, objective) for row in rows):
                continue
            recipe = RECIPES[f"mnist-resnet-{trigger}"]
            network = train_poisoned(recipe, objective)
            with tempfile.TemporaryDirectory() as folder:
                found = repair(network, recipe, preset("mnist-quick", objective).arch_args, Path(folder))
            rows.append({"trigger": trigger, "objective": objective, **found})
            print(rows[-1], flush=True)
            RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
            RESULTS.with_suffix(".md").write_text(markdown(rows))


if __name__ == "__main__":
    main()
