"""Views of images: of the same shape, without new values, the same from the same seed."""

from __future__ import annotations

import pytest
import torch

from rectify.editing.views import nearby, shifted, variations
from tests.editing.planted import BOUNDS


@pytest.mark.parametrize("shape", [(3, 8, 10), (1, 1, 20), (1, 20, 1), (1, 1, 1), (3, 2, 2)])
def test_variations_and_shifts_keep_shape_and_bounds(shape: tuple[int, ...]) -> None:
    low = torch.full((shape[0], 1, 1), -1.5)
    bounds = (low, low + 4)
    clean = low + 4 * torch.rand(2, *shape)
    made = variations(clean, bounds, seed=3)
    assert made.shape[1:] == shape and len(made) >= 32
    assert bool((made >= bounds[0]).all() and (made <= bounds[1]).all())
    assert torch.equal(made, variations(clean, bounds, seed=3))
    moved = shifted(clean, 3)
    assert moved.shape == clean.shape and torch.equal(moved, shifted(clean, 3))
    assert all(bool(torch.isin(m, c).all()) for m, c in zip(moved, clean, strict=True))  # no new values


def test_without_a_shift_images_are_mirrored_at_most() -> None:
    clean = torch.rand(40, 3, 6, 7)
    made = shifted(clean, 1, shift=False)
    kept = [torch.equal(one, image) for one, image in zip(made, clean, strict=True)]
    mirrored = [torch.equal(one, image.flip(2)) for one, image in zip(made, clean, strict=True)]
    assert all(a or b for a, b in zip(kept, mirrored, strict=True)) and any(kept) and any(mirrored)


def test_nearby_is_mirrored_and_off_by_a_pixel_to_each_side() -> None:
    images = torch.rand(3, 2, 5, 6)
    mirrored, *moved = nearby(images)
    assert torch.equal(mirrored, images.flip(3))
    inner = images[:, :, 1:-1, 1:-1]
    for (top, left), one in zip(((0, 1), (2, 1), (1, 0), (1, 2)), moved, strict=True):
        assert one.shape == images.shape
        assert torch.equal(one[:, :, 2 - top : 5 - top, 2 - left : 6 - left], inner)


def test_variations_come_from_every_clean_image() -> None:
    clean = torch.stack([torch.full((1, 8, 8), v) for v in (0.1, 0.5, 0.9)])
    made = variations(clean, BOUNDS, seed=0).mean((1, 2, 3))
    assert float(made.min()) < 0.3 and float(made.max()) > 0.7
    assert not torch.equal(variations(clean, BOUNDS, seed=0), variations(clean, BOUNDS, seed=1))
