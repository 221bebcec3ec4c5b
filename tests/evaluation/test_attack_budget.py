"""What a perturbation may be: the ball, the pixel range, the steps within them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from rectify.errors import UsageError
from rectify.evaluation.attacks import Budget
from tests.evaluation.attacked import BOUNDS, norm


@pytest.mark.parametrize("bounds", [None, BOUNDS])
@pytest.mark.parametrize("kind", ["inf", "2"])
def test_projection_by_hand(kind: str, bounds: Any) -> None:
    x = torch.rand(4, 1, 3, 3) * 2 - 0.5
    x[0, 0, 0, 0] = 1.7  # out of the range from the start
    budget = Budget(0.2, kind, bounds)  # type: ignore[arg-type]
    unit = 1 if bounds is None else 2
    far = budget.project(x, x + 5 * torch.randn_like(x)) - x
    near = x + torch.randn_like(x) * 1e-3
    assert bool((norm(far, kind) <= 0.2 * unit + 1e-6).all()) and float(norm(far, kind).max()) > 0.1 * unit
    if bounds is None:
        torch.testing.assert_close(norm(far, kind), torch.full((4,), 0.2))
        torch.testing.assert_close(budget.project(x, near), near)
    else:
        moved = (x + far).flatten()
        assert float(moved.min()) >= -0.5 and float(moved[1:].max()) <= 1.5 + 1e-6 and float(moved[0]) <= 1.7 + 1e-6


def test_a_pixel_outside_the_range_may_stay_but_goes_no_further() -> None:
    x = torch.tensor([-0.8, 0.0, 1.7]).view(1, 1, 1, 3)
    budget = Budget(0.2, "inf", BOUNDS)
    assert torch.equal(budget.project(x, x), x)
    assert budget.project(x, x - 9).flatten().tolist() == pytest.approx([-0.8, -0.4, 1.3])
    assert budget.project(x, x + 9).flatten().tolist() == pytest.approx([-0.4, 0.4, 1.7])


def test_a_step_is_of_signs_or_along_the_gradient_in_pixels() -> None:
    x = torch.zeros(1, 2, 1, 1)
    bounds = (torch.zeros(2, 1, 1), torch.tensor([1.0, 10.0]).view(2, 1, 1))
    gradient = torch.tensor([3.0, -0.4]).view(1, 2, 1, 1)
    assert Budget(0.1, "inf", bounds).move(x, gradient, 0.1).flatten().tolist() == pytest.approx([0.1, -1.0])
    # in pixels the gradient is (3, -4): a step of .1 is (.06, -.08), or (.06, -.8) of the input
    assert Budget(0.1, "2", bounds).move(x, gradient, 0.1).flatten().tolist() == pytest.approx([0.06, -0.8])
    for kind in ("inf", "2"):
        still = Budget(0.1, kind, bounds).move(x, 0 * gradient, 0.1)  # type: ignore[arg-type]
        assert still.tolist() == x.tolist()


def test_what_is_no_budget() -> None:
    with pytest.raises(UsageError, match="norm"):
        Budget(0.1, "1")  # type: ignore[arg-type]
    for eps in (0.0, -1.0, math.nan):
        with pytest.raises(UsageError, match="eps"):
            Budget(eps)
