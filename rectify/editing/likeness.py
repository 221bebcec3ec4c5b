"""Are the two images of a pair the same picture? How alike they are, held against how alike other images are."""

from __future__ import annotations

import torch
from torch import Tensor

from rectify.evaluation.ranks import pearson

LEAST_IMAGES = 20  # calibration images; fewer say too little of how alike different pictures are
AT_ONCE = 16  # images that are compared at a time: in float64 hundreds of large ones take gigabytes
MOST_ALIKE = 0.1  # of the calibration images may be more like the clean image than the corrupted one is


def strangers(clean: Tensor, corrupted: Tensor, calibration: Tensor | None) -> dict[int, float]:
    """Pairs whose images do not look like one picture, without and with a fault.

    Alike is what correlates: neither brightness nor contrast counts, nor whether a picture is a negative.

    Parameters
    ----------
    clean, corrupted
        (n, C, H, W) each.
    calibration
        (N, C, H, W) other pictures, if there are any.

    Returns
    -------
    dict
        For the number of each such pair the share of the calibration images, in [0, 1], that are more like its clean
        image than its corrupted one is: more than ``MOST_ALIKE``. Of 120 pairs of each of the bench's 89 poisoned
        networks (marks, blends, waves, warps, blurs and others) it was 0.025 at most; of two different pictures of a
        set it is above ``MOST_ALIKE`` in about nine of ten.
    """
    if calibration is None or len(calibration) < LEAST_IMAGES:
        return {}
    found = {}
    for number, (one, other) in enumerate(zip(clean, corrupted, strict=True)):
        closer = _alike(one, calibration) > _alike(one, other.unsqueeze(0))
        if (share := float(closer.double().mean())) > MOST_ALIKE:
            found[number] = share
    return found


def _alike(image: Tensor, others: Tensor) -> Tensor:
    """The size of the correlation of an image (C, H, W) with each of others (N, C, H, W): (N,), in [0, 1]."""
    parts = [pearson(image.expand_as(some).flatten(1), some.flatten(1)) for some in others.split(AT_ONCE)]
    return torch.cat(parts).abs()
