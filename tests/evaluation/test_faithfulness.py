"""Against loops that fill one set of one image at a time, in float64."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from rectify.attribution.score import Score
from rectify.errors import UsageError
from rectify.evaluation.faithfulness import (
    cell_sums,
    curves,
    fill_images,
    grid_cells,
    masked_scores,
    mu_fidelity,
    random_sets,
)

deletion, insertion = partial(curves, "deletion"), partial(curves, "insertion")
BOUNDS = (torch.full((2, 1, 1), -1.0), torch.full((2, 1, 1), 2.0))


class Counts(nn.Module):
    """A smooth network that writes down how many images it is given."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 12), nn.Tanh(), nn.Linear(12, 3)).double()
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        return self.body(x)


def case(size: tuple[int, int] = (7, 6), n: int = 4) -> tuple[Counts, Tensor, Tensor, Tensor]:
    """Network, images (n, 2, *size), classes and random maps."""
    x = torch.randn(n, 2, *size, dtype=torch.float64)
    network = Counts(2 * size[0] * size[1])
    return network, x, torch.arange(n) % 3, torch.randn(n, *size, dtype=torch.float64)


def linear(x: Tensor) -> tuple[nn.Module, Tensor]:
    """A linear network of one class and its weights (C, H, W)."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 1)).double()
    return network, network[1].weight.detach().view(x.shape[1:])


# ---------------------------------------------------------------- MuFidelity


@torch.no_grad()
@pytest.mark.parametrize("correlation", ["pearson", "spearman"])
def test_mu_fidelity_by_loops(correlation: str) -> None:
    network, x, targets, maps = case()
    score = Score(network, "probability", 5)
    masked = masked_scores(score, x, targets, grid=4, share=0.3, subsets=15, fill="black", bounds=BOUNDS, seed=3)
    found = mu_fidelity(masked, maps, correlation=correlation)[0].values
    correlate = stats.pearsonr if correlation == "pearson" else stats.spearmanr
    for image in range(len(x)):
        whole = float(network(x[image : image + 1]).softmax(1)[0, targets[image]])
        sums, drops = [], []
        for chosen in masked.subsets:
            assert int(chosen.sum()) == round(0.3 * 16)
            filled, mass = x[image].clone(), 0.0
            for i in range(7):
                for j in range(6):
                    if chosen[(i * 4 // 7) * 4 + j * 4 // 6]:
                        filled[:, i, j] = -1
                        mass += float(maps[image, i, j])
            sums.append(mass)
            drops.append(whole - float(network(filled[None]).softmax(1)[0, targets[image]]))
        torch.testing.assert_close(masked.drops[image], torch.tensor(drops, dtype=torch.float64), atol=1e-12, rtol=0)
        assert float(found[image]) == pytest.approx(correlate(sums, drops).statistic, abs=1e-9)


@pytest.mark.parametrize("fill", ["zero", "black", "mean", "blur", "noise"])
def test_an_exact_map_of_a_linear_network_has_mu_fidelity_one(fill: str) -> None:
    _, x, _, _ = case()
    network, weight = linear(x)
    targets = torch.zeros(len(x), dtype=torch.long)
    maps = (weight * (x - fill_images(x, fill, BOUNDS, 5))).sum(1)
    score = Score(network, "logit", 7)
    masked = masked_scores(score, x, targets, grid=3, share=0.4, subsets=30, fill=fill, bounds=BOUNDS, seed=5)
    signed, absolute = mu_fidelity(masked, maps)
    torch.testing.assert_close(signed.values, torch.ones(4, dtype=torch.float64))
    assert absolute.null_floor is not None and absolute.null_floor < 0.7
    assert mu_fidelity(masked, -maps)[0].value == pytest.approx(-1)
    assert mu_fidelity(masked, -maps)[1].value == pytest.approx(1)


def test_permuted_maps_have_about_the_null_and_it_needs_no_passes() -> None:
    network, x, targets, _ = case((12, 12), 30)
    masked = masked_scores(Score(network, "logit"), x, targets, grid=12, subsets=60)
    passes = len(network.seen)
    noise = torch.randn(30, 12, 12, dtype=torch.float64)
    signed, absolute = mu_fidelity(masked, noise, permutations=20)
    assert len(network.seen) == passes
    assert absolute.null_floor == pytest.approx(absolute.value, abs=0.04)
    expected = (2 / torch.pi * (1 / 60 + 1 / 143)) ** 0.5  # half-normal: of 60 sets and of 144 cells
    assert absolute.null_floor == pytest.approx(expected, abs=0.015)
    assert signed.null_floor == pytest.approx(0, abs=0.03) and abs(signed.value) < 0.1
    torch.testing.assert_close(absolute.values, signed.values.abs())


def test_the_null_is_of_permuted_cells() -> None:
    network, x, targets, maps = case()
    masked = masked_scores(Score(network, "logit"), x, targets, grid=3, subsets=20)
    found = mu_fidelity(masked, maps, permutations=2, seed=9)
    generator = torch.Generator().manual_seed(9)
    expected = []
    for _ in range(2):
        order = torch.randperm(9, generator=generator)
        shuffled = cell_sums(maps, masked.cells)[:, order]
        sums = [[float(row[chosen].sum()) for chosen in masked.subsets] for row in shuffled]
        expected.append([stats.pearsonr(s, d).statistic for s, d in zip(sums, masked.drops, strict=True)])
    null = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found[0].null, null.mean(0))
    torch.testing.assert_close(found[1].null, null.abs().mean(0))
    assert mu_fidelity(masked, maps, permutations=0)[0].null is None


@pytest.mark.parametrize("size", [(4, 3), (9, 9), (10, 20), (13, 9)])
def test_cells_cover_any_image_and_differ_by_a_pixel(size: tuple[int, int]) -> None:
    cells = grid_cells(*size, 9)
    rows, columns = min(9, size[0]), min(9, size[1])
    counts = torch.bincount(cells.flatten(), minlength=rows * columns)
    assert len(counts) == rows * columns
    low, high = (size[0] // rows) * (size[1] // columns), -(-size[0] // rows) * -(-size[1] // columns)
    assert int(counts.min()) >= max(1, low) and int(counts.max()) <= high
    for cell in range(len(counts)):  # each is a rectangle
        places = (cells == cell).nonzero()
        spans = places.max(0).values - places.min(0).values + 1
        assert int(spans.prod()) == len(places)


def test_cell_sums_by_loops() -> None:
    maps, cells = torch.randn(2, 5, 7), grid_cells(5, 7, 3)
    expected = torch.zeros(2, 9, dtype=torch.float64)
    for n in range(2):
        for i in range(5):
            for j in range(7):
                expected[n, cells[i, j]] += float(maps[n, i, j])
    torch.testing.assert_close(cell_sums(maps, cells), expected)


def test_sets_are_of_one_size_and_hit_every_cell_alike() -> None:
    sets = random_sets(2000, 10, 3, 0)
    assert bool((sets.sum(1) == 3).all())
    torch.testing.assert_close(sets.double().mean(0), torch.full((10,), 0.3).double(), atol=0.04, rtol=0)
    assert bool((random_sets(5, 10, 3, 0) == random_sets(5, 10, 3, 0)).all())
    assert bool((random_sets(5, 10, 3, 0) != random_sets(5, 10, 3, 1)).any())


def test_masked_scores_do_not_depend_on_the_batch_and_keep_to_it() -> None:
    network, x, targets, _ = case()
    kept = masked_scores(Score(network, "logit", 1000), x, targets, subsets=11)
    network.seen.clear()
    again = masked_scores(Score(network, "logit", 3), x, targets, subsets=11)
    assert max(network.seen) == 3 and sum(network.seen) == 4 + 4 * 11
    torch.testing.assert_close(kept.drops, again.drops, atol=1e-12, rtol=0)
    assert bool((kept.subsets == again.subsets).all())
    alone = masked_scores(Score(network, "logit", 3), x[2:3], targets[2:3], subsets=11)
    torch.testing.assert_close(alone.drops[0], kept.drops[2], atol=1e-12, rtol=0)


def test_maps_and_scores_that_do_not_vary_are_counted() -> None:
    network, x, targets, maps = case()
    x[1] = 0  # filling with zeros takes nothing
    masked = masked_scores(Score(network, "logit"), x, targets, subsets=20)
    maps[3] = 0
    signed = mu_fidelity(masked, maps)[0]
    assert signed.values[[1, 3]].tolist() == [0, 0] and signed.settings["constant"] == 2


def test_mu_fidelity_says_what_it_did() -> None:
    network, x, targets, maps = case()
    masked = masked_scores(Score(network, "probability"), x, targets, grid=9, share=0.2, subsets=20, seed=4)
    told = mu_fidelity(masked, maps, correlation="spearman")[0].settings
    expected = {"grid": 9, "cells": 42, "subset_size": 8, "subsets": 20, "fill": "zero", "seed": 4}
    assert {**told, **expected, "correlation": "spearman", "score": "probability"} == told


def test_what_mu_fidelity_refuses() -> None:
    network, x, targets, maps = case()
    score = Score(network, "logit")
    for bad in ({"share": 0.0}, {"share": 1.0}, {"subsets": 1}, {"grid": 1}):
        with pytest.raises(UsageError, match="MuFidelity needs"):
            masked_scores(score, x, targets, **bad)
    with pytest.raises(UsageError, match="black and of a white"):
        masked_scores(score, x, targets, fill="black")
    masked = masked_scores(score, x, targets, subsets=3)
    with pytest.raises(UsageError, match="do not fit"):
        mu_fidelity(masked, maps[1:])
    with pytest.raises(UsageError, match="unknown correlation"):
        mu_fidelity(masked, maps, correlation="kendall")


# ---------------------------------------------------------------- deletion and insertion


@torch.no_grad()
def by_loops(network: nn.Module, x: Tensor, target: int, heat: Tensor, fill: float, steps: int, put: bool) -> Tensor:
    """The curve of one image, a pixel at a time."""
    width, pixels = heat.shape[1], heat.numel()
    order = sorted(range(pixels), key=lambda i: (-float(heat.flatten()[i]), i))
    found = []
    for step in range(steps + 1):
        image = torch.full_like(x, fill) if put else x.clone()
        for place in order[: int(pixels * step / steps + 0.5)]:
            i, j = divmod(place, width)
            image[:, i, j] = x[:, i, j] if put else fill
        found.append(float(network(image[None]).softmax(1)[0, target]))
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("put", [False, True])
@pytest.mark.parametrize("fill", ["zero", "black"])
def test_curves_by_loops(put: bool, fill: str) -> None:
    network, x, targets, maps = case()
    maps[0] = maps[0].round()  # ties
    curve = insertion if put else deletion
    found = curve(Score(network, "probability", 5), x, targets, maps, fill=fill, bounds=BOUNDS, orders=0)
    for image in range(len(x)):
        level = 0.0 if fill == "zero" else -1.0
        expected = by_loops(network, x[image], int(targets[image]), maps[image], level, 10, put)
        torch.testing.assert_close(found.scores[image], expected, atol=1e-12, rtol=0)
        area = sum(
            float(expected[i] + expected[i + 1]) / 2 * float(found.shares[i + 1] - found.shares[i]) for i in range(10)
        )
        assert float(found.measure.values[image]) == pytest.approx(area)
    assert found.shares[[0, 10]].tolist() == [0, 1]
    assert found.measure.null is None


def test_the_area_is_in_units_of_the_score() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([[0.25, 0.75]]).log().expand(len(x), 2)

    _, x, _, maps = case()
    targets = torch.tensor([0, 1, 0, 1])
    score = Score(Constant(), "probability")
    for curve in (deletion, insertion):
        assert curve(score, x, targets, maps).measure.values.tolist() == pytest.approx([0.25, 0.75, 0.25, 0.75])
        assert curve(score, x, targets, maps, normalise=True).measure.values.tolist() == pytest.approx([1] * 4)


def test_normalised_curves_are_divided_by_the_whole_image() -> None:
    network, x, targets, maps = case()
    score = Score(network, "probability")
    whole = score.values(x, targets).unsqueeze(1)
    for curve in (deletion, insertion):
        plain, divided = (
            curve(score, x, targets, maps, orders=1),
            curve(score, x, targets, maps, orders=1, normalise=True),
        )
        torch.testing.assert_close(divided.scores, plain.scores / whole)
        torch.testing.assert_close(divided.measure.null, plain.measure.null / whole.flatten())


def test_a_right_map_beats_random_orders_and_its_opposite() -> None:
    _, x, _, _ = case((8, 8), 6)
    network, weight = linear(x)
    maps = (weight * x).sum(1)
    targets = torch.zeros(6, dtype=torch.long)
    score = Score(network, "logit", 16)
    gone, back = deletion(score, x, targets, maps).measure, insertion(score, x, targets, maps).measure
    assert bool((gone.values < gone.null).all()) and bool((back.values > back.null).all())
    assert bool((deletion(score, x, targets, -maps).measure.values > gone.null).all())


def test_the_null_is_that_of_random_orders_and_can_be_reused() -> None:
    network, x, targets, maps = case((10, 10))
    score = Score(network, "probability", 9)
    found = deletion(score, x, targets, maps, orders=2, seed=7)
    chance = torch.rand(2, 10, 10, generator=torch.Generator().manual_seed(7))
    areas = [deletion(score, x, targets, one.expand(4, 10, 10), orders=0).measure.values for one in chance]
    torch.testing.assert_close(found.measure.null, (areas[0] + areas[1]) / 2)
    network.seen.clear()
    again = deletion(score, x, targets, maps, orders=2, seed=7, null=found.measure.null)
    assert sum(network.seen) == 4 * 11 and again.measure.null is found.measure.null
    assert bool((deletion(score, x, targets, maps, orders=2, seed=8).measure.null != found.measure.null).any())


def test_curves_do_not_depend_on_the_batch_and_keep_to_it() -> None:
    network, x, targets, maps = case()
    kept = insertion(Score(network, "logit", 1000), x, targets, maps, steps=4)
    network.seen.clear()
    again = insertion(Score(network, "logit", 3), x, targets, maps, steps=4)
    assert max(network.seen) == 3
    torch.testing.assert_close(kept.scores, again.scores, atol=1e-12, rtol=0)
    torch.testing.assert_close(kept.measure.null, again.measure.null, atol=1e-12, rtol=0)


def test_more_steps_than_pixels_and_one_step() -> None:
    network, x, targets, maps = case((2, 2))
    score = Score(network, "probability")
    many = deletion(score, x, targets, maps, steps=10, orders=0)
    exact = deletion(score, x, targets, maps, steps=4, orders=0)
    torch.testing.assert_close(many.measure.values, exact.measure.values)
    ends = deletion(score, x, targets, maps, steps=1, orders=0)
    torch.testing.assert_close(ends.measure.values, ends.scores.mean(1))


def test_images_are_not_changed() -> None:
    network, x, targets, maps = case()
    before = x.clone(), maps.clone()
    deletion(Score(network), x, targets, maps)
    mu_fidelity(masked_scores(Score(network), x, targets, subsets=3), maps)
    assert torch.equal(x, before[0]) and torch.equal(maps, before[1])


@pytest.mark.parametrize(
    ("bad", "message"),
    [({"steps": 0}, "at least 1"), ({"normalise": True}, "explain the probability"), ({"fill": "grey"}, "unknown")],
)
def test_what_curves_refuse(bad: dict[str, Any], message: str) -> None:
    network, x, targets, maps = case()
    with pytest.raises(UsageError, match=message):
        deletion(Score(network, "logit"), x, targets, maps, **bad)
    with pytest.raises(UsageError, match="no curve 'delete': give deletion or insertion"):
        curves("delete", Score(network, "logit"), x, targets, maps)
    with pytest.raises(UsageError, match="do not fit"):
        insertion(Score(network, "logit"), x, targets, maps[:, 1:])
