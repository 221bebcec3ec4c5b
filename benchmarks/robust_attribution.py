"""The table of robust attribution training on MNIST and Fashion-MNIST, and what an epoch of each objective costs.

    python -m benchmarks.robust_attribution [--quick] [--sets mnist ...] [--seeds 0 1] [--cache DIR]

Trains NATURAL, Madry, IG-NORM and IG-SUM-NORM by the ``-quick`` presets, attacks each, and writes
``benchmarks/results/robust-attribution.json`` and ``.md`` with the published figures beside ours. Rows that the JSON
has already are kept, whatever is asked for, and new seeds join them. A run that is killed goes on where it was: states
and finished rows lie in ``cache/robust``. What the figures say is written by hand: ``robust-attribution-reading.md``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.runs import ROOT, conclude, keep, options
from benchmarks.seeds import merged, spread
from benchmarks.zoo.datasets import cache_dir
from rectify import _Silence
from rectify.evaluation.measure import Measure
from rectify.files.preprocess import Preprocess
from rectify.training import measure
from rectify.training.data import Labelled, read_packaged
from rectify.training.loop import Training, accuracy_of, make_objective, make_optimiser, train
from rectify.training.networks import small_cnn
from rectify.training.presets import Preset, preset
from rectify.training.state import Keeper, generator

OBJECTIVES = {"natural": "NATURAL", "madry": "Madry", "ig-norm": "IG-NORM", "ig-sum-norm": "IG-SUM-NORM"}
LABELS, MAPS = 1_000, 100  # images whose label, and whose map, is attacked
FIGURES = ("natural_accuracy", "adversarial_accuracy", "topk_intersection", "kendall")
# Chen et al. 2019: natural accuracy, adversarial accuracy, top-k intersection (fractions), Kendall's tau.
PUBLISHED: dict[str, dict[str, tuple[float | None, ...]]] = {
    "mnist": {
        "natural": (0.9917, 0.0, 0.466, 0.176),
        "madry": (None, None, None, None),
        "ig-norm": (0.9874, None, None, None),
        "ig-sum-norm": (0.9834, 0.882, 0.725, 0.311),
    },
    "fashion-mnist": {
        "natural": (0.9086, 0.0, 0.390, 0.461),
        "madry": (None, None, None, None),
        "ig-norm": (0.8513, None, None, None),
        "ig-sum-norm": (0.8544, 0.703, 0.721, 0.675),
    },
}


class Lines(_Silence):
    """Progress as lines of a log."""

    def say(self, line: str) -> None:
        print("   ", line, flush=True)


def row(name: str, objective: str, seed: int, quick: bool, cache: Path) -> dict[str, Any]:
    """One network: trained (or gone on with), attacked, and kept."""
    stem = f"{name}-{objective}-{seed}{'-quick' if quick else ''}"
    done = cache / f"{stem}.json"
    if done.exists():
        found: dict[str, Any] = json.loads(done.read_text())
        return found
    made = preset(f"{name}-quick", objective)
    plan = replace(made.plan, seed=seed)
    if quick:
        plan = replace(plan, epochs=2, epoch_size=1_000, schedule=((0, 2e-3),))
    preprocess = Preprocess.from_dict(made.preprocess, name)
    data, val = read_packaged(name, preprocess, cache_dir())
    torch.manual_seed(seed)
    network = small_cnn(num_classes=10, **made.arch_args)
    keeper = Keeper(cache / f"{stem}.resume", asdict(plan) | {"schedule": list(map(list, plan.schedule))})
    run = Training(network, plan, data, preprocess.bounds(), torch.device("cpu"), val, keeper)
    began = time.process_time()
    history = train(run, Lines(), resume=keeper.there())
    figures = judge(run, made, val, quick)
    found = {"set": name, "objective": objective, "seed": seed, **figures, "history": history, "plan": asdict(plan)}
    found["cpu_seconds"] = round(time.process_time() - began, 1)
    torch.save(network.state_dict(), cache / f"{stem}.pt")
    done.write_text(json.dumps(found, indent=1) + "\n")
    keeper.drop()
    return found


def judge(run: Training, made: Preset, val: Labelled, quick: bool) -> dict[str, Any]:
    """Natural accuracy on the whole test set, both attacks on samples of it."""
    labels, maps = (100, 10) if quick else (LABELS, MAPS)
    trial = measure.Trial(run.plan.eps, top=made.top, attack_top=made.attack_top, map_steps=10 if quick else 50)
    x, y = val.sample(labels, 0)
    moved = measure.attack_labels(run.network, x, y, run.bounds, trial)
    x, y = val.sample(maps, 1)
    robust = measure.attack(run.network, x, y, run.bounds, trial, _Silence())
    parts = {"adversarial_accuracy": moved, "topk_intersection": robust.top, "kendall": robust.kendall}
    figures: dict[str, Any] = {"natural_accuracy": accuracy_of(run.network, val, run.device)}
    for key, part in parts.items():
        figures[key] = None if part is None else part.value
        figures[f"{key}_error"] = None if part is None else standard_error(part)
    figures["ties"] = None if robust.ties is None else robust.ties.value
    figures["attacks"] = {"label": dict(moved.settings), "map": (robust.settings or {}).get("map")}
    return figures


def standard_error(part: Measure) -> float:
    """Of the mean over the images."""
    return part.spread / max(1, len(part.values) - 1) ** 0.5


# ---------------------------------------------------------------------------------------------------------- speed


# Forward-backward passes an image and step of the quick plan: one first-order pass is 1, one that is differentiated
# twice (forward, backward, and both again) is 2. This is the floor that the ratio of times is held against.
def passes(objective: str, steps: int, points: int, coarse: int) -> float:
    """How many forward-backward passes a step of an objective takes."""
    second = 2.0
    return {
        "natural": 1.0,
        "madry": steps + 1.0,
        "input-gradient": 1.0 + second,
        "ig-norm": steps * coarse * second + points * second + 1.0,
        "ig-sum-norm": steps * coarse * second + points * second + 1.0,
    }[objective]


def speed(quick: bool) -> list[dict[str, Any]]:
    """Epochs a minute (60,000 images) of every objective in process time, the objectives taking turns."""
    name = "mnist"
    objectives = ("natural", "madry", "input-gradient", "ig-norm", "ig-sum-norm")
    data, _ = read_packaged(name, Preprocess.from_dict(preset(name).preprocess, name), cache_dir())
    times: dict[str, list[float]] = {objective: [] for objective in objectives}
    for turn in range(2 if quick else 6):
        for objective in objectives:
            times[objective].append(_time(objective, data, turn, 1 if quick else 3))
    base = min(times["natural"])
    plan = preset(f"{name}-quick").plan
    rows = []
    for objective in objectives:
        floor = passes(objective, plan.attack_steps, plan.path_points, plan.attack_points)
        best, middle = min(times[objective]), sorted(times[objective])[len(times[objective]) // 2]
        minute = {"epochs_a_minute": 60 / (best * 60_000), "slower_than_natural": best / base, "passes": floor}
        rows.append({"objective": objective, "ms_an_image": 1e3 * best, "median_ms": 1e3 * middle, **minute})
    return rows


def _time(objective: str, data: Labelled, turn: int, repeat: int) -> float:
    """Process seconds an image of full training steps, the first left out."""
    made = preset("mnist-quick", objective)
    torch.manual_seed(0)
    network = small_cnn(num_classes=10, **made.arch_args).train()
    bounds = Preprocess.from_dict(made.preprocess, "mnist").bounds()
    run = Training(network, made.plan, data, bounds, torch.device("cpu"))
    loss, optimiser = make_objective(run, None), make_optimiser(network, made.plan)
    x, y = data.take(torch.arange(50) + 50 * turn)
    repeat *= 20 if objective == "natural" else 5 if objective in ("madry", "input-gradient") else 1
    for step in range(repeat + 1):
        if step == 1:
            began = time.process_time()
        optimiser.zero_grad()
        loss(x, y, made.plan.eps, generator(0, step)).backward()
        optimiser.step()
    return (time.process_time() - began) / repeat / len(x)


# --------------------------------------------------------------------------------------------------------- tables


def markdown(rows: list[dict[str, Any]], speeds: list[dict[str, Any]]) -> str:
    """The tables as a page."""
    text = [HEAD]
    for name in PUBLISHED:
        ours = [r for r in rows if r["set"] == name]
        if ours:
            text += [f"## {name}\n", *_table(name, ours), ""]
    text += [
        READING,
        "## Speed\n",
        SPEED,
        "| objective | ms an image | epochs a minute | times natural | passes (floor) |",
    ]
    text.append("|---|---|---|---|---|")
    for s in speeds:
        text.append(
            f"| {s['objective']} | {s['ms_an_image']:.2f} | {s['epochs_a_minute']:.3f} "
            f"| {s['slower_than_natural']:.1f} | {s['passes']:.0f} |"
        )
    return "\n".join(text) + "\n"


def _table(name: str, ours: list[dict[str, Any]]) -> Iterable[str]:
    yield "| training | natural accuracy | adversarial accuracy | top-k intersection | Kendall | seeds |"
    yield "|---|---|---|---|---|---|"
    for objective, words in OBJECTIVES.items():
        runs = [r for r in ours if r["objective"] == objective]
        if not runs:
            continue
        cells = [_cell(runs, key, PUBLISHED[name][objective][i]) for i, key in enumerate(FIGURES)]
        yield f"| {words} | {' | '.join(cells)} | {len(runs)} |"


def _cell(runs: list[dict[str, Any]], key: str, published: float | None) -> str:
    known = [r[key] for r in runs if r[key] is not None]
    if not known:
        return "–"
    scale, digits = (1.0, 3) if key == "kendall" else (100.0, 1)
    shown = spread(known, scale, digits)
    error = runs[0].get(f"{key}_error")
    if len(known) == 1 and error is not None:
        shown += f" ± {scale * error:.{digits}f}"
    return shown + ("" if published is None else f" ({scale * published:.{digits}f})")


HEAD = f"""# Robust attribution training, measured

`python -m benchmarks.robust_attribution`, the `-quick` presets: the paper's network at half its width, 800 steps of
50 images (40,000 images; the paper: 5,000,000), Adam 2e-3 then 5e-4, ten path points with two in the attack (the
paper: 50 and 10), PGD of 7 steps over the paper's ball (MNIST eps 0.3, Fashion-MNIST 0.1), which grows over the first
half. Published values (Chen et al. 2019) in parentheses, where they are known: natural accuracies read in the paper,
the others quoted and not checked against it. They come from networks trained a hundred times longer: the *order* of
the rows is what to compare.

Natural accuracy on all 10,000 test images; adversarial accuracy under PGD of 40 steps on {LABELS:,} of them; the
attack on attributions (IFIA top-k on a softplus twin, 50 steps, the iterate of lowest Spearman whose label holds) on
the rightly classified of {MAPS}. Of one seed: the figure ± its standard error over images. Of several seeds: the median
over the seeds and, in brackets, their range (least to greatest).
"""
READING = """## What the figures say

Written by hand, of the figures that it names: [robust-attribution-reading.md](robust-attribution-reading.md).
"""
SPEED = """One core, process time, the best of six turns; an epoch is 60,000 images of 28x28, batch 50, the quick plan.
Passes: forward-backward passes an image and step, where a pass that is differentiated twice counts 2; the ratio of
times can come down to it. (Madry's falls a little below: passes of its attack need no gradient by the weights.)
"""


def main() -> None:
    """Train, attack, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(PUBLISHED), choices=list(PUBLISHED))
    parser.add_argument("--objectives", nargs="+", default=list(OBJECTIVES), choices=list(OBJECTIVES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--cache", type=Path, default=ROOT / "cache" / "robust")
    parser.add_argument("--speed", action="store_true", help="measure the speed again")
    asked = options(parser, "robust-attribution", sets=["mnist"])
    asked.cache.mkdir(parents=True, exist_ok=True)
    results = asked.results
    kept = json.loads(results.read_text()) if results.exists() else {}
    rows, speeds = kept.get("rows", []), [] if asked.speed else kept.get("speed", [])
    for seed, name, objective in itertools.product(asked.seeds, asked.sets, asked.objectives):
        if any((r["set"], r["objective"], r["seed"]) == (name, objective, seed) for r in rows):
            continue
        print(f"{name} {objective} seed {seed}", flush=True)
        found = row(name, objective, seed, asked.quick, asked.cache)
        rows = merged(rows, found, {"set": list(PUBLISHED), "objective": list(OBJECTIVES)})
        print("   ", {key: found[key] for key in FIGURES}, found["cpu_seconds"], flush=True)
        write(asked, rows, speeds)
    write(asked, rows, speeds or kept_speed(asked.cache, asked.quick, asked.speed))
    conclude(asked)


def write(asked: argparse.Namespace, rows: list[dict[str, Any]], speeds: list[dict[str, Any]]) -> None:
    """The figures as JSON and, beside it, as a page."""
    keep(asked, {"rows": rows, "speed": speeds}, markdown(rows, speeds))


def kept_speed(cache: Path, quick: bool, again: bool) -> list[dict[str, Any]]:
    """The speeds in the cache, or measured and kept there."""
    kept = cache / f"speed{'-quick' if quick else ''}.json"
    speeds: list[dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() and not again else speed(quick)
    kept.write_text(json.dumps(speeds, indent=1) + "\n")
    return speeds


if __name__ == "__main__":
    main()
