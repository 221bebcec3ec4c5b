"""Blur integrated gradients (Xu, Venugopalan, Sundararajan 2020, arXiv 2004.03383).

The path is the image's scale space, from a blur of ``max_sigma`` to the image itself:

    A_i = integral dF_c/dx_i(x(s)) * dx_i(s)/ds ds,  s from max_sigma to 0
"""

from __future__ import annotations

import torch
from torch import Tensor

from rectify.attribution.attribution import Attribution, Settings
from rectify.attribution.baselines import gaussian_blur
from rectify.attribution.gradients import groups, steps_of
from rectify.attribution.score import Score
from rectify.errors import UsageError

STEPS = 50
MAX_SIGMA = 50 / 224  # as a share of the image's longer side
SPACINGS = ("linear", "sqrt")


def blur_ig(score: Score, x: Tensor, targets: Tensor, settings: Settings) -> Attribution:
    """Gradients integrated along the blur path.

    The trapezoid rule in its Stieltjes form, sum_j (g_j + g_j+1)/2 * (x_j+1 - x_j): no derivative of the blur is
    needed, the sum is exact where F is quadratic, and where F is smooth the completeness gap falls with the square of
    the steps. (The authors' code takes a left sum over a difference quotient: first order.)

    Parameters
    ----------
    score
        F.
    x, targets
        Images (N, C, H, W) and classes (N,).
    settings
        ``steps``: path points (50), both ends included; ``options``: ``max_sigma`` in pixels (50 for a longer side of
        224, in proportion for others); ``spacing``: ``linear`` in sigma, or ``sqrt``, linear in sigma squared, which
        is the time of the heat equation. (The authors' ``sqrt`` ends at the root of their ``max_sigma``.)

    Raises
    ------
    UsageError
        Fewer than two steps, a sigma that is not positive, or an unknown spacing.
    """
    steps = steps_of(settings, STEPS, least=2)
    largest = float(settings.options.get("max_sigma", MAX_SIGMA * max(x.shape[-2:])))
    spacing = str(settings.options.get("spacing", "linear"))
    sigmas = blur_scales(largest, steps, spacing)
    total, scores = torch.zeros_like(x), []
    points, slopes = x[:0].unsqueeze(0), x[:0].unsqueeze(0)  # no point yet
    done = 0
    for count in groups(steps, score.batch // max(1, len(x))):
        blurred = torch.stack([gaussian_blur(x, sigma) for sigma in sigmas[done : done + count]])  # (k, N, C, H, W)
        value, slope = score.gradients(blurred.flatten(0, 1), targets.repeat(count))
        scores.append(value.view(count, -1))
        slope = slope.view_as(blurred)
        # the last point of the group before is the first of this one
        points = torch.cat([points[-1:], blurred]) if done else blurred
        slopes = torch.cat([slopes[-1:], slope]) if done else slope
        total += ((slopes[1:] + slopes[:-1]) / 2 * points.diff(dim=0)).sum(0)
        done += count
    path = torch.cat(scores).T  # (N, steps)
    told = {"steps": steps, "max_sigma": largest, "spacing": spacing}
    baseline = gaussian_blur(x, largest)
    return Attribution(total, path[:, -1], baseline, path[:, -1] - path[:, 0], tuple(path), True, told)


def blur_scales(largest: float, steps: int, spacing: str) -> list[float]:
    """Standard deviations of the blur along the path, from ``largest`` to 0, in pixels.

    Raises
    ------
    UsageError
        ``largest`` is not positive, or the spacing is neither ``linear`` nor ``sqrt``.
    """
    if largest <= 0:
        raise UsageError(f"a largest blur of {largest:g} pixels: give more than 0")
    if spacing not in SPACINGS:
        raise UsageError(f"unknown spacing {spacing!r} of the blur: give {' or '.join(SPACINGS)}")
    left = [1 - step / (steps - 1) for step in range(steps)]
    return [largest * (share**0.5 if spacing == "sqrt" else share) for share in left]
