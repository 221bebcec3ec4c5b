"""What a rival may look at, and what it hands back. Test images are not among it: no rival can see them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.recovery import lay_out, pair_of
from benchmarks.zoo import datasets
from benchmarks.zoo.recipes import RECIPES, Recipe
from benchmarks.zoo.train import normalise, trained

CALIBRATION = 200
LABELLED = 0.05  # share of the training set that is given to those who need clean labelled images
VALIDATION = 0.2  # share of those kept aside, to choose settings by


@dataclass(frozen=True)
class Effort:
    """How long the rivals may train: epochs over the clean images, mask steps of ANP, rounds of I-BAU."""

    epochs: int = 6
    mask_steps: int = 250
    rounds: int = 3


FULL, QUICK = Effort(), Effort(epochs=2, mask_steps=40, rounds=1)


@dataclass(frozen=True)
class Labelled:
    """Clean images (N, C, H, W), normalised, with their true classes (N,)."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Evidence:
    """All that a defender has; each rival's budget says which part of it the rival reads.

    Attributes
    ----------
    network
        The faulty network, in eval mode. Not to be changed: see `copy`.
    clean, corrupted
        (1, C, H, W), the pair; ``label`` is its class.
    calibration
        (200, C, H, W), unlabelled and clean.
    fit, validation
        Four fifths, and one fifth, of 5 % of the training set, with the right labels.
    folder, pair
        The same as files, as ``rectify edit`` reads them.
    seed
        Of all that is random in a rival.
    """

    name: str
    recipe: Recipe
    network: nn.Module
    clean: Tensor
    corrupted: Tensor
    label: int
    calibration: Tensor
    fit: Labelled
    validation: Labelled
    folder: Path
    pair: int
    seed: int
    effort: Effort

    def copy(self) -> nn.Module:
        """A copy of the faulty network, in eval mode."""
        return copy.deepcopy(self.network).eval()


@dataclass(frozen=True)
class Outcome:
    """A repaired network (None: the rival gave up), the settings it came to, and all that were tried."""

    network: nn.Module | None
    chosen: dict[str, Any]
    tried: tuple[dict[str, Any], ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes
    ----------
    title, source, formula
        What it is called, where it is published, and what it computes.
    sees
        Its information budget.
    settings, rule
        What was tried, and how the choice was made: never by a test label or the test attack success.
    """

    title: str
    source: str
    formula: str
    sees: str
    settings: str
    rule: str
    repair: Callable[[Evidence], Outcome]


def gather(name: str, folder: Path, seed: int, effort: Effort, tests: int) -> tuple[Evidence, datasets.Split]:
    """The evidence of one network and seed, and apart from it the images that judge.

    A seed stands for a pair, a draw of the clean images and the order of the batches.
    """
    recipe = RECIPES[name]
    judged, pairs = lay_out(name, folder, CALIBRATION, tests)
    if not pairs:
        raise SystemExit(f"{name}: the trigger fires on no image that could make a pair")
    network = trained(name)
    pair = seed % pairs
    clean, corrupted = (_read(path, recipe) for path in pair_of(folder, pair))
    calibration = torch.cat([_read(path, recipe) for path in sorted((folder / "calibration").glob("*.png"))])
    with torch.no_grad():
        label = int(network(clean).argmax())  # `lay_out` chooses pairs whose clean image is classified rightly
    fit, validation = labelled(recipe, seed)
    parts = (clean, corrupted, label, calibration, fit, validation)
    return Evidence(name, recipe, network, *parts, folder, pair, seed, effort), judged


def labelled(recipe: Recipe, seed: int) -> tuple[Labelled, Labelled]:
    """The clean labelled images, to fit and to validate on: of the training split as it was before poisoning."""
    whole = datasets.load(recipe.dataset)[0]
    order = np.random.default_rng(seed).permutation(len(whole.labels))[: int(LABELLED * len(whole.labels))]
    images, labels = normalise(whole.images[order], recipe.dataset), torch.from_numpy(whole.labels[order]).long()
    cut = int((1 - VALIDATION) * len(order))
    return Labelled(images[:cut], labels[:cut]), Labelled(images[cut:], labels[cut:])


def _read(path: Path, recipe: Recipe) -> Tensor:
    image = np.array(Image.open(path))
    return normalise(image.reshape(1, *image.shape[:2], -1), recipe.dataset)
