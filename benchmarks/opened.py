"""What laid-out material shows: the case of a network of the zoo, for benchmarks that call the library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.recovery import load_png, pair_of
from benchmarks.zoo import datasets
from benchmarks.zoo.recipes import RECIPES
from benchmarks.zoo.train import normalise, trained
from rectify.editing.casebook import Case, open_case
from rectify.editing.fault import Fault, diagnose
from rectify.editing.guess import Bounds
from rectify.editing.judge import probabilities


@dataclass(frozen=True)
class Opened:
    """A network with one pair, (1, C, H, W) each, calibration images, (N, C, H, W), and the fault that they show."""

    network: nn.Module
    clean: Tensor
    corrupted: Tensor
    reference: Tensor
    fault: Fault

    def case(self, dataset: str) -> Case:
        """The case as ``rectify edit`` opens it."""
        return open_case(self.network, self.clean, self.corrupted, self.fault, self.reference, bounds_of(dataset))


def bounds_of(dataset: str) -> Bounds:
    """The normalised values of pixel 0 and 1, each (C, 1, 1)."""
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in datasets.MEAN_STD[dataset])
    return (0 - mean) / std, (1 - mean) / std


def read(paths: list[Path], dataset: str) -> Tensor:
    """PNGs, normalised, (N, C, H, W)."""
    return normalise(np.stack([load_png(path) for path in paths]), dataset).contiguous()


def opened(name: str, folder: Path, pair: int = 0) -> Opened:
    """A network whose material ``benchmarks.recovery.lay_out`` has laid out in a folder."""
    dataset, network = RECIPES[name].dataset, trained(name)
    clean, corrupted = (read([path], dataset) for path in pair_of(folder, pair))
    fault = diagnose(probabilities(network, clean), probabilities(network, corrupted), None)
    return Opened(network, clean, corrupted, read(sorted((folder / "calibration").glob("*.png")), dataset), fault)
