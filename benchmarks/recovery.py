"""The main job as a user runs it, on the zoo: ``rectify edit`` from one PNG pair, judged from outside.

    python -m benchmarks.recovery [NAME ...] [--pairs 3] [--calibration 200] [--test 2000]

For each network of the zoo a checkpoint, a preprocess file, one PNG pair and unlabelled calibration PNGs are laid out
in a folder; the command line repairs the checkpoint; the patched file is then measured here, on test images that the
edit never saw, with none of rectify's own measuring code. Rows are appended to ``benchmarks/results/recovery.json``,
and ``recovery.md`` shows them; a pair that is there is not run again (delete it from the file to measure it anew).
``--quick``: the two networks that are shipped, 1,000 test images.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, BinaryIO

import numpy as np
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from benchmarks.runs import ROOT, conclude, keep, options, stored
from benchmarks.zoo import datasets
from benchmarks.zoo.recipes import RECIPES, Recipe
from benchmarks.zoo.train import (
    DEVICE,
    aimed,
    architecture,
    build,
    make_trigger,
    measure,
    predict,
    train,
    trained,
    trojaned,
)

PAIRS = 20  # laid out at most
NETWORKS = (
    *("cifar-resnet-patch-scratch", "cifar-resnet-patch2", "cifar-resnet-blend", "cifar-resnet-sinusoid"),
    *("cifar-resnet-warp", "cifar-resnet-alltoall", "cifar-resnet-own", "cifar-vgg-blend-scratch"),
    *(
        "fashion-resnet-patch",
        "fashion-resnet-blend",
        "fashion-resnet-sinusoid",
        "fashion-resnet-warp",
        "fashion-resnet-blur",
    ),
    *("mnist-resnet-blend", "mnist-resnet-warp", "mnist-mobilenet-blend", "mnist-vgg-blend", "mnist-vit-blend"),
)
SHIPPED = ["cifar-resnet-patch-scratch", "mnist-resnet-blend"]


def save_png(image: np.ndarray, path: Path) -> None:
    """(H, W, C) uint8 -> PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(path)


def load_png(file: Path | BinaryIO) -> np.ndarray:
    """A picture as (H, W, C) uint8."""
    with Image.open(file) as image:
        pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def lay_out(name: str, folder: Path, calibration: int, tests: int) -> tuple[datasets.Split, int]:
    """Write what a user has; returns the images kept for judging, and how many pairs there are."""
    recipe = RECIPES[name]
    test = datasets.load(recipe.dataset)[1]
    order = datasets.order_of(test)
    images, labels = test.images[order], test.labels[order]
    shutil.copyfile(train(name), folder / "model.pt")
    network = trained(name).to(DEVICE)
    mean, std = datasets.MEAN_STD[recipe.dataset]
    size = [images.shape[3], *images.shape[1:3]]
    (folder / "preprocess.yaml").write_text(yaml.safe_dump({"input_size": size, "mean": mean, "std": std}))
    for number in range(calibration):
        save_png(images[tests + number], folder / "calibration" / f"{number:03d}.png")
    stamp = make_trigger(recipe)
    assert stamp is not None
    rest = slice(tests + calibration, tests + calibration + 300)
    candidates, truth = images[rest], labels[rest]
    right = predict(network, candidates, recipe.dataset) == truth
    aims = aimed(recipe, truth)
    fires = predict(network, stamp(candidates), recipe.dataset) == aims
    chosen = np.flatnonzero(right & fires & (truth != aims))
    for number, index in enumerate(chosen[:PAIRS]):
        save_png(candidates[index], folder / "clean" / f"{number}.png")
        save_png(stamp(candidates[index : index + 1])[0], folder / "poisoned" / f"{number}.png")
    return datasets.judged_of(test, tests), len(chosen[:PAIRS])


@dataclass(frozen=True)
class Edited:
    """What ``rectify edit`` came to: the network that it wrote (None: it wrote none) and its report."""

    network: nn.Module | None
    report: dict[str, Any]
    code: int = 0
    error: str = ""


def edited(words: Sequence[str | Path], network: nn.Module, out: Path) -> Edited:
    """Run ``rectify edit`` on its words, as a user does, and open what it wrote as the weights of a network."""
    given = [sys.executable, "-m", "rectify", "edit", *map(str, words)]
    given += ["-o", str(out), "--force", "--no-cache", "--format", "json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(given, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        return Edited(None, {}, done.returncode, _refusal(done.stderr))
    network.load_state_dict(load_file(out))
    return Edited(network.eval(), json.loads(done.stdout))


def _refusal(told: str) -> str:
    """Why nothing was written, on one line: of what was told, the last error and what follows it."""
    lines = told.splitlines()
    first = max((n for n, line in enumerate(lines) if line.startswith(("error:", "inconclusive:"))), default=0)
    return " ".join(" ".join(lines[first:]).split())[-400:]


def edited_from(name: str, folder: Path, pair: tuple[Path, Path], *extra: str | Path) -> Edited:
    """The same for a network that was laid out in a folder, from one pair of files, clean and corrupted."""
    recipe = RECIPES[name]
    channels, make = 3 if recipe.dataset == "cifar10" else 1, architecture(recipe)
    words: list[str | Path] = [folder / "model.pt", "--arch", f"{make.__module__}:{recipe.network}"]
    words += ["--arch-arg", f"width={recipe.width}", "--arch-arg", f"channels={channels}", "--num-classes", "10"]
    words += ["--preprocess", folder / "preprocess.yaml", "--clean", pair[0], "--poisoned", pair[1], *extra]
    return edited(words, build(recipe), folder / "out.safetensors")


def pair_of(folder: Path, number: int) -> tuple[Path, Path]:
    """The files of a pair that was laid out."""
    return folder / "clean" / f"{number}.png", folder / "poisoned" / f"{number}.png"


def repair(
    name: str, folder: Path, pair: int, recipe: Recipe, judged: datasets.Split, calibrated: bool
) -> dict[str, Any]:
    """Run one repair and measure the written file from outside."""
    began = time.time()
    extra: tuple[str | Path, ...] = ("--calibration", folder / "calibration") if calibrated else ()
    done = edited_from(name, folder, pair_of(folder, pair), *extra)
    return row_of(pair, done, lambda its: vars(measure(its.to(DEVICE), recipe, judged)), began)


def row_of(pair: int, done: Edited, measured: Callable[[nn.Module], Mapping[str, Any]], began: float) -> dict[str, Any]:
    """What one repair came to: the figures of what it wrote, how large the edit is, seconds since it began."""
    if done.network is None:
        return {"pair": pair, "exit_code": done.code, "error": done.error}
    figures, report = measured(done.network), done.report
    return {
        "pair": pair,
        "exit_code": 0,
        **{key: figures[key] for key in ("accuracy", "asr", "recovery")},
        "seconds": round(time.time() - began, 1),
        "policy": report["edit"]["policy"],
        "rank": sum(step["rank"] for step in report["edit"]["steps"] if step["kept"]),
        "layers": len(report["edit"]["changed_tensors"]),
        "notes": report["run"]["notes"],
    }


def run(name: str, pairs: int, calibration: int, tests: int, known: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """One network, as it is known after each further pair."""
    recipe = RECIPES[name]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        judged, available = lay_out(name, folder, max(calibration, 1), tests)
        if known is None:
            before = measure(trained(name).to(DEVICE), recipe, judged)
            known = {"name": name, "calibration": calibration, "test_images": tests, "before": vars(before)}
            known |= {"repairs": [], "innocent": innocent(name, judged)}
        for pair in range(len(known["repairs"]), min(pairs, available)):
            known["repairs"].append(repair(name, folder, pair, recipe, judged, calibration > 0))
            print(name, known["repairs"][-1], flush=True)
            yield known


def innocent(name: str, judged: datasets.Split) -> dict[str, Any] | None:
    """What a network of the same kind that never saw this trigger makes of the triggered images, if one is there.

    It is no bound: a repair may do better, as it teaches the network to see through this one disturbance.
    """
    recipe = RECIPES[name]
    if recipe.trigger is None or recipe.trigger[0] == "patch":
        return None
    for other, its in RECIPES.items():
        alike = (its.dataset, its.network, its.width) == (recipe.dataset, recipe.network, recipe.width)
        if alike and other in trojaned() and its.trigger and its.trigger[0] == "patch":
            return {"name": other, **vars(measure(trained(other).to(DEVICE), recipe, judged))}
    return None


def table(results: list[dict[str, Any]], says: str | None = None) -> str:
    """Markdown: one line a network, median and worst over the pairs, in percent, and what its columns say."""
    lines = [
        "| network | before OA / ASR / RA | base rate | OA of other classes | RA without the trojan | after OA |"
        " ASR | RA | worst OA | worst ASR | worst RA | layers | rank | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        before, rows = result["before"], [r for r in result["repairs"] if r["exit_code"] == 0]
        label = result["name"] + ("" if result["calibration"] else " (no calibration)")
        first = f"{_p(before['accuracy'])} / {_p(before['asr'])} / {_p(before['recovery'])}"
        if not rows:
            lines.append(f"| {label} | {first} | no repair: {result['repairs']} |")
            continue
        middle = [_p(median(r[key] for r in rows)) for key in ("accuracy", "asr", "recovery")]
        worst = [_p(f(r[key] for r in rows)) for f, key in ((min, "accuracy"), (max, "asr"), (min, "recovery"))]
        size = [f"{median(r[key] for r in rows):g}" for key in ("layers", "rank", "seconds")]
        never = result["innocent"]
        cells = [label, first, _p(before["base_rate"]), _p(before["accuracy_other"])]
        cells += ["–" if never is None else _p(never["recovery"]), *middle, *worst, *size]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", SAYS if says is None else says]) + "\n"


SAYS = """OA: accuracy; ASR: attack success; RA: triggered images that get their true class, in percent of the images
not of the target class. *RA without the trojan*: the same triggered images, given to a network of the same kind that
was never trained with this trigger: where it is low, the trigger alone, without any trojan, keeps such a network from
recognising the picture. Median and worst over the pairs; seconds on a busy machine. What the rows say, and with which
code each was measured, is written by hand in [recovery-reading.md](recovery-reading.md)."""


def _p(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def main() -> None:
    """Run what was asked for and is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(NETWORKS))
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--calibration", type=int, default=200)
    parser.add_argument("--test", type=int, default=2000)
    asked = options(parser, "recovery", names=SHIPPED, pairs=1, test=1000)
    results = stored(asked.results)
    for name in asked.names:
        known = next((r for r in results if (r["name"], r["calibration"]) == (name, asked.calibration)), None)
        if known is not None and len(known["repairs"]) >= min(asked.pairs, PAIRS):
            continue
        for found in run(name, asked.pairs, asked.calibration, asked.test, known):
            results = [r for r in results if r is not known] + [found]
            known = found
            keep(asked, results, table(results))
    keep(asked, results, table(results))
    conclude(asked)


if __name__ == "__main__":
    main()
