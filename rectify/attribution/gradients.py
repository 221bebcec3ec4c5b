"""The gradient, the gradient times the image, and SmoothGrad."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rectify.attribution.attribution import Attribution, Settings
from rectify.attribution.score import Score
from rectify.errors import UsageError

SAMPLES = 32
NOISE = 0.15  # standard deviation of SmoothGrad's noise, as a share of the pixel range


def gradient(score: Score, x: Tensor, targets: Tensor, settings: Settings) -> Attribution:
    """dF_c/dx (Simonyan, Vedaldi, Zisserman 2014, arXiv 1312.6034), signed, (N, C, H, W) as the images are."""
    confidence, slope = score.gradients(x, targets)
    return Attribution(slope, confidence)


def gradient_x_input(score: Score, x: Tensor, targets: Tensor, settings: Settings) -> Attribution:
    """x * dF_c/dx (Shrikumar, Greenside, Kundaje 2017, arXiv 1704.02685), of the image as the network takes it."""
    confidence, slope = score.gradients(x, targets)
    return Attribution(x * slope, confidence)


def smoothgrad(score: Score, x: Tensor, targets: Tensor, settings: Settings) -> Attribution:
    """The mean gradient under Gaussian noise (Smilkov et al. 2017, arXiv 1706.03825).

    M(x) = 1/n sum_k dF_c/dx(x + e_k), e_k ~ N(0, s^2).  An image's noise depends on the seed alone: neither on the
    other images nor on how many go through the network at a time.

    Parameters
    ----------
    score
        F.
    x, targets
        Images (N, C, H, W) and classes (N,).
    settings
        ``steps``: n (32); ``options``: ``noise``, s as a share (.15) of the pixel range, which is that of `bounds` or,
        without them, each image's own; ``square``: the mean of the squared gradient (Hooker et al. 2019, arXiv
        1806.10758).

    Raises
    ------
    UsageError
        Fewer than one sample, or negative noise.
    """
    samples = steps_of(settings, SAMPLES)
    share, square = float(settings.options.get("noise", NOISE)), bool(settings.options.get("square", False))
    if share < 0:
        raise UsageError(f"noise of {share:g} of the pixel range: give 0 or more")
    sigma = share * _pixel_range(x, settings)
    generator = settings.generator(torch.device("cpu"))  # the same noise on every device
    total = torch.zeros_like(x)
    for count in groups(samples, score.batch // max(1, len(x))):
        # drawn one by one, so that how they are grouped does not matter
        noise = [torch.randn(x.shape[1:], generator=generator) for _ in range(count)]
        noisy = x + sigma * torch.stack(noise).to(x).unsqueeze(1)  # (k, N, C, H, W)
        _, slope = score.gradients(noisy.flatten(0, 1), targets.repeat(count))
        total += (slope.square() if square else slope).view_as(noisy).sum(0)
    told = {"steps": samples, "noise": share, "square": square, "seed": settings.seed}
    return Attribution(total / samples, score.values(x, targets), settings=told)


def _pixel_range(x: Tensor, settings: Settings) -> Tensor:
    """The way from black to white, broadcastable to (N, C, H, W)."""
    if settings.bounds is not None:
        low, high = settings.bounds
        return (high - low).to(x)
    return x.amax((1, 2, 3), keepdim=True) - x.amin((1, 2, 3), keepdim=True)


def steps_of(settings: Settings, default: int, least: int = 1) -> int:
    """`Settings.steps`, or the method's own default.

    Raises
    ------
    UsageError
        Fewer than ``least``.
    """
    steps = default if settings.steps is None else settings.steps
    if steps < least:
        raise UsageError(f"{steps} steps: give at least {least}")
    return steps


def groups(total: int, most: int) -> Iterator[int]:
    """The sizes of consecutive groups of at most ``most``, at least one, that together are ``total``."""
    for done in range(0, total, max(1, most)):
        yield min(max(1, most), total - done)
