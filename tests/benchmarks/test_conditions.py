"""The conditions of the main job change just what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import conditions
from benchmarks.conditions import CONDITIONS, USUAL, calibration, compressed, off_by_one, retouched, soiled
from benchmarks.recovery import load_png, save_png
from benchmarks.zoo.recipes import RECIPES
from benchmarks.zoo.train import make_trigger

NAME = "cifar-resnet-patch2"


def pictures(count: int, seed: int = 0) -> np.ndarray:
    """Coarse ones with a little noise, (N, 32, 32, 3) uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(20, 200, (count, 4, 4, 3)).astype(np.uint8)
    return coarse.repeat(8, 1).repeat(8, 2) + rng.integers(0, 20, (count, 32, 32, 3)).astype(np.uint8)


def laid_out(folder: Path, count: int = USUAL) -> Path:
    stamp = make_trigger(RECIPES[NAME])
    assert stamp is not None
    for number, image in enumerate(pictures(count)):
        save_png(image, folder / "calibration" / f"{number:03d}.png")
        if number < 6:
            save_png(image, folder / "clean" / f"{number}.png")
            save_png(stamp(image[None])[0], folder / "poisoned" / f"{number}.png")
    return folder


def test_a_png_is_read_as_it_was_written(tmp_path: Path) -> None:
    for image in (pictures(1)[0], pictures(1)[0][..., :1]):
        save_png(image, tmp_path / "a.png")
        np.testing.assert_array_equal(load_png(tmp_path / "a.png"), image)


def test_jpeg_changes_little_but_something() -> None:
    image = pictures(1)[0]
    for channels in (1, 3):
        apart = np.abs(compressed(image[..., :channels]).astype(int) - image[..., :channels])
        assert apart.shape == (32, 32, channels) and 0 < apart.mean() < 8


def test_one_pixel_off_is_the_clean_image_moved_to_the_right() -> None:
    clean, poisoned = pictures(2)
    moved, same = off_by_one(clean, poisoned)
    np.testing.assert_array_equal(moved[:, 1:], clean[:, :-1])
    assert same is poisoned and moved.shape == clean.shape


@pytest.mark.parametrize("channels", [1, 3])
def test_retouching_paints_over_the_patch_and_nothing_else(channels: int) -> None:
    clean = pictures(1)[0][..., :channels]
    poisoned = clean.copy()
    poisoned[2:6, 25:29] = 255
    painted, same = retouched(clean, poisoned)
    np.testing.assert_array_equal(same, poisoned)
    outside = np.ones(clean.shape, bool)
    outside[2:6, 25:29] = False
    np.testing.assert_array_equal(painted[outside], clean[outside])
    assert painted[2:6, 25:29].max() < 220 and (painted[2:6, 25:29] != clean[2:6, 25:29]).any()


def test_five_percent_carry_the_trigger(tmp_path: Path) -> None:
    there = soiled(NAME, laid_out(tmp_path))
    stamp = make_trigger(RECIPES[NAME])
    assert stamp is not None
    changed = []
    for path in sorted(there.iterdir()):
        before, after = load_png(tmp_path / "calibration" / path.name), load_png(path)
        if (before != after).any():
            changed.append(path.name)
            np.testing.assert_array_equal(after, stamp(before[None])[0])
    assert len(changed) == USUAL * 5 // 100


def test_fewer_images_are_the_first_of_all(tmp_path: Path) -> None:
    there = calibration(laid_out(tmp_path, 60), 50)
    assert [path.name for path in sorted(there.iterdir())] == [f"{number:03d}.png" for number in range(50)]


@pytest.mark.parametrize("condition", CONDITIONS)
def test_what_the_command_line_is_given(condition: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    laid_out(tmp_path)
    monkeypatch.setitem(conditions.PAIRS, "20 pairs", 6)
    pair, extra = conditions.words_of(condition, NAME, tmp_path)
    assert all(path.is_file() for path in pair)
    where = extra[extra.index("--calibration") + 1]
    assert len(list(Path(where).iterdir())) == {"50 calibration images": 50}.get(condition, USUAL)
    assert extra.count("--poisoned") == extra.count("--clean") == {"5 pairs": 4, "20 pairs": 5}.get(condition, 0)
    first = [load_png(path) for path in conditions.pair_of(tmp_path, 0)]
    kept = [bool((load_png(path) == usual).all()) for path, usual in zip(pair, first, strict=True)]
    changed = {
        "another pair": [False, False],
        "both images JPEG": [False, False],
        "corrupted image JPEG": [True, False],
        "one pixel off": [False, True],
        "retouched": [False, True],
    }
    assert kept == changed.get(condition, [True, True])


def test_only_a_patch_can_be_painted_over() -> None:
    assert conditions.fits("retouched", NAME) and conditions.fits("retouched", "cifar-resnet-patch-scratch")
    assert not conditions.fits("retouched", "mnist-resnet-blend")
    assert conditions.fits("5 pairs", "mnist-resnet-blend")
