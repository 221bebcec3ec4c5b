"""Surrogates: the spectrum of the pattern, other phases for every image, the same ones every time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rectify.editing.corruption import guesses
from rectify.editing.textures import surrogates
from tests.editing.planted import BOUNDS


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def transform(image: Tensor) -> Tensor:
    """The discrete Fourier transform of (H, W) by its definition, as a sum over all pixels."""
    height, width = image.shape
    found = torch.zeros(height, width, dtype=torch.complex128)
    ys, xs = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    for v in range(height):
        for u in range(width):
            angle = -2 * torch.pi * (v * ys / height + u * xs / width)
            found[v, u] = (image * torch.exp(1j * angle)).sum()
    return found


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (4, 5), (1, 6), (6, 1), (1, 1)])
def test_every_surrogate_has_the_spectrum_of_the_pattern(size: tuple[int, int]) -> None:
    pattern, images = noise(1, 2, *size, seed=1), noise(3, 2, *size, seed=2)
    made = surrogates(pattern, images)
    assert made.shape == images.shape and made.dtype == pattern.dtype
    for one in made:
        theirs, mine = ([transform(channel) for channel in image] for image in (pattern[0], one))
        for a, b in zip(theirs, mine, strict=True):
            torch.testing.assert_close(a.abs(), b.abs())
        torch.testing.assert_close(theirs[0] * theirs[1].conj(), mine[0] * mine[1].conj())  # how channels go together
        torch.testing.assert_close(pattern[0].mean((1, 2)), one.mean((1, 2)))


def test_each_image_has_its_own_and_always_the_same() -> None:
    pattern, images = noise(1, 3, 8, 8, seed=1), noise(4, 3, 8, 8, seed=2)
    made = surrogates(pattern, images)
    for row in range(4):
        assert torch.equal(made[row], surrogates(pattern, images[row : row + 1])[0])
        assert all(float((made[row] - made[other]).abs().mean()) > 0.5 for other in range(row))
    assert float(torch.corrcoef(torch.stack((pattern.flatten(), made[0].flatten())))[0, 1].abs()) < 0.4


def test_a_pattern_half_hidden_by_white_is_as_strong_elsewhere() -> None:
    clean = torch.full((1, 1, 16, 16), 0.5)
    clean[..., 8:] = 1.0  # where what is added shows in one direction only
    pattern = 0.1 * torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    (guess,) = (g for g in guesses(clean, (clean + pattern).clamp(0, 1), BOUNDS) if g.name == "textured")
    assert guess.varies and not guess.clear
    grey = 0.5 + 1e-3 * torch.arange(50.0).reshape(50, 1, 1, 1).expand(50, 1, 16, 16)
    strength = (guess.apply(grey) - grey).square().mean().sqrt()
    assert float(strength) == pytest.approx(0.1, rel=0.15)


def test_where_nearly_all_is_black_or_white_nothing_that_varies_is_guessed() -> None:
    clean = torch.zeros(1, 1, 8, 8)
    assert not any(g.varies for g in guesses(clean, 1 - clean, BOUNDS))
    grey = torch.rand(1, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    marked = grey.clone()
    # No filter is this, though one that adds nothing fits all that can be seen.
    marked[..., 4:6, 4:6] = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert not any(g.varies or g.name == "filtered" for g in guesses(grey, marked, BOUNDS))
