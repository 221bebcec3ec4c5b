"""Does the key similarity tell images with the fault from clean ones? AUROC of the zoo, beside simple rivals.

    python -m benchmarks.detector [NAME ...] [--pairs 1] [--test 500] [--dirty 0.05] [--quick]

For each trojaned network of the zoo and one pair: ``rectify localize --scan`` as a library, on test images that nothing
was fitted on, clean ones and others (not of the target class) with the real trigger. Against all clean images, and
against those of the target class alone, which the network gives the same class as the triggered ones: the hard case.
The rivals score the same images in the same run. ``--dirty`` gives a share of the calibration images the trigger.
Results: ``benchmarks/results/detector.{json,md}``; a row that is there is not run again. ``--quick``: 100
images of the two networks that are shipped.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.opened import opened
from benchmarks.recovery import SHIPPED, lay_out, load_png, save_png
from benchmarks.runs import conclude, keep, options, stored
from benchmarks.zoo import datasets
from benchmarks.zoo.recipes import RECIPES
from benchmarks.zoo.train import make_trigger, normalise
from rectify.editing.casebook import Case
from rectify.editing.detector import Detector, direction_of, fit_detector, mean_key, pool
from rectify.editing.judge import probabilities
from rectify.editing.localize import localize, second_moments
from rectify.editing.repair import affordable_trials, trials
from rectify.editing.workshop import Workshop
from rectify.evaluation.ranks import auroc
from rectify.model.record import record
from rectify.model.trace import Site, survey

NETWORKS = (
    *("cifar-resnet-patch-scratch", "cifar-resnet-blend", "cifar-resnet-sinusoid", "fashion-resnet-patch"),
    *("fashion-resnet-blend", "fashion-resnet-sinusoid", "fashion-resnet-warp", "fashion-resnet-cue"),
    *("mnist-resnet-patch", "mnist-resnet-blend", "mnist-resnet-sinusoid", "mnist-resnet-warp", "mnist-vit-blend"),
)
CALIBRATION, TESTS = 200, 2000
OVERLAYS, STRIPPED = 32, 200  # images that STRIP lays over each, and how many of a side it scores: it is slow
METHODS = {
    "ours": "key similarity, as `--scan`",
    "pair_alone": "the same with k* of the pair alone",
    "no_moment": "the same without C^-1: cosine of k* and the key",
    "pixels": "inner product with the pair's difference in pixels",
    "confidence": "softmax of the target class",
    "strip": "STRIP: entropy under 32 overlays, on the first 200 images of a side",
}
Row = dict[str, Any]


@dataclass(frozen=True)
class Scored:
    """The images of one row, each (N, H, W, C) uint8.

    ``triggered`` are of other classes; ``clean`` are of all; ``hard`` are clean ones of the target class; ``moved``
    have a patch in the opposite corner, None where the trigger is no patch.
    """

    triggered: np.ndarray
    clean: np.ndarray
    hard: np.ndarray
    moved: np.ndarray | None


def draw(name: str, judged: datasets.Split, tests: int) -> Scored:
    """The first test images of each kind."""
    recipe, stamp = RECIPES[name], make_trigger(RECIPES[name])
    assert stamp is not None
    own = judged.labels == recipe.target
    others = judged.images[~own][-tests:]  # not the twins of the clean ones, as far as there are others
    moved = None
    if recipe.trigger and recipe.trigger[0] == "patch":
        moved = make_trigger(replace(recipe, trigger=("patch", {**recipe.trigger[1], "corner": "tl"})))
    return Scored(
        stamp(others), judged.images[:tests], judged.images[own][:tests], None if moved is None else moved(others)
    )


# ---------------------------------------------------------------- scores: each (N,), larger is more suspicious


def key_scores(network: nn.Module, site: Site, direction: Tensor, pooling: str, x: Tensor) -> np.ndarray:
    """Pooled similarities of a direction (G, d)."""
    layer, found = site.layer, []
    for start in range(0, len(x), 250):
        batch = x[start : start + 250]
        inputs = record(network, batch, inputs=[layer]).inputs[layer.name]
        found.append(pool(layer.similarity(direction, inputs, len(batch)), pooling))
    return torch.cat(found).double().numpy()


def cosine_scores(network: nn.Module, site: Site, star: Tensor, pooling: str, x: Tensor) -> np.ndarray:
    """Pooled cosines of k* (G, d) with every key, by the keys themselves."""
    layer, found = site.layer, []
    flat = F.normalize(star.float().flatten(), dim=0)
    for start in range(0, len(x), 50):
        batch = x[start : start + 50]
        inputs = record(network, batch, inputs=[layer]).inputs[layer.name]
        keys = F.normalize(layer.keys(inputs, len(batch)).flatten(1, 2), dim=1)
        found.append(pool(torch.einsum("d,ndp->np", flat, keys), pooling))
    return torch.cat(found).double().numpy()


def strip_scores(network: nn.Module, images: np.ndarray, overlays: np.ndarray, dataset: str) -> np.ndarray:
    """Less the mean entropy under overlays, sums of pixels clipped (Gao et al. 2019, arXiv 1902.06531)."""
    found = []
    for image in images:
        mixed = np.clip(image[None].astype(np.int64) + overlays, 0, 255).astype(np.uint8)
        shares = probabilities(network, normalise(mixed, dataset)).double()
        found.append(float((shares * shares.clamp_min(1e-300).log()).sum(1).mean()))
    return np.array(found)


# ---------------------------------------------------------------- one row


def prepare(name: str, pair: int, dirty: float, folder: Path) -> tuple[nn.Module, Case, Site, datasets.Split]:
    """What ``rectify localize`` does before it scans: the case, and the layer that ranks first."""
    dataset = RECIPES[name].dataset
    judged, _ = lay_out(name, folder, CALIBRATION, TESTS)
    if dirty:
        paths, stamp = sorted((folder / "calibration").glob("*.png")), make_trigger(RECIPES[name])
        assert stamp is not None
        for path in paths[: round(dirty * len(paths))]:
            save_png(stamp(load_png(path)[None])[0], path)
    its = opened(name, folder, pair)
    network, case = its.network, its.case(dataset)
    sites = survey(network, its.clean)
    ranked = [
        s for s in localize(network, sites, its.clean, its.corrupted, its.fault, its.reference).scores if s.candidate
    ]
    ranked = ranked[: affordable_trials(case, sites)] or ranked[:1]
    ranked = sorted(trials(Workshop(network, case), ranked, 1), key=lambda s: s.trial.loss if s.trial else 0.0)
    return network, case, ranked[0].site, judged


def run(name: str, pair: int, tests: int, dirty: float) -> Row:
    """All methods on one network and pair."""
    recipe, began = RECIPES[name], time.time()
    with tempfile.TemporaryDirectory() as temporary:
        network, case, site, judged = prepare(name, pair, dirty, Path(temporary))
    detector = fit_detector(network, site, case)
    chosen = draw(name, judged, tests)
    sides = {side: images for side, images in vars(chosen).items() if images is not None}
    scores: dict[str, dict[str, np.ndarray]] = {method: {} for method in METHODS}
    for side, images in sides.items():
        x = normalise(images, recipe.dataset).contiguous()
        for method, found in scored(network, site, case, detector, x, recipe.target).items():
            scores[method][side] = found
        scores["strip"][side] = strip_scores(
            network, images[:STRIPPED], overlays_of(case, recipe.dataset), recipe.dataset
        )
    ours = {side: found - detector.offset for side, found in scores["ours"].items()}
    predicted = probabilities(network, normalise(chosen.triggered, recipe.dataset)).argmax(1).numpy()
    pairs = {"auroc": ("triggered", "clean"), "auroc_hard": ("triggered", "hard"), "auroc_moved": ("moved", "hard")}
    areas = {
        key: {
            method: auroc(*(torch.from_numpy(found[side]) for side in (one, other))) for method, found in scores.items()
        }
        for key, (one, other) in pairs.items()
        if one in sides
    }
    return {
        "name": name, "pair": pair, "dirty": dirty, "images": {side: len(images) for side, images in sides.items()},
        "layer": site.name, "pooling": detector.pooling, "carried": detector.fired, "threshold": detector.threshold,
        "expected": {"false_alarms": detector.false_alarms, "misses": detector.misses},
        "found": {side: float((found > detector.threshold).mean()) for side, found in ours.items()},
        "fires": float((predicted == recipe.target).mean()),
        **areas,
        "seconds": round(time.time() - began, 1),
    }  # fmt: skip


def scored(
    network: nn.Module, site: Site, case: Case, detector: Detector, x: Tensor, target: int
) -> dict[str, np.ndarray]:
    """The scores of every method but STRIP on images (N, C, H, W)."""
    clean, corrupted = case.teacher.clean[-1:], case.corrupted[-1:]
    star = mean_key(network, site, corrupted) - mean_key(network, site, clean)
    moment = second_moments(network, [site], case.teacher.clean[case.fit])[site.name]
    difference = (corrupted - clean)[0]
    return {
        "ours": key_scores(network, site, detector.direction, detector.pooling, x),
        "pair_alone": key_scores(network, site, direction_of(star, moment), detector.pooling, x),
        "no_moment": cosine_scores(network, site, star, detector.pooling, x),
        "pixels": (x * difference).sum((1, 2, 3)).double().numpy(),
        "confidence": probabilities(network, x)[:, target].double().numpy(),
    }


def overlays_of(case: Case, dataset: str) -> np.ndarray:
    """The first calibration images in pixels, (32, H, W, C) int64."""
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in datasets.MEAN_STD[dataset])
    pixels = (case.teacher.clean[:OVERLAYS] * std + mean) * 255
    return pixels.round().long().permute(0, 2, 3, 1).numpy()


# ---------------------------------------------------------------- the page


def markdown(rows: list[Row]) -> str:
    """AUROC of every method, then where suspicion begins and what lies above."""
    lines = [f"# {(__doc__ or '').splitlines()[0]}\n", HEAD]
    for key, title in TITLES.items():
        lines += [f"## {title}\n", "| network | pair | dirty | " + " | ".join(METHODS) + " |"]
        lines.append("|---" * (3 + len(METHODS)) + "|")
        told = [row for row in rows if key in row]
        lines += [f"{_head(row)} " + " | ".join(_p(row[key][m]) for m in METHODS) + " |" for row in told]
        clean = [row for row in told if not row["dirty"]]
        for label, over in (("median", median), ("worst", min)):
            cells = [_p(over(row[key][m] for row in clean)) if clean else "–" for m in METHODS]
            lines.append(f"| **{label}**, clean | | | " + " | ".join(cells) + " |")
        lines.append("")
    lines += [
        "## Where suspicion begins\n",
        THRESHOLD,
        "| network | pair | dirty | layer | pooling | carried |" + SHARES,
    ]
    lines.append("|---" * 11 + "|")
    for row in rows:
        expected, found = row["expected"], row["found"]
        shares = [found["triggered"], row["fires"], expected["false_alarms"], found["clean"], found["hard"]]
        cells = [row["layer"], row["pooling"], str(row["carried"]), *(_p(share) for share in shares)]
        lines.append(f"{_head(row)} " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


TITLES = {
    "auroc": "Against all clean images",
    "auroc_hard": "Against clean images of the target class",
    "auroc_moved": "The patch in another corner, against clean images of the target class",
}
HEAD = """Made by `python -m benchmarks.detector`; AUROC in percent, ties counted half. One pair and 200 unlabelled
calibration images; 500 clean test images of all classes, the (up to 500) clean test images of the target class, 500
test images of other classes with the trigger. *dirty*: share of the calibration images with the trigger. What the
figures say is written by hand: [detector-reading.md](detector-reading.md). The scores:
""" + "\n".join(["", *(f"- `{name}`: {words}" for name, words in METHODS.items()), ""])
THRESHOLD = """*carried*: calibration images with the fault carried over that the threshold was set by. *found*:
triggered images above it; *fires*: triggered images that the network gives the target class. *expected*: the share of
clean images above it that the report foretells, then the share that there is, and that of the target class.
"""
SHARES = " found | fires | expected | clean above | of the target class |"


def _head(row: Row) -> str:
    return f"| {row['name']} | {row['pair']} | {row['dirty']:.0%} |"


def _p(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def main() -> None:
    """Run what was asked for and is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(NETWORKS))
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--test", type=int, default=500)
    parser.add_argument("--dirty", type=float, default=0.0)
    asked = options(parser, "detector", names=SHIPPED, test=100)
    rows = stored(asked.results)
    for pair in range(asked.pairs):
        for name in asked.names:
            if any((r["name"], r["pair"], r["dirty"]) == (name, pair, asked.dirty) for r in rows):
                continue
            rows.append(run(name, pair, asked.test, asked.dirty))
            print(json.dumps(rows[-1]), flush=True)
            keep(asked, rows, markdown(rows))
    keep(asked, rows, markdown(rows))
    conclude(asked)


if __name__ == "__main__":
    main()
