"""Important direction gradient integration (Yang, Wang, Bilgic 2023, arXiv 2303.14242).

Only the part of each step along the gradient changes F; that part is what is attributed:

    A = sum_j g_j * g_j / (g_j . g_j) * (F(x_j+1) - F(x_j)),  g_j = dF_c/dx(x_j)
"""

from __future__ import annotations

import torch
from torch import Tensor

from rectify.attribution.attribution import Attribution, Settings
from rectify.attribution.baselines import baseline_images, baseline_name
from rectify.attribution.gradients import groups, steps_of
from rectify.attribution.score import Score

STEPS = 32


def idgi(score: Score, x: Tensor, targets: Tensor, settings: Settings) -> Attribution:
    """IDGI on the straight path from a static baseline.

    The sum telescopes to F(x) - F(x') whatever the steps, less the steps that start where the gradient is zero.

    Parameters
    ----------
    score
        F.
    x, targets
        Images (N, C, H, W) and classes (N,).
    settings
        ``baseline``; ``steps`` (32): gradients, at j/steps for j = 0..steps-1.

    Raises
    ------
    UsageError
        Unknown baseline, or fewer than one step.
    """
    steps = steps_of(settings, STEPS)
    baseline = baseline_images(x, settings)
    confidence = score.values(x, targets)
    total, scores, left = torch.zeros_like(x), [confidence.unsqueeze(0)], steps
    for count in groups(steps, score.batch // max(1, len(x))):
        # from the image down to the baseline, so that F at the step's end is known
        alphas = torch.arange(left - 1, left - 1 - count, -1).to(x) / steps
        points = baseline + alphas.view(-1, 1, 1, 1, 1) * (x - baseline)  # (k, N, C, H, W)
        value, slope = score.gradients(points.flatten(0, 1), targets.repeat(count))
        value = value.view(count, -1)
        rise = torch.cat([scores[-1][-1:], value[:-1]]) - value
        total += (direction(slope).view_as(points) * rise.view(count, -1, 1, 1, 1)).sum(0)
        scores.append(value)
        left -= count
    path = torch.cat(scores).flip(0).T  # (N, steps + 1)
    told = {"steps": steps, "baseline": baseline_name(settings)}
    return Attribution(total, confidence, baseline, confidence - path[:, 0], tuple(path), True, told)


def direction(slope: Tensor) -> Tensor:
    """g * g / (g . g) of gradients (B, ...); zero where g is."""
    peak = slope.abs().flatten(1).amax(1).view(-1, *[1] * (slope.ndim - 1))
    square = (slope / peak).square()  # scaled: the square of a small gradient is zero in float32
    share = square / square.flatten(1).sum(1).view_as(peak)
    return torch.where(peak == 0, 0, share)
