"""Pairs whose images are not one picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from rectify.editing.likeness import LEAST_IMAGES, MOST_ALIKE, _alike, strangers


def pictures(count: int, seed: int = 0) -> Tensor:
    """Smooth pictures (count, 3, 16, 16) that have nothing in common."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, 16, mode="bicubic")


def test_alike_is_the_size_of_the_correlation() -> None:
    images = pictures(40)  # more than are compared at a time
    flat = images.flatten(1).double().numpy()
    expected = [abs(np.corrcoef(flat[0], other)[0, 1]) for other in flat]
    assert _alike(images[0], images).tolist() == pytest.approx(expected, abs=1e-12)
    assert float(_alike(images[0], 0.3 - 2 * images[:1])) == pytest.approx(1)
    assert _alike(images[0], torch.ones(2, 3, 16, 16)).tolist() == [0, 0]


def test_another_picture_is_no_twin() -> None:
    calibration, (clean, other) = pictures(50), pictures(2, seed=1)
    mark, blend = clean.clone(), 0.6 * clean + 0.4 * other
    mark[:, :5, :5] = 1.0
    pairs = torch.stack((clean, clean, clean)), torch.stack((mark, other, blend))
    found = strangers(*pairs, calibration)
    share = float((_alike(clean, calibration) > _alike(clean, other[None])).double().mean())
    assert found == {1: share} and share > MOST_ALIKE


def test_few_calibration_images_say_nothing() -> None:
    clean, other = pictures(2, seed=1)
    assert strangers(clean[None], other[None], None) == {}
    assert strangers(clean[None], other[None], pictures(LEAST_IMAGES - 1)) == {}


def test_a_picture_of_one_value_is_no_stranger() -> None:
    plain = torch.full((1, 3, 16, 16), 0.4)
    assert strangers(plain, pictures(1, seed=2), pictures(50)) == {}
