"""A small trained network to attack, images for it, and what attacks are measured by."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from rectify.attribution.score import Score
from rectify.evaluation.attacks import ig_map, smooth_score

BOUNDS = (torch.full((1, 1, 1), -0.5), torch.full((1, 1, 1), 1.5))  # a pixel range of 2: eps counts double
BLACK = BOUNDS[0]


@cache
def trained() -> nn.Module:
    """Tells which of three blobs is brighter; trained for a moment."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 3),
        )  # fmt: skip
        optimiser = torch.optim.Adam(network.parameters(), 0.01)
        for _ in range(40):
            x, labels = images(64)
            F.cross_entropy(network(x), labels).backward()
            optimiser.step()
            optimiser.zero_grad()
    return network.eval().requires_grad_(False)


def images(n: int, background: float | None = None) -> tuple[Tensor, Tensor]:
    """Images (n, 1, 8, 8) within the bounds and their classes."""
    labels = torch.arange(n) % 3
    x = torch.rand(n, 1, 8, 8) * 0.6 - 0.3 if background is None else torch.full((n, 1, 8, 8), background)
    for i, (row, column) in enumerate([(0, 0), (0, 4), (4, 2)]):
        x[labels == i, :, row : row + 4, column : column + 4] += torch.rand(1, 4, 4) * 0.5 + 0.3
    return x, labels


def attacked(score: Score, steps: int = 4) -> dict[str, Any]:
    """The map followed and the map judged, of IG from black."""
    return {"attacked": ig_map(smooth_score(score), BLACK, steps), "judged": ig_map(score, BLACK, steps)}


def heat(maps: Tensor) -> Tensor:
    return maps.detach().sum(1).abs().flatten(1).double()


def rank_correlation(one: Tensor, other: Tensor) -> list[float]:
    return [float(stats.spearmanr(a, b).statistic) for a, b in zip(heat(one), heat(other), strict=True)]


def norm(delta: Tensor, kind: str) -> Tensor:
    return delta.flatten(1).abs().amax(1) if kind == "inf" else delta.flatten(1).norm(dim=1)
