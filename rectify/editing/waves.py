"""A plane wave over an image, in any direction, found from the pixels that show it (SIG, Barni et al. 2019)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

STARTS = 8  # peaks of the spectrum that are followed up: pixels that hide the wave add some of their own
ROUNDS = 6  # of the search around a peak, each on five by five frequencies and a finer step
FINER = 2.5
PLACES = 4_096  # pixels, drawn at random, that the search looks at; the wave itself is fitted to all


def frequency_of(difference: Tensor, free: Tensor) -> Tensor:
    """The frequency of the plane wave that explains most of a difference, (1, 2), in periods down and across the image.

    Searched around the peaks of the spectrum, by the least-squares fit of `plane_wave`.

    Parameters
    ----------
    difference
        (C, H, W) what was added.
    free
        (C, H, W) bool: pixels that show it. Nothing is known of the others.
    """
    places, seen, w = _pixels(difference, free)
    some = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))[:PLACES].to(w.device)
    sample = places[some], seen[:, some], w[:, some]
    best = torch.stack([_followed(start, *sample) for start in _peaks(seen.reshape(difference.shape))])
    return best[_explained(best, *sample).argmax()][None]


def plane_wave(difference: Tensor, free: Tensor, frequency: Tensor, harmonics: int = 1) -> Tensor:
    """The wave of a frequency, one for all channels, that explains most of a difference: (C, H, W), in all pixels.

    A least-squares fit of ``a cos(φ) + b sin(φ)`` with ``φ = 2 π (f_y y / H + f_x x / W)`` and a and b for each
    channel.

    Parameters
    ----------
    difference, free, frequency
        As of `frequency_of`.
    harmonics
        With more than one, multiples of the frequency are fitted too: a wave that is no sine.
    """
    places, seen, w = _pixels(difference, free)
    waves = _waves(frequency, places, harmonics)
    return (_amplitudes(waves, seen, w)[0] @ waves[0]).reshape(difference.shape).to(difference)


def _pixels(difference: Tensor, free: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where each pixel lies, (P, 2) in [0, 1), what it shows, (C, P), and whether it counts, (C, P)."""
    w = free.flatten(1).double()
    seen = difference.flatten(1).double() * w
    return torch.cartesian_prod(*(torch.arange(side).to(seen) / side for side in difference.shape[1:])), seen, w


def _peaks(seen: Tensor) -> Tensor:
    """The highest peaks of the power spectrum of (C, H, W), (n, 2) in periods down and across, half a period apart."""
    height, width = seen.shape[1:]
    power = torch.fft.rfft2(seen, s=(2 * height, 2 * width)).abs().square().sum(0)
    down = torch.fft.fftfreq(2 * height, 1 / (2 * height)).to(seen) / 2
    across = torch.arange(power.shape[1]).to(seen) / 2
    grid = torch.stack(torch.meshgrid(down, across, indexing="ij"), -1)
    around = F.max_pool2d(power[None, None], 3, 1, 1)[0, 0]
    slow = grid.square().sum(-1) < 0.5  # less than a period over the image is no wave
    power = power.where((power == around) & ~slow, -1.0).flatten()
    return grid.reshape(-1, 2)[power.topk(min(STARTS, len(power))).indices]


def _followed(start: Tensor, places: Tensor, seen: Tensor, w: Tensor) -> Tensor:
    """The frequency near a peak that explains most, (2,)."""
    best, step = start, 0.25
    offsets = torch.cartesian_prod(*[torch.arange(-2.0, 3.0)] * 2).to(seen)
    for _ in range(ROUNDS):
        near = best + step * offsets
        best = near[_explained(near, places, seen, w).argmax()]
        step /= FINER
    return best


def _waves(frequencies: Tensor, places: Tensor, harmonics: int) -> Tensor:
    """Cosines and sines of frequencies (n, 2) and their harmonics at places (P, 2) in [0, 1): (n, 2 * harmonics, P)."""
    phase = 2 * math.pi * frequencies @ places.T
    times = torch.arange(1, harmonics + 1).to(phase)
    phases = phase[:, None] * times[:, None]
    return torch.cat((phases.cos(), phases.sin()), 1)


def _amplitudes(waves: Tensor, seen: Tensor, w: Tensor) -> Tensor:
    """Least-squares amplitudes (n, C, k) of waves (n, k, P) for what is seen, (C, P), where w, (C, P), is one."""
    gram = torch.einsum("nkp,cp,nlp->nckl", waves, w, waves)
    size = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    gram = gram + 1e-6 * (1 + size) * torch.eye(gram.shape[-1]).to(gram)  # of a wave that no pixel shows: nothing
    solved: Tensor = torch.linalg.solve(gram, torch.einsum("nkp,cp->nck", waves, seen))
    return solved


def _explained(frequencies: Tensor, places: Tensor, seen: Tensor, w: Tensor) -> Tensor:
    """How much of the sum of squares sines of these frequencies explain, (n,)."""
    waves = _waves(frequencies, places, 1)
    fitted = _amplitudes(waves, seen, w) @ waves * w
    return seen.square().sum() - (seen - fitted).square().sum((1, 2))
