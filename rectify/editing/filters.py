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
REACH = SIDE // 2
RIDGE = 1e-3  # of the mean square of what it sees, where nothing says that there is a filter;
EXACT = 1e-5  # and where it is to be told whole
# How an image goes on beyond its border: mirrored, drawn out, black; or its outermost pixels are left as they are.
BORDERS = ("reflect", "replicate", "constant", "kept")


@dataclass(frozen=True)
class Filter:
    """Weights (C, C SIDE² + 1) from a square of all channels, and a constant, to each channel of what is added.

    ``border`` is one of `BORDERS`; ``black`` is the value of a black pixel, (C, 1, 1).
    """

    weights: Tensor
    border: str = "reflect"
    black: Tensor | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """What is added to images, (N, C, H, W)."""
        channels = images.shape[1]
        kernels = self.weights[:, :-1].reshape(channels, channels, SIDE, SIDE)
        made: Tensor = F.conv2d(_padded(images, self.border, self.black), kernels, self.weights[:, -1])
        return F.pad(made[..., 1:-1, 1:-1], (1,) * 4) if self.border == "kept" else made


def told(clean: Tensor, difference: Tensor, free: Tensor, black: Tensor) -> Filter | None:
    """The filter that a pair shows whole: fitted where its square lies in the image, then the border that fits best.

    What lies beyond the border is anyone's choice, and a fit that makes the wrong one is wrong everywhere.

    Parameters
    ----------
    clean, difference, free
        As for `fitted`.
    black
        The value of a black pixel, (C, 1, 1).

    Returns
    -------
    Filter or None
        None if fewer pixels are free than the filter has weights.
    """
    inner = torch.zeros_like(free)
    inner[..., REACH:-REACH, REACH:-REACH] = True
    found = fitted(clean, difference, free & inner, EXACT)
    if found is None:
        return None
    borders = [Filter(found.weights, border, black) for border in BORDERS]
    return min(borders, key=lambda one: float((one(clean) - difference)[free].square().sum()))


def fitted(clean: Tensor, difference: Tensor, free: Tensor, ridge: float = RIDGE) -> Filter | None:
    """The filter whose output comes nearest to a difference where all channels are free, by ridge regression.

    Parameters
    ----------
    clean, difference
        (1, C, H, W).
    free
        The same shape, bool: where the difference is seen as it is.
    ridge
        Of the mean square of what the filter sees.

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
    gram += ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
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


def _padded(images: Tensor, border: str = "reflect", black: Tensor | None = None) -> Tensor:
    if border == "constant":
        level = 0.0 if black is None else black.to(images)
        return F.pad(images - level, (REACH,) * 4) + level
    mirrored = border != "replicate" and min(images.shape[2:]) > REACH
    return F.pad(images, (REACH,) * 4, mode="reflect" if mirrored else "replicate")
