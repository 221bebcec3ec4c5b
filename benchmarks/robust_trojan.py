"""Does a network trained with IG-SUM-NORM take a trojan less deeply, and is it easier to repair?

    python -m benchmarks.robust_trojan [--triggers patch faint-blend] [--objectives natural madry ig-sum-norm]
        [--seeds 0 1]

MNIST, the paper's network at half its width, the ``-quick`` plans, 10 % of the images poisoned: one network for each
objective, trigger and seed (of the weights, the order and the choice of the poisoned images), trained from scratch on
the poisoned images. Measured on 2,000 test images before and after ``rectify edit`` from one pair and 200 calibration
images. Results: ``benchmarks/results/robust-trojan.{json,md}``; a row that is there is not run again. What they say is
written by hand, in ``robust-trojan-reading.md``.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from benchmarks.recovery import edited, save_png
from benchmarks.robust_attribution import Lines
from benchmarks.runs import ROOT, conclude, keep, options, stored
from benchmarks.seeds import merged, spread
from benchmarks.zoo import datasets
from benchmarks.zoo.recipes import GREY_TRIGGERS, RECIPES, Recipe
from benchmarks.zoo.train import make_trigger, measure, poison, predict
from rectify.files.preprocess import Preprocess
from rectify.names import OBJECTIVES as NAMES
from rectify.training.data import from_arrays
from rectify.training.loop import Training, train
from rectify.training.networks import small_cnn
from rectify.training.presets import preset

OBJECTIVES = ("natural", "madry", "ig-sum-norm")
TRIGGERS = tuple(GREY_TRIGGERS)
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


def train_poisoned(recipe: Recipe, trigger: str, objective: str) -> nn.Module:
    """A network trained on images poisoned with a trigger, by an objective and the recipe's seed."""
    made = preset("mnist-quick", objective)
    preprocess = Preprocess.from_dict(made.preprocess, "mnist")
    split = poison(datasets.load("mnist")[0], recipe)
    torch.manual_seed(recipe.seed)
    network = small_cnn(num_classes=10, **made.arch_args)
    kept = CACHE / f"trojan-{trigger}-{objective}{f'-{recipe.seed}' if recipe.seed else ''}.pt"
    if kept.exists():
        network.load_state_dict(torch.load(kept, weights_only=True))
        return network.eval().requires_grad_(False)
    plan = replace(made.plan, seed=recipe.seed)
    train(Training(network, plan, from_arrays(split, preprocess), preprocess.bounds(), torch.device("cpu")), Lines())
    kept.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), kept)
    return network


def repair(network: nn.Module, recipe: Recipe, made_args: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One repair from one pair, and what it came to on images that it never saw."""
    test = datasets.load("mnist")[1]
    order = datasets.order_of(test)
    images, labels = test.images[order], test.labels[order]
    judged = datasets.judged_of(test, TESTS)
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
    words: list[str | Path] = [folder / "model.pt", "--num-classes", "10"]
    words += ["--arch", "rectify.training.networks:small_cnn", "--preprocess", folder / "preprocess.yaml"]
    words += [word for key, value in made_args.items() for word in ("--arch-arg", f"{key}={value}")]
    words += ["--clean", folder / "clean.png", "--poisoned", folder / "poisoned.png"]
    words += ["--calibration", folder / "calibration"]
    done = edited(words, small_cnn(num_classes=10, **made_args), folder / "out.safetensors")
    if done.network is None:
        return {**found, "after": None, "note": done.error}
    after = asdict(measure(FromNormalised(done.network), recipe, judged))
    return {**found, "after": after, "note": done.report["edit"]["policy"]}


def markdown(rows: list[dict[str, Any]]) -> str:
    """A line for every trigger and objective."""
    lines = [f"# {(__doc__ or '').splitlines()[0]}\n", HEAD]
    before = "| trigger | training | accuracy | ASR | triggered images right |"
    lines += [f"{before} after: accuracy | ASR | recovery | edit | seeds |", "|---" * 10 + "|"]
    for trigger, objective in dict.fromkeys((row["trigger"], row["objective"]) for row in rows):
        runs = [row for row in rows if (row["trigger"], row["objective"]) == (trigger, objective)]
        cells = [trigger, objective, *(_cell(runs, when, key) for when in ("before", "after") for key in FIGURES)]
        notes = "; ".join(dict.fromkeys(row["note"] for row in runs))
        lines.append("| " + " | ".join([*cells, notes, str(len(runs))]) + " |")
    return "\n".join([*lines, "", READING])


FIGURES = ("accuracy", "asr", "recovery")
HEAD = """Made by `python -m benchmarks.robust_trojan`; percent. Of several seeds: the median and, in brackets, their
range (least to greatest).
"""
READING = """What the figures say is written by hand, of the figures that it names:
[robust-trojan-reading.md](robust-trojan-reading.md).
"""


def _cell(runs: list[dict[str, Any]], when: str, key: str) -> str:
    known = [row[when][key] for row in runs if row[when] is not None]
    return spread(known, 100, 2) if known else "–"


def main() -> None:
    """Run what was asked for and is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--triggers", nargs="*", default=["patch"], choices=TRIGGERS)
    parser.add_argument("--objectives", nargs="*", default=list(OBJECTIVES), choices=NAMES)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    asked = options(parser, "robust-trojan", objectives=["natural"])
    rows = stored(asked.results)
    for seed, trigger, objective in itertools.product(asked.seeds, asked.triggers, asked.objectives):
        if any((row["trigger"], row["objective"], row["seed"]) == (trigger, objective, seed) for row in rows):
            continue
        row = {"trigger": trigger, "objective": objective, "seed": seed, **run(trigger, objective, seed)}
        print(row, flush=True)
        rows = merged(rows, row, {"trigger": TRIGGERS, "objective": OBJECTIVES})
        keep(asked, rows, markdown(rows))
    keep(asked, rows, markdown(rows))
    conclude(asked)


def run(trigger: str, objective: str, seed: int) -> dict[str, Any]:
    """One network: trained, and repaired."""
    recipe = replace(RECIPES[f"mnist-resnet-{trigger}"], seed=seed)
    network = train_poisoned(recipe, trigger, objective)
    with tempfile.TemporaryDirectory() as folder:
        return repair(network, recipe, preset("mnist-quick", objective).arch_args, Path(folder))


if __name__ == "__main__":
    main()
