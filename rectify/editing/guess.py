"""A guess of what turned a clean image into a corrupted one, and what all guesses share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Bounds = tuple[Tensor, Tensor]
_CLIPPED = 1.5 / 255  # of the range: a pixel so near to black or white was clipped, or may have been


@dataclass(frozen=True)
class Corruption:
    """A guess of what turned clean into corrupted: maps images (N, C, H, W) to corrupted images of the same shape.

    ``misfit`` orders guesses of one name: the share of the pair's difference that it leaves unexplained, or, where it
    explains all, that it needs. ``clear``: the pair shows a trait that only this kind of corruption leaves, so that
    others that fire as well need not be believed. ``moves``: it moves what it finds in an image. ``varies``: it does
    something else to each image, of one kind. ``elsewhere_of``: the name of the guess that
    it puts in another place of each image. ``loosely``: the same, but to each image another one of those that the pair
    leaves possible, where that is more than one. ``wider``: makes marks that are a little larger, of which the pair
    shows no more than of this one; each with the same elsewhere. ``covers``: the share of the image that it replaces.
    """

    name: str
    apply: Callable[[Tensor], Tensor]
    misfit: float = 0.0
    clear: bool = False
    moves: bool = False
    varies: bool = False
    elsewhere_of: str = ""
    loosely: Callable[[Tensor], Tensor] | None = None
    wider: Callable[[], list[list[Corruption]]] | None = None
    covers: float = 0.0


def clamp(x: Tensor, bounds: Bounds) -> Tensor:
    """Images (N, C, H, W) between black and white."""
    return torch.minimum(torch.maximum(x, bounds[0]), bounds[1])


def unclipped(image: Tensor, bounds: Bounds) -> Tensor:
    """Where an image, (1, C, H, W), is neither black nor white, bool."""
    low, high = (bound.to(image).reshape(1, -1, 1, 1) for bound in bounds)
    margin = _CLIPPED * (high - low)
    return (image > low + margin) & (image < high - margin)
