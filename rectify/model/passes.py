"""How many images go through a network at a time."""

from __future__ import annotations

import torch
from torch import Tensor

# Numbers that the images of a pass have together, at most. On a CPU more only leave its caches: 128 images of 160
# pixels took an EfficientNet 6.6 s all together, 5.0 in halves, 2.5 by sixteen. Elsewhere it is memory that ends.
NUMBERS = {"cpu": 1 << 20}
NUMBERS_ELSEWHERE = 1 << 22


def images_a_pass(images: Tensor, most: int, device: torch.device | None = None) -> int:
    """How many of these images (N, C, H, W) to take at a time where at ``most`` so many are asked for.

    ``device``: where the network is, if the images are elsewhere.
    """
    if not len(images):
        return most
    where = (images.device if device is None else device).type
    return max(1, min(most, NUMBERS.get(where, NUMBERS_ELSEWHERE) // images[0].numel()))
