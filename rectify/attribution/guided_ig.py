"""Guided integrated gradients (Kapishnikov et al. 2021, arXiv 2106.09788).

The path changes those pixels first whose gradient is smallest, within a band around the straight line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rectify.attribution.attribution import Attribution, Settings
from rectify.attribution.baselines import baseline_images, baseline_name
from rectify.attribution.gradients import groups, steps_of
from rectify.attribution.score import Score
from rectify.errors import UsageError

STEPS = 50
FRACTION = 0.25
MAX_DIST = 0.02
CLOSE = 1e-9  # distances that differ by this share of the whole way are equal


@dataclass(frozen=True)
class Guide:
    """``fraction`` of the pixels that move at a time, and ``max_dist`` from the straight line, as a share of it."""

    fraction: float = FRACTION
    max_dist: float = MAX_DIST

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise UsageError(f"a fraction of {self.fraction:g} of the pixels: give more than 0 and at most 1")
        if not 0 <= self.max_dist <= 1:
            raise UsageError(f"{self.max_dist:g} as the largest distance from the straight path: give 0 to 1")


def guided_ig(score: Score, x: Tensor, targets: Tensor, settings: Settings) -> Attribution:
    """Gradients summed along the guided path, A = sum_k g(x_k) * (x_k+1 - x_k).

    The sum is a left sum, as in the paper, so sum(A) approaches F(x) - F(x') at first order in the steps.

    Parameters
    ----------
    score
        F.
    x, targets
        Images (N, C, H, W) and classes (N,).
    settings
        ``baseline``; ``steps`` (50; the authors' code takes 200): one gradient each; ``options``: ``fraction`` (.25)
        of the pixels, those of the smallest gradient, that move at a time, and ``max_dist`` (.02): how far a pixel may
        be before or behind the straight path, as a share of it (0 is the straight path itself).

    Raises
    ------
    UsageError
        Unknown baseline, fewer than one step, or options outside their range.
    """
    steps, options = steps_of(settings, STEPS), settings.options
    guide = Guide(float(options.get("fraction", FRACTION)), float(options.get("max_dist", MAX_DIST)))
    baseline = baseline_images(x, settings)
    values, path = torch.empty_like(x), torch.empty(len(x), steps + 1, dtype=x.dtype, device=x.device)
    done = 0
    for count in groups(len(x), score.batch):  # the state of a path is held in float64
        some = slice(done, done + count)
        values[some], path[some, :-1] = guided_path(score, baseline[some], x[some], targets[some], steps, guide)
        done += count
    path[:, -1] = score.values(x, targets)
    told = {"steps": steps, "fraction": guide.fraction, "max_dist": guide.max_dist, "baseline": baseline_name(settings)}
    return Attribution(values, path[:, -1], baseline, path[:, -1] - path[:, 0], tuple(path), True, told)


def guided_path(
    score: Score, start: Tensor, end: Tensor, targets: Tensor, steps: int, guide: Guide
) -> tuple[Tensor, Tensor]:
    """The sum along the path, (N, C, H, W), and F at its points but the last, (N, steps).

    Where a pixel is on its way from ``start`` to ``end`` is kept as a share, 0 to 1, so that "has arrived" is an
    equality of floats that holds, and 1 is exactly ``end``.
    """
    first, last = start.flatten(1).double(), end.flatten(1).double()
    way = last - first
    place, point = torch.zeros_like(way), first
    values, scores = torch.zeros_like(way), []
    for step in range(steps):
        value, slope = score.gradients(point.to(end.dtype).view_as(end), targets)
        slope = slope.flatten(1).double()
        place = advance(place, slope.abs(), way.abs(), (step + 1) / steps, guide)
        if step == steps - 1:
            place = torch.ones_like(place)  # what rounding left behind
        reached = torch.where(place == 1, last, first + place * way)
        values += (reached - point) * slope
        point = reached
        scores.append(value)
    return values.to(end.dtype).view_as(end), torch.stack(scores, 1)


def advance(place: Tensor, slope: Tensor, length: Tensor, share: float, guide: Guide) -> Tensor:
    """One step: pixels move, smallest gradient first, until ``1 - share`` of the L1 distance is left.

    Parameters
    ----------
    place
        (N, D): the share of its way that each pixel has gone.
    slope, length
        (N, D): absolute gradients and lengths of the ways.
    share
        Of the distance that the step is to have covered at its end.
    """
    behind, ahead = max(share - guide.max_dist, 0.0), min(share + guide.max_dist, 1.0)
    total = length.sum(1)
    rank = math.floor(guide.fraction * (length.shape[1] - 1)) + 1
    slope = slope.masked_fill(length == 0, math.inf)  # has no way to go
    place = place.clamp_min(behind)
    while True:
        excess = (length * (1 - place)).sum(1) - (1 - share) * total
        free = slope.masked_fill(place >= ahead, math.inf)
        # ties at the threshold all move, so there is always one that does
        chosen = (free <= free.kthvalue(rank, dim=1, keepdim=True).values) & free.isfinite()
        room = (length * (ahead - place) * chosen).sum(1)
        moving = (excess > CLOSE * total) & (room > 0)
        if not moving.any():
            return place
        part = torch.where(moving, excess / room, 0).clamp(0, 1).unsqueeze(1)
        moved = torch.where(part == 1, ahead, place + part * (ahead - place))
        place = torch.where(chosen & moving.unsqueeze(1), moved, place)
