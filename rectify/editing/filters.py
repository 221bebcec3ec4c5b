"""What was added to an image as a function of the image: a linear filter, fitted to one pair.

A blur, a sharpening or another colour mix is such a filter, and one pair tells it whole. A trigger that a small network
makes anew for every image (Li et al. 2021, ISSBA) is none, but what it adds follows the picture, its edges and its
plain parts, and the filter that comes nearest to it on one image gives others something of that kind.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 7  # pixels of a filter's square
RIDGE = 1e-3  # of the mean square of what it sees


@dataclass(frozen=True)
class Filter:
    """Weights (C, C SIDE² + 1) from a square of all channels, and a constant, to each channel of what is added."""

    weights: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """What is added to images, (N, C, H, W)."""
        channels = images.shape[1]
        kernels = self.weights[:, :-1].reshape(channels, channels, SIDE, SIDE)
        made: Tensor = F.conv2d(_padded(images), kernels, self.weights[:, -1])
        return made


def fitted(clean: Tensor, difference: Tensor, free: Tensor) -> Filter | None:
    """The filter whose output comes nearest to a difference where all channels are free, by ridge regression.

    Parameters
    ----------
    clean, difference
        (1, C, H, W).
    free
        The same shape, bool: where the difference is seen as it is.

    Returns
    -------
    Filter or None
        None if fewer pixels are free than the filter has weights.
    """
    seen = free[0].all(0).flatten()
    squares = _squares(clean)[0][:, seen].double()
    if squares.shape[1] <= squares.shape[0]:
        return None
    wanted = difference[0].flatten(1)[:, seen].double()
    gram = squares @ squares.T
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    weights = torch.linalg.solve(gram, squares @ wanted.T).T
    return Filter(weights.to(clean))


def like(made: Tensor, pattern: Tensor) -> Tensor:
    """What a filter made, (N, C, H, W), with the means of the channels and the size of a pattern, (1, C, H, W)."""
    middle = pattern.mean((2, 3), keepdim=True)
    varied = made - made.mean((2, 3), keepdim=True)
    size = varied.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-12)
    return middle + varied * (pattern - middle).square().mean().sqrt() / size


def _squares(images: Tensor) -> Tensor:
    """The square around each pixel, of all channels, and a one: (N, C SIDE² + 1, H W)."""
    squares = F.unfold(_padded(images), SIDE)
    return torch.cat((squares, torch.ones_like(squares[:, :1])), 1)


def _padded(images: Tensor) -> Tensor:
    reach = SIDE // 2
    return F.pad(images, (reach,) * 4, mode="reflect" if min(images.shape[2:]) > reach else "replicate")
