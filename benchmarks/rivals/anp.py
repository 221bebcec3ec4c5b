"""Adversarial neuron pruning, ANP (Wu and Wang, NeurIPS 2021, arXiv 2110.14430), on batch norms.

A mask m in [0, 1] and a perturbation δ, ξ in [-ε, ε] for every channel of every batch norm (weight w, bias b):

    min_m  α L(m w, b) + (1 - α) max_{δ, ξ} L((m + δ) w, (1 + ξ) b)

over clean labelled images; the inner problem by one step along the sign of the gradient from a random start. Channels
whose mask ends below a threshold are pruned: their batch norm's weight becomes zero.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import torch
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.rivals.choice import BY_ACCURACY, by_accuracy, validated
from benchmarks.rivals.evidence import FULL, Evidence, Method, Outcome
from benchmarks.rivals.training import BATCH, batches, statistics_kept

EPSILON, ALPHA, RATE, MOMENTUM = 0.4, 0.2, 0.2, 0.9  # the paper's
THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))

Channels = dict[str, Tensor]  # (channels,) by the name of the batch norm
Loss = Callable[[Channels, Channels], Tensor]  # of the factors of weights and of biases


def batch_norms(network: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """The batch norms by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}


def loss_of(network: nn.Module, images: Tensor, labels: Tensor) -> Loss:
    """The cross entropy of images (N, C, H, W) with classes (N,) as a function of the factors on the batch norms.

    The function takes the factors of the weights and those of the biases, (channels,) of each batch norm, and returns
    a scalar. The forward pass is in bfloat16, as in all training here.
    """
    norms = batch_norms(network)

    def loss(weights: Channels, biases: Channels) -> Tensor:
        changed = {f"{name}.weight": weights[name] * norm.weight for name, norm in norms.items()}
        changed |= {f"{name}.bias": biases[name] * norm.bias for name, norm in norms.items()}
        with torch.autocast("cpu", torch.bfloat16):
            output = functional_call(network, changed, images)
        return nn.functional.cross_entropy(output.float(), labels)

    return loss


def worst(loss: Loss, mask: Channels, epsilon: float, generator: torch.Generator) -> tuple[Channels, Channels]:
    """The inner maximisation: δ and ξ after one signed step of length ε from a random start, within ±ε."""
    starts = [
        {k: (2 * torch.rand(len(m), generator=generator) - 1) * epsilon for k, m in mask.items()} for _ in range(2)
    ]
    for start in starts:
        for value in start.values():
            value.requires_grad_(True)
    delta, xi = starts
    found = loss({k: m.detach() + delta[k] for k, m in mask.items()}, {k: 1 + value for k, value in xi.items()})
    gradients = torch.autograd.grad(found, [*delta.values(), *xi.values()])
    moved = [
        (value.detach() + epsilon * gradient.sign()).clamp(-epsilon, epsilon)
        for value, gradient in zip([*delta.values(), *xi.values()], gradients, strict=True)
    ]
    return dict(zip(delta, moved, strict=False)), dict(zip(xi, moved[len(delta) :], strict=True))


def masks(case: Evidence) -> Channels:
    """The mask of every channel, after the minimax game."""
    network = case.copy().train()
    generator = torch.Generator().manual_seed(case.seed)
    mask = {k: torch.ones(norm.num_features, requires_grad=True) for k, norm in batch_norms(network).items()}
    optimiser = torch.optim.SGD(mask.values(), RATE, momentum=MOMENTUM)
    ones = {k: torch.ones(len(m)) for k, m in mask.items()}
    epochs = -(-case.effort.mask_steps // max(len(case.fit.labels) // BATCH, 1))
    with statistics_kept(network):
        for images, labels in islice(batches(case, epochs), case.effort.mask_steps):
            loss = loss_of(network, images, labels)
            delta, xi = worst(loss, mask, EPSILON, generator)
            mask_step(loss, mask, ones, delta, xi, optimiser)
    return {k: m.detach() for k, m in mask.items()}


def mask_step(
    loss: Loss, mask: Channels, ones: Channels, delta: Channels, xi: Channels, optimiser: torch.optim.Optimizer
) -> None:
    """The outer minimisation: one step of the mask, kept in [0, 1]."""
    optimiser.zero_grad()
    robust = loss({k: m + delta[k] for k, m in mask.items()}, {k: 1 + value for k, value in xi.items()})
    (ALPHA * loss(mask, ones) + (1 - ALPHA) * robust).backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    with torch.no_grad():
        for value in mask.values():
            value.clamp_(0, 1)


@torch.no_grad()
def pruned(network: nn.Module, mask: Channels, threshold: float) -> int:
    """Prune in place the channels whose mask is below the threshold; returns how many."""
    norms = batch_norms(network)
    for name, values in mask.items():
        norms[name].weight[values < threshold] = 0
    return sum(int((values < threshold).sum()) for values in mask.values())


def _repair(case: Evidence) -> Outcome:
    mask = masks(case)
    attempts = []
    for threshold in THRESHOLDS:
        network = case.copy()
        count = pruned(network, mask, threshold)
        attempts.append(validated(case, {"threshold": threshold, "pruned": count}, network))
    return by_accuracy(case, attempts)


METHOD = Method(
    title="ANP",
    source="Wu and Wang, NeurIPS 2021",
    formula="mask of batch norms against their worst perturbation, then prune",
    sees="5 % labelled",
    settings=f"ε {EPSILON:g}, α {ALPHA:g}, SGD {RATE:g} with momentum {MOMENTUM:g} (the paper's), "
    f"{FULL.mask_steps} steps of {BATCH} images; threshold {THRESHOLDS[0]:g} to {THRESHOLDS[-1]:g} in steps of 0.05",
    rule=BY_ACCURACY,
    repair=_repair,
)
