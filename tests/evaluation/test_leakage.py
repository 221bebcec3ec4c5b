"""Shares and densities by loops and by hand; the figure that they come in."""

from __future__ import annotations

import math

import pytest
import torch

from rectify.attribution.attribution import Attribution
from rectify.errors import UsageError
from rectify.evaluation.leakage import leakage
from rectify.evaluation.measure import Measure, flat_heat


def test_leakage_by_loops() -> None:
    maps, mask = torch.randn(3, 4, 5), torch.rand(3, 4, 5) < 0.4
    share, density = leakage(maps, mask)
    for n in range(3):
        inside = [abs(float(maps[n, i, j])) for i in range(4) for j in range(5) if mask[n, i, j]]
        outside = [abs(float(maps[n, i, j])) for i in range(4) for j in range(5) if not mask[n, i, j]]
        assert float(share.values[n]) == pytest.approx(sum(inside) / (sum(inside) + sum(outside)))
        ratio = sum(inside) / len(inside) / (sum(outside) / len(outside))
        assert float(density.values[n]) == pytest.approx(ratio)
        assert float(share.null[n]) == pytest.approx(len(inside) / 20) and density.null[n] == 1
    assert share.settings["definition"] != density.settings["definition"]


def test_one_mask_for_all_and_an_even_map_has_the_null() -> None:
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[0] = True
    maps = torch.stack([torch.ones(4, 5), torch.where(mask, -1.0, 0.0), torch.where(mask, 0.0, 2.0)])
    share, density = leakage(maps, mask)
    assert share.values.tolist() == pytest.approx([0.25, 1, 0])
    assert density.values.tolist() == pytest.approx([1, math.inf, 0]) and density.settings["infinite"] == 1
    assert share.null_floor == 0.25
    assert density.to_dict("ig")["value"] is None and share.to_dict("ig")["value"] == pytest.approx(1.25 / 3)


def test_empty_maps_leak_nothing_and_are_counted() -> None:
    mask = torch.eye(3, dtype=torch.bool)
    share, density = leakage(torch.zeros(2, 3, 3), mask)
    assert share.values.tolist() == [0, 0] and density.values.tolist() == [0, 0]
    assert share.settings["empty"] == density.settings["empty"] == 2 and density.settings["infinite"] == 0


@pytest.mark.parametrize("value", [True, False])
def test_a_region_of_all_or_nothing_is_refused(value: bool) -> None:
    maps = torch.ones(2, 3, 3)
    mask = torch.eye(3, dtype=torch.bool).repeat(2, 1, 1)
    mask[1] = value
    for bad in (mask, torch.full((3, 3), value)):
        with pytest.raises(UsageError, match="all or none"):
            leakage(maps, bad)


def test_regions_that_do_not_fit_are_refused() -> None:
    maps = torch.ones(2, 3, 3)
    with pytest.raises(UsageError, match="does not fit"):
        leakage(maps, torch.ones(3, 2, dtype=torch.bool))
    with pytest.raises(UsageError, match="does not fit"):
        leakage(maps, torch.ones(1, 3, 3, dtype=torch.bool))
    with pytest.raises(UsageError, match="true and false"):
        leakage(maps, torch.eye(3))


def test_a_measure_as_a_report_holds_it() -> None:
    measure = Measure("deletion", torch.tensor([1.0, 3.0]), torch.tensor([0.5, 1.5]), {"steps": 10})
    assert measure.to_dict("ig") == {
        "method": "ig",
        "metric": "deletion",
        "value": 2,
        "spread": 1,
        "null_floor": 1,
        "settings": {"steps": 10},
    }
    assert Measure("deletion", torch.tensor([1.0])).to_dict("ig")["spread"] == 0
    assert Measure("deletion", torch.empty(0)).to_dict("ig")["value"] is None


def test_heat_of_images_and_of_layers() -> None:
    values = torch.randn(2, 3, 4, 5, requires_grad=True)
    found = flat_heat(Attribution(values, torch.zeros(2)))
    torch.testing.assert_close(found, values.detach().double().sum(1).view(2, 20), atol=1e-6, rtol=0)
    tokens = flat_heat(Attribution(values.flatten(2), torch.zeros(2)))
    assert tokens.shape == (2, 60) and not tokens.requires_grad and tokens.dtype == torch.float64
