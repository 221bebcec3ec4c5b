"""The inner maximum of adversarial and attribution training: projected gradient ascent in an L-infinity ball.

Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks" (arXiv 1706.06083):

    x'_0 = x + uniform noise in the ball,    x'_{t+1} = P( x'_t + step * sign grad f(x'_t) )

with P the projection onto the ball and onto the range of pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Gradient = Callable[[Tensor], Tensor]  # from x' (N, C, H, W) to the gradient of what is maximised, same shape


@dataclass(frozen=True)
class Ball:
    """An L-infinity ball around every image, and how it is searched.

    Attributes
    ----------
    eps
        Radius in pixel units, where black is 0 and white is 1, whatever the network's normalisation.
    step
        Length of a sign step, in the same units.
    steps
        Number of steps.
    bounds
        The network's values of a black and of a white pixel, each (C, 1, 1): `Preprocess.bounds`. None where the
        network takes pixels in [0, 1]. They are also the scale: a pixel unit is ``white - black`` = 1/std wide.
    """

    eps: float
    step: float
    steps: int
    bounds: tuple[Tensor, Tensor] | None = None

    def limits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Least and greatest x' for every value of ``x``: the ball cut with the range of pixels."""
        low, high = self._bounds(x)
        reach = self.eps * (high - low)
        return torch.maximum(x - reach, low), torch.minimum(x + reach, high)

    def stride(self, x: Tensor) -> Tensor:
        """A step in the network's units, (C, 1, 1)."""
        low, high = self._bounds(x)
        return self.step * (high - low)

    def _bounds(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.bounds is None:
            return x.new_zeros(1, 1, 1), x.new_ones(1, 1, 1)
        low, high = self.bounds
        return low.to(x), high.to(x)


def maximise(gradient: Gradient, x: Tensor, ball: Ball, generator: torch.Generator | None = None) -> Tensor:
    """PGD with sign steps from a random start; the last iterate, detached, (N, C, H, W).

    Parameters
    ----------
    gradient
        Of what is maximised, summed over the batch.
    x
        Images in the network's units.
    ball
        Where x' may go.
    generator
        On the CPU, so that every device starts at the same points; None is torch's global one.
    """
    low, high = ball.limits(x)
    noise = torch.rand(x.shape, generator=generator, dtype=x.dtype).to(x)
    # uniform in the whole ball, then cut: within the cut ball the edges of the range would be visited less
    low_, high_ = ball._bounds(x)
    reach = ball.eps * (high_ - low_)
    end = (x + (2 * noise - 1) * reach).clamp(low, high)
    stride = ball.stride(x)
    for _ in range(ball.steps):
        end = (end + stride * gradient(end).sign()).clamp(low, high)
    return end.detach()


@contextmanager
def steady(network: nn.Module) -> Iterator[None]:
    """Context in which the network is as it will be used: eval mode, restored module by module afterwards.

    The attack and the attribution see running statistics of batch normalisation and no dropout: an attribution is one
    image's, not its batch's, the ends and the points of a path are of one network (completeness), and the thousands
    of attacked points do not leak into the statistics, which only the pass of the cross entropy updates.
    """
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def attacked(network: nn.Module) -> Iterator[None]:
    """`steady`, and no parameter needs a gradient: only the image moves."""
    learning = [p for p in network.parameters() if p.requires_grad]
    with steady(network):
        for p in learning:
            p.requires_grad_(False)
        try:
            yield
        finally:
            for p in learning:
                p.requires_grad_(True)
