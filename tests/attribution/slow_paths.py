"""Slow oracles of the attribution methods: one image, one path point at a time, straight from each paper, in float64.

Nothing here imports rectify.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

Function = Callable[[Tensor], Tensor]  # an image (C, H, W) to a scalar


def probability(network: nn.Module, target: int) -> Function:
    """F_c as a function of one image."""
    return lambda image: network(image[None]).softmax(1)[0, target]


def slope(function: Function, image: Tensor) -> Tensor:
    """Its gradient there."""
    image = image.detach().clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(function(image), image)
    return gradient


def integrated_gradients(
    function: Function, start: Tensor, end: Tensor, nodes: Sequence[float], weights: Sequence[float]
) -> Tensor:
    total = torch.zeros_like(end)
    for node, weight in zip(nodes, weights, strict=True):
        total += weight * slope(function, start + node * (end - start))
    return (end - start) * total


def smoothgrad(function: Function, image: Tensor, sigma: Tensor | float, noise: Sequence[Tensor]) -> Tensor:
    total = torch.zeros_like(image)
    for e in noise:
        total += slope(function, image + sigma * e)
    return total / len(noise)


def blurred(image: Tensor, sigma: float) -> Tensor:
    """An image (C, H, W) under a Gaussian cut at ceil(4 sigma), one pixel after the other; mirrored at the border."""
    if sigma == 0:
        return image.clone()
    reach = max(1, math.ceil(4 * sigma))
    weights = [math.exp(-0.5 * (o / sigma) ** 2) for o in range(-reach, reach + 1)]
    for dim in (1, 2):
        line, size = image.movedim(dim, 0), image.shape[dim]
        result = torch.zeros_like(line)
        for place in range(size):
            for offset, weight in zip(range(-reach, reach + 1), weights, strict=True):
                at = place + offset
                while not 0 <= at < size:
                    at = -1 - at if at < 0 else 2 * size - 1 - at
                result[place] += weight / sum(weights) * line[at]
        image = result.movedim(0, dim)
    return image


def blur_ig(function: Function, image: Tensor, sigmas: Sequence[float]) -> Tensor:
    """The Stieltjes trapezoid along the blurs of the image, largest first."""
    total = torch.zeros_like(image)
    for wide, narrow in pairwise(sigmas):
        one, other = blurred(image, wide), blurred(image, narrow)
        total += (slope(function, one) + slope(function, other)) / 2 * (other - one)
    return total


def guided_ig(
    function: Function, start: Tensor, end: Tensor, steps: int, fraction: float, max_dist: float
) -> tuple[Tensor, list[Tensor]]:
    """Algorithm 1 of arXiv 2106.09788 in pixel values: the map and the path's points, both ends included."""
    total = float((end - start).abs().sum())
    x, result, points = start.clone(), torch.zeros_like(end), [start.clone()]
    for step in range(steps if total else 0):
        gradient = slope(function, x)
        alpha = (step + 1) / steps
        low, high = max(alpha - max_dist, 0.0), min(alpha + max_dist, 1.0)
        x_min, x_max = start + low * (end - start), start + high * (end - start)
        wanted, before = total * (1 - alpha), x.clone()
        gamma = math.inf
        while gamma > 1:
            share = torch.where(end == start, high, (x - start) / (end - start))
            x = torch.where(share < low, x_min, x)
            left = float((x - end).abs().sum())
            if abs(left - wanted) <= 1e-9 * max(left, wanted, 1):
                break
            ranked = torch.where((x == x_max) | (end == start), math.inf, gradient.abs())
            threshold = float(np.quantile(ranked.numpy(), fraction, method="lower"))
            chosen = (ranked <= threshold) & (ranked != math.inf)
            room = float((x - x_max).abs()[chosen].sum())
            gamma = (left - wanted) / room if room > 0 else math.inf
            nearer = x_max if gamma > 1 else x + gamma * (x_max - x)
            x = torch.where(chosen, nearer, x)
        if step == steps - 1:
            x = end.clone()
        result += (x - before) * gradient
        points.append(x.clone())
    return result, points


def expected_gradients(
    function: Function, image: Tensor, baselines: Sequence[Tensor], alphas: Sequence[float]
) -> Tensor:
    total = torch.zeros_like(image)
    for baseline, alpha in zip(baselines, alphas, strict=True):
        total += (image - baseline) * slope(function, baseline + alpha * (image - baseline))
    return total / len(baselines)


def idgi(function: Function, start: Tensor, end: Tensor, steps: int) -> Tensor:
    total = torch.zeros_like(end)
    for j in range(steps):
        here, there = (start + (j + i) / steps * (end - start) for i in (0, 1))
        g = slope(function, here)
        if float((g * g).sum()) > 0:
            total += g * g * (function(there) - function(here)) / (g * g).sum()
    return total


def guided_backprop(layers: Sequence[nn.Module], image: Tensor, target: int) -> Tensor:
    """The target's logit led back through plain layers by hand, from the last to the first."""
    values = [image[None]]
    for layer in layers:
        values.append(layer(values[-1].clone()))
    signal = torch.zeros_like(values[-1])
    signal[0, target] = 1
    for layer, value in zip(reversed(layers), reversed(values[:-1]), strict=True):
        if isinstance(layer, nn.ReLU):
            signal = signal * (value > 0) * (signal > 0)
        elif isinstance(layer, nn.ReLU6):
            signal = signal * (value > 0) * (value < 6) * (signal > 0)
        else:
            value = value.detach().clone().requires_grad_(True)
            (signal,) = torch.autograd.grad(layer(value), value, signal)
    return signal[0]


def agi(
    network: nn.Module,
    image: Tensor,
    target: int,
    false: Sequence[int],
    steps: int,
    size: float,
    low: float,
    high: float,
) -> Tensor:
    total = torch.zeros_like(image)
    for other in false:
        x = image.clone()
        for _ in range(steps):
            if int(network(x[None]).argmax()) == other:
                break
            moved = (x + size * slope(probability(network, other), x).sign()).clamp(low, high)
            total -= slope(probability(network, target), x) * (moved - x)
            x = moved
    return total
