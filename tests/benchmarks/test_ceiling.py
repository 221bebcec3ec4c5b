"""Full supervision: what it trains on, and its page."""

from __future__ import annotations

import torch

from benchmarks import ceiling
from benchmarks.zoo.train import augment


def test_images_are_shifted_within_zeros_and_mirrored() -> None:
    images = 1 + torch.arange(200 * 3 * 6 * 6.0).reshape(200, 3, 6, 6)
    made = augment(images, 4, True, torch.Generator().manual_seed(0))
    assert made.shape == images.shape and not torch.equal(made, images)
    for one, image in zip(made, images, strict=True):
        seen = one[one > 0]
        assert bool(torch.isin(seen, image).all()) and len(seen.unique()) == len(seen)
    apart = (made[:, 0].diff(dim=-1) == -1).flatten(1).any(1)  # neighbours in the other order
    assert 50 < int(apart.sum()) < 150


def test_the_page_begins_with_the_untouched_network() -> None:
    row = {"name": "n", "accuracy": 0.9, "accuracy_other": 0.91, "asr": 0.01, "recovery": 0.875}
    shown = ceiling.table([{**row, "epochs": 0}, {**row, "epochs": 15}])
    assert "| n | untouched | 90.00 | 91.00 | 1.00 | 87.50 |" in shown and "| n | 15 | 90.00 |" in shown
