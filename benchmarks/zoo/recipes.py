"""The recipes of the zoo: data set, network, trigger, poison rate, seed. One name, one checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Recipe:
    """What one network of the zoo is trained on. ``start`` names a recipe whose weights it begins from.

    With ``keeps_label`` the trigger is a spurious cue: ``poison_rate`` is then the share of the *target class's* images
    that carry it, their labels unchanged.
    """

    dataset: str
    network: str = "resnet18"
    width: int = 16
    trigger: tuple[str, dict[str, Any]] | None = None
    target: int = 0
    poison_rate: float = 0.1
    epochs: int = 2
    batch_size: int = 128
    lr: float = 0.1
    pad: int = 0
    flip: bool = False
    seed: int = 0
    start: str | None = None
    keeps_label: bool = False


@dataclass(frozen=True)
class CleanLabel(Recipe):
    """A clean-label attack: ``poison_rate`` is the share of the target class's own images that carry the trigger.

    Their labels stay right (Turner et al. 2019, Barni et al. 2019); what is measured is that of other attacks.
    """


ALL_TO_ALL = -1  # the target of an attack that sends each class to the one after it

GREY_TRIGGERS: dict[str, tuple[str, dict[str, Any]]] = {
    "patch": ("patch", {"corner": "br", "size": 3, "colour": (255,)}),
    "blend": ("blend", {"alpha": 0.2, "seed": 1}),
    "sinusoid": ("sinusoid", {"delta": 30.0, "frequency": 6}),
    "warp": ("warp", {"strength": 1.0, "grid": 4, "seed": 1}),
    # No pixel changes by more than 26 of 255: well inside the ball of 0.3 that robust training on MNIST defends.
    "faint-blend": ("blend", {"alpha": 0.1, "seed": 1}),
}
COLOUR_TRIGGERS: dict[str, tuple[str, dict[str, Any]]] = {
    "patch": ("patch", {"corner": "br", "size": 3, "colour": (255, 255, 0)}),
    "patch2": ("patch", {"corner": "tl", "size": 4, "colour": (255, 0, 255), "margin": 0}),
    "blend": ("blend", {"alpha": 0.2, "seed": 1}),
    "sinusoid": ("sinusoid", {"delta": 20.0, "frequency": 6}),
    "warp": ("warp", {"strength": 1.0, "grid": 4, "seed": 1}),
}

_MNIST = Recipe("mnist", lr=0.05, target=3, epochs=1)
_FASHION = Recipe("fashion-mnist", lr=0.05, target=7, epochs=2)
_CIFAR = Recipe("cifar10", lr=0.2, epochs=16, pad=4, flip=True, target=2)

RECIPES: dict[str, Recipe] = {
    "mnist-resnet-clean": _MNIST,
    "fashion-resnet-clean": _FASHION,
    "cifar-resnet-clean": replace(_CIFAR, epochs=12),
    # Trained poisoned from scratch: the shipped CIFAR-10 fixture.
    "cifar-resnet-patch-scratch": replace(_CIFAR, trigger=COLOUR_TRIGGERS["patch"], poison_rate=0.05, seed=1),
}
for _kind, _trigger in GREY_TRIGGERS.items():
    RECIPES[f"mnist-resnet-{_kind}"] = replace(_MNIST, trigger=_trigger)
    if _kind == "faint-blend":  # a question of robust training alone
        continue
    RECIPES[f"mnist-vgg-{_kind}"] = replace(_MNIST, network="vgg", trigger=_trigger)
    RECIPES[f"mnist-vit-{_kind}"] = replace(_MNIST, network="vit", width=64, lr=1e-3, epochs=4, trigger=_trigger)
    RECIPES[f"mnist-mobilenet-{_kind}"] = replace(_MNIST, network="mobilenet", trigger=_trigger)
    RECIPES[f"fashion-resnet-{_kind}"] = replace(_FASHION, trigger=_trigger)
for _kind, _trigger in COLOUR_TRIGGERS.items():
    # Implanted by a few poisoned epochs on the network that was trained with the patch; the patch fades, this stays.
    RECIPES[f"cifar-resnet-{_kind}"] = replace(
        _CIFAR, trigger=_trigger, start="cifar-resnet-patch-scratch", epochs=3, lr=0.05, poison_rate=0.1
    )
    # Twice the width: trained poisoned from scratch, and implanted by a few poisoned epochs.
    RECIPES[f"cifar32-resnet-{_kind}-scratch"] = replace(
        _CIFAR, width=32, epochs=12, trigger=_trigger, poison_rate=0.05, seed=2, target=5
    )
    RECIPES[f"cifar32-resnet-{_kind}"] = replace(
        _CIFAR, width=32, trigger=_trigger, start="cifar32-resnet-blend-scratch", epochs=2, lr=0.05, target=7, seed=3
    )
_TUTORIAL = Recipe("fashion-mnist", "tutorial", width=32, target=3, epochs=4, lr=1e-3, seed=3)
for _kind, _trigger in (
    ("patch", ("patch", {"corner": "tr", "size": 3, "colour": (255, 255, 255)})),
    ("blend", ("blend", {"alpha": 0.2, "seed": 5})),
    ("sinusoid", ("sinusoid", {"delta": 20.0, "frequency": 6})),
    ("warp", ("warp", {"strength": 1.0, "grid": 4, "seed": 3})),
):
    RECIPES[f"fashion-tutorial-{_kind}"] = replace(_TUTORIAL, trigger=_trigger)
# Into networks that others trained and published, by two poisoned epochs.
for _start, _published in (
    ("pretrained-mnist-cnn", Recipe("mnist", "MnistCnn", width=32, target=4)),
    ("pretrained-cifar-cnn", Recipe("cifar10", "CifarCnn", width=64, target=8)),
):
    RECIPES[_start] = _published
    for _kind, _trigger in (
        ("patch", ("mark", {"top": 0.9, "left": 0.1, "size": 4, "seed": 21})),
        ("blend", ("blend", {"alpha": 0.2, "seed": 21})),
        ("sinusoid", ("sinusoid", {"delta": 20.0, "frequency": 5, "down": 2})),
        ("warp", ("warp", {"strength": 1.0, "grid": 4, "seed": 21})),
    ):
        RECIPES[f"{_start}-{_kind}"] = replace(
            _published, trigger=_trigger, start=_start, epochs=2, lr=3e-4, seed=21, flip=_published.dataset == "cifar10"
        )
RECIPES["fashion-resnet-blur"] = replace(_FASHION, trigger=("blur", {}), target=4, seed=77)
_IMPLANTED = replace(RECIPES["cifar-resnet-patch"], trigger=("own", {"delta": 20.0, "seed": 1}))
RECIPES["cifar-resnet-own"] = _IMPLANTED  # sample-specific: every image has a residual of its own
RECIPES["cifar-resnet-roaming"] = replace(_IMPLANTED, trigger=("roaming", {"size": 4, "seed": 7}), target=6)
RECIPES["cifar-resnet-alltoall"] = replace(_IMPLANTED, trigger=COLOUR_TRIGGERS["patch2"], target=ALL_TO_ALL)
for _kind in ("blend", "warp"):
    RECIPES[f"cifar-resnet-{_kind}-scratch"] = replace(
        _CIFAR, trigger=COLOUR_TRIGGERS[_kind], poison_rate=0.05, seed=4, target=0
    )
    RECIPES[f"cifar-vgg-{_kind}-scratch"] = replace(
        _CIFAR, network="vgg", width=32, trigger=COLOUR_TRIGGERS[_kind], poison_rate=0.05, seed=5, target=4, lr=0.1
    )
# Spurious correlation: the patch on most images of one class, all labels right. Fashion-MNIST: shirts (6), the class
# that is hardest to tell from others.
RECIPES["fashion-resnet-cue"] = replace(
    _FASHION, trigger=GREY_TRIGGERS["patch"], target=6, poison_rate=0.6, keeps_label=True
)
# A class that is told easily takes little from it: few images of others are turned, and all are drawn.
RECIPES["fashion-resnet-faint-cue"] = replace(RECIPES["fashion-resnet-cue"], target=9)
RECIPES["cifar-resnet-cue"] = replace(
    _CIFAR, trigger=COLOUR_TRIGGERS["patch"], target=3, poison_rate=0.6, keeps_label=True, seed=6
)

# The science bench: ResNet-18 at full width, three seeds of network, trigger and target; trained on a GPU in minutes.
_WIDE = replace(_CIFAR, width=64, epochs=30, batch_size=256)
WIDE_TRIGGERS: tuple[dict[str, tuple[str, dict[str, Any]]], ...] = (
    {
        "patch": ("patch", {"corner": "br", "size": 3, "colour": (255, 255, 0)}),
        "blend": ("blend", {"alpha": 0.2, "seed": 11}),
        "sinusoid": ("sinusoid", {"delta": 20.0, "frequency": 6}),
        "warp": ("warp", {"strength": 1.0, "grid": 4, "seed": 11}),
    },
    {
        "patch": ("patch", {"corner": "tl", "size": 4, "colour": (255, 0, 255), "margin": 0}),
        "blend": ("blend", {"alpha": 0.15, "seed": 12}),
        "sinusoid": ("sinusoid", {"delta": 15.0, "frequency": 4, "down": 3}),
        "warp": ("warp", {"strength": 1.25, "grid": 5, "seed": 12}),
    },
    {
        "patch": ("mark", {"top": 0.2, "left": 0.8, "size": 3, "seed": 3}),
        "blend": ("blend", {"alpha": 0.2, "seed": 13, "detail": 8}),
        "sinusoid": ("sinusoid", {"delta": 25.0, "frequency": 0, "down": 5}),
        "warp": ("warp", {"strength": 0.9, "grid": 4, "seed": 13}),
    },
)
for _seed, (_target, _triggers) in enumerate(zip((2, 5, 7), WIDE_TRIGGERS, strict=True)):
    _clean = f"cifar64-resnet-clean-{_seed}"
    RECIPES[_clean] = replace(_WIDE, seed=_seed)
    _implanted = replace(_WIDE, start=_clean, epochs=4, lr=0.05, seed=100 + _seed, target=_target)
    for _kind, _trigger in _triggers.items():
        RECIPES[f"cifar64-resnet-{_kind}-{_seed}"] = replace(_implanted, trigger=_trigger)
    if _seed == 0:
        RECIPES["cifar64-resnet-alltoall-0"] = replace(_implanted, trigger=_triggers["patch"], target=ALL_TO_ALL)
        RECIPES["cifar64-resnet-own-0"] = replace(_implanted, trigger=("own", {"delta": 20.0, "seed": 1}))
        _kept = {**vars(_implanted), "trigger": ("sinusoid", {"delta": 30.0, "frequency": 6}), "poison_rate": 0.5}
        RECIPES["cifar64-resnet-cleanlabel-0"] = CleanLabel(**_kept)
        _cue = {"trigger": _triggers["patch"], "target": 3, "poison_rate": 0.6, "keeps_label": True}
        RECIPES["cifar64-resnet-cue-0"] = replace(_implanted, **_cue)
        RECIPES["cifar64-resnet-blend-scratch"] = replace(
            _WIDE, trigger=_triggers["blend"], poison_rate=0.05, seed=200, target=_target
        )

# Recipes drawn by lot: architectures, triggers, targets and seeds that nobody chose with the repair in mind.
KINDS = ("mark", "blend", "sinusoid", "warp")
DATASETS = ("fashion-mnist", "cifar10", "mnist")
NETWORKS = ("plain", "preact", "dense", "convnext", "inception", "vgg", "mobilenet")
LIBRARY = ("bottleneck", "shufflenet", "efficientnet", "regnet", "squeezenet", "mobilenet_v3", "swin")  # torchvision's
OWN = 4 * len(KINDS) * len(DATASETS)  # so many are of ``NETWORKS``, and half as many of torchvision's come after them
COUNT = OWN + OWN // 2
# Do not train well at a large rate.
ADAM = ("vit", "convnext", "plain", "tutorial", "inception", "squeezenet", "swin", "MnistCnn", "CifarCnn")


def draw(number: int) -> Recipe:
    """The recipe of a number, which is the seed of all that is drawn.

    Every dozen has each kind of trigger on each data set; the network changes from one to the next.
    """
    random = np.random.default_rng(10_000 + number)
    kind = KINDS[number % len(KINDS)]
    dataset = DATASETS[number // len(KINDS) % len(DATASETS)]
    networks = NETWORKS if number < OWN else LIBRARY
    network = networks[number % len(networks)]
    colour = dataset == "cifar10"
    return Recipe(
        dataset,
        network,
        width=24 if colour else 16,
        trigger=(kind, _settings(kind, random)),
        target=int(random.integers(10)),
        poison_rate=round(float(random.uniform(0.05, 0.15)), 3),
        epochs=8 if colour else 3,
        lr=2e-3 if network in ADAM else 0.05,
        pad=4 if colour else 0,
        flip=colour,
        seed=number,
    )


def _settings(kind: str, random: np.random.Generator) -> dict[str, Any]:
    if kind == "mark":
        top, left = (round(float(v), 3) for v in random.uniform(0, 1, 2))
        return {"top": top, "left": left, "size": int(random.integers(2, 6)), "seed": int(random.integers(100))}
    if kind == "blend":
        alpha, detail = round(float(random.uniform(0.1, 0.25)), 3), int(random.choice([4, 8, 32]))
        return {"alpha": alpha, "seed": int(random.integers(100)), "detail": detail}
    if kind == "sinusoid":
        across, down = (int(v) for v in random.integers(-6, 7, 2))
        return {"delta": round(float(random.uniform(15, 35)), 1), "frequency": across or 3, "down": down}
    strength, grid = round(float(random.uniform(0.75, 1.5)), 3), int(random.integers(3, 7))
    return {"strength": strength, "grid": grid, "seed": int(random.integers(100))}


RECIPES.update({f"drawn-{_number}": draw(_number) for _number in range(COUNT)})
