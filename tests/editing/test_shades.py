"""The fits of another light and another tone, against what made them and against slow oracles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from rectify.editing.shades import DEGREES, LEVELS, PARTS, shades, tone

LOW, HIGH = torch.tensor([-1.5, -2.0]).view(1, 2, 1, 1), torch.tensor([1.5, 2.5]).view(1, 2, 1, 1)


def pictures(count: int, seed: int = 0) -> Tensor:
    """Noise of two channels in steps of 1/255, from ``LOW`` to ``HIGH``, (count, 2, 12, 9)."""
    generator = torch.Generator().manual_seed(seed)
    return LOW + (HIGH - LOW) * (255 * torch.rand(count, 2, 12, 9, generator=generator)).round() / 255


def places() -> tuple[Tensor, Tensor]:
    """Of every pixel how far it lies down and across, from -1 to 1."""
    down, across = torch.meshgrid(torch.linspace(-1, 1, 12), torch.linspace(-1, 1, 9), indexing="ij")
    return down, across


@pytest.mark.parametrize("what", ["gain", "offset", "both"])
def test_a_polynomial_gain_or_offset_is_found_and_put_onto_other_images(what: str) -> None:
    down, across = places()
    gain = 1 - 0.3 * (down**2 + across**2) if what != "offset" else torch.ones(12, 9)
    offset = 0.2 * down - 0.1 * down * across if what != "gain" else torch.zeros(12, 9)
    clean, others = pictures(1), pictures(5, 1)
    fits = list(shades(clean, gain * clean + offset, torch.ones_like(clean, dtype=torch.bool)))
    assert len(fits) == len(DEGREES) * len(PARTS)
    wanted = gain * others + offset
    best = min(float((fit(others) - wanted).abs().max()) for fit in fits)
    assert best < 1e-3


def test_pixels_that_are_not_free_are_left_out_of_the_fit() -> None:
    down, _ = places()
    clean = pictures(1)
    corrupted = (1 - 0.3 * down) * clean
    free = torch.rand(clean.shape, generator=torch.Generator().manual_seed(2)) < 0.7
    hidden = torch.where(free, corrupted, 0.0)
    fit = next(shades(clean, hidden, free))
    assert float((fit(clean) - corrupted).abs().max()) < 1e-3


def test_no_fit_has_more_numbers_than_pixels() -> None:
    clean = pictures(1)
    few = torch.zeros_like(clean, dtype=torch.bool)
    few[..., 0, :4] = True  # of four pixels: a plane takes three numbers, all else more
    assert len(list(shades(clean, clean, few))) == 2
    assert not list(shades(clean, clean, torch.zeros_like(few)))


@pytest.mark.parametrize("curve", [lambda x: x**0.6, lambda x: (3 * x).round() / 3, lambda x: 1 - x])
def test_a_curve_of_values_is_found_and_put_onto_other_images(curve) -> None:  # type: ignore[no-untyped-def]
    def toned(images: Tensor) -> Tensor:
        return LOW + (HIGH - LOW) * curve((images - LOW) / (HIGH - LOW))

    clean = LOW + (HIGH - LOW) * torch.arange(LEVELS).view(1, 1, 16, 16) / 255  # every level once
    others = pictures(4, 3)
    found, _ = tone(clean, toned(clean), LOW, HIGH)
    assert torch.allclose(found(others), toned(others), atol=1e-5)


def test_a_level_that_the_pair_lacks_lies_between_its_neighbours() -> None:
    clean = torch.tensor([0.0, 100, 200]).div(255).view(1, 1, 1, 3)
    found, _ = tone(clean, clean / 2, torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1))
    there = torch.tensor([0.0, 50, 100, 150, 200, 255]).div(255).view(1, 1, 1, 6)
    wanted = torch.tensor([0.0, 25, 50, 75, 100, 155]).div(255).view(1, 1, 1, 6)  # the last changes as 200 does
    assert torch.allclose(found(there), wanted)


def test_what_other_pixels_predict_is_the_mean_of_their_level_or_a_line_between_the_next_levels() -> None:
    """Against the definition, a pixel at a time, in float64."""
    random = np.random.default_rng(4)
    level, y = random.integers(0, 40, 60), random.normal(size=60)  # some levels once, some often
    clean = torch.from_numpy(level / 255).view(1, 1, 6, 10)
    corrupted = clean + torch.from_numpy(y).view(1, 1, 6, 10)
    _, predicted = tone(clean, corrupted, torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1))
    for i, mine in enumerate((predicted - clean).flatten().tolist()):
        others = [j for j in range(60) if j != i]
        same = [y[j] for j in others if level[j] == level[i]]
        if same:
            wanted = np.mean(same)
        else:
            known = sorted({level[j] for j in others})
            means = [np.mean([y[j] for j in others if level[j] == one]) for one in known]
            wanted = np.interp(level[i], known, means)
        assert mine == pytest.approx(wanted, abs=1e-9)


def test_a_picture_of_one_level_does_not_crash() -> None:
    clean = torch.full((1, 1, 3, 3), 0.4)
    found, predicted = tone(clean, clean + 0.1, torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1))
    assert torch.allclose(predicted, clean + 0.1) and torch.allclose(found(clean), clean + 0.1)
