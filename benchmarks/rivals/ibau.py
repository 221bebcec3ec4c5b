"""I-BAU: adversarial unlearning by the implicit hypergradient (Zeng et al., ICLR 2022, arXiv 2110.03735).

One perturbation δ of all images at once, the worst within a ball, is unlearnt:

    min_θ  H(δ*(θ), θ),   δ*(θ) = argmax_{||δ|| <= C}  mean CE(f(x + δ; θ), y)

The gradient of the outer loss sees that δ* moves with θ. With ``Φ(δ, θ) = δ - η dg/dδ`` one step of the inner problem,
of which δ* is a fixed point, it is ``dH/dθ + (dΦ/dθ)^T w`` with ``w = (dΦ/dδ)^T w + dH/dδ``, iterated a few times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.rivals.choice import BY_ACCURACY, by_accuracy, validated
from benchmarks.rivals.evidence import FULL, Evidence, Method, Outcome
from benchmarks.rivals.training import batches

RADII = (2.0, 5.0, 10.0)  # of the ball, in normalised pixels
RATE = 3e-4
INNER_STEPS, OUTER_STEPS, FIXED_POINT = 10, 10, 3
PERTURBED = 0.25  # share of a batch of the outer problem that carries the perturbation; all of it ruins narrow networks
INNER_RATE, SHRINK = 0.1, 1e-3  # of the map Φ: its step, and the weight of ||δ||^2 / 2 in g


def hypergradient(
    outer: Tensor, step: Callable[[Tensor], Tensor], delta: Tensor, weights: Sequence[Tensor], iterations: int
) -> list[Tensor]:
    """Gradient of the outer loss by the weights, the way of the inner solution included.

    Parameters
    ----------
    outer
        H, a scalar that depends on ``delta`` and on the weights.
    step
        Φ as a function of δ, of δ's shape, differentiable once more by δ and the weights.
    delta
        δ*, a leaf of any shape that requires its gradient; of images (1, C, H, W).
    weights
        θ, leaves of any shapes.
    iterations
        Of the fixed point for w, which has δ's shape.

    Returns
    -------
    list of Tensor
        One for each of the weights, of its shape.
    """
    direct = torch.autograd.grad(outer, [delta, *weights], retain_graph=True, allow_unused=True)
    towards = torch.zeros_like(delta) if direct[0] is None else direct[0]
    moved = step(delta)
    w = towards
    for _ in range(iterations):
        (pulled,) = torch.autograd.grad(moved, delta, w, retain_graph=True)
        w = pulled + towards
    indirect = torch.autograd.grad(moved, list(weights), w, allow_unused=True)
    nothing = [torch.zeros_like(weight) for weight in weights]
    return [
        (zero if one is None else one) + (zero if two is None else two)
        for one, two, zero in zip(direct[1:], indirect, nothing, strict=True)
    ]


def worst(network: nn.Module, data: Sequence[tuple[Tensor, Tensor]], radius: float) -> Tensor:
    """The inner maximum, (1, C, H, W): normalised steps up the loss, projected on the ball."""
    delta = torch.zeros_like(data[0][0][:1])
    for images, labels in data:
        delta.requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(network(images + delta), labels), delta)
        delta = delta.detach() + 0.25 * radius * gradient / gradient.norm().clamp_min(1e-12)
        delta = delta * (radius / delta.norm().clamp_min(1e-12)).clamp_max(1)
    return delta.detach()


def unlearn(case: Evidence, radius: float) -> nn.Module:
    """A few rounds of: find the worst perturbation, step down the hypergradient with Adam on batches of clean images.

    A share of each batch carries the perturbation. Batch norms keep their statistics.
    """
    network = case.copy().requires_grad_(True)
    weights = list(network.parameters())
    optimiser = torch.optim.Adam(weights, RATE)
    stream = batches(case, 10_000)
    for _ in range(case.effort.rounds):
        found = worst(network, list(islice(stream, INNER_STEPS)), radius)
        for images, labels in islice(stream, OUTER_STEPS):
            count = int(PERTURBED * len(labels))
            x, y = images[:count], labels[:count]
            delta = found.clone().requires_grad_(True)

            def step(d: Tensor, x: Tensor = x, y: Tensor = y) -> Tensor:
                g = -F.cross_entropy(network(x + d), y) + SHRINK / 2 * d.square().sum()
                (slope,) = torch.autograd.grad(g, d, create_graph=True)
                return d - INNER_RATE * slope

            outer = F.cross_entropy(network(torch.cat((x + delta, images[count:]))), labels)
            for weight, gradient in zip(weights, hypergradient(outer, step, delta, weights, FIXED_POINT), strict=True):
                weight.grad = gradient
            optimiser.step()
    return network.requires_grad_(False)


def _repair(case: Evidence) -> Outcome:
    return by_accuracy(case, (validated(case, {"radius": radius}, unlearn(case, radius)) for radius in RADII))


METHOD = Method(
    title="I-BAU",
    source="Zeng et al., ICLR 2022",
    formula="unlearn the worst common perturbation by the implicit hypergradient",
    sees="5 % labelled",
    settings=f"ball of radius {', '.join(f'{r:g}' for r in RADII)} (normalised pixels); {FULL.rounds} rounds "
    f"of {INNER_STEPS} inner steps and {OUTER_STEPS} outer steps of Adam with {RATE:g}; {FIXED_POINT} iterations of "
    "the fixed point",
    rule=BY_ACCURACY,
    repair=_repair,
)
