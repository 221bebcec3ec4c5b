"""Integrated gradients (Sundararajan, Taly, Yan 2017, arXiv 1703.01365).

IG_i(x) = (x_i - x'_i) * integral_0^1 dF_c/dx_i(x' + a (x - x')) da
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rectify.attribution.attribution import Attribution, Settings
from rectify.attribution.baselines import baseline_images, baseline_name
from rectify.attribution.quadrature import quadrature
from rectify.attribution.score import Scalar, Score, twice_differentiable, value_and_gradient

STEPS = 32
RULE = "gauss-legendre"


@dataclass(frozen=True)
class Walk:
    """The weighted mean gradient along a path, (N, C, H, W), and F at its nodes, (N, steps)."""

    gradient: Tensor
    scores: Tensor


def walk(
    function: Scalar, start: Tensor, end: Tensor, targets: Tensor, nodes: Tensor, weights: Tensor, batch: int
) -> Walk:
    """Gradients at the nodes of the straight path, weighted and summed.

    Parameters
    ----------
    function
        From (B, C, H, W) and classes (B,) to (B,).
    start, end
        (N, C, H, W).
    nodes, weights
        (K,) each.
    batch
        Points that go through the function at a time: N * K points in flat order, so that few images with many
        points and many images with few points are as fast.
    """
    n, k = len(end), len(nodes)
    gradient = torch.zeros_like(end)
    scores = torch.empty(n * k, dtype=end.dtype, device=end.device)
    for i in range(0, n * k, batch):
        flat = torch.arange(i, min(i + batch, n * k), device=end.device)
        image, point = flat // k, flat % k
        alpha = nodes.to(end)[point].view(-1, 1, 1, 1)
        value, slope = value_and_gradient(function, start[image] + alpha * (end[image] - start[image]), targets[image])
        scores[flat] = value.to(scores)
        gradient.index_add_(0, image, weights.to(end)[point].view(-1, 1, 1, 1) * slope)
    return Walk(gradient, scores.view(n, k))


def integral(
    function: Scalar,
    start: Tensor,
    end: Tensor,
    targets: Tensor,
    *,
    rule: str = RULE,
    steps: int = STEPS,
    chunk: int | None = None,
) -> Tensor:
    """IG of ``function`` from ``start`` to ``end``, (N, C, H, W), *with* its graph: for training and attacks.

    Differentiable by ``start``, ``end`` and by the parameters that ``function`` uses. All path points of all images
    are one batch, or ``chunk`` points of each image at a time. Attention takes its math kernel, as the efficient ones
    have no second derivative.
    """
    nodes, weights = (t.to(end) for t in quadrature(rule, steps))
    total = torch.zeros_like(end)
    with twice_differentiable(), torch.enable_grad():
        for alphas, shares in zip(nodes.split(chunk or steps), weights.split(chunk or steps), strict=True):
            path = start.unsqueeze(0) + alphas.view(-1, 1, 1, 1, 1) * (end - start).unsqueeze(0)  # (k, N, C, H, W)
            if not path.requires_grad:
                path.requires_grad_(True)
            flat = path.flatten(0, 1)
            value = function(flat, targets.repeat(len(alphas)))
            (slope,) = torch.autograd.grad(value.sum(), flat, create_graph=True)
            total = total + (shares.view(-1, 1, 1, 1, 1) * slope.view_as(path)).sum(0)
        return (end - start) * total


def integrated_gradients(score: Score, x: Tensor, targets: Tensor, settings: Settings) -> Attribution:
    """IG from a static baseline.

    Parameters
    ----------
    score
        F.
    x, targets
        Images (N, C, H, W) and classes (N,).
    settings
        ``baseline``, ``steps`` (32), ``rule``, ``tolerance``, ``most_steps``.

    Raises
    ------
    UsageError
        Unknown baseline or rule, or too few steps.
    """
    return along_line(
        score, x, targets, baseline_images(x, settings), settings, STEPS if settings.steps is None else settings.steps
    )


def along_line(
    score: Score, x: Tensor, targets: Tensor, baseline: Tensor, settings: Settings, steps: int
) -> Attribution:
    """IG from given baselines (N, C, H, W); the steps are doubled where a tolerance asks for it."""
    rule = settings.rule or RULE
    confidence, low = score.values(x, targets), score.values(baseline, targets)
    change = confidence - low
    values = torch.empty_like(x)
    paths: list[Tensor] = [torch.empty(0)] * len(x)
    used = [steps] * len(x)
    open_ones, now = torch.arange(len(x), device=x.device), steps
    while len(open_ones):
        nodes, weights = quadrature(rule, now)
        where = (baseline[open_ones], x[open_ones], targets[open_ones])
        found = walk(score, *where, nodes, weights, score.batch)
        values[open_ones] = (x[open_ones] - baseline[open_ones]) * found.gradient
        for row, index in enumerate(open_ones.tolist()):
            paths[index], used[index] = _with_ends(found.scores[row], nodes, low[index], confidence[index]), now
        if settings.tolerance is None or 2 * now > settings.most_steps:
            break
        gap = (values[open_ones].double().flatten(1).sum(1) - change[open_ones].double()).abs()
        open_ones = open_ones[gap > settings.tolerance * change[open_ones].double().abs()]
        now *= 2
    told: dict[str, Any] = {"rule": rule, "steps": max(used), "baseline": baseline_name(settings)}
    if settings.tolerance is not None:
        told["tolerance"] = settings.tolerance
    return Attribution(values, confidence, baseline, change, tuple(paths), True, told)


def _with_ends(scores: Tensor, nodes: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """F along the path with both ends, each once: some rules have a node there."""
    parts = [low.view(1)] if float(nodes[0]) > 0 else []
    return torch.cat([*parts, scores, *([high.view(1)] if float(nodes[-1]) < 1 else [])])
