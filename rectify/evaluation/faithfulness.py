"""Whether a map names the pixels that the score depends on: MuFidelity, deletion, insertion.

MuFidelity: Bhatt, Weller, Moura 2020 (arXiv 2005.00631). Deletion and insertion: Petsiuk, Das, Saenko 2018 (arXiv
1806.07421). Attributions that know nothing have |MuFidelity| near .08 and deletion curves that fall: each figure
comes with what it is for permuted maps or random orders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rectify.attribution.attribution import Settings
from rectify.attribution.baselines import baseline_images
from rectify.attribution.score import Score
from rectify.errors import UsageError
from rectify.evaluation.measure import Measure
from rectify.evaluation.ranks import constant_rows, pearson, spearman

Bounds = tuple[Tensor, Tensor]
CORRELATIONS = {"pearson": pearson, "spearman": spearman}
KINDS = ("deletion", "insertion")


@dataclass(frozen=True)
class Masked:
    """What filling random sets of cells takes from F: the same sets for all images, to be used by many methods.

    Attributes
    ----------
    cells
        (H, W) the number of the cell that a pixel lies in.
    subsets
        (M, cells) bool: which cells are filled.
    drops
        (N, M) float64 on the CPU: F(x) - F(x with S filled).
    settings
        Grid, size of S, number of sets, fill, seed.
    """

    cells: Tensor
    subsets: Tensor
    drops: Tensor
    settings: dict[str, Any]


def fill_images(x: Tensor, fill: str | Tensor, bounds: Bounds | None = None, seed: int = 0) -> Tensor:
    """What removed pixels are replaced by, (N, C, H, W).

    ``zero`` is an input of zeros; the rest are the baselines of `rectify.attribution.baselines` (of which ``mean``, the
    colour that the preprocessing subtracts, is an input of zeros too) or images.

    Raises
    ------
    UsageError
        Unknown name, wrong shape, or a fill that needs the pixel range without ``bounds``.
    """
    if isinstance(fill, str) and fill == "zero":
        return torch.zeros_like(x)
    return baseline_images(x, Settings(baseline=fill, bounds=bounds, seed=seed))


def masked_scores(
    score: Score,
    x: Tensor,
    targets: Tensor,
    *,
    grid: int = 9,
    share: float = 0.2,
    subsets: int = 200,
    fill: str | Tensor = "zero",
    bounds: Bounds | None = None,
    seed: int = 0,
) -> Masked:
    """F with random sets of grid cells filled: N * M images, at most ``score.batch`` of them at a time.

    Parameters
    ----------
    score
        F.
    x, targets
        Images (N, C, H, W) and classes (N,).
    grid
        Cells along each side, at most the pixels there are; cells differ by a pixel where the side is no multiple.
    share
        |S| = round(share * cells), at least one, less than all.
    subsets
        How many sets.
    fill, bounds
        See `fill_images`.

    Raises
    ------
    UsageError
        A share outside (0, 1), less than two sets or cells, or an unusable fill.
    """
    height, width = x.shape[-2:]
    cells = grid_cells(height, width, grid)
    count = int(cells.max()) + 1
    if not 0 < share < 1 or subsets < 2 or count < 2:
        raise UsageError(f"MuFidelity needs a share in (0, 1), and at least 2 sets and 2 cells, not {share}, {subsets}")
    size = min(max(1, round(share * count)), count - 1)
    sets = random_sets(subsets, count, size, seed)
    filled, on, where = fill_images(x, fill, bounds, seed), sets.to(x.device), cells.to(x.device)

    def images(flat: Tensor) -> tuple[Tensor, Tensor]:
        image = flat // subsets
        mask = on[flat % subsets][:, where].unsqueeze(1)
        return torch.where(mask, filled[image], x[image]), targets[image]

    full = score.values(x, targets).double().cpu()
    drops = full.unsqueeze(1) - _scores(score, len(x) * subsets, x.device, images).view(len(x), subsets)
    told = {"grid": grid, "cells": count, "subset_size": size, "subsets": subsets, "fill": _name(fill), "seed": seed}
    return Masked(cells, sets, drops, {**told, "score": score.output})


def mu_fidelity(
    masked: Masked, maps: Tensor, *, correlation: str = "pearson", permutations: int = 50, seed: int = 0
) -> list[Measure]:
    """Correlation, over the sets S, of the attribution in S with what filling S takes from F.

    The null permutes each map's cell sums over the cells, with the scores that there are: no further forward passes.
    |MuFidelity| is no better than its null floor where the attribution knows nothing. More sets do not take the floor
    to zero: between C cells it is about sqrt(2 / pi * (1 / M + 1 / (C - 1))) if F is linear.

    Parameters
    ----------
    masked
        From `masked_scores`, for the same images in the same order.
    maps
        (N, H, W) signed heat.
    correlation
        ``pearson`` or ``spearman``.
    permutations
        Of the null; the same ones for every image. 0: no null.

    Returns
    -------
    ``mufidelity`` (signed, null: the mean under permutation, about zero) and ``mufidelity-absolute`` (null: the mean
    absolute value under permutation). ``constant`` counts the images whose map or scores do not vary over the sets:
    their correlation is 0.

    Raises
    ------
    UsageError
        Unknown correlation, or maps that do not fit the images.
    """
    if correlation not in CORRELATIONS:
        raise UsageError(f"unknown correlation {correlation!r}: give {' or '.join(CORRELATIONS)}")
    if maps.shape != (len(masked.drops), *masked.cells.shape):
        raise UsageError(f"maps of {tuple(maps.shape)} do not fit {len(masked.drops)} images of {_size(masked.cells)}")
    correlate, sets = CORRELATIONS[correlation], masked.subsets.double().T
    sums = cell_sums(maps, masked.cells)
    values = correlate(sums @ sets, masked.drops)
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(sets), generator=generator) for _ in range(permutations)]
    null = [correlate(sums[:, order] @ sets, masked.drops) for order in orders]
    signed = torch.stack(null).mean(0) if null else None
    absolute = torch.stack(null).abs().mean(0) if null else None
    constant = int((constant_rows(sums @ sets) | constant_rows(masked.drops)).sum())
    told = {**masked.settings, "correlation": correlation, "permutations": permutations, "permutation_seed": seed}
    told |= {"map": "signed channel sum", "constant": constant}
    return [
        Measure("mufidelity", values, signed, {**told, "aggregate": "signed mean"}),
        Measure("mufidelity-absolute", values.abs(), absolute, {**told, "aggregate": "mean of absolute values"}),
    ]


def grid_cells(height: int, width: int, grid: int) -> Tensor:
    """(H, W): the cell that each pixel lies in, of at most grid x grid cells, in reading order."""
    rows, columns = min(grid, height), min(grid, width)
    down = torch.arange(height) * rows // height
    across = torch.arange(width) * columns // width
    return down[:, None] * columns + across[None]


def cell_sums(maps: Tensor, cells: Tensor) -> Tensor:
    """(N, cells) float64 on the CPU: the maps (N, H, W) summed within each cell."""
    flat = maps.detach().flatten(1).double().cpu()
    sums = torch.zeros(len(flat), int(cells.max()) + 1, dtype=torch.float64)
    return sums.index_add(1, cells.flatten(), flat)


def random_sets(number: int, count: int, size: int, seed: int) -> Tensor:
    """(number, count) bool, ``size`` of each row true."""
    draw = torch.rand(number, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.zeros(number, count, dtype=torch.bool).scatter(1, draw.argsort(1)[:, :size], True)


@dataclass(frozen=True)
class Curves:
    """F as pixels go or come.

    Attributes
    ----------
    scores
        (N, steps + 1) float64.
    shares
        (steps + 1,) share of the pixels that is gone, or is there, from 0 to 1.
    measure
        The area under each image's curve, and under those of random orders.
    """

    scores: Tensor
    shares: Tensor
    measure: Measure


def curves(
    kind: str,
    score: Score,
    x: Tensor,
    targets: Tensor,
    maps: Tensor,
    *,
    steps: int = 10,
    fill: str | Tensor = "zero",
    bounds: Bounds | None = None,
    normalise: bool = False,
    orders: int = 3,
    null: Tensor | None = None,
    seed: int = 0,
) -> Curves:
    """F as the most salient pixels are filled (deletion), or put into the filled image (insertion), and its area.

    Parameters
    ----------
    kind
        ``deletion``, the lower the better, or ``insertion``, the higher the better.
    score
        F.
    x, targets
        Images (N, C, H, W) and classes (N,).
    maps
        (N, H, W) signed heat: pixels go in descending order, of equal ones those that come first in reading order.
    steps
        How many, of equally many pixels each.
    fill, bounds
        See `fill_images`.
    normalise
        Divide each curve by F of the whole image; of probabilities only.
    orders
        Random orders of the null, the same for all images and methods; 0: no null.
    null
        ``measure.null`` of an earlier call with the same images and settings, to save these passes.

    Raises
    ------
    UsageError
        Another kind, no steps, maps that do not fit, an unusable fill, or ``normalise`` of another output than
        probability.
    """
    if kind not in KINDS:
        raise UsageError(f"no curve {kind!r}: give {' or '.join(KINDS)}")
    if steps < 1:
        raise UsageError(f"{steps} steps: give at least 1")
    if normalise and score.output != "probability":
        raise UsageError(f"a curve of {score.output} cannot be divided by its start: explain the probability")
    if maps.shape != (len(x), *x.shape[-2:]):
        raise UsageError(f"maps of {tuple(maps.shape)} do not fit {len(x)} images of {_size(x)}")
    walk = _Walk(score, x, targets, fill_images(x, fill, bounds, seed), steps, kind == "insertion", normalise)
    counts = walk.counts().double()
    shares = counts / counts[-1]
    scores = walk.scores(maps)
    if null is None and orders:
        generator = torch.Generator().manual_seed(seed)
        chance = torch.rand(orders, *maps.shape[1:], generator=generator)
        areas = [torch.trapezoid(walk.scores(one.expand(maps.shape)), shares) for one in chance]
        null = torch.stack(areas).mean(0)
    settings = {"steps": steps, "fill": _name(fill), "normalised": normalise, "random_orders": orders}
    settings |= {"seed": seed, "score": score.output, "order": "signed channel sum, descending"}
    return Curves(scores, shares, Measure(kind, torch.trapezoid(scores, shares), null, settings))


@dataclass(frozen=True)
class _Walk:
    """From whole images to filled ones, or back, along the order of a map."""

    score: Score
    x: Tensor
    targets: Tensor
    filled: Tensor
    steps: int
    inserts: bool
    normalise: bool

    def counts(self) -> Tensor:
        """(steps + 1,) pixels gone or come after each step."""
        pixels = self.x.shape[-2] * self.x.shape[-1]
        return (2 * pixels * torch.arange(self.steps + 1) + self.steps) // (2 * self.steps)

    def scores(self, maps: Tensor) -> Tensor:
        """(N, steps + 1) float64 on the CPU."""
        order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
        places = torch.arange(order.shape[1], device=order.device).expand_as(order)
        rank = torch.empty_like(order).scatter(1, order, places).view(maps.shape).to(self.x.device)
        start, end = (self.filled, self.x) if self.inserts else (self.x, self.filled)
        counts, points = self.counts().to(self.x.device), self.steps + 1

        def images(flat: Tensor) -> tuple[Tensor, Tensor]:
            image = flat // points
            moved = (rank[image] < counts[flat % points].view(-1, 1, 1)).unsqueeze(1)
            return torch.where(moved, end[image], start[image]), self.targets[image]

        found = _scores(self.score, len(self.x) * points, self.x.device, images).view(len(self.x), points)
        if not self.normalise:
            return found
        whole = found[:, -1:] if self.inserts else found[:, :1]
        return found / whole.clamp_min(torch.finfo(torch.float32).tiny)


def _scores(
    score: Score, total: int, device: torch.device, images: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> Tensor:
    """F of ``total`` images that are made, and dropped, a batch at a time; (total,) float64 on the CPU."""
    found = torch.empty(total, dtype=torch.float64)
    for i in range(0, total, score.batch):
        made, targets = images(torch.arange(i, min(i + score.batch, total), device=device))
        found[i : i + score.batch] = score.values(made, targets).double().cpu()
    return found


def _name(fill: str | Tensor) -> str:
    return fill if isinstance(fill, str) else "image"


def _size(x: Tensor) -> str:
    return f"{x.shape[-2]}x{x.shape[-1]}"
