"""Second moments of keys, streamed: float32 products, float64 sums."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

POSITIONS = 1024  # positions of an image that enter a moment; more are sampled
STRIP = 512  # rows of a Gram matrix that are computed together


@dataclass
class Normal:
    """The normal equations of one layer over a set of images; everything is a mean over images.

    Attributes
    ----------
    moment
        (G, d, d) float64, ``mean_images sum_positions k k^T``.
    cross
        (G, o, d) float64, ``mean_images sum_positions r k^T``.
    """

    moment: Tensor
    cross: Tensor


def accumulate(
    pairs: Iterable[tuple[Tensor, Tensor]],
    *,
    changed_only: float = 0.0,
    seed: int = 0,
) -> Normal:
    """Normal equations of keys (b, G, d, P) and residuals (b, G, o, P).

    Parameters
    ----------
    pairs
        Batches, as `rectify.editing.values.keys_and_residuals` yields them.
    changed_only
        Positions whose residual is below this share of the image's largest are left out (0: all are kept).
    seed
        Of the sample of positions, where an image has more than ``POSITIONS``.
    """
    moment = cross = None
    images = 0
    generator = torch.Generator().manual_seed(seed)
    for keys, residuals in pairs:
        keys, residuals, weight = _sample(keys, residuals, generator)
        if changed_only > 0:
            size = residuals.square().sum((1, 2)).sqrt()
            keep = (size > changed_only * size.amax(1, keepdim=True)).to(keys.dtype)[:, None, None]
            keys, residuals = keys * keep, residuals * keep
        k = keys.permute(1, 2, 0, 3).flatten(2)  # (G, d, b P)
        r = residuals.permute(1, 2, 0, 3).flatten(2)  # (G, o, b P)
        if moment is None or cross is None:
            moment = k.new_zeros(len(k), k.shape[1], k.shape[1], dtype=torch.float64)
            cross = k.new_zeros(len(k), r.shape[1], k.shape[1], dtype=torch.float64)
        moment.add_(gram(k), alpha=weight)
        cross.add_(r @ k.mT, alpha=weight)
        images += len(keys)
    if moment is None or cross is None:
        raise ValueError("no keys: an empty set of images")
    return Normal(moment / images, cross / images)


def gram(keys: Tensor) -> Tensor:
    """``K K^T`` of keys (G, d, m), (G, d, d): the lower half in strips, and mirrored.

    Of a large matrix that is little more than half of the work.
    """
    size = keys.shape[1]
    if size <= STRIP:
        return keys @ keys.mT
    product = keys.new_empty(len(keys), size, size)
    for start in range(0, size, STRIP):
        rows = slice(start, start + STRIP)
        strip = keys[:, rows] @ keys[:, : start + STRIP].mT
        product[:, rows, : start + STRIP] = strip
        product[:, : start + STRIP, rows] = strip.mT
    return product


def _sample(keys: Tensor, residuals: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """At most ``POSITIONS`` positions an image, and the weight that makes up for the others."""
    positions = keys.shape[-1]
    if positions <= POSITIONS:
        return keys, residuals, 1.0
    chosen = torch.randperm(positions, generator=generator)[:POSITIONS].to(keys.device)
    return keys[..., chosen], residuals[..., chosen], positions / POSITIONS
