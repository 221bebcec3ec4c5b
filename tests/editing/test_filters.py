"""A filter fitted to one pair: the true one where there is one, and something of its kind where there is none."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rectify.editing.corruption import guesses
from rectify.editing.filters import RIDGE, SIDE, fitted, like
from rectify.editing.guess import Bounds, Corruption

UNIT: Bounds = (torch.zeros(3, 1, 1), torch.ones(3, 1, 1))


def pictures(count: int, seed: int, size: int = 24) -> Tensor:
    """Noise of all scales, (count, 3, size, size) in [0.2, 0.8]."""
    generator = torch.Generator().manual_seed(seed)
    made = torch.zeros(count, 3, size, size)
    for side in (3, 6, 12, size):
        coarse = torch.rand(count, 3, side, side, generator=generator)
        made += F.interpolate(coarse, (size, size), mode="bilinear")
    return 0.2 + 0.6 * made / 4


def softened(images: Tensor) -> Tensor:
    """Blurred by a square of three pixels, and the colours mixed."""
    blurred = F.avg_pool2d(F.pad(images, (1,) * 4, mode="reflect"), 3, 1)
    return 0.7 * blurred + 0.3 * blurred.roll(1, 1)


def filtered(clean: Tensor, corrupted: Tensor) -> Corruption:
    (found,) = (guess for guess in guesses(clean, corrupted, UNIT) if guess.name == "filtered")
    return found


def test_a_filter_is_told_whole_from_one_pair() -> None:
    clean, others = pictures(1, 0), pictures(5, 1)
    guess = filtered(clean, softened(clean))
    assert guess.clear and not guess.varies
    missed = (guess.apply(others) - softened(others)).square().sum() / (softened(others) - others).square().sum()
    assert float(missed) < 1e-4


BORDERS = {
    "reflect": lambda x: F.pad(x, (1,) * 4, mode="reflect"),
    "replicate": lambda x: F.pad(x, (1,) * 4, mode="replicate"),
    "constant": lambda x: F.pad(x + 1.0, (1,) * 4) - 1.0,  # black is -1
}


@pytest.mark.parametrize("border", [*BORDERS, "kept"])
def test_how_an_image_goes_on_beyond_its_border_is_told_too(border: str) -> None:
    bounds = -torch.ones(3, 1, 1), torch.ones(3, 1, 1)

    def soft(images: Tensor) -> Tensor:
        if border != "kept":
            return F.avg_pool2d(BORDERS[border](images), 3, 1)
        out = images.clone()
        out[..., 1:-1, 1:-1] = F.avg_pool2d(images, 3, 1)
        return out

    clean, others = pictures(1, 0), pictures(5, 1)
    (guess,) = (guess for guess in guesses(clean, soft(clean), bounds) if guess.name == "filtered")
    assert guess.clear
    missed = (guess.apply(others) - soft(others)).square().sum() / (soft(others) - others).square().sum()
    assert float(missed) < 1e-4


def test_a_blur_that_correlates_best_with_a_moved_image_is_still_a_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    clean, others = pictures(1, 0), pictures(5, 1)
    everywhere = torch.ones_like(clean[:, :1], dtype=torch.bool)
    monkeypatch.setattr("rectify.editing.corruption.aligned", lambda clean, _: (clean.roll(1, 3), everywhere))
    (guess,) = (guess for guess in guesses(clean, softened(clean), UNIT) if guess.name == "filtered" and guess.clear)
    missed = (guess.apply(others) - softened(others)).square().sum() / (softened(others) - others).square().sum()
    assert float(missed) < 1e-4


@pytest.mark.parametrize("shape", [(3, 12, 17), (1, 9, 9)])
def test_the_fit_is_the_ridge_regression_of_the_loops(shape: tuple[int, int, int]) -> None:
    channels, height, width = shape
    clean = torch.rand(1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    difference = torch.rand(1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    free = torch.rand(1, *shape, generator=torch.Generator().manual_seed(2)) < 0.99
    found = fitted(clean, difference, free)
    if channels * SIDE**2 + 1 >= int(free[0].all(0).sum()):
        assert found is None
        return
    padded = F.pad(clean, (SIDE // 2,) * 4, mode="reflect")[0]
    rows, wanted = [], []
    for y in range(height):
        for x in range(width):
            if bool(free[0, :, y, x].all()):
                rows.append(torch.cat((padded[:, y : y + SIDE, x : x + SIDE].flatten(), torch.ones(1).double())))
                wanted.append(difference[0, :, y, x])
    keys, values = torch.stack(rows), torch.stack(wanted)
    ridge = RIDGE * float(keys.square().sum()) / keys.shape[1]
    expected = torch.linalg.lstsq(
        torch.cat((keys, ridge**0.5 * torch.eye(keys.shape[1]).double())),
        torch.cat((values, torch.zeros(keys.shape[1], channels).double())),
    ).solution.T
    assert found is not None
    torch.testing.assert_close(found.weights, expected, rtol=1e-5, atol=1e-7)
    whole = F.unfold(padded[None], SIDE)[0]  # all squares, in the order of the pixels
    whole = torch.cat((whole, torch.ones_like(whole[:1])))
    torch.testing.assert_close(found(clean)[0].flatten(1), found.weights @ whole)


def test_where_too_little_is_seen_there_is_no_filter() -> None:
    clean = pictures(1, 0, 8)  # 64 pixels, 148 weights a channel
    assert fitted(clean, clean, torch.ones_like(clean, dtype=torch.bool)) is None
    assert all(guess.name != "filtered" for guess in guesses(clean, (clean + 0.1).clamp(0, 1), UNIT))


def test_noise_is_no_filter_but_something_of_its_strength_is_offered() -> None:
    clean, others = pictures(1, 0), pictures(4, 1)
    noise = 0.05 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))
    guess = filtered(clean, clean + noise)
    assert guess.varies and not guess.clear
    added = guess.apply(others) - others
    for one in added:
        assert float(one.square().mean().sqrt()) == pytest.approx(0.05, rel=0.15)
    assert float((added[0] - added[1]).abs().mean()) > 0.01  # each image has its own


def test_like_takes_over_means_and_size() -> None:
    made, pattern = torch.randn(3, 2, 5, 6).double(), 3 + torch.randn(1, 2, 5, 6).double()
    found = like(made, pattern)
    for one in found:
        torch.testing.assert_close(one.mean((1, 2)), pattern[0].mean((1, 2)))
        spread = (one - one.mean((1, 2), keepdim=True)).square().mean()
        torch.testing.assert_close(spread, (pattern[0] - pattern[0].mean((1, 2), keepdim=True)).square().mean())
    assert bool(like(torch.zeros(1, 2, 5, 6).double(), pattern).isfinite().all())
