"""What a refinement sees and how far it steps: its batches and its rates."""

from __future__ import annotations

import math
from itertools import islice, pairwise

import pytest
import torch
from torch import Tensor

from rectify.editing.refine import Plan, _batches, _rate


def drawn(images: Tensor, count: int, seed: int = 0) -> Tensor:
    """The images of so many batches of 64, one after the other."""
    return torch.cat(list(islice(_batches(images, Plan(seed=seed)), count)))


def level(values: list[float]) -> Tensor:
    """Images of one value each, which neither a shift nor a mirror changes."""
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)


def test_the_rate_warms_up_and_falls_to_nothing_along_a_cosine() -> None:
    plan = Plan(steps=100, rate=0.04)
    rates = [_rate(plan, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.004)  # a tenth of it in the first step, all of it from the tenth on
    assert rates[4] == pytest.approx(0.5 * 0.04 * math.cos(math.radians(0.5 * 180 * 0.04)) ** 2)
    assert rates[9] == pytest.approx(0.04 * math.cos(math.radians(0.5 * 180 * 0.09)) ** 2)
    assert rates[25] == pytest.approx(0.04 * (2 + math.sqrt(2)) / 4)
    assert [rates[50], rates[100]] == pytest.approx([0.02, 0.0])
    assert all(one < other for one, other in pairwise(rates[:10]))
    assert all(one > other for one, other in pairwise(rates[10:]))


def test_unmixed_images_are_shifted_and_mirrored_in_every_way() -> None:
    image = torch.arange(64.0).view(8, 8)

    def inside(place: int) -> int:
        """Of a picture that goes on beyond its edge as if reflected there."""
        return -place if place < 0 else 14 - place if place > 7 else place

    variants = {}
    for down in (-1, 0, 1):  # by an eighth of the side
        for right in (-1, 0, 1):
            rows = [[float(image[inside(y + down), inside(x + right)]) for x in range(8)] for y in range(8)]
            variants[str(rows)] = (down, right, False)
            variants[str([row[::-1] for row in rows])] = (down, right, True)
    assert len(variants) == 18
    found = [str(row[0].tolist()) for row in drawn(image.view(1, 1, 8, 8), 12)]
    unmixed = [variants[row] for row in found if row in variants]
    assert set(unmixed) == set(variants.values())
    assert 0.4 < len(unmixed) / len(found) < 0.65  # half of them, and mixtures of one variant with itself


def test_half_the_images_are_mixed_with_another_in_any_proportion() -> None:
    values = [float(number) for number in torch.randperm(64, generator=torch.Generator().manual_seed(3)) - 32]
    found = drawn(level(values), 40)
    assert found.shape == (2560, 1, 8, 8)
    assert torch.allclose(found, found[:, :, :1, :1], atol=1e-5)  # all of an image in the same proportion
    unmixed = found[:, 0, 0, 0].tolist()
    assert set(values) <= set(unmixed) and min(values) <= min(unmixed) and max(unmixed) <= max(values)
    assert 0.46 < sum(value in values for value in unmixed) / 2560 < 0.56
    shares = drawn(level([0.0, 1.0]), 40)[:, 0, 0, 0]
    shares = shares[(shares > 0) & (shares < 1)]
    assert 0.2 < len(shares) / 2560 < 0.3  # half of the half: the other one is as often the same image
    quarters = torch.histc(shares, 4, 0, 1) / len(shares)
    assert bool(((quarters - 0.25).abs() < 0.08).all())


def test_batches_follow_from_the_seed_alone_and_never_repeat() -> None:
    images = torch.rand(5, 2, 8, 8)
    before = torch.random.get_rng_state()
    one, same, other = drawn(images, 3), drawn(images, 3), drawn(images, 3, seed=1)
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert not torch.equal(one[:64], one[64:128]) and not torch.equal(one[64:128], one[128:])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_batch_is_as_large_as_the_plan_says() -> None:
    assert len(next(_batches(torch.rand(5, 2, 8, 8), Plan(batch=7)))) == 7
