"""Static baselines: images that hold nothing, or less, of what is explained."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from rectify.attribution.attribution import Settings
from rectify.errors import UsageError
from rectify.names import BASELINES

BLUR = 0.1  # standard deviation of the blur, as a share of the image's longer side
NOISE = 0.5  # standard deviation of the noise, as a share of the way from black to white


def baseline_images(x: Tensor, settings: Settings) -> Tensor:
    """The baseline of each image, (N, C, H, W).

    ``black`` and ``white`` are the ends of the pixel range, ``mean`` the average colour that the preprocessing
    subtracts (an input of zeros), ``blur`` the image under a Gaussian of a tenth of its longer side, ``noise`` the
    image with Gaussian noise of half the pixel range (clipped to it), ``uniform`` uniform noise over it.

    Raises
    ------
    UsageError
        Unknown name, an image of another shape, or a baseline that needs the pixel range without `Settings.bounds`.
    """
    chosen = settings.baseline
    if isinstance(chosen, Tensor):
        if chosen.shape[-3:] != x.shape[-3:] or (chosen.ndim == 4 and len(chosen) not in (1, len(x))):
            raise UsageError(f"a baseline of {_shape(chosen)} does not fit images of {_shape(x[0])}")
        return chosen.to(x).expand_as(x).clone()
    if chosen == "mean":
        return torch.zeros_like(x)
    if chosen == "blur":
        return gaussian_blur(x, BLUR * max(x.shape[-2:]))
    if chosen not in BASELINES:
        raise UsageError(f"unknown baseline {chosen!r}: give {', '.join(BASELINES)}, or an image")
    if settings.bounds is None:
        raise UsageError(f"the baseline {chosen} needs the values of a black and of a white pixel")
    low, high = (bound.to(x) for bound in settings.bounds)
    if chosen in ("black", "white"):
        return (low if chosen == "black" else high).expand_as(x).clone()
    # one draw for all images, made on the CPU: a baseline depends neither on the batch nor on the device
    generator = settings.generator(torch.device("cpu"))
    if chosen == "uniform":
        return (low + (high - low) * torch.rand(x.shape[1:], generator=generator).to(x)).expand_as(x).clone()
    noisy = x + NOISE * (high - low) * torch.randn(x.shape[1:], generator=generator).to(x)
    return noisy.clamp(low, high)


def baseline_name(settings: Settings) -> str:
    """How a report names the baseline."""
    return settings.baseline if isinstance(settings.baseline, str) else "image"


def _shape(x: Tensor) -> str:
    return "x".join(map(str, x.shape))


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """(N, C, H, W) under a Gaussian of ``sigma`` pixels, cut at four sigma; the borders are reflected."""
    if sigma <= 0:
        return x.clone()
    for dim in (-2, -1):
        x = _blur_along(x, sigma, dim)
    return x


def _blur_along(x: Tensor, sigma: float, dim: int) -> Tensor:
    size = x.shape[dim]
    reach = max(1, math.ceil(4 * sigma))
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    weights /= weights.sum()
    # as a matrix: reflection may go to and fro where the kernel is longer than the image
    places = (torch.arange(size)[:, None] + torch.arange(-reach, reach + 1)[None]) % (2 * size)
    places = torch.where(places >= size, 2 * size - 1 - places, places)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    matrix.scatter_add_(1, places, weights.expand(size, -1).contiguous())
    matrix = matrix.to(x)
    return F.linear(x.transpose(dim, -1), matrix).transpose(dim, -1)
