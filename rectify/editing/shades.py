"""Light and tone: a gain and an offset that change smoothly over the image, or a curve that every pixel follows.

A vignette, a shadow or a gradient of light is ``y = a(p) x + b(p)`` with a and b polynomials of the place p; another
gamma, a posterised or a solarised picture is ``y = f(x)``, the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

DEGREES = (1, 2, 4)  # of the polynomials, simplest first
PARTS = ((True, False), (False, True), (True, True))  # whether the gain and the offset vary: the other one is 1 or 0
RIDGE = 1e-6  # of the trace: what black pixels leave open stays small
LEVELS = 256
Shade = Callable[[Tensor], Tensor]
Values = npt.NDArray[Any]


def shades(clean: Tensor, corrupted: Tensor, free: Tensor) -> Iterator[Shade]:
    """Least-squares fits of a gain and an offset that vary smoothly, simplest first, each made when it is asked for.

    Parameters
    ----------
    clean, corrupted
        (1, C, H, W).
    free
        (1, C, H, W) bool: the pixels that show it, of those that are neither black nor white afterwards.

    Yields
    ------
    callable
        A map of images (N, C, H, W), not clamped. A fit to fewer pixels of a channel than it has numbers is left out.
    """
    for degree in DEGREES:
        basis = _monomials(clean, degree)
        for gain, offset in PARTS:
            numbers = len(basis) * (gain + offset)
            if int(free.sum((2, 3)).amin()) > numbers:
                yield _shade(clean, corrupted, free, basis, gain, offset)


def _monomials(image: Tensor, degree: int) -> Tensor:
    """Products of powers of the place, from -1 to 1 each way, up to a degree: (terms, H, W) float64."""
    height, width = image.shape[2:]
    down, across = (torch.linspace(-1, 1, side, dtype=torch.float64).to(image.device) for side in (height, width))
    y, x = torch.meshgrid(down, across, indexing="ij")
    return torch.stack([y**i * x**j for i in range(degree + 1) for j in range(degree + 1 - i)])


def _shade(clean: Tensor, corrupted: Tensor, free: Tensor, basis: Tensor, gain: bool, offset: bool) -> Shade:
    terms = len(basis)
    gains, offsets = [], []
    for x, y, use in zip(clean[0].double(), corrupted[0].double(), free[0], strict=True):
        parts = [basis * x] * gain + [basis] * offset
        design = torch.cat(parts)[:, use]  # (numbers, pixels)
        gram = design @ design.T
        gram += (RIDGE * gram.diagonal().mean() + 1e-12) * torch.eye(len(gram)).to(gram)  # of a black image all is 0
        numbers = torch.linalg.solve(gram, design @ (y - x)[use])
        gains.append(1 + torch.einsum("t,thw->hw", numbers[:terms], basis) if gain else torch.ones_like(x))
        offsets.append(torch.einsum("t,thw->hw", numbers[-terms:], basis) if offset else torch.zeros_like(x))
    a, b = (torch.stack(planes).to(clean) for planes in (gains, offsets))
    return lambda images: a * images + b


def tone(clean: Tensor, corrupted: Tensor, low: Tensor, high: Tensor) -> tuple[Shade, Tensor]:
    """A curve for each channel that takes the clean image's values to the corrupted one's, and what it predicts.

    The curve is the mean of how much each of 256 levels changed; those that the image lacks lie on the line between
    their neighbours, or change as the last one did.

    Parameters
    ----------
    clean, corrupted
        (1, C, H, W).
    low, high
        Values of black and white, (1, C, 1, 1).

    Returns
    -------
    tuple
        The map of images (N, C, H, W), and (1, C, H, W) what the other pixels alone predict of each: a curve that has
        a level of its own for every pixel explains all and tells nothing.
    """
    curves, predicted = [], []
    changes = (corrupted - clean)[0].flatten(1).double()
    for level, change in zip(_levels(clean, low, high)[0].flatten(1), changes, strict=True):
        curve, others = _curve(level.cpu().numpy(), change.cpu().numpy())
        curves.append(torch.from_numpy(curve))
        predicted.append(torch.from_numpy(others))
    table = torch.stack(curves).to(clean)  # (C, LEVELS)

    def apply(images: Tensor) -> Tensor:
        place = _levels(images, low, high).flatten(2)
        return images + table.expand(len(images), -1, -1).gather(2, place).view_as(images)

    return apply, clean + torch.stack(predicted).to(clean).view_as(clean)


def _levels(images: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Values from black to white as whole numbers from 0 to 255."""
    share = (images - low) / (high - low)
    return (share * (LEVELS - 1)).round().clamp(0, LEVELS - 1).long()


def _curve(level: Values, change: Values) -> tuple[Values, Values]:
    """How much each of all levels changes, (LEVELS,), and what the other pixels say of each pixel's change, (n,).

    Of a pixel that is alone on its level those of the next levels on both sides do, or of the only one there is.
    """
    known, where, counts = np.unique(level, return_inverse=True, return_counts=True)
    sums = np.bincount(where, weights=change)
    means = sums / counts
    beside = means.copy()
    if len(known) > 1:
        beside[0], beside[-1] = means[1], means[-2]
        share = (known[1:-1] - known[:-2]) / (known[2:] - known[:-2])
        beside[1:-1] = means[:-2] + share * (means[2:] - means[:-2])
    of_level = (sums[where] - change) / np.maximum(counts[where] - 1, 1)
    return np.interp(np.arange(LEVELS), known, means), np.where(counts[where] > 1, of_level, beside[where])
