"""Streamed moments against loops over images, positions and groups."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from rectify.editing import moments
from rectify.editing.moments import Normal, accumulate, gram
from tests import oracles


def made(images: int = 5, groups: int = 2, d: int = 3, o: int = 4, positions: int = 6) -> tuple[Tensor, Tensor]:
    """Keys and residuals of a layer."""
    generator = torch.Generator().manual_seed(images * positions)
    keys = torch.randn(images, groups, d, positions, generator=generator, dtype=torch.float64)
    residuals = torch.randn(images, groups, o, positions, generator=generator, dtype=torch.float64)
    return keys, residuals * torch.rand(images, 1, 1, positions, generator=generator, dtype=torch.float64) ** 3


def batches(keys: Tensor, residuals: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """In batches of ``size`` images."""
    yield from zip(keys.split(size), residuals.split(size), strict=True)


def assert_same(one: Normal, other: Normal, **tolerance: float) -> None:
    """The same normal equations."""
    torch.testing.assert_close(one.moment, other.moment, **tolerance)
    torch.testing.assert_close(one.cross, other.cross, **tolerance)


@pytest.mark.parametrize("changed_only", [0.0, 0.05, 0.5, 0.9])
def test_sums_are_those_of_the_loops(changed_only: float) -> None:
    keys, residuals = made()
    found = accumulate(batches(keys, residuals, 2), changed_only=changed_only)
    assert found.moment.dtype == found.cross.dtype == torch.float64
    for group in range(2):
        moment, cross = oracles.moments(list(keys), list(residuals), group, changed_only)
        torch.testing.assert_close(found.moment[group], moment)
        torch.testing.assert_close(found.cross[group], cross)


def test_changed_only_keeps_the_largest_position_of_every_image() -> None:
    keys, residuals = made(images=4)
    found = accumulate([(keys, residuals)], changed_only=0.999)
    strongest = residuals.square().sum((1, 2)).argmax(1)
    expected = torch.stack([keys[i, 0, :, p].outer(keys[i, 0, :, p]) for i, p in enumerate(strongest.tolist())]).mean(0)
    torch.testing.assert_close(found.moment[0], expected)


def test_an_image_without_residuals_counts_but_adds_nothing_when_only_changes_do() -> None:
    keys, residuals = made(images=2)
    residuals[1] = 0
    found = accumulate([(keys, residuals)], changed_only=0.05)
    alone = accumulate([(keys[:1], residuals[:1])], changed_only=0.05)
    assert_same(found, Normal(alone.moment / 2, alone.cross / 2))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 50])
def test_the_size_of_the_batches_does_not_matter(size: int) -> None:
    keys, residuals = made()
    assert_same(accumulate(batches(keys, residuals, size)), accumulate([(keys, residuals)]))


def test_float32_keys_are_summed_in_float64() -> None:
    keys, residuals = made(images=3)
    found = accumulate(batches(keys.float(), residuals.float(), 1))
    assert found.moment.dtype == torch.float64
    assert_same(found, accumulate([(keys, residuals)]), rtol=1e-5, atol=1e-5)
    # a sum in float32 would not see the small image behind the large one
    tiny = torch.full((1, 1, 1, 1), 1e-3)
    found = accumulate([(1e3 * torch.ones(1, 1, 1, 1), tiny), *[(tiny, tiny)] * 99])
    assert float(found.moment) * 100 - 1e6 == pytest.approx(99e-6, rel=1e-3)


@pytest.mark.parametrize("size", [1, 4, 5, 8, 11])
def test_a_gram_matrix_in_strips_is_that_of_the_loops(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "STRIP", 4)
    keys = torch.randn(2, size, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(size))
    found = gram(keys)
    for group in range(2):
        columns = list(keys[group].T)
        torch.testing.assert_close(found[group], oracles.outer_sum(columns, columns, [1.0] * len(columns)))
    assert bool((found == found.mT).all())


def test_no_images_is_an_error() -> None:
    with pytest.raises(ValueError, match="empty"):
        accumulate([])


# ---------------------------------------------------------------- many positions


def test_sampled_positions_are_the_same_for_the_same_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "POSITIONS", 4)
    keys, residuals = made(positions=12)
    one, other = (accumulate([(keys, residuals)], seed=3) for _ in range(2))
    assert_same(one, other, rtol=0, atol=0)
    assert not torch.equal(one.moment, accumulate([(keys, residuals)], seed=4).moment)


def test_sampled_positions_do_not_disturb_the_global_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "POSITIONS", 4)
    before = torch.random.get_rng_state()
    accumulate([made(positions=12)])
    assert torch.equal(before, torch.random.get_rng_state())


def test_sampling_is_right_on_average(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, residuals = made(images=2, groups=1, positions=12)
    whole = accumulate([(keys, residuals)])
    monkeypatch.setattr(moments, "POSITIONS", 6)
    many = [accumulate([(keys, residuals)], seed=seed) for seed in range(1500)]
    for name in ("moment", "cross"):
        sums = torch.stack([torch.as_tensor(getattr(m, name), dtype=torch.float64) for m in many])
        error = sums.std(0) / len(many) ** 0.5
        expected = torch.as_tensor(getattr(whole, name), dtype=torch.float64)
        assert bool(((sums.mean(0) - expected).abs() < 5 * error).all())
        assert float(error.max()) > 0


def test_as_many_positions_as_allowed_are_all_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, residuals = made(positions=6)
    whole = accumulate([(keys, residuals)])
    monkeypatch.setattr(moments, "POSITIONS", 6)
    assert_same(accumulate([(keys, residuals)]), whole, rtol=0, atol=0)
