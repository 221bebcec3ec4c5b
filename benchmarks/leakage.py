"""Feature leakage on BlockMNIST: how much attribution lies on a block that says nothing, before and after a repair.

    python -m benchmarks.leakage [--seeds 0 1 2] [--pairs 1] [--tests 2000]

BlockMNIST (Shah et al. 2021): a digit and a null block, a square that is the same in all images, one above the other in
random order. Its networks attribute to the null block. Per seed one ResNet-18 of width 16 is trained for an epoch and
repaired through the command line with ``--fault leak`` from one pair, the image as it is and with its null block
blacked out, and 200 unlabelled calibration images. Measured from outside, on test images that the repair has not seen:
accuracy, accuracy where the null block is blacked out, and the leakage of integrated gradients and of the gradient, as
share of the attribution on the null block and as ratio of densities (of the first 400). Results:
``benchmarks/results/leakage.{json,md}``; a row that is there is not run again. ``--quick``: one seed, 1,000 test
images.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from benchmarks.leakage_rivals import RIVALS, SETTINGS, Seen
from benchmarks.recovery import edited, save_png
from benchmarks.runs import conclude, keep, options, stored
from benchmarks.zoo import datasets
from benchmarks.zoo.train import ZOO, predict
from fixtures.networks import resnet18
from rectify.attribution.attribution import Settings
from rectify.attribution.methods import attribute
from rectify.attribution.score import Score
from rectify.evaluation.leakage import leakage

SIDE, EXPLAINED, CALIBRATION, BATCH = 28, 400, 200, 128
LABELLED = 0.05  # share of the training set that those who need labels are given
MEAN, STD = datasets.MEAN_STD["mnist"]
REPAIRS: dict[str, tuple[str, ...]] = {
    "static rectifying, from the pair": ("--mode", "static"),
    "dynamic, closed forms from the pair": ("--refine", "off"),
    "ours": (),
}
KEYS = ("accuracy", "accuracy_without", "ig", "ig_density", "gradient", "gradient_density")
Row = dict[str, Any]


def null_block() -> np.ndarray:
    """(28, 28, 1) uint8: a white frame on black."""
    block = np.zeros((SIDE, SIDE, 1), np.uint8)
    block[6:22, 6:22], block[9:19, 9:19] = 255, 0
    return block


def blocks(split: datasets.Split, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, 56, 28, 1) images, and for each whether the digit is on top."""
    top = np.random.default_rng(seed).random(len(split.labels)) < 0.5
    null, first = np.broadcast_to(null_block(), split.images.shape), top[:, None, None, None]
    upper, lower = np.where(first, split.images, null), np.where(first, null, split.images)
    return np.concatenate((upper, lower), 1), top


def blacked(images: np.ndarray, top: np.ndarray) -> np.ndarray:
    """The images without their null block."""
    out = images.copy()
    out[top, SIDE:] = 0
    out[~top, :SIDE] = 0
    return out


def normalised(images: np.ndarray) -> Tensor:
    """(N, H, W, 1) uint8 -> (N, 1, H, W) float32."""
    planes = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
    return (planes - MEAN[0]) / STD[0]


BOUNDS = (normalised(np.full((1, 1, 1, 1), 0, np.uint8))[0], normalised(np.full((1, 1, 1, 1), 255, np.uint8))[0])


def network(seed: int) -> nn.Module:
    """The trained network of a seed; trained for an epoch if it is not there yet."""
    model, file = resnet18(num_classes=10, width=16, channels=1), ZOO / f"block-mnist-{seed}.pt"
    if not file.exists():
        torch.manual_seed(seed)
        model = resnet18(num_classes=10, width=16, channels=1)
        _train(model, seed)
        ZOO.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), file)
    model.load_state_dict(torch.load(file, weights_only=True))
    return model.eval().requires_grad_(False)


def _train(model: nn.Module, seed: int) -> None:
    split = datasets.load("mnist")[0]
    images, labels = blocks(split, seed)[0], torch.from_numpy(split.labels)
    optimiser = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = len(labels) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.05, total_steps=steps, pct_start=0.2)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    for batch in order[: steps * BATCH].split(BATCH):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(normalised(images[batch.numpy()]))
        optimiser.zero_grad(set_to_none=True)
        F.cross_entropy(logits.float(), labels[batch]).backward()
        optimiser.step()
        schedule.step()


def measure(model: nn.Module, images: np.ndarray, labels: np.ndarray, top: np.ndarray) -> dict[str, float]:
    """Accuracies, and leakage; shares in [0, 1], densities as ratios."""
    found = {
        "accuracy": float((predict(model, images, "mnist") == labels).mean()),
        "accuracy_without": float((predict(model, blacked(images, top), "mnist") == labels).mean()),
    }
    x, null = normalised(images[:EXPLAINED]), torch.zeros(min(EXPLAINED, len(images)), 2 * SIDE, SIDE, dtype=torch.bool)
    above = torch.from_numpy(top[:EXPLAINED])
    null[above, SIDE:], null[~above, :SIDE] = True, True
    score = Score(model, "logit")
    settings = Settings(steps=32, bounds=BOUNDS)
    for method in ("ig", "gradient"):
        share, density = leakage(attribute(method, score, x, score.predictions(x), settings).heat(), null)
        found[method], found[f"{method}_density"] = float(share.values.mean()), float(density.values.median())
    return found


def rows(seed: int, pairs: int, tests: int, made: list[Row], rivals: Sequence[str], kept: Callable[[], None]) -> None:
    """Add the rows of a seed that are not there yet, and keep each as it comes."""
    test = datasets.load("mnist")[1]
    order = datasets.order_of(test)
    images, top = blocks(datasets.Split(test.images[order], test.labels[order]), 100 + seed)
    labels, judged = test.labels[order], slice(0, tests)

    def there(method: str, pair: int | None) -> bool:
        return any((row["seed"], row["method"], row["pair"]) == (seed, method, pair) for row in made)

    def add(method: str, pair: int | None, model: nn.Module, **more: Any) -> None:
        found = measure(model, images[judged], labels[judged], top[judged])
        made.append({"seed": seed, "method": method, "pair": pair, **found, **more})
        print(made[-1], flush=True)
        kept()

    if not there("untouched", None):
        add("untouched", None, network(seed))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        torch.save(network(seed).state_dict(), folder / "model.pt")
        settings = {"input_size": [1, 2 * SIDE, SIDE], "mean": MEAN, "std": STD}
        (folder / "preprocess.yaml").write_text(yaml.safe_dump(settings))
        for number in range(CALIBRATION):
            save_png(images[tests + number], folder / "calibration" / f"{number:03d}.png")
        for pair in range(pairs):
            one = slice(tests + CALIBRATION + pair, tests + CALIBRATION + pair + 1)
            save_png(images[one][0], folder / "whole.png")
            save_png(blacked(images[one], top[one])[0], folder / "without.png")
            for method, extra in REPAIRS.items():
                if not there(method, pair):
                    began = time.time()
                    done = edited(_words(folder, extra), resnet18(10, 16, 1), folder / "out.safetensors")
                    assert done.network is not None, done.error
                    told = {"policy": done.report["edit"]["policy"], "notes": done.report["run"]["notes"]}
                    add(method, pair, done.network, seconds=round(time.time() - began, 1), **told)
            for method in rivals:
                if not there(method, pair):
                    began = time.time()
                    seen = labelled(seed, images[one], top[one], images[tests : tests + CALIBRATION], labels[one])
                    settings, repaired = RIVALS[method](network(seed), seen)
                    add(method, pair, repaired, seconds=round(time.time() - began, 1), policy=settings)


def labelled(seed: int, pair: np.ndarray, top: np.ndarray, calibration: np.ndarray, label: np.ndarray) -> Seen:
    """What the rivals may see: the pair and the calibration images of ours, and 5 % of the training set."""
    split = datasets.load("mnist")[0]
    order = np.random.default_rng(200 + seed).permutation(len(split.labels))[: int(LABELLED * len(split.labels))]
    whole, above = blocks(datasets.Split(split.images[order], split.labels[order]), 200 + seed)
    return Seen(
        torch.cat((normalised(pair), normalised(blacked(pair, top)))),
        int(label[0]),
        normalised(calibration),
        normalised(whole),
        normalised(blacked(whole, above)),
        torch.from_numpy(split.labels[order]).long(),
        BOUNDS,
        seed,
    )


def _words(folder: Path, extra: tuple[str, ...]) -> list[str | Path]:
    words: list[str | Path] = [folder / "model.pt", "--arch", "fixtures.networks:resnet18", "--fault", "leak"]
    words += ["--arch-arg", "width=16", "--arch-arg", "channels=1", "--num-classes", "10"]
    words += ["--preprocess", folder / "preprocess.yaml", "--calibration", folder / "calibration"]
    return [*words, "--clean", folder / "without.png", "--poisoned", folder / "whole.png", *extra]


def table(made: list[Row], tests: int) -> str:
    """Markdown: median over seeds and pairs, worst in brackets."""
    lines = [
        "# Feature leakage on BlockMNIST\n",
        f"Made by `python -m benchmarks.leakage`: {tests:,} test images, leakage of the first {EXPLAINED}. Median over",
        "seeds and pairs, the worst in brackets. *Share*: of the attribution, in percent, that lies on the null block,",
        "which is half of the image. *Density*: attribution a pixel there, relative to a pixel of the digit's half.\n",
        "| method | accuracy | block blacked out | IG: share | density | gradient: share | density | s | rows |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for method in ("untouched", *RIVALS, *REPAIRS):
        of = [row for row in made if row["method"] == method]
        if not of:
            continue
        cells = []
        for key in KEYS:
            values, worst = [row[key] for row in of], min if key.startswith("accuracy") else max
            scale, digits = (1, 2) if key.endswith("density") else (100, 2 if key.startswith("accuracy") else 1)
            cells.append(f"{scale * median(values):.{digits}f} ({scale * worst(values):.{digits}f})")
        seconds = f"{median(row.get('seconds', 0) for row in of):.0f}"
        lines.append("| " + " | ".join([method, *cells, seconds, str(len(of))]) + " |")
    return "\n".join([*lines, "", SETTINGS])


def main() -> None:
    """Run what is not there yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--tests", type=int, default=2000)
    parser.add_argument("--rivals", nargs="*", choices=RIVALS, default=list(RIVALS), metavar="NAME")
    asked = options(parser, "leakage", seeds=[0], tests=1000, rivals=list(RIVALS)[:1])
    made = stored(asked.results)
    for seed in asked.seeds:
        rows(seed, asked.pairs, asked.tests, made, asked.rivals, lambda: keep(asked, made, table(made, asked.tests)))
    keep(asked, made, table(made, asked.tests))
    conclude(asked)


if __name__ == "__main__":
    main()
