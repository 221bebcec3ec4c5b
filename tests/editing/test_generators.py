"""A small network fitted to one pair: it tells more of what another network made of each image than a filter does."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.stand_ins import likeness
from rectify.editing.corruption import guesses
from rectify.editing.filters import fitted
from rectify.editing.generators import CROP, WIDTH, imitated
from rectify.editing.guess import Bounds
from rectify.model import passes
from tests.editing.test_filters import pictures

UNIT: Bounds = (torch.zeros(3, 1, 1), torch.ones(3, 1, 1))


def residuals(images: Tensor, seed: int = 0) -> Tensor:
    """What a fixed network of two convolutions makes of each image, (N, C, H, W), of a deviation of 0.08."""
    generator = torch.Generator().manual_seed(seed)
    channels = images.shape[1]
    first, second = (torch.randn(*shape, 3, 3, generator=generator) for shape in ((8, channels), (channels, 8)))
    centred = images - images.mean((1, 2, 3), keepdim=True)
    made = F.conv2d(F.conv2d(F.pad(centred, (2,) * 4, mode="reflect"), first).relu(), second)
    made = made - made.mean((2, 3), keepdim=True)
    return 0.08 * made / made.std((1, 2, 3), keepdim=True)


@pytest.mark.parametrize("channels", [1, 3])
def test_it_tells_more_of_other_images_than_a_filter(channels: int) -> None:
    clean, others = pictures(1, 0)[:, :channels], pictures(6, 1)[:, :channels]
    free = torch.ones_like(clean, dtype=torch.bool)
    told, true = imitated(clean, residuals(clean), free), residuals(others)
    linear = fitted(clean, residuals(clean), free)
    assert linear is not None
    assert likeness(told(others), true) > max(0.6, likeness(linear(others), true) + 0.05)


def test_what_it_makes_is_that_of_torchs_own_layers() -> None:
    clean, others = pictures(1, 0), pictures(3, 1)
    told = imitated(clean, residuals(clean), torch.ones_like(clean, dtype=torch.bool))
    stack = nn.Sequential()
    for weight, bias in told.layers:
        layer = nn.Conv2d(weight.shape[1], weight.shape[0], 3)
        layer.load_state_dict({"weight": weight, "bias": bias})
        stack.extend([nn.ReLU() if len(stack) else nn.ReflectionPad2d(3), layer])
    colourless = (others - others.mean((2, 3), keepdim=True)) / clean.std()
    assert len(stack) == 6
    assert torch.allclose(told(others), stack(colourless).detach() * residuals(clean).std(), atol=1e-6)


def test_what_is_hidden_has_no_part_in_it() -> None:
    clean = pictures(1, 0)
    free = torch.ones_like(clean, dtype=torch.bool)
    free[..., :8] = False
    one, other = residuals(clean), residuals(clean)
    other[..., :8] = 5.0
    assert torch.equal(imitated(clean, one, free)(clean), imitated(clean, other, free)(clean))


def test_equal_pairs_are_imitated_alike_whatever_was_drawn_before() -> None:
    clean = pictures(1, 0)
    free = torch.ones_like(clean, dtype=torch.bool)
    torch.manual_seed(1)
    one = imitated(clean, residuals(clean), free)(clean)
    torch.manual_seed(2)
    with torch.no_grad():
        other = imitated(clean, residuals(clean), free)(clean)
    assert torch.equal(one, other) and not other.requires_grad


def test_an_image_of_another_colour_gets_the_same() -> None:
    clean, others = pictures(1, 0), pictures(2, 1)
    told = imitated(clean, residuals(clean), torch.ones_like(clean, dtype=torch.bool))
    assert torch.allclose(told(others), told(others + torch.tensor([0.3, -0.2, 0.1]).view(3, 1, 1)), atol=1e-5)


def test_of_a_large_image_squares_are_seen_and_all_of_it_is_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    clean, others = pictures(1, 0, CROP + 40), pictures(3, 1, CROP + 40)
    seen = []
    convolve = F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda x, *rest: seen.append(max(x.shape[2:])) or convolve(x, *rest))
    told = imitated(clean, residuals(clean), torch.ones_like(clean, dtype=torch.bool))
    monkeypatch.undo()
    assert max(seen[2:]) == CROP + 6  # the first two are what the trigger itself makes of the pair
    assert likeness(told(others), residuals(others)) > 0.6


@pytest.mark.parametrize("shape", [(1, 200), (2, 90), (5, 5)])
def test_images_of_any_shape_are_taken(shape: tuple[int, int]) -> None:
    clean = pictures(1, 0, 200)[..., : shape[0], : shape[1]]
    told = imitated(clean, 0.1 * clean.roll(1, 3), torch.ones_like(clean, dtype=torch.bool))
    assert told(pictures(2, 1, 200)[..., : shape[0], : shape[1]]).shape == (2, 3, *shape)


def test_many_images_are_taken_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    clean, others = pictures(1, 0), pictures(7, 1)
    told = imitated(clean, residuals(clean), torch.ones_like(clean, dtype=torch.bool))
    whole = told(others)
    monkeypatch.setitem(passes.NUMBERS, "cpu", WIDTH * 24 * 24 * 2)
    assert torch.allclose(told(others), whole, atol=1e-6)


def test_of_few_seen_places_every_square_holds_one() -> None:
    clean = pictures(1, 0, CROP + 40)
    free = torch.zeros_like(clean, dtype=torch.bool)
    free[..., :3, -3:] = True
    assert bool(imitated(clean, residuals(clean), free)(clean).isfinite().all())


def test_it_is_a_guess_that_varies_and_is_as_strong_as_the_pair() -> None:
    clean, others = pictures(1, 0), pictures(6, 1)
    pattern = residuals(clean)
    (guess,) = (g for g in guesses(clean, clean + pattern, UNIT) if g.name == "generated")
    assert guess.varies and not guess.clear
    made = guess.apply(others) - others
    assert float(made.std()) == pytest.approx(float(pattern.std()), rel=0.05)
    assert likeness(made, residuals(others)) > 0.6
