"""Integrated gradients of the loss, from x to x', as the objectives of robust attribution training need them.

    IG_i(x, x') = (x'_i - x_i) / m * sum_{k=1..m} dl_y/dx_i( x + k/m (x' - x) )

Chen et al. 2019, "Robust Attribution Regularization" (arXiv 1905.09957), the discrete form of its section 3: right
Riemann points, l_y the cross entropy of the true class. By completeness the sum over i is l(x') - l(x) up to O(1/m).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rectify.attribution.score import graph_bytes, twice_differentiable
from rectify.errors import TrainingError
from rectify.training.inner import steady

Size = Literal["l1", "l2-squared"]
MEMORY = 2 * 2**30  # bytes that the graph of one pass over path points may keep

_SIZES: dict[str, Callable[[Tensor], Tensor]] = {"l1": lambda a: a.abs().sum(), "l2-squared": lambda a: (a * a).sum()}
_SLOPES: dict[str, Callable[[Tensor], Tensor]] = {"l1": torch.sign, "l2-squared": lambda a: 2 * a}


def losses(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """l_y(x): the cross entropy of each image, (N,).

    Raises
    ------
    TrainingError
        If the network gives no logits in the mode it is in, but a tuple of heads, say.
    """
    logits = network(x)
    if not isinstance(logits, Tensor):
        raise TrainingError(
            f"the network returns a {type(logits).__name__} in training: switch auxiliary outputs off (--arch-arg "
            "aux_logits=False), or wrap it in a module:callable that returns logits"
        )
    return F.cross_entropy(logits, y, reduction="none")


def right_riemann(points: int) -> tuple[float, ...]:
    """The nodes k/m, k = 1..m."""
    return tuple(k / points for k in range(1, points + 1))


@dataclass(frozen=True)
class Path:
    """The way from x to x' and how it is walked.

    Attributes
    ----------
    nodes
        Where on [0, 1] the gradient is taken, with equal weights.
    size
        ``l1``: the sum of |IG_i|; ``l2-squared``: the sum of IG_i squared.
    chunk
        Nodes that go through the network with the whole batch in one pass; None takes all of them. With fewer the
        graph stays small, at the price of one more first-order pass: the size of the whole needs its sign first.
    """

    nodes: Sequence[float]
    size: Size = "l1"
    chunk: int | None = None

    def parts(self) -> list[Sequence[float]]:
        """The nodes, in passes."""
        step = self.chunk or len(self.nodes)
        return [self.nodes[i : i + step] for i in range(0, len(self.nodes), step)]


def slopes(
    network: nn.Module, x: Tensor, end: Tensor, y: Tensor, nodes: Sequence[float], *, graph: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of the loss at the nodes, (K, N, C, H, W), and the losses there, (K, N), in one forward pass.

    With ``graph`` both can be differentiated by the weights and by ``x`` and ``end``; attention takes its math kernel,
    as the efficient ones have no second derivative.
    """
    with twice_differentiable(), torch.enable_grad():
        alphas = torch.tensor(nodes, dtype=x.dtype, device=x.device).view(-1, 1, 1, 1, 1)
        path = x.unsqueeze(0) + alphas * (end - x).unsqueeze(0)
        if not (graph and path.requires_grad):
            path = path.detach().requires_grad_(True)
        flat = path.flatten(0, 1)
        value = losses(network, flat, y.repeat(len(nodes)))
        (slope,) = torch.autograd.grad(value.sum(), flat, create_graph=graph)
    shape = len(nodes), len(x)
    return slope.view(*shape, *x.shape[1:]), value.view(shape)


def integrated(network: nn.Module, x: Tensor, end: Tensor, y: Tensor, nodes: Sequence[float]) -> Tensor:
    """IG of the loss from ``x`` to ``end``, (N, C, H, W), with its graph, all nodes in one pass.

    Of the network in the mode it is in; the objectives call it within `steady`.
    """
    slope, _ = slopes(network, x, end, y, nodes, graph=True)
    return (end - x) * slope.mean(0)


def size_of(network: nn.Module, x: Tensor, end: Tensor, y: Tensor, path: Path) -> Tensor:
    """||IG(x, end)||, summed over the batch: a scalar to be differentiated by the weights.

    In chunks its gradient is computed at once, chunk by chunk, and handed over when ``backward`` comes.
    """
    with steady(network):
        if len(path.parts()) == 1:
            return _SIZES[path.size](integrated(network, x, end, y, path.nodes))
        weights = [p for p in network.parameters() if p.requires_grad]
        value, gradients = _by_chunks(network, x, end, y, path, weights)
    known: Tensor = _Known.apply(value, gradients, *weights)
    return known


def size_gradient(
    network: nn.Module, x: Tensor, end: Tensor, y: Tensor, path: Path, *, weight: float = 1.0, loss: float = 0.0
) -> Tensor:
    """Gradient by ``end`` of ``weight * ||IG(x, end)|| + loss * l(end)``, summed over the batch; (N, C, H, W).

    The last node must be 1 where ``loss`` is not 0: the loss at x' is taken from the pass over the path.
    """
    end = end.detach().requires_grad_(True)
    if len(path.parts()) == 1:
        slope, value = slopes(network, x, end, y, path.nodes, graph=True)
        aim = weight * _SIZES[path.size]((end - x) * slope.mean(0))
        if loss:
            aim = aim + loss * value[-1].sum()
        (gradient,) = torch.autograd.grad(aim, end)
        return gradient
    _, (gradient,) = _by_chunks(network, x, end, y, path, [end])
    return weight * gradient + (loss * loss_gradient(network, end, y) if loss else 0.0)


def loss_gradient(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Gradient of the loss by the image, detached, (N, C, H, W)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(losses(network, x, y).sum(), x)
    return gradient


def _by_chunks(
    network: nn.Module, x: Tensor, end: Tensor, y: Tensor, path: Path, by: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """||IG|| and its gradients: first the whole without a graph, then its slope against each chunk's share of it."""
    total = sum(slopes(network, x, end.detach(), y, part, graph=False)[0].sum(0) for part in path.parts())
    whole = (end - x).detach() * total / len(path.nodes)
    pull = _SLOPES[path.size](whole)
    gradients = [torch.zeros_like(t) for t in by]
    for part in path.parts():
        slope, _ = slopes(network, x, end, y, part, graph=True)
        share = (pull * (end - x) * slope.sum(0) / len(path.nodes)).sum()
        found = torch.autograd.grad(share, list(by), allow_unused=True)
        for gradient, new in zip(gradients, found, strict=True):
            if new is not None:
                gradient += new
    return _SIZES[path.size](whole), gradients


class _Known(torch.autograd.Function):
    """A value whose gradients by the weights are known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *weights: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        return None, None, *(upstream * gradient for gradient in ctx.gradients)


def nodes_that_fit(network: nn.Module, x: Tensor, y: Tensor, memory: int = MEMORY) -> int:
    """How many nodes may go through the network with the batch ``x`` (N, C, H, W) in one pass; at least one.

    Measured on one image: what the graph of the gradient, ready for a second derivative, keeps, and as much again for
    the way back through it (on the small network the peak was 1.6 to 2.1 times what the graph keeps).
    """
    with steady(network):
        kept = graph_bytes(network, lambda: integrated(network, x[:1], x[:1].clone(), y[:1], (1.0,)))
    return max(1, memory // max(1, 2 * kept * len(x)))
