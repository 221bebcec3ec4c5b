"""The quadrature rules: their weights, and the degree up to which each is exact."""

from __future__ import annotations

import math

import pytest
import torch

from rectify.attribution.quadrature import RULES, quadrature
from rectify.errors import UsageError


def power(rule: str, steps: int, degree: int) -> float:
    """The rule's integral of ``a^degree`` over [0, 1]."""
    nodes, weights = quadrature(rule, steps)
    return float((weights * nodes**degree).sum())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("steps", [1, 2, 3, 15, 128])
def test_nodes_are_in_order_within_the_path_and_weights_sum_to_one(rule: str, steps: int) -> None:
    if rule == "trapezoid" and steps == 1:
        return
    nodes, weights = quadrature(rule, steps)
    assert nodes.shape == weights.shape == (steps,) and nodes.dtype == weights.dtype == torch.float64
    assert float(weights.sum()) == pytest.approx(1, abs=1e-14) and float(weights.min()) > 0
    assert float(nodes.min()) >= 0 and float(nodes.max()) <= 1 and bool((nodes.diff() > 0).all())


@pytest.mark.parametrize("steps", [1, 2, 5, 15])
def test_gauss_legendre_is_exact_up_to_degree_2n_minus_1(steps: int) -> None:
    for degree in range(2 * steps):
        assert power("gauss-legendre", steps, degree) == pytest.approx(1 / (degree + 1), abs=1e-13)
    assert abs(power("gauss-legendre", 2, 4) - 1 / 5) > 1e-3


def test_the_others_by_their_formulas() -> None:
    assert quadrature("midpoint", 4)[0].tolist() == [0.125, 0.375, 0.625, 0.875]
    assert quadrature("right-riemann", 4)[0].tolist() == [0.25, 0.5, 0.75, 1]
    nodes, weights = quadrature("trapezoid", 5)
    assert nodes.tolist() == [0, 0.25, 0.5, 0.75, 1] and weights.tolist() == [0.125, 0.25, 0.25, 0.25, 0.125]
    for rule in ("midpoint", "trapezoid"):
        assert power(rule, 3, 1) == pytest.approx(0.5) and power(rule, 3, 2) != pytest.approx(1 / 3, abs=1e-3)
    assert power("right-riemann", 10, 1) == pytest.approx(0.55)  # (n + 1) / 2n


@pytest.mark.parametrize(
    ("rule", "order"), [("midpoint", 2), ("trapezoid", 2), ("right-riemann", 1)], ids=lambda v: str(v)
)
def test_the_error_on_a_smooth_function_falls_at_the_rule_s_order(rule: str, order: int) -> None:
    exact = math.e - 1
    errors = []
    for steps in (32, 64):
        nodes, weights = quadrature(rule, steps + (rule == "trapezoid"))
        errors.append(abs(float((weights * nodes.exp()).sum()) - exact))
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.05)


@pytest.mark.parametrize("rule", RULES)
def test_on_a_kink_every_rule_is_of_first_order(rule: str) -> None:
    kink = 0.3141
    worst = []
    for most in (50, 400):
        errors = []
        for steps in range(most - 10, most + 10):
            nodes, weights = quadrature(rule, steps)
            errors.append(abs(float(weights[nodes > kink].sum()) - (1 - kink)))
        worst.append(max(errors))
    assert 4 < worst[0] / worst[1] < 16  # eightfold steps


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(UsageError, match="unknown quadrature 'simpson'; the rules are gauss-legendre"):
        quadrature("simpson", 4)
    with pytest.raises(UsageError, match="0 steps: give at least 1"):
        quadrature("midpoint", 0)
    with pytest.raises(UsageError, match="at least 2"):
        quadrature("trapezoid", 1)
