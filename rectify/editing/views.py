"""Other views of images: mirrored, moved, brightened; copies of those that there are, where there are few."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rectify.editing.guess import Bounds

PSEUDO = 64  # variations of the clean images of pairs that stand in for missing calibration images


def variations(clean: Tensor, bounds: Bounds, seed: int = 0) -> Tensor:
    """Shifted, mirrored, brightened and contrasted copies of a few images, (PSEUDO, C, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    height, width = clean.shape[2:]
    reach = max(1, min(height, width) // 10)
    padded = F.pad(clean, (reach,) * 4, mode="replicate")
    made = []
    for number in range(PSEUDO):
        top, left = torch.randint(0, 2 * reach + 1, (2,), generator=generator).tolist()
        image = padded[number % len(clean), :, top : top + height, left : left + width]
        if number % 2:
            image = image.flip(2)
        contrast, brightness = (torch.rand(2, generator=generator) - 0.5).tolist()
        span = (bounds[1] - bounds[0]).to(image)
        image = image.mean() + (image - image.mean()) * (1 + 0.6 * contrast) + 0.2 * brightness * span
        made.append(torch.minimum(torch.maximum(image, bounds[0].to(image)), bounds[1].to(image)))
    return torch.stack(made)


def shifted(images: Tensor, seed: int, *, shift: bool = True) -> Tensor:
    """Each image shifted by up to an eighth of its side (or not) and, every other time, mirrored; same shape."""
    generator, reach = torch.Generator().manual_seed(seed), _reach(images) if shift else 0
    parts = _displaced(images, reach, _places(len(images), reach, generator))
    mirrored = (torch.rand(len(images), generator=generator) < 0.5).tolist()
    return torch.stack([part.flip(2) if mirror else part for part, mirror in zip(parts, mirrored, strict=True)])


def shifted_alike(one: Tensor, other: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Each image (N, C, H, W) and its twin shifted by the same, up to an eighth of the side; same shapes."""
    reach = _reach(one)
    places = _places(len(one), reach, generator)
    return torch.stack(_displaced(one, reach, places)), torch.stack(_displaced(other, reach, places))


def nearby(images: Tensor) -> list[Tensor]:
    """The images (N, C, H, W) mirrored, and moved by one pixel to each of four sides; five of the same shape."""
    sides = ((0, 1), (2, 1), (1, 0), (1, 2))
    moved = (torch.stack(_displaced(images, 1, [list(side)] * len(images))) for side in sides)
    return [images.flip(3), *moved]


def _reach(images: Tensor) -> int:
    """By how many pixels images are shifted at most."""
    return max(1, min(images.shape[2:]) // 8)


def _places(count: int, reach: int, generator: torch.Generator) -> list[list[int]]:
    """Top and left of so many images in those that are ``reach`` pixels wider on each side."""
    places: list[list[int]] = torch.randint(0, 2 * reach + 1, (count, 2), generator=generator).tolist()
    return places


def _displaced(images: Tensor, reach: int, places: list[list[int]]) -> list[Tensor]:
    """What of each image, with its mirrored surroundings, lies at its place; each (C, H, W)."""
    height, width = images.shape[2:]
    padded = F.pad(images, (reach,) * 4, mode="reflect" if min(height, width) > reach else "replicate")
    found = zip(padded, places, strict=True)
    return [image[:, top : top + height, left : left + width] for image, (top, left) in found]
