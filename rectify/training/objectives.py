"""Robust attribution regularisation as functions for anyone's training loop.

    ball = Ball(eps=0.3, step=0.01, steps=40, bounds=preprocess.bounds())
    for x, y in loader:
        loss = ig_sum_norm(network, x, y, ball, weight=0.1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

Every objective takes the network (logits, (N, classes)), images (N, C, H, W) in the network's units and classes (N,),
and returns a scalar with its graph: the sum over the batch of cross entropy and regulariser, divided by N. (The
authors' code adds the L1 norm summed over the batch to the summed cross entropy; dividing both by N changes neither
their balance nor, with Adam, the course of the training.)

The network is trained in the mode it comes in. Attack and attribution always see it in eval mode: see
`rectify.training.inner.steady` for what that means for batch normalisation and dropout.

Sources: Chen, Wu, Rastogi, Liang, Jha 2019, "Robust Attribution Regularization" (NeurIPS, arXiv 1905.09957); Madry et
al. 2018 (arXiv 1706.06083); Ross and Doshi-Velez 2018 (arXiv 1711.09404).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rectify.attribution.score import twice_differentiable
from rectify.training.inner import Ball, attacked, maximise, steady
from rectify.training.path import (
    Path,
    Size,
    loss_gradient,
    losses,
    right_riemann,
    size_gradient,
    size_of,
)

POINTS = 50  # m of the paper
ATTACK_POINTS = 10  # every fifth of them in the attack


def natural(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """E[ l(x, y) ]: the plain cross entropy."""
    return losses(network, x, y).mean()


def madry(network: nn.Module, x: Tensor, y: Tensor, ball: Ball, generator: torch.Generator | None = None) -> Tensor:
    """E[ max_{x' in ball} l(x', y) ]: adversarial training (Madry et al. 2018, equation 2.1)."""
    end = hardest(network, x, y, ball, generator)
    return losses(network, end, y).mean()


def input_gradient(network: nn.Module, x: Tensor, y: Tensor, weight: float = 1.0) -> Tensor:
    """E[ l(x, y) + weight * ||dl/dx||_2^2 ]: input-gradient regularisation (Ross and Doshi-Velez 2018, equation 4).

    The gradient is by the network's input; a normalisation by std makes it std times that by the pixel.
    """
    value = losses(network, x, y).mean()
    with steady(network), twice_differentiable():
        z = x.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(losses(network, z, y).sum(), z, create_graph=True)
    return value + weight * (gradient * gradient).sum() / len(x)


def ig_norm(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    ball: Ball,
    *,
    weight: float = 1.0,
    points: int | Sequence[float] = POINTS,
    attack_points: int | Sequence[float] = ATTACK_POINTS,
    size: Size = "l1",
    chunk: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """IG-NORM: E[ l(x, y) + weight * max_{x' in ball} ||IG(x, x')||_1 ] (Chen et al. 2019, section 3.2).

    Parameters
    ----------
    weight
        lambda.
    points, attack_points
        Path points of the objective and of its inner maximum: m for right Riemann nodes k/m (ten of fifty are every
        fifth of them, the authors' ``approx_factor``), or the nodes themselves.
    size
        ``l1``; with ``l2-squared`` and the one node 0 it is input-gradient regularisation, weight * eps^2.
    chunk
        Nodes a pass: see `Path`; None takes all.
    generator
        Of the random start.
    """
    path, coarse = Path(_nodes(points), size, chunk), Path(_nodes(attack_points), size, chunk)
    with attacked(network):
        end = maximise(lambda at: size_gradient(network, x, at, y, coarse), x, ball, generator)
    return losses(network, x, y).mean() + weight * size_of(network, x, end, y, path) / len(x)


def ig_sum_norm(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    ball: Ball,
    *,
    weight: float = 0.1,
    points: int | Sequence[float] = POINTS,
    attack_points: int = ATTACK_POINTS,
    chunk: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """IG-SUM-NORM: E[ max_{x' in ball} { l(x', y) + weight * ||IG(x, x')||_1 } ] (Chen et al. 2019, section 3.3).

    The size function is sum + weight * L1 norm: by completeness the sum turns l(x) into l(x'). With weight 0 it is
    `madry`. ``weight`` is beta; the other parameters are those of `ig_norm`.
    """
    if not weight:
        return madry(network, x, y, ball, generator)
    path, coarse = Path(_nodes(points), "l1", chunk), Path(_nodes(attack_points), "l1", chunk)
    with attacked(network):
        end = maximise(lambda at: size_gradient(network, x, at, y, coarse, weight=weight, loss=1.0), x, ball, generator)
    return losses(network, end, y).mean() + weight * size_of(network, x, end, y, path) / len(x)


def hardest(network: nn.Module, x: Tensor, y: Tensor, ball: Ball, generator: torch.Generator | None = None) -> Tensor:
    """The images of greatest loss that PGD finds in the ball, (N, C, H, W), detached."""
    with attacked(network):
        return maximise(lambda at: loss_gradient(network, at, y), x, ball, generator)


def _nodes(points: int | Sequence[float]) -> Sequence[float]:
    return right_riemann(points) if isinstance(points, int) else tuple(points)
