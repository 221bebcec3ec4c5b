"""Feature leakage: attribution on pixels that are known to hold nothing of the class.

The published definition of feature leakage is not known to us. Two are given, each under its own name: the share of the
attribution's mass that lies on the null region, which grows with the region's area, and the ratio of densities, which
does not. For both, the null is what a map that is the same everywhere would have.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rectify.errors import UsageError
from rectify.evaluation.measure import Measure


def leakage(maps: Tensor, null_region: Tensor) -> list[Measure]:
    """Attribution on a region where there is nothing to attribute.

    Parameters
    ----------
    maps
        (N, H, W) heat; its absolute value is taken.
    null_region
        Bool (H, W) or (N, H, W): true where nothing of the class is.

    Returns
    -------
    ``leakage``: sum of |A| on the region over the sum of |A|, in [0, 1]; 0 of an empty map (``empty`` counts
    them). ``leakage-density``: mean |A| on the region over mean |A| elsewhere; infinite where nothing is
    attributed elsewhere (``infinite`` counts these), 0 of an empty map.

    Raises
    ------
    UsageError
        If the mask is not bool, does not fit, or is all true or all false for an image.
    """
    region = _region(maps, null_region).flatten(1)
    heat = maps.detach().flatten(1).double().cpu().abs()
    inside, total = (heat * region).sum(1), heat.sum(1)
    outside = (heat * ~region).sum(1)
    area = region.double().mean(1)
    empty = total == 0
    share = inside / total.masked_fill(empty, 1)
    density = (inside / area / (outside / (1 - area))).masked_fill(empty, 0)
    told = {"map": "|channel sum|", "empty": int(empty.sum())}
    infinite = int(density.isinf().sum())
    return [
        Measure("leakage", share, area, {**told, "definition": "mass share"}),
        Measure(
            "leakage-density",
            density,
            torch.ones_like(density),
            {**told, "definition": "density ratio", "infinite": infinite},
        ),
    ]


def _region(maps: Tensor, mask: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        raise UsageError(f"a null region is a mask of true and false, not of {mask.dtype}")
    if mask.shape not in (maps.shape, maps.shape[1:]):
        raise UsageError(f"a null region of {tuple(mask.shape)} does not fit maps of {tuple(maps.shape)}")
    mask = mask.cpu().expand(maps.shape)
    marked = mask.flatten(1).sum(1)
    if bool(((marked == 0) | (marked == mask[0].numel())).any()):
        raise UsageError("a null region that is all or none of the image: nothing to compare; mark part of it")
    return mask
