"""The objectives as the papers write them: one image, one path point, one step at a time, in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rectify.training.inner import Ball


def loss(network: nn.Module, x: Tensor, y: int) -> Tensor:
    """-log softmax of one image (C, H, W)."""
    logits = network(x[None])[0]
    return logits.logsumexp(0) - logits[y]


def ig(network: nn.Module, x: Tensor, end: Tensor, y: int, points: int) -> Tensor:
    """IG of the loss from x to x' by right Riemann, with its graph."""
    total = torch.zeros_like(x)
    for k in range(1, points + 1):
        at = x + k / points * (end - x)
        if not at.requires_grad:
            at.requires_grad_(True)
        total = total + torch.autograd.grad(loss(network, at, y), at, create_graph=True)[0]
    return (end - x) / points * total


def inner_value(kind: str, network: nn.Module, x: Tensor, end: Tensor, y: int, points: int, weight: float) -> Tensor:
    """What the inner maximum maximises."""
    if kind == "madry":
        return loss(network, end, y)
    norm = ig(network, x, end, y, points).abs().sum()
    return norm if kind == "ig_norm" else loss(network, end, y) + weight * norm


def attack(kind: str, network: nn.Module, x: Tensor, y: int, ball: Ball, noise: Tensor, points: int, weight: float):
    """PGD from the start that ``noise`` in [0, 1] gives, for a network of pixels in [0, 1]."""
    end = (x + (2 * noise - 1) * ball.eps).clamp(0, 1)
    for _ in range(ball.steps):
        end = end.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(inner_value(kind, network, x, end, y, points, weight), end)
        end = (end + ball.step * slope.sign()).clamp(x - ball.eps, x + ball.eps).clamp(0, 1)
    return end.detach()


def objective(
    kind: str, network: nn.Module, x: Tensor, y: Tensor, ball: Ball, seed: int, points: int, coarse: int, weight: float
) -> Tensor:
    """A whole objective: the mean over the images."""
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)
    parts = []
    for image, label, start in zip(x, y.tolist(), noise, strict=True):
        if kind == "natural":
            parts.append(loss(network, image, label))
            continue
        if kind == "input_gradient":
            z = image.clone().requires_grad_(True)
            (slope,) = torch.autograd.grad(loss(network, z, label), z, create_graph=True)
            parts.append(loss(network, image, label) + weight * slope.pow(2).sum())
            continue
        end = attack(kind, network, image, label, ball, start, coarse, weight)
        value = loss(network, image if kind == "ig_norm" else end, label)
        if kind != "madry":
            value = value + weight * ig(network, image, end, label, points).abs().sum()
        parts.append(value)
    return torch.stack(parts).mean()


def soft_margin(w: Tensor, b: float, x: Tensor, sign: int, eps: float) -> float:
    """g(-y (w x + b) + eps ||w||_1) with g = log(1 + exp): the closed form of the one-layer theorem."""
    margin = -sign * (float((w * x).sum()) + b) + eps * float(w.abs().sum())
    return math.log1p(math.exp(margin))
