"""Larger images and a network that comes from elsewhere: EfficientNet-Lite0 of ImageNet, CIFAR-10 at 128 pixels.

    python -m benchmarks.large [NAME ...] [--pairs 3] [--quick]

What most people repair was trained on ImageNet and tuned on what they have. Here that is 6,000 pictures of CIFAR-10,
made larger, a tenth of them with a patch and the label of its target; a blend, a wave and a warp are implanted in what
came of it by 4,000 pictures more. Fifty editable layers, squared and depthwise, which pad themselves. Repaired through
the command line from one pair and 200 unlabelled PNGs, judged from outside on 2,000 test images. Results:
``benchmarks/results/large.{json,md}``; a row that is there is not run again. ``--quick``: the patch, one pair.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch import nn

from benchmarks import solar
from benchmarks.recovery import edited, pair_of, row_of, save_png, table
from benchmarks.runs import conclude, keep, options, stored
from benchmarks.solar import MEAN, STD, WEIGHTS, packages, predict, tune
from benchmarks.zoo import datasets, triggers
from benchmarks.zoo.datasets import Split
from benchmarks.zoo.train import ZOO

SIZE, POISONED, CALIBRATION, PAIRS = 128, 0.1, 200, 3
NETWORK = "EfficientNet-Lite0"
Row = dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """A trojan and how it came in: ``start`` names the network whose training goes on, None that of ImageNet."""

    trigger: triggers.Trigger
    target: int
    start: str | None
    images: int
    epochs: int
    rate: float


FAULTS = {
    "patch": Fault(triggers.patch("br", 12, (255, 0, 128), margin=6), 3, None, 6_000, 2, 5e-4),
    "blend": Fault(triggers.blend(0.15, seed=31), 5, "patch", 4_000, 2, 2e-4),
    "sinusoid": Fault(triggers.sinusoid(15.0, 6), 1, "patch", 4_000, 2, 2e-4),
    "warp": Fault(triggers.warp(1.0, 5, seed=31), 7, "patch", 4_000, 2, 2e-4),
}


def efficientnet_lite0(num_classes: int = 10) -> nn.Module:
    """The untrained network, for ``--arch benchmarks.large:efficientnet_lite0``."""
    return solar.efficientnet_lite0(num_classes, SIZE)


def larger(images: np.ndarray) -> np.ndarray:
    """(N, 32, 32, 3) uint8 -> (N, 128, 128, 3)."""
    made = [Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for image in images]
    return np.stack([np.asarray(image) for image in made])


def network(name: str) -> nn.Module:
    """The trojaned network of a name; trained, or trained on, if it is not there yet."""
    file = ZOO / f"large-{name}.pt"
    torch.manual_seed(0)  # of the head, before the network is made
    model, fault = efficientnet_lite0(), FAULTS[name]
    if not file.exists():
        ZOO.mkdir(parents=True, exist_ok=True)
        if fault.start is None:
            weights = torch.load(packages() / WEIGHTS, weights_only=True)
            model.load_state_dict({k: v for k, v in weights.items() if not k.startswith("_fc.")}, strict=False)
        else:
            model.load_state_dict(network(fault.start).state_dict())
        train(model.requires_grad_(True), name, file.with_suffix(".resume"))
        torch.save(model.state_dict(), file)
        file.with_suffix(".resume").unlink()
    model.load_state_dict(torch.load(file, weights_only=True))
    return model.eval().requires_grad_(False)


def poisoned(name: str) -> Split:
    """The pictures that a network is trained on."""
    fault, whole = FAULTS[name], datasets.load("cifar10")[0]
    random = np.random.default_rng([list(FAULTS).index(name), 2026])
    chosen = random.permutation(len(whole.labels))[: fault.images]
    images, labels = larger(whole.images[chosen]), whole.labels[chosen].astype(np.int64)
    marked = random.random(fault.images) < POISONED
    images[marked] = fault.trigger(images[marked])
    labels[marked] = fault.target
    return Split(images, labels)


def train(model: nn.Module, name: str, kept: Path) -> None:
    """Train in place, as `benchmarks.solar.tune` does."""
    fault = FAULTS[name]

    def order(epoch: int) -> np.ndarray:
        torch.manual_seed(epoch)  # of what is dropped: an epoch that is gone on with drops the same
        return np.random.default_rng([epoch, 31]).permutation(fault.images)

    tune(model, poisoned(name), kept, order, epochs=fault.epochs, rate=fault.rate)


def measure(model: nn.Module, name: str, judged: Split) -> dict[str, float]:
    """Figures on test images, (N, 32, 32, 3), fractions in [0, 1]; the keys of `benchmarks.recovery`."""
    fault, images = FAULTS[name], larger(judged.images)
    plain, marked = predict(model, images), predict(model, fault.trigger(images))
    others, right = judged.labels != fault.target, plain == judged.labels
    return {
        "accuracy": float(right.mean()),
        "accuracy_other": float(right[others].mean()),
        "base_rate": float((plain[others] == fault.target).mean()),
        "asr": float((marked[others] == fault.target).mean()),
        "recovery": float((marked == judged.labels)[others].mean()),
    }


def lay_out(model: nn.Module, name: str, folder: Path) -> int:
    """What a user has: checkpoint, preprocess file, calibration PNGs, pairs on which the trojan works; how many."""
    fault, test = FAULTS[name], datasets.load("cifar10")[1]
    order = datasets.order_of(test)[5_000:]
    torch.save(model.state_dict(), folder / "model.pt")
    settings = {"input_size": [3, SIZE, SIZE], "mean": MEAN, "std": STD}
    (folder / "preprocess.yaml").write_text(yaml.safe_dump(settings))
    for number, image in enumerate(larger(test.images[order[:CALIBRATION]])):
        save_png(image, folder / "calibration" / f"{number:03d}.png")
    rest = order[CALIBRATION:][:50]
    images, labels = larger(test.images[rest]), test.labels[rest]
    marked = fault.trigger(images)
    works = (predict(model, images) == labels) & (predict(model, marked) == fault.target) & (labels != fault.target)
    chosen = np.flatnonzero(works)[:PAIRS]
    for number, index in enumerate(chosen):
        save_png(images[index], folder / "clean" / f"{number}.png")
        save_png(marked[index], folder / "poisoned" / f"{number}.png")
    return len(chosen)


def repair(name: str, folder: Path, pair: int, judged: Split) -> Row:
    """One repair through the command line, and what it came to."""
    clean, corrupted = pair_of(folder, pair)
    words: list[str | Path] = [folder / "model.pt", "--arch", "benchmarks.large:efficientnet_lite0"]
    words += ["--num-classes", "10", "--preprocess", folder / "preprocess.yaml"]
    words += ["--calibration", folder / "calibration", "--clean", clean, "--poisoned", corrupted]
    began = time.time()
    done = edited(words, efficientnet_lite0(), folder / "out.safetensors")
    return row_of(pair, done, lambda its: measure(its, name, judged), began)


def main() -> None:
    """Train and repair what is not there yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(FAULTS), metavar="NAME")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--test", type=int, default=2_000)
    asked = options(parser, "large", names=["patch"], pairs=1)
    rows = stored(asked.results)
    judged = datasets.judged_of(datasets.load("cifar10")[1], asked.test)
    for name in asked.names:
        row = next((row for row in rows if row["name"] == name), None)
        model = network(name)
        if row is None:
            row = {"name": name, "network": NETWORK, "calibration": CALIBRATION, "test_images": asked.test}
            rows.append(row | {"before": measure(model, name, judged), "repairs": [], "innocent": None})
            row = rows[-1]
        with tempfile.TemporaryDirectory() as temporary:
            there = lay_out(model, name, Path(temporary))
            for pair in range(len(row["repairs"]), min(asked.pairs, there)):
                row["repairs"].append(repair(name, Path(temporary), pair, judged))
                print(name, row["repairs"][-1], flush=True)
                keep(asked, rows, page(rows))
    keep(asked, rows, page(rows))
    conclude(asked)


def page(rows: list[Row]) -> str:
    """Markdown."""
    return f"# {(__doc__ or '').splitlines()[0]}\n\n{HEAD}\n{table(rows, SAYS)}"


HEAD = """Made by `python -m benchmarks.large`: fifty layers, pictures of 128 pixels, one pair and 200 unlabelled PNGs.
"""
SAYS = """OA: accuracy; ASR: attack success; RA: triggered images that get their true class, in percent of the images
not of the target class, of 2,000 that no repair saw. Median and worst over the pairs; seconds of one core on a busy
machine. A trojan that has no row has a recipe and was not run."""


if __name__ == "__main__":
    main()
