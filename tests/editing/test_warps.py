"""Warps: displacement, and the field that registration finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.zoo import triggers
from rectify.editing import warps
from rectify.editing.warps import displace
from tests import oracles
from tests.editing.test_corruption import natural, share_left, smooth_field


def best(clean: Tensor, corrupted: Tensor) -> warps.Warp:
    return min(warps.warps(clean, corrupted), key=lambda warp: warp.left)


def test_displacement_is_bilinear_sampling() -> None:
    images, field = natural(2, (7, 9)), smooth_field((7, 9), 2.0)
    found = displace(images, field)
    for image, mine in zip(images, found, strict=True):
        torch.testing.assert_close(mine, oracles.warp(image, field[0]), atol=1e-5, rtol=0)


def test_whole_pixels_shift_the_picture() -> None:
    image, field = natural(1, (6, 8)), torch.zeros(1, 6, 8, 2)
    torch.testing.assert_close(displace(image, field), image, atol=1e-5, rtol=0)
    field[..., 0], field[..., 1] = 2, -1  # two to the right, one up
    torch.testing.assert_close(displace(image, field)[:, :, 1:, :-2], image[:, :, :-1, 2:], atol=1e-5, rtol=0)


# ---------------------------------------------------------------- registration


@pytest.mark.parametrize("grid", [3, 5])
@pytest.mark.parametrize("seed", range(2))
def test_the_grid_that_made_a_warp_is_found_and_its_field(grid: int, seed: int) -> None:
    torch.manual_seed(seed)
    clean, others = natural(1), natural(4)
    field = smooth_field((32, 32), 0.7, grid)
    corrupted = displace(clean, field)
    found = best(clean, corrupted)
    assert found.grid == grid and found.left < 1e-3
    assert found.left == pytest.approx(share_left(displace(clean, found.field), corrupted, clean), rel=1e-3)
    assert share_left(displace(others, found.field), displace(others, field), others) < 0.02


def test_the_warp_of_an_attack_is_found_in_steps_of_8_bits() -> None:
    torch.manual_seed(3)
    images = (255 * natural(5)).round().byte().permute(0, 2, 3, 1).numpy()
    stamped = triggers.warp(strength=1.0, grid=4, seed=2)(images)
    clean, corrupted = (torch.from_numpy(np.ascontiguousarray(x)).permute(0, 3, 1, 2) / 255 for x in (images, stamped))
    found = best(clean[:1], corrupted[:1])
    assert found.grid == 4
    assert share_left(displace(clean[1:], found.field), corrupted[1:], clean[1:]) < 0.02


def test_each_grid_has_one_warp_and_coarse_ones_come_first() -> None:
    clean = natural(1)
    corrupted = displace(clean, smooth_field((32, 32), 1.0))
    assert [warp.grid for warp in warps.warps(clean, corrupted)] == list(warps.GRIDS)
    assert [warp.grid for warp in warps.warps(clean[..., :4, :9], corrupted[..., :4, :9])] == [3, 4]
    assert warps.warps(clean[..., :2, :9], corrupted[..., :2, :9]) == []


def test_what_is_no_warp_is_given_up_after_the_coarse_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clean = natural(1)
    stages: list[float] = []
    register = warps.register

    def counted(x: Tensor, y: Tensor, control: Tensor, smoothness: float) -> Tensor:
        stages.append(smoothness)
        return register(x, y, control, smoothness)

    monkeypatch.setattr(warps, "register", counted)
    found = warps.warps(clean, (clean + 0.1 * torch.randn(1, 3, 32, 32)).clamp(0, 1))
    assert len(stages) == len(warps.GRIDS) * len(warps.COARSE)
    assert min(warp.left for warp in found) > warps.HOPELESS


@pytest.mark.parametrize("size", [(128, 128), (100, 140)])
def test_a_large_picture_is_registered_at_a_small_size(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warps, "GRIDS", (4,))
    clean = natural(1, size)
    field = smooth_field(size, 4.0)
    corrupted = displace(clean, field)
    found = best(clean, corrupted)
    assert found.field.shape == (1, *size, 2)
    assert share_left(displace(clean, found.field), corrupted, clean) < 0.15


def test_registering_equal_images_moves_nothing() -> None:
    clean = natural(1)
    assert max(float(warp.field.abs().max()) for warp in warps.warps(clean, clean)) < 1e-3


# ---------------------------------------------------------------- what a pair leaves possible


def half_flat(seed: int) -> Tensor:
    """A picture (1, 3, 32, 32) whose right half is all of one value."""
    torch.manual_seed(seed)
    image = natural(1)
    image[..., 16:] = 0.5
    return image


def grown(points: Tensor) -> Tensor:
    """The fields (N, 32, 32, 2) of control points (N, 2, g, g)."""
    return F.interpolate(points, (32, 32), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)


def test_fields_that_a_pair_leaves_possible_are_drawn_from_laplaces_posterior() -> None:
    clean = half_flat(0)
    field = smooth_field((32, 32), 0.7, 3)
    corrupted = displace(clean, field) + 0.002 * torch.randn(1, 3, 32, 32)
    warp = next(warp for warp in warps.warps(clean, corrupted) if warp.grid == 3)

    def warped(points: Tensor) -> Tensor:
        return displace(clean.double(), grown(points.reshape(1, 2, 3, 3))).flatten()

    points = warp.control.double().flatten()
    slope = torch.autograd.functional.jacobian(warped, points)
    noise = (warped(points) - corrupted.double().flatten()).square().mean()
    covariance = torch.linalg.inv(slope.T @ slope / noise + torch.eye(18).double() / points.square().mean())
    normal = torch.randn(18, warps.DRAWS, generator=torch.Generator().manual_seed(0)).double()
    upper = torch.linalg.inv(torch.linalg.cholesky(torch.linalg.inv(covariance))).T  # upper @ upper.T = covariance
    torch.testing.assert_close(upper @ upper.T, covariance)
    drawn = (points[:, None] + upper @ normal).T.reshape(-1, 2, 3, 3)
    torch.testing.assert_close(warps.possible(clean, corrupted, warp).double(), grown(drawn), atol=2e-3, rtol=1e-3)


def test_they_explain_the_pair_and_differ_where_it_is_flat() -> None:
    clean = half_flat(1)
    corrupted = ((255 * displace(clean, smooth_field((32, 32), 0.7, 5))).round() / 255).clone()
    warp = best(clean, corrupted)
    fields = warps.possible(clean, corrupted, warp)
    assert fields.shape == (warps.DRAWS, 32, 32, 2) and torch.equal(fields, warps.possible(clean, corrupted, warp))
    assert not torch.equal(fields, warps.possible(clean, corrupted, warp, seed=1))
    for field in fields:
        assert share_left(displace(clean, field[None]), corrupted, clean) < 0.02
    spread = (fields - warp.field).square().mean((0, 3)).sqrt()
    assert spread[:, :12].median() < 0.1 and spread[:, 24:].median() > 0.3


def test_the_fields_of_a_large_image_are_as_large() -> None:
    torch.manual_seed(4)
    clean = natural(1, (128, 128))
    corrupted = displace(clean, 4 * smooth_field((128, 128), 1.0, 3))
    warp = best(clean, corrupted)
    fields = warps.possible(clean, corrupted, warp)
    assert fields.shape == (warps.DRAWS, 128, 128, 2)
    assert (fields - warp.field).abs().mean() < 0.2 * warp.field.abs().mean()
