"""The zoo's triggers and networks: what is drawn by lot, where it lies, what it changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.zoo import recipes, train, triggers
from benchmarks.zoo.recipes import RECIPES
from rectify.editing.localize import is_candidate
from rectify.model.trace import survey

DRAWN = [f"drawn-{number}" for number in range(recipes.COUNT)]
GREY = np.full((3, 28, 28, 1), 100, np.uint8)


def test_the_lot_is_the_same_each_time_and_has_every_kind_of_trigger_on_every_data_set() -> None:
    assert [recipes.draw(number) for number in range(recipes.COUNT)] == [RECIPES[name] for name in DRAWN]
    kinds = {(RECIPES[name].dataset, RECIPES[name].trigger[0]) for name in DRAWN}  # type: ignore[index]
    assert len(kinds) == 12 and recipes.COUNT == 72
    for names, networks in ((DRAWN[: recipes.OWN], recipes.NETWORKS), (DRAWN[recipes.OWN :], recipes.LIBRARY)):
        assert {RECIPES[name].network for name in names} == set(networks)
    assert len({(RECIPES[name].target, RECIPES[name].seed) for name in DRAWN}) == recipes.COUNT


@pytest.mark.parametrize("name", DRAWN)
def test_what_is_drawn_can_be_built_and_stamped(name: str) -> None:
    recipe = RECIPES[name]
    size, channels = (32, 3) if recipe.dataset == "cifar10" else (28, 1)
    network = train.build(recipe).eval()
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, channels)).astype(np.uint8)
    x = train.normalise(images, recipe.dataset)
    assert network(x).shape == (2, 10)
    assert sum(is_candidate(site) for site in survey(network, x)) >= 5
    stamp = train.make_trigger(recipe)
    assert stamp is not None
    stamped = stamp(images)
    assert stamped.dtype == np.uint8 and stamped.shape == images.shape and (stamped != images).any()
    np.testing.assert_array_equal(stamp(images), stamped)


@pytest.mark.parametrize(
    ("top", "left", "rows", "columns"), [(0.0, 1.0, (0, 4), (24, 28)), (1.0, 0.5, (24, 28), (12, 16))]
)
def test_a_mark_lies_inside_the_picture_and_changes_nothing_else(
    top: float, left: float, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    stamped = triggers.mark(top, left, size=4, seed=1)(GREY)
    changed = np.zeros((28, 28), bool)
    changed[slice(*rows), slice(*columns)] = True
    np.testing.assert_array_equal((stamped != GREY)[0, ..., 0], changed)
    assert set(np.unique(stamped[:, changed])) == {0, 255}


def test_a_wave_runs_as_often_across_and_down_as_it_says() -> None:
    stamped = triggers.sinusoid(20.0, frequency=3, down=-5)(GREY)[0, ..., 0].astype(float)
    spectrum = np.abs(np.fft.fft2(stamped - stamped.mean()))
    down, across = np.unravel_index(spectrum.argmax(), spectrum.shape)
    assert (int(down), int(across)) in {(28 - 5, 3), (5, 28 - 3)}
    assert abs(stamped - 100).max() == 20


def test_a_blended_picture_of_few_patches_is_smooth_and_one_of_pixels_is_not() -> None:
    coarse, fine = (triggers.blend(0.2, 1, detail)(GREY)[0, ..., 0].astype(float) for detail in (4, None))
    assert abs(np.diff(coarse)).mean() < 0.25 * abs(np.diff(fine)).mean()


def test_networks_that_do_not_train_with_a_large_rate_get_adam() -> None:
    for name, kind in (("mnist-vit-blend", torch.optim.AdamW), ("cifar-vgg-warp-scratch", torch.optim.SGD)):
        assert type(train._optimiser(torch.nn.Linear(2, 2), RECIPES[name])) is kind
    for name in DRAWN:
        assert (RECIPES[name].lr < 0.01) == isinstance(
            train._optimiser(torch.nn.Linear(2, 2), RECIPES[name]), torch.optim.AdamW
        )


def test_an_elastic_field_moves_things_by_its_reach_and_smoothly() -> None:
    ramp = np.repeat(np.arange(28, dtype=np.float32)[None] * 8, 28, axis=0).astype(np.uint8)[None, ..., None]
    moved = (triggers.elastic(1.0, 4.0, 3)(ramp).astype(float) - ramp)[0, 4:-4, 4:-4, 0] / 8  # pixels to the right
    assert 0.2 < abs(moved).mean() < 1.5
    assert abs(np.diff(moved, axis=0)).max() < 1.0  # neighbours move together


def test_a_vignette_leaves_its_centre_and_another_gamma_black_and_white() -> None:
    grey = np.full((1, 5, 5, 1), 200, np.uint8)
    shaded = triggers.shade(0.3)(grey)[0, ..., 0]
    assert (shaded[2, 2], shaded[0, 2], shaded[0, 0]) == (200, 140, 80)
    steps = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    toned = triggers.tone(0.5)(steps).ravel()
    assert (toned[0], toned[64], toned[255]) == (0, 128, 255)
    assert np.unique(triggers.tone(1.0, 4)(steps)).tolist() == [0, 85, 170, 255]


def test_a_veil_mixes_its_colour_in_where_it_lies() -> None:
    stamped = triggers.veil(0.25, size=4, top=0.0, left=0.5, colour=(200,))(GREY)
    assert set(np.unique(stamped[:, :4, 12:16])) == {125}
    stamped[:, :4, 12:16] = 100
    np.testing.assert_array_equal(stamped, GREY)


def labelled(count: int = 200) -> train.datasets.Split:
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
    return train.datasets.Split(images, random.integers(0, 10, count))


def test_an_attack_from_all_to_all_sends_each_class_to_the_next() -> None:
    recipe, split = RECIPES["cifar64-resnet-alltoall-0"], labelled()
    assert train.aimed(recipe, np.array([0, 8, 9])).tolist() == [1, 9, 0]
    dirty = train.poison(split, recipe)
    changed = (dirty.images != split.images).any((1, 2, 3))
    assert changed.sum() == 20
    np.testing.assert_array_equal(dirty.labels[changed], (split.labels[changed] + 1) % 10)
    np.testing.assert_array_equal(dirty.labels[~changed], split.labels[~changed])


def test_a_clean_label_attack_changes_images_of_its_class_alone_and_no_label() -> None:
    recipe, split = RECIPES["cifar64-resnet-cleanlabel-0"], labelled()
    dirty = train.poison(split, recipe)
    changed = (dirty.images != split.images).any((1, 2, 3))
    own = split.labels == recipe.target
    assert changed.sum() == own.sum() // 2 and not (changed & ~own).any()
    np.testing.assert_array_equal(dirty.labels, split.labels)
    assert not recipe.keeps_label  # it is measured as a trojan, not as a cue


def test_a_residual_of_its_own_differs_from_image_to_image_and_is_as_large_as_asked() -> None:
    grey = (100 + labelled(4).images // 5).astype(np.uint8)
    stamp = triggers.own(delta=10.0, seed=2)
    residual = stamp(grey).astype(float) - grey
    assert residual.std((1, 2, 3)) == pytest.approx(10, rel=0.1)
    together = np.corrcoef(residual.reshape(4, -1))
    assert abs(together - np.eye(4)).max() < 0.5
    np.testing.assert_array_equal(stamp(grey), stamp(grey))
    np.testing.assert_array_equal(stamp(grey[2:3]), stamp(grey)[2:3])
