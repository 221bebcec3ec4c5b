"""UNI against the others, by the measures of its paper (arXiv 2410.08069), at our scale.

    python -m benchmarks.explanations [NETWORK ...] [--images 500] [--quick] [--show]

On networks of the zoo (clean test images that they classify right) and on EfficientNet-Lite0 with real photographs:
path monotonicity, MuFidelity (signed, absolute, null floor), deletion, insertion, robustness under the search for the
greatest distance and under FGSM, stability over path steps. Each cell is kept as it comes in
``benchmarks/results/explanations.json``; what is there is not run again. ``explanations.md`` stands beside the
published figures; ``--show`` only writes it anew.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.attribution_rivals import agi, guided_backprop
from benchmarks.runs import conclude, keep, options
from benchmarks.zoo import datasets, photographs
from benchmarks.zoo.recipes import RECIPES
from benchmarks.zoo.train import normalise, trained
from rectify.attribution.attribution import Attribution, Method, Settings
from rectify.attribution.methods import method
from rectify.attribution.score import Score, batch_that_fits
from rectify.evaluation.quality import Bench

NETWORKS = ("cifar-resnet-patch-scratch", "fashion-resnet-patch", "cifar-vgg-blend-scratch", "efficientnet-lite0")
METRICS = ("monotonicity", "completeness", "mufidelity", "deletion", "insertion", "robustness", "stability")
Setting = tuple[Score, Tensor, Tensor, tuple[Tensor, Tensor]]


def random_map(score: Score, x: Tensor, targets: Tensor, settings: Settings) -> Attribution:
    """Noise: what no explanation should be worse than."""
    generator = torch.Generator().manual_seed(7)
    return Attribution(torch.randn(x.shape, generator=generator).to(x), score.values(x, targets))


METHODS: dict[str, tuple[str, Method, dict[str, Any]]] = {
    # shown as: name whose map an attack follows, function, settings
    "uni": ("uni", method("uni"), {}),
    "uni, eps in pixels": ("uni", method("uni"), {"options": {"space": "pixels"}}),
    "ig (black), 15 steps": ("ig", method("ig"), {"steps": 15, "rule": "right-riemann"}),
    "ig (black), 50 steps": ("ig", method("ig"), {"steps": 50}),
    "blur-ig": ("gradient", method("blur-ig"), {"steps": 50}),
    "guided-ig": ("gradient", method("guided-ig"), {"steps": 50}),
    "idgi": ("gradient", method("idgi"), {"steps": 32}),
    "agi": ("gradient", agi, {"steps": 20}),
    "guided backprop": ("gradient", guided_backprop, {}),
    "deeplift": ("gradient", method("deeplift"), {}),
    "gradient": ("gradient", method("gradient"), {}),
    "smoothgrad": ("gradient", method("smoothgrad"), {}),
    "random": ("gradient", random_map, {}),
}
SLOW, FEW = ("robustness", "stability"), 100  # these on so many images
STEADY = ("uni", "uni, eps in pixels", "ig (black), 15 steps", "blur-ig")  # for stability


def setting(name: str, images: int) -> Setting:
    """The score, images that are classified right, their classes, and the pixel range."""
    if name == "efficientnet-lite0":
        x, names = photographs.photographs()
        network, low, high = photographs.efficientnet_lite0(), *photographs.PREPROCESS.bounds()
        targets = Score(network, batch=8).predictions(x)
        right = [
            label is None or label == int(guess)
            for label, guess in zip(photographs.labels(names), targets, strict=True)
        ]
        keep = torch.tensor(right)
        x, targets = x[keep][:images], targets[keep][:images]
    else:
        recipe = RECIPES[name]
        network = trained(name)
        test = datasets.load(recipe.dataset)[1]
        test = datasets.judged_of(test, 2 * images)
        x, labels = normalise(test.images, recipe.dataset).contiguous(), torch.from_numpy(test.labels)
        targets = Score(network, batch=256).predictions(x)
        keep = targets == labels
        x, targets = x[keep][:images], targets[keep][:images]
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in datasets.MEAN_STD[recipe.dataset])
        low, high = (0 - mean) / std, (1 - mean) / std
    score = Score(network, "probability", batch_that_fits(network, x[:1], 64))
    return score, x, targets, (low, high)


def settings_of(where: Setting, more: dict[str, Any]) -> Settings:
    """The method's own settings, and the attack of all."""
    attack = {"attack_iterations": 10, "attack_k": 100 if where[1].shape[-1] < 100 else 1000}
    return Settings(bounds=where[3], **{**more, "options": {**attack, **more.get("options", {})}})


def run(
    name: str,
    images: int,
    metrics: tuple[str, ...],
    done: dict[str, Any],
    kept: Callable[[str, dict[str, Any]], None],
) -> None:
    """All methods on one network but what is done; ``kept`` gets each row as it comes."""
    where = setting(name, images)
    few = min(len(where[1]), 4 if name == "efficientnet-lite0" else FEW)
    whole = Bench(*where[:3], settings_of(where, {}))
    part = Bench(where[0], where[1][:few], where[2][:few], settings_of(where, {}))
    fast = [m for m in metrics if m not in SLOW]
    for wanted in (fast, [m for m in metrics if m in SLOW]):  # what is quick of every method first
        for shown, (attacked, function, more) in METHODS.items():
            row = dict(done.get(shown) or {"images": len(where[1]), "few": few, "measures": [], "seconds": {}})
            done[shown] = row
            steady = STEADY[::2] if name == "efficientnet-lite0" else STEADY
            for metric in wanted:
                if metric in row["seconds"] or (metric == "stability" and shown not in steady):
                    continue
                base, began = part if metric in SLOW else whole, time.time()
                if metric == "mufidelity":
                    _ = base.masked  # once, for all methods
                bench = base.with_settings(settings_of(where, more))
                called = attacked if metric == "robustness" else _steps_name(shown)
                row["measures"] += [one.to_dict(shown) for one in bench.measure(called, [metric], function)]
                row["seconds"][metric] = round(time.time() - began, 1)
                kept(shown, row)
                print(name, shown, metric, row["seconds"][metric], "s", flush=True)


def _steps_name(shown: str) -> str:
    """The name under which the bench knows what a method can do; a rival is one without a path."""
    own = shown.split(",")[0].split(" (")[0]
    return own if own in ("uni", "ig", "blur-ig", "guided-ig", "idgi") else "gradient"


def there(results: Path) -> dict[str, Any]:
    """What was measured already."""
    found: dict[str, Any] = json.loads(results.read_text()) if results.exists() else {}
    return found


# ------------------------------------------------------------------------------------------------------ the table

PUBLISHED = """Published (arXiv 2410.08069, ImageNet), UNI / IG from black:

| measure | ResNet-18 | EffNetV2-S | ConvNeXt-T | VGG16-bn | ViT-B/16 | Swin-T |
|---|---|---|---|---|---|---|
| path monotonicity ↑ | .97/.69 | .95/.28 | .99/.76 | .94/.69 | .89/.71 | .97/.88 |
| \\|MuFidelity\\| ↑ | .12/.06 | .06/.05 | .16/.11 | .18/.08 | .15/.10 | .13/.09 |
| deletion ↓ | .06/.10 | .19/.26 | .11/.16 | .08/.12 | .14/.22 | .13/.22 |
| insertion ↑ | .64/.26 | .64/.38 | .63/.21 | .56/.37 | .71/.32 | .68/.28 |
| top-1000 after attack ↑ | .373/.200 | .394/.174 | .348/.150 | .357/.255 | .407/.171 | .373/.200 |
| Spearman after attack ↑ | .271/.088 | .302/.009 | .292/.010 | .290/.143 | .319/.018 | .271/.088 |

The rows of ResNet-18 and Swin-T under attack are the same in every cell of the paper, so neither is a target.
"""
COLUMNS = {
    "monotonicity": "path monotonicity ↑",
    "completeness-gap-relative": "relative gap ↓",
    "mufidelity": "MuFidelity, signed ↑",
    "mufidelity-absolute": "\\|MuFidelity\\| ↑",
    "deletion": "deletion ↓",
    "insertion": "insertion ↑",
    "robustness-attack-spearman": "Spearman after attack ↑",
    "robustness-attack-top-k": "top-k after attack ↑",
    "robustness-attack-kendall": "tau-b after attack ↑",
    "robustness-fgsm-spearman": "Spearman after FGSM ↑",
    "stability-steps-1-spearman": "stability B = 1 ↑",
    "stability-steps-15-spearman": "stability B = 15 ↑",
}


def table(name: str, rows: dict[str, Any]) -> str:
    """Markdown of one network: mean ± standard deviation over images, and the null floor as the last line."""
    count = next(iter(rows.values()))["images"]
    lines = [f"## {name} ({count} images)\n", "| method | " + " | ".join(COLUMNS.values()) + " |"]
    lines.append("|---" * (len(COLUMNS) + 1) + "|")
    floors: dict[str, list[float]] = {}
    for shown, row in rows.items():
        cells = []
        for metric in COLUMNS:
            one = next((m for m in row["measures"] if m["metric"] == metric), None)
            cells.append("" if one is None or one["value"] is None else f"{one['value']:.3f} ± {one['spread']:.2f}")
            if one is not None and one["null_floor"] is not None:
                floors.setdefault(metric, []).append(one["null_floor"])
        lines.append(f"| {shown} | " + " | ".join(cells) + " |")
    last = [f"{min(floors[m]):.3f} to {max(floors[m]):.3f}" if m in floors else "" for m in COLUMNS]
    return "\n".join([*lines, "| *null floor* | " + " | ".join(last) + " |"]) + "\n"


def page(results: dict[str, Any], quick: bool) -> str:
    """The page; of a quick run the tables alone, as what is said of the figures is said of the whole."""
    tables = "\n".join(table(name, results[name]) for name in NETWORKS if name in results)
    return tables if quick else HEAD + tables + "\n" + PUBLISHED + SAYS


HEAD = """# Explanations, measured

Made by `python -m benchmarks.explanations`. Mean ± standard deviation over images that are classified right; F is the
probability of the predicted class; fills and baselines as in the settings of each row of `explanations.json`. The null
floor is what permuted maps (MuFidelity) or random orders (deletion, insertion) give. The attack searches, within 8/255
and with the label kept, for the map that is furthest from the clean one: of UNI and IG their own map, of the others the
gradient. Attacks and stability are measured on the first 100 images (of the photographs four, and UNI alone). One seed.

"""


SAYS = """
## What the tables say

UNI keeps what its paper promises of the path: F rises along it nearly always (monotonicity .99, .99 and 1.00, against
.76, .73 and .64 of IG from black with as many steps), and one step gives nearly its whole map (stability at B = 1: .93
and .95 against .40 and .90). Its |MuFidelity| is above IG's on CIFAR-10 and on photographs (.16 and .23 against .10 and
.11; published: about one and a half times), and the same on Fashion-MNIST (.16).

It does not win everything. IDGI has the best MuFidelity and insertion on CIFAR-10 and on photographs, BlurIG the best
signed one on Fashion-MNIST; DeepLIFT is more faithful than UNI on photographs. On CIFAR-10 no method deletes better
than a random order does (.23), so deletion says nothing there. Under attack the paper's order is turned round on both
small networks: the maps of IG from black move less than UNI's (Spearman .42 and .80 against .34 and .49). A black
baseline ties every map to the same picture; a baseline that is found anew at the attacked image can be moved too. The
radius matters: eps .25 in pixels instead of the network's units gives UNI a better MuFidelity on Fashion-MNIST and a
path that is less monotone on CIFAR-10. Guided IG with 50 steps misses completeness by more than the change itself, on
average, on two of three networks; DeepLIFT and IDGI do not miss it.
"""


def main() -> None:
    """Run what was asked for and is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(NETWORKS))
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--show", action="store_true")
    asked = options(parser, "explanations", names=NETWORKS[:1], images=4)
    for name in [] if asked.show else asked.names:

        def kept(shown: str, row: dict[str, Any], name: str = name) -> None:
            results = there(asked.results)  # anew each time: another network may be measured beside this one
            results.setdefault(name, {})[shown] = row
            keep(asked, results, page(results, asked.quick))

        run(name, asked.images, METRICS, there(asked.results).get(name, {}), kept)
    results = there(asked.results)
    keep(asked, results, page(results, asked.quick))
    conclude(asked)


if __name__ == "__main__":
    main()
