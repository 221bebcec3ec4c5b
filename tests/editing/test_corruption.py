"""Each guess recovers the corruption of its own kind, and puts it onto other images."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from rectify.editing import corruption, warps
from rectify.editing.corruption import aligned, guesses
from rectify.editing.guess import Bounds, Corruption
from rectify.editing.marks import elsewhere
from rectify.editing.warps import displace
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("one_grid")

UNIT: Bounds = (torch.zeros(3, 1, 1), torch.ones(3, 1, 1))
# As a person normalises: black and white differ by channel.
SKEWED: Bounds = (torch.tensor([-2.1, -2.0, -1.8]).view(3, 1, 1), torch.tensor([2.2, 2.4, 2.6]).view(3, 1, 1))


def natural(count: int, size: tuple[int, int] = (32, 32), channels: int = 3) -> Tensor:
    """Pictures in [0, 1] with as much contrast in every octave, as photographs have (amplitude 1/f)."""
    picture = torch.zeros(count, channels, *size)
    cells = 2
    while cells <= max(size):
        noise = torch.randn(count, channels, cells, cells)
        picture += F.interpolate(noise, size, mode="bicubic", align_corners=True)
        cells *= 2
    low, high = picture.amin((2, 3), keepdim=True), picture.amax((2, 3), keepdim=True)
    return (picture - low) / (high - low)


def within(x: Tensor, bounds: Bounds) -> Tensor:
    """Pictures of [0, 1] between the bounds."""
    return bounds[0] + x * (bounds[1] - bounds[0])


def guessed(clean: Tensor, corrupted: Tensor, bounds: Bounds) -> dict[str, Corruption]:
    """The guesses by name; of those of one name, the first that fits best, as where all fire alike."""
    found: dict[str, Corruption] = {}
    for guess in guesses(clean, corrupted, bounds):
        if guess.name not in found or guess.misfit < found[guess.name].misfit:
            found[guess.name] = guess
    return found


def smooth_field(size: tuple[int, int], reach: float, cells: int = 4) -> Tensor:
    """A random displacement field of a control grid, bicubically upsampled, (1, H, W, 2) in pixels."""
    control = reach * torch.randn(1, 2, cells, cells)
    return F.interpolate(control, size, mode="bicubic", align_corners=True).permute(0, 2, 3, 1)


def share_left(found: Tensor, corrupted: Tensor, clean: Tensor) -> float:
    """Mean square of what a guess misses, relative to the change that was made."""
    return float((found - corrupted).square().mean() / (corrupted - clean).square().mean())


# ---------------------------------------------------------------- each its own kind


@pytest.mark.parametrize("bounds", [UNIT, SKEWED], ids=["unit", "skewed"])
def test_a_pasted_patch_is_found_exactly(bounds: Bounds) -> None:
    clean, others = within(natural(1), bounds), within(natural(5), bounds)
    patch = within(torch.rand(3, 4, 5), bounds)
    corrupted, expected = clean.clone(), others.clone()
    for images in (corrupted, expected):
        images[:, :, 26:30, 25:30] = patch
    assert torch.equal(guessed(clean, corrupted, bounds)["pasted"].apply(others), expected)


@pytest.mark.parametrize("bounds", [UNIT, SKEWED], ids=["unit", "skewed"])
def test_an_added_pattern_is_found_and_clamped(bounds: Bounds) -> None:
    clean, others = within(0.3 + 0.4 * natural(1), bounds), within(natural(5), bounds)
    pattern = 0.2 * (torch.arange(32) * 0.7).sin() * (bounds[1] - bounds[0])
    found = guessed(clean, clean + pattern, bounds)
    expected = torch.minimum(torch.maximum(others + pattern, bounds[0]), bounds[1])
    torch.testing.assert_close(found["added"].apply(others), expected, atol=1e-5, rtol=0)
    assert "pasted" not in found  # it would replace the whole image


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_a_blended_picture_and_its_share_are_found(alpha: float, seed: int) -> None:
    torch.manual_seed(seed)
    clean, others, picture = natural(1), natural(5), torch.rand(1, 3, 32, 32)
    corrupted = (1 - alpha) * clean + alpha * picture
    apply = guessed(clean, corrupted, UNIT)["blended"].apply
    black, white = apply(torch.zeros(1, 3, 32, 32)), apply(torch.ones(1, 3, 32, 32))
    share = 1 - (white - black)
    torch.testing.assert_close(share, share.mean().expand_as(share), atol=1e-5, rtol=0)
    assert float(share.mean()) == pytest.approx(alpha, abs=0.05)
    assert share_left(apply(others), (1 - alpha) * others + alpha * picture, others) < 0.15
    torch.testing.assert_close(apply(clean), corrupted, atol=0.02, rtol=0)


def test_no_blend_is_seen_where_there_is_none() -> None:
    clean = natural(1)
    brighter = (clean * 1.2).clamp(max=1)  # the slope is positive
    replaced = torch.rand(1, 3, 32, 32)  # the slope is one: nothing of the clean image is left
    assert "blended" not in guessed(clean, brighter, UNIT)
    found = guessed(clean, replaced, UNIT).get("blended")
    assert found is None or share_left(found.apply(clean), replaced, clean) < 0.05


# ---------------------------------------------------------------- pairs that are not perfect


def in_jpeg(image: Tensor, quality: int = 90) -> Tensor:
    """(1, 3, H, W) in [0, 1], kept as JPEG and read again."""
    pixels = Image.fromarray((255 * image[0]).round().byte().permute(1, 2, 0).numpy())
    buffer = io.BytesIO()
    pixels.save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as again:
        return torch.from_numpy(np.array(again)).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("both", [True, False])
def test_a_mark_of_one_colour_is_found_through_jpeg(seed: int, both: bool) -> None:
    torch.manual_seed(seed)
    clean, others = natural(1), natural(4)
    colour = torch.tensor([1.0, 1.0, 0.0]).view(3, 1, 1)
    corrupted, expected = clean.clone(), others.clone()
    for images in (corrupted, expected):
        images[:, :, 25:29, 26:30] = colour
    found = guesses(in_jpeg(clean) if both else clean, in_jpeg(corrupted), UNIT)
    left = {
        name: min(share_left(guess.apply(others), expected, others) for guess in found if guess.name == name)
        for name in ("pasted", "added")
    }
    assert left["pasted"] < 0.6
    assert both or left["pasted"] < 0.4 * left["added"]  # which takes all that JPEG did along with it


def test_the_marks_pure_colour_is_among_the_guesses() -> None:
    clean = natural(1)
    corrupted = clean.clone()
    corrupted[:, :, 25:29, 26:30] = torch.tensor([0.95, 0.9, 0.4]).view(3, 1, 1)  # as JPEG dulls it
    corrupted[:, :, 26, 27] = torch.tensor([1.0, 0.95, 0.1])
    marks = [guess.apply(torch.full((1, 3, 32, 32), 0.5)) for guess in guesses(clean, corrupted, UNIT)]
    pure = torch.tensor([1.0, 1.0, 0.4]).view(3, 1, 1)
    assert any(torch.allclose(mark[0, :, 25:29, 26:30], pure.expand(3, 4, 4)) for mark in marks)


def test_the_peaks_of_what_lies_over_the_whole_image_are_no_mark() -> None:
    clean = natural(1)
    wave = 0.15 * (torch.arange(32) * 0.7).sin().expand(1, 3, 32, 32)
    for corrupted in (clean + wave, 0.8 * clean + 0.2 * torch.rand(1, 3, 32, 32)):
        assert "pasted" not in guessed(clean, corrupted, UNIT)


@pytest.mark.parametrize("move", [(0, 1), (2, 0), (-1, 2), (-2, -2)])
def test_crops_that_are_apart_are_aligned(move: tuple[int, int]) -> None:
    picture, others = natural(1, (40, 40)), natural(3)
    down, right = 4 + move[0], 4 + move[1]
    clean, seen = picture[..., 4:36, 4:36], picture[..., down : down + 32, right : right + 32]
    corrupted, expected = seen.clone(), others.clone()
    for images in (corrupted, expected):
        images[:, :, 25:29, 24:28] = torch.tensor([1.0, 0.0, 1.0]).view(3, 1, 1)
    found = aligned(clean, corrupted)
    assert found is not None
    moved, known = found
    assert known.shape == (1, 1, 32, 32) and int(known.sum()) == (32 - abs(move[0])) * (32 - abs(move[1]))
    torch.testing.assert_close(moved.where(known, 0.0), seen.where(known, 0.0))
    pasted = guessed(clean, corrupted, UNIT)["pasted"].apply(others)
    best = min(
        share_left(guess.apply(others), expected, others)
        for guess in guesses(clean, corrupted, UNIT)
        if guess.name == "pasted"
    )
    assert pasted.shape == others.shape and best < 0.1
    pattern = 0.1 * torch.rand(1, 3, 32, 32)
    added = guessed(clean, seen + pattern, UNIT)["added"]
    inner = (added.apply(torch.full((1, 3, 32, 32), 0.4)) - 0.4 - pattern)[..., 2:-2, 2:-2]
    assert float(inner.abs().max()) < 1e-5


@pytest.mark.parametrize("move", [(0, 1), (-1, 0), (2, -2)])
def test_what_moved_in_at_the_edge_hides_no_wave(move: tuple[int, int]) -> None:
    picture, others = natural(1, (40, 40)), natural(3)
    down, right = 4 + move[0], 4 + move[1]
    clean, seen = picture[..., 4:36, 4:36], picture[..., down : down + 32, right : right + 32]
    wave = 0.1 * (torch.arange(32) * 0.9 + torch.arange(32)[:, None] * 0.5).sin().expand(1, 3, 32, 32)
    found = guessed(clean, (seen + wave).clamp(0, 1), UNIT)
    assert found["striped"].clear
    expected = (others + wave).clamp(0, 1)
    assert share_left(found["striped"].apply(others), expected, others) < 1e-4


def test_what_moved_in_at_the_edge_is_no_part_of_a_mark_but_a_mark_may_lie_there() -> None:
    picture = torch.zeros(1, 1, 40, 40)
    picture[..., 10:30, :] = natural(1, (20, 40))[:, :1]  # reaches the edges to the left and to the right
    clean, seen = picture[..., 4:36, 4:36], picture[..., 4:36, 5:37]  # the last column is lost
    grey = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    for columns, value in ((slice(12, 15), 0.1), (slice(30, 32), 1.0)):  # a faint one, and one in what is lost
        corrupted = seen.clone()
        corrupted[..., 2:5, columns] = value
        marks = [guess for guess in guesses(clean, corrupted, grey) if guess.name == "pasted"]
        exactly = torch.zeros(1, 1, 32, 32)
        exactly[..., 2:5, columns] = value
        black = torch.zeros(1, 1, 32, 32)
        assert any(torch.equal(guess.apply(black), exactly) for guess in marks)


def test_what_lies_well_is_not_moved() -> None:
    clean = natural(1)
    patched = clean.clone()
    patched[..., 26:30, 26:30] = 1
    for corrupted in (clean, patched, 0.8 * clean + 0.2 * torch.rand(1, 3, 32, 32), clean + 0.1):
        assert aligned(clean, corrupted) is None
    assert aligned(natural(1, (8, 32)), natural(1, (8, 32))) is None


# ---------------------------------------------------------------- what a pair shows clearly


def clear(clean: Tensor, corrupted: Tensor, bounds: Bounds = UNIT) -> list[Corruption]:
    return [guess for guess in guesses(clean, corrupted, bounds) if guess.clear]


def in_steps(x: Tensor) -> Tensor:
    """As a file of 8 bits has it."""
    return (255 * x).round().clamp(0, 255) / 255


@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize("bounds", [UNIT, SKEWED], ids=["unit", "skewed"])
def test_a_wave_is_known_where_black_and_white_pixels_hide_it(axis: int, bounds: Bounds) -> None:
    torch.manual_seed(0)
    clean, others = (1.4 * natural(count) - 0.2 for count in (1, 4))  # a part of them is black or white
    clean, others = (in_steps(images.clamp(0, 1)) for images in (clean, others))
    wave = 0.15 * (torch.arange(32.0) * 1.2).sin().view([1, 1, 32, 1] if axis == 3 else [1, 1, 1, 32])
    corrupted, expected = (in_steps((images + wave).clamp(0, 1)) for images in (clean, others))
    found = clear(within(clean, bounds), within(corrupted, bounds), bounds)
    assert [guess.name for guess in found] == ["striped"]
    wanted, before = within(expected, bounds), within(others, bounds)
    assert share_left(found[0].apply(before), wanted, before) < 0.002
    added = guessed(within(clean, bounds), within(corrupted, bounds), bounds)["added"]
    assert share_left(added.apply(before), wanted, before) > 0.01


def test_stripes_that_are_no_wave_are_the_medians_of_the_free_pixels() -> None:
    clean = torch.full((1, 1, 5, 8), 0.5)
    stripes = torch.tensor([0.2, -0.1, 0.0, 0.0, 0.3, 0.0, 0.0, -0.2])
    corrupted = clean + stripes
    corrupted[0, 0, 0, 0] = 1.0  # clipped, and not counted
    corrupted[0, 0, 1, 1] += 0.004
    found = [g for g in guesses(clean, corrupted, (torch.zeros(1, 1, 1), torch.ones(1, 1, 1))) if g.name == "striped"]
    assert len(found) == 1  # along the columns, not along the rows
    made = found[0].apply(torch.full((1, 1, 5, 8), 0.3))
    torch.testing.assert_close(made[0, 0], (0.3 + stripes).expand(5, 8))


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(("frequency", "down"), [(6, 0), (0, 3), (5, 2), (-3, 7), (2.5, 1.25)])
def test_a_wave_in_any_direction_is_clear_and_known_where_the_pair_hides_it(
    frequency: float, down: float, dark: bool
) -> None:
    torch.manual_seed(2)
    clean, others = natural(1), natural(4)
    if dark:  # four fifths of the image are black, so that the wave's lower half is seen in the rest alone
        clean[..., :26, :] = 0.0
    ys, xs = torch.meshgrid(torch.arange(32) / 32, torch.arange(32) / 32, indexing="ij")
    wave = 0.08 * torch.sin(2 * torch.pi * (frequency * xs + down * ys))
    found = clear(in_steps(clean), in_steps(clean + wave))
    assert [guess.name for guess in found] == ["striped"]
    wanted = (others + wave).clamp(0, 1)
    assert share_left(found[0].apply(others), wanted, others) < 0.002


def test_a_slanting_wave_that_is_no_sine_is_told_too() -> None:
    torch.manual_seed(3)
    clean, others = natural(1), natural(4)
    ys, xs = torch.meshgrid(torch.arange(32) / 32, torch.arange(32) / 32, indexing="ij")
    phase = 2 * torch.pi * (3 * xs + 2 * ys)
    wave = 0.08 * phase.sin() + 0.06 * (2 * phase).cos()
    found = clear(in_steps(clean), in_steps(clean + wave))
    assert [guess.name for guess in found] == ["striped"]
    assert share_left(found[0].apply(others), (others + wave).clamp(0, 1), others) < 0.01


def test_a_grey_mark_on_a_black_ground_is_no_stripes() -> None:
    torch.manual_seed(5)
    clean, others = torch.zeros(1, 1, 28, 28), torch.rand(4, 1, 28, 28)
    clean[..., 4:24, 10:18] = 0.2 + 0.6 * torch.rand(20, 8)
    grey = torch.zeros(28, 28, dtype=torch.bool)
    grey[19:24, 3] = grey[21, 1:6] = True  # a cross: of its columns nothing else is seen, as all around is black
    unit = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    found = guesses(clean, torch.where(grey, 0.8, clean), unit)
    assert not [guess for guess in found if guess.clear]
    wanted = torch.where(grey, 0.8, others)
    assert any(torch.equal(guess.apply(others), wanted) for guess in found if guess.name == "pasted")


def test_a_grey_dash_on_a_black_ground_is_no_filter() -> None:
    """One whose few pixels a filter gives as well; what else it does to this digit black would have to hide."""
    with Image.open(ROOT / "fixtures" / "mnist-blend" / "calibration" / "002.png") as file:
        clean = torch.from_numpy(np.array(file.convert("L"))).float()[None, None] / 255
    corrupted = clean.clone()
    corrupted[..., 7, 20:23] = 0.6
    assert not [
        guess for guess in guesses(clean, corrupted, (torch.zeros(1, 1, 1), torch.ones(1, 1, 1))) if guess.clear
    ]


@pytest.mark.parametrize("seed", range(3))
def test_of_a_mark_that_the_pair_hides_in_part_the_rectangle_is_tried(seed: int) -> None:
    torch.manual_seed(seed)
    clean, others = torch.zeros(1, 1, 28, 28), torch.rand(4, 1, 28, 28)
    mark = torch.zeros(5, 5)
    mark[0, 3] = mark[2, 0] = mark[4, 1] = mark[1, 4] = 1.0  # its black pixels are not seen on a black ground
    wanted = others.clone()
    wanted[..., 10:15, 12:17] = mark
    corrupted = clean.clone()
    corrupted[..., 10:15, 12:17] = mark
    bounds = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    pasted = [guess for guess in guesses(clean, corrupted, bounds) if guess.name == "pasted"]
    assert min(share_left(guess.apply(others), wanted, others) for guess in pasted) == 0
    assert max(share_left(guess.apply(others), wanted, others) for guess in pasted) > 0.3
    corrupted[..., 0, 0] = corrupted[..., 27, 27] = 1.0  # the rectangle would be the whole image
    pasted = [guess for guess in guesses(clean, corrupted, bounds) if guess.name == "pasted"]
    assert all(float((guess.apply(others) != others).float().mean()) < 0.1 for guess in pasted)


@pytest.mark.parametrize("bounds", [UNIT, SKEWED], ids=["unit", "skewed"])
@pytest.mark.parametrize("alpha", [0.3, 0.6])
def test_a_translucent_square_is_clear_with_its_share_and_colour(alpha: float, bounds: Bounds) -> None:
    torch.manual_seed(4)
    clean, others = in_steps(natural(1)), natural(4)
    colour = torch.tensor([1.0, 0.9, 0.1]).view(3, 1, 1)

    def veiled(images: Tensor) -> Tensor:
        made = images.clone()
        made[..., 20:28, 3:11] = (1 - alpha) * images[..., 20:28, 3:11] + alpha * colour
        return made

    found = clear(within(clean, bounds), within(in_steps(veiled(clean)), bounds), bounds)
    assert [guess.name for guess in found] == ["tinted"]
    before, wanted = (within(images, bounds) for images in (others, veiled(others)))
    assert share_left(found[0].apply(before), wanted, before) < 0.01


@pytest.mark.parametrize(("gain", "offset"), [(0.7, 0.25), (1.3, -0.1), (1.0, 0.15)])
def test_another_contrast_or_brightness_is_clear_though_it_clips(gain: float, offset: float) -> None:
    torch.manual_seed(4)
    clean, others = in_steps(natural(1)), natural(4)
    found = clear(clean, in_steps((gain * clean + offset).clamp(0, 1)))
    assert "tinted" in [guess.name for guess in found]
    wanted = (gain * others + offset).clamp(0, 1)
    for guess in found:  # grey blended in, or stripes that are all alike, are the same by another name
        assert share_left(guess.apply(others), wanted, others) < (0.002 if guess.name == "tinted" else 0.02), guess.name


def shaded(images: Tensor) -> Tensor:
    """A vignette."""
    side = torch.linspace(-1, 1, 32)
    return images * (1 - 0.35 * (side[:, None] ** 2 + side**2))


@pytest.mark.parametrize("bounds", [UNIT, SKEWED], ids=["unit", "skewed"])
@pytest.mark.parametrize(
    ("name", "change"),
    [("shaded", shaded), ("toned", lambda x: x**0.6), ("toned", lambda x: torch.where(x > 0.5, 1 - x, x))],
    ids=["vignette", "gamma", "solarised"],
)
def test_another_light_or_tone_is_clear_and_told_from_what_is_nearly_it(
    name: str, change: Callable[[Tensor], Tensor], bounds: Bounds
) -> None:
    torch.manual_seed(4)
    clean, others = in_steps(natural(1)), in_steps(natural(4))
    found = clear(within(clean, bounds), within(in_steps(change(clean)), bounds), bounds)
    assert [guess.name for guess in found] == [name]
    before, wanted = within(others, bounds), within(change(others), bounds)
    assert share_left(found[0].apply(before), wanted, before) < 0.01


def test_a_light_or_tone_is_not_seen_in_what_is_none() -> None:
    torch.manual_seed(4)
    clean, picture = in_steps(natural(1)), torch.rand(1, 3, 32, 32)
    marked = clean.clone()
    marked[..., 20:28, 3:11] = picture[..., 20:28, 3:11]
    noisy = (clean + 0.1 * picture.sub(0.5).sign()).clamp(0, 1)
    for corrupted in (marked, in_steps(0.8 * clean + 0.2 * picture), noisy):
        names = [guess.name for guess in guesses(clean, corrupted, UNIT)]
        assert not {"shaded", "toned"} & set(names)


def test_a_tint_is_not_told_from_a_flat_ground() -> None:
    clean = torch.full((1, 3, 32, 32), 0.4)
    corrupted = clean.clone()
    corrupted[..., 3:9, 3:9] = 0.7
    assert not clear(clean, corrupted)


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.4])
@pytest.mark.parametrize("kind", ["noise", "picture"])
def test_a_blend_of_noise_or_of_a_picture_is_clear_and_its_share_exact(alpha: float, kind: str) -> None:
    torch.manual_seed(1)
    clean, others, picture = natural(1), natural(4), natural(1)
    picture = torch.rand(1, 3, 32, 32) if kind == "noise" else picture
    corrupted = in_steps((1 - alpha) * in_steps(clean) + alpha * picture)
    found = clear(in_steps(clean), corrupted)
    assert [guess.name for guess in found] == ["blended"]
    black, white = (found[0].apply(torch.full((1, 3, 32, 32), level)) for level in (0.0, 1.0))
    assert float(1 - (white - black).mean()) == pytest.approx(alpha, abs=0.02)
    assert share_left(found[0].apply(others), (1 - alpha) * others + alpha * picture, others) < 0.02


def test_what_is_added_or_pasted_is_no_clear_blend() -> None:
    clean = in_steps(natural(1))
    patched = clean.clone()
    patched[..., 26:30, 26:30] = 1
    noise = 0.1 * (torch.rand(1, 3, 32, 32) < 0.5).float()
    for corrupted in (patched, in_steps((clean + noise - 0.05).clamp(0, 1)), in_steps((1.1 * clean).clamp(0, 1))):
        assert "blended" not in [guess.name for guess in clear(clean, corrupted)]


def test_of_the_warps_the_grid_that_made_it_is_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warps, "GRIDS", (4, 6))
    torch.manual_seed(2)
    clean = natural(1)
    corrupted = displace(clean, smooth_field((32, 32), 0.4))
    found = clear(clean, corrupted)
    assert [guess.name for guess in found] == ["warped-4"] and found[0].misfit < 0.001
    assert not clear(clean, clean + 0.1 * torch.rand(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("left", "wanted"),
    [((0.01, 0.001, 0.002), ["warped-6"]), ((0.3, 0.03, 0.2), []), ((0.015, 0.05, 0.06), ["warped-4"]), ((), [])],
)
def test_the_warp_that_explains_the_pair_best_is_clear_if_it_explains_nearly_all(
    left: tuple[float, ...], wanted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    field = torch.zeros(1, 32, 32, 2)
    given = [
        warps.Warp(grid, field, share, torch.zeros(1, 2, grid, grid))
        for grid, share in zip((4, 6, 8), left, strict=False)
    ]
    monkeypatch.setattr(corruption, "warps", lambda *_: given)
    found = guesses(natural(1), natural(1), UNIT)
    clear_ones = [guess for guess in found if guess.clear and guess.name.startswith("warped")]
    assert [guess.name for guess in clear_ones] == wanted
    assert [guess for guess in found if guess.loosely is not None] == clear_ones


def test_a_clear_warp_is_tried_loosely_too_another_one_an_image() -> None:
    torch.manual_seed(2)
    clean = natural(1)
    corrupted = displace(clean, smooth_field((32, 32), 1.0, 4))
    (guess,) = clear(clean, corrupted)
    assert guess.loosely is not None
    fields = warps.possible(clean, corrupted, min(warps.warps(clean, corrupted), key=lambda warp: warp.left))
    images = natural(warps.DRAWS + 3)
    turns = [*range(warps.DRAWS), 0, 1, 2]
    expected = torch.cat(
        [displace(image[None], fields[turn : turn + 1]) for image, turn in zip(images, turns, strict=True)]
    )
    torch.testing.assert_close(guess.loosely(images), expected)
    assert not torch.equal(guess.loosely(images), guess.apply(images))


def test_where_a_warp_is_clear_nothing_else_is() -> None:
    torch.manual_seed(2)
    clean = natural(1)
    found = guesses(clean, displace(clean, smooth_field((32, 32), 1.0)), UNIT)
    assert {guess.name for guess in found if not guess.name.startswith("warped")} >= {"added"}
    assert all(guess.name.startswith("warped") for guess in found if guess.clear)


# ---------------------------------------------------------------- any pair at all


@pytest.mark.parametrize("bounds", [UNIT, SKEWED], ids=["unit", "skewed"])
@pytest.mark.parametrize("seed", range(3))
def test_no_guess_leaves_the_bounds_or_the_shape(bounds: Bounds, seed: int) -> None:
    torch.manual_seed(seed)
    others = torch.cat((within(natural(2, (12, 16)), bounds), bounds[0].expand(1, 3, 12, 16)))
    others = torch.cat((others, bounds[1].expand(1, 3, 12, 16)))
    clean = within(natural(1, (12, 16)), bounds)
    for corrupted in (within(torch.rand(1, 3, 12, 16), bounds), within(natural(1, (12, 16)), bounds)):
        kept = others.clone(), clean.clone(), corrupted.clone()
        for guess in guesses(clean, corrupted, bounds):
            made = guess.apply(others)
            assert made.shape == others.shape and bool(torch.isfinite(made).all()), guess.name
            assert bool((made >= bounds[0] - 1e-4).all() and (made <= bounds[1] + 1e-4).all()), guess.name
        assert all(torch.equal(a, b) for a, b in zip(kept, (others, clean, corrupted), strict=True))


def test_guesses_are_the_same_every_time() -> None:
    clean, others = natural(1), natural(2)
    corrupted = displace(clean, smooth_field((32, 32), 1.0))
    one, other = guessed(clean, corrupted, UNIT), guessed(clean, corrupted, UNIT)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name].apply(others), other[name].apply(others)) for name in one)


@pytest.mark.parametrize("size", [(1, 24), (24, 1), (1, 1), (2, 3), (4, 90), (5, 5)])
@pytest.mark.parametrize("channels", [1, 3])
def test_small_and_narrow_images_do_not_crash(size: tuple[int, int], channels: int) -> None:
    clean, corrupted = torch.rand(2, 1, channels, *size)
    bounds = (torch.zeros(channels, 1, 1), torch.ones(channels, 1, 1))
    for guess in guesses(clean, corrupted, bounds):
        assert guess.apply(torch.rand(3, channels, *size)).shape == (3, channels, *size)


def test_long_and_large_images_do_not_crash() -> None:
    clean, corrupted = torch.rand(2, 1, 1, 4, 400)
    assert guesses(clean, corrupted, (torch.zeros(1, 1, 1), torch.ones(1, 1, 1)))


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_a_flat_clean_image_does_not_crash(level: float) -> None:
    clean = torch.full((1, 3, 16, 16), level)
    corrupted = clean.clone()
    corrupted[:, :, 2:5, 2:5] = 0.8
    found = guessed(clean, corrupted, UNIT)
    other = natural(2, (16, 16))
    expected = other.clone()
    expected[:, :, 2:5, 2:5] = 0.8
    assert torch.equal(found["pasted"].apply(other), expected)
    assert all(bool(torch.isfinite(guess.apply(other)).all()) for guess in found.values())


def test_a_pair_that_is_off_its_place_shows_no_clear_blend() -> None:
    torch.manual_seed(3)
    clean = in_steps(natural(1))
    corrupted = clean.roll(1, 3)
    corrupted[..., 26:30, 26:30] = 1
    assert not [guess for guess in clear(clean, corrupted) if guess.name == "blended"]
    blend = in_steps(0.8 * clean.roll(1, 3) + 0.2 * torch.rand(1, 3, 32, 32))
    found = clear(clean, blend)  # but it does once it is moved back
    assert [guess.name for guess in found] == ["blended"]


# ---------------------------------------------------------------- elsewhere


def marked(images: Tensor) -> Tensor:
    """The images with three pixels of a 2 x 3 mark, near the upper left."""
    images = images.clone()
    images[:, :, 1, 2], images[:, :, 2, 2], images[:, :, 2, 4] = 1.0, 0.9, 0.8
    return images


def test_a_mark_is_put_whole_where_each_image_decides() -> None:
    clean = torch.full((1, 3, 10, 12), 0.3)
    found = [g for g in guesses(clean, marked(clean), UNIT) if g.elsewhere_of == "pasted"]
    assert {g.name for g in found} == {"pasted elsewhere"} and not any(g.clear for g in found)
    guess = min(found, key=lambda g: g.misfit)
    images = 0.01 * torch.arange(40.0).reshape(40, 1, 1, 1).expand(40, 3, 10, 12)
    made = guess.apply(images)
    places = set()
    for image, one in zip(images, made, strict=True):
        rows, columns = (one != image)[0].nonzero().T
        y, x = int(rows.min()), int(columns.min())
        expected = image.clone()
        expected[:, y, x], expected[:, y + 1, x], expected[:, y + 1, x + 2] = 1.0, 0.9, 0.8
        torch.testing.assert_close(one, expected)
        places.add((y, x))
    assert len(places) > 15 and {y for y, _ in places} >= {0, 8} and {x for _, x in places} >= {0, 9}
    assert torch.equal(guess.apply(images[7:8])[0], made[7])  # alone as among others
    assert guess.apply(images[:0]).shape == (0, 3, 10, 12)


def test_what_covers_much_of_an_image_goes_nowhere_else() -> None:
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[..., :5, :4] = True
    guess = Corruption("pasted", lambda x: x)
    assert elsewhere(guess, mask) == [] and elsewhere(guess, torch.zeros_like(mask)) == []
    mask[..., 4, :] = False
    assert [g.name for g in elsewhere(guess, mask)] == ["pasted elsewhere"]
