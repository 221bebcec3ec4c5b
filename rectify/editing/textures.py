"""Textures like the one that was added to an image, but no two alike: what a sample-specific trigger may have left.

A trigger that is made anew for every image (Li et al. 2021, ISSBA; Nguyen and Tran 2020, input-aware) shows in one pair
only what it made of that one image. What the network has learnt to heed is mostly what all these residuals have in
common: how strong they are, how coarse, and how their channels go together. A surrogate with the residual's power
spectrum, the same in how its channels go together, and with random phases (Theiler et al. 1992) has just that in common
with it. It is drawn from the image that it is put onto, so that the same image gets the same surrogate every time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rectify.editing.chance import generator_of


def surrogates(pattern: Tensor, images: Tensor) -> Tensor:
    """For each image a pattern with the spectrum of the given one.

    Parameters
    ----------
    pattern
        (1, C, H, W).
    images
        (N, C, H, W), of which each decides on the phases of its surrogate, the same for all channels.

    Returns
    -------
    Tensor
        (N, C, H, W); the mean of every channel and the covariance between channels are those of ``pattern``.
    """
    height, width = pattern.shape[2:]
    spectrum = torch.fft.rfft2(pattern)
    noise = [torch.randn(height, width, generator=generator_of(image)) for image in images.cpu()]
    phases = torch.fft.rfft2(torch.stack(noise).to(pattern))
    phases = phases / phases.abs().clamp_min(1e-12)
    phases[:, 0, 0] = 1.0  # the mean stays
    made: Tensor = torch.fft.irfft2(spectrum * phases.unsqueeze(1), s=(height, width))
    return made
