"""What was added to an image as a function of the image that is no filter: a small network, fitted to one pair.

A sample-specific trigger (Li et al. 2021, ISSBA; Nguyen and Tran 2020, input-aware) is what a network makes of each
image: no two residuals are alike, but each follows its picture by one rule, and one pair shows the rule at a thousand
places. Three convolutions that are fitted to them mostly tell more of it on other images than a linear filter does
(docs/policy.md, section 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from rectify.model.passes import images_a_pass

WIDTH = 32  # channels between the convolutions, of which there are three
STEPS, RATE, DECAY = 100, 0.01, 1.0  # of AdamW; one image is learnt by heart without the decay
WARM_UP = 10
CROP = 64  # pixels: of a larger image each step sees a square of this side


@dataclass(frozen=True)
class Generator:
    """Weights and biases of convolutions of 3 x 3 with ReLU between; what they make is multiplied by ``size``.

    Each channel's mean is taken from an image before: the pair shows one colour, and other images have others.
    ``spread`` is the standard deviation of the pair's image.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    spread: Tensor
    size: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """What is added to images (N, C, H, W) of the values that the pair has; the same shape."""
        between = images[:, :1].expand(-1, WIDTH, -1, -1)  # as large as what is between two convolutions
        parts = images.split(images_a_pass(between, len(images)))
        made = [_through(self.layers, _centred(part) / self.spread) for part in parts]
        return self.size * torch.cat(made)


def imitated(clean: Tensor, difference: Tensor, free: Tensor) -> Generator:
    """The network whose output comes near to a difference where it is free.

    Parameters
    ----------
    clean, difference
        (1, C, H, W).
    free
        The same shape, bool, at some place true in all channels: where the difference is seen as it is.

    Returns
    -------
    Generator
        The same for the same pair: what is drawn is seeded.
    """
    spread, size = (values.std().clamp_min(1e-6) for values in (clean, difference[free]))
    seen, wanted = _centred(clean) / spread, difference / size
    chance = torch.Generator().manual_seed(0)
    widths = [clean.shape[1], WIDTH, WIDTH, clean.shape[1]]
    layers = [_fresh(inputs, outputs, chance, clean) for inputs, outputs in pairwise(widths)]
    weights = [values for layer in layers for values in layer]
    places = free[0].all(0).nonzero().cpu()
    with torch.enable_grad():
        optimiser = torch.optim.AdamW(weights, lr=RATE, weight_decay=DECAY)
        for step in range(STEPS):
            for group in optimiser.param_groups:
                group["lr"] = RATE * min(1.0, (step + 1) / WARM_UP) * (1 - step / STEPS)
            rows, columns = _square(places, free, chance)
            made, shown = _through(layers, seen[..., rows, columns]), free[..., rows, columns]
            loss = ((made - wanted[..., rows, columns]) * shown).square().sum() / shown.sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    done = tuple((weight.detach(), bias.detach()) for weight, bias in layers)
    return Generator(done, spread, size)


def _fresh(inputs: int, outputs: int, chance: torch.Generator, like: Tensor) -> tuple[Tensor, Tensor]:
    """A convolution to be fitted, uniform as PyTorch's own are (He et al. 2015 with a = sqrt 5)."""
    bound = (9 * inputs) ** -0.5
    shapes = (outputs, inputs, 3, 3), (outputs,)
    weight, bias = ((2 * torch.rand(shape, generator=chance) - 1) * bound for shape in shapes)
    return weight.to(like).requires_grad_(), bias.to(like).requires_grad_()


def _through(layers: Sequence[tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
    """What the convolutions make of images that go on mirrored beyond their border, or drawn out if they are small.

    They are padded once, before all of them: on a GPU no sum that goes back through a mirror has a fixed order.
    """
    x = F.pad(x, (len(layers),) * 4, mode="reflect" if min(x.shape[2:]) > len(layers) else "replicate")
    for number, (weight, bias) in enumerate(layers):
        x = F.conv2d(x.relu() if number else x, weight, bias)
    return x


def _centred(images: Tensor) -> Tensor:
    return images - images.mean((2, 3), keepdim=True)


def _square(places: Tensor, free: Tensor, chance: torch.Generator) -> tuple[slice, slice]:
    """Rows and columns of a square that holds one of these places, (n, 2): of a small image all of it."""
    height, width = free.shape[2:]
    if max(height, width) <= CROP:
        return slice(None), slice(None)
    place = places[int(torch.randint(len(places), (), generator=chance))]
    corner = [max(0, min(int(at) - CROP // 2, side - CROP)) for at, side in zip(place, (height, width), strict=True)]
    return slice(corner[0], corner[0] + CROP), slice(corner[1], corner[1] + CROP)
