"""Quadrature on [0, 1]: where along the path the gradient is taken, and with what weight.

On a smooth path Gauss-Legendre with 15 points is exact to 1e-4; on the kinks of a ReLU network every rule is O(1/n).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from rectify.errors import UsageError


def _gauss_legendre(n: int) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return (nodes + 1) / 2, weights / 2


def _midpoint(n: int) -> tuple[np.ndarray, np.ndarray]:
    return (np.arange(n) + 0.5) / n, np.full(n, 1 / n)


def _right_riemann(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(1, n + 1) / n, np.full(n, 1 / n)


def _trapezoid(n: int) -> tuple[np.ndarray, np.ndarray]:
    if n < 2:
        raise UsageError("the trapezoid rule needs at least 2 steps: it takes both ends of the path")
    weights = np.full(n, 1 / (n - 1))
    weights[[0, -1]] /= 2
    return np.linspace(0, 1, n), weights


RULES: dict[str, Callable[[int], tuple[np.ndarray, np.ndarray]]] = {
    "gauss-legendre": _gauss_legendre,
    "midpoint": _midpoint,
    "right-riemann": _right_riemann,
    "trapezoid": _trapezoid,
}


def quadrature(rule: str, steps: int) -> tuple[Tensor, Tensor]:
    """Nodes in [0, 1] and weights that sum to one, each (steps,) in float64.

    Parameters
    ----------
    rule
        ``gauss-legendre``, ``midpoint``, ``right-riemann`` (the papers' sum over k/n, k = 1..n) or ``trapezoid``.
    steps
        How often the gradient is taken.

    Raises
    ------
    UsageError
        Unknown rule or too few steps.
    """
    if rule not in RULES:
        raise UsageError(f"unknown quadrature {rule!r}; the rules are {', '.join(RULES)}")
    if steps < 1:
        raise UsageError(f"{steps} steps: give at least 1")
    nodes, weights = RULES[rule](steps)
    return torch.from_numpy(nodes), torch.from_numpy(weights)
