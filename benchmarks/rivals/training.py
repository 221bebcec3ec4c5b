"""One loop of stochastic gradient descent for all rivals that train on clean labelled images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.rivals.evidence import FULL, Evidence
from benchmarks.zoo.train import augment

BATCH = 128
LEARNING_RATES = (0.01, 0.03, 0.1)
SGD = f"{FULL.epochs} epochs of SGD, momentum 0.9, weight decay 5e-4, cosine to zero, batches of {BATCH}"

Loss = Callable[[], Tensor]
Step = Callable[[nn.Module, torch.optim.Optimizer, Loss], None]


def cross_entropy(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy of images (N, C, H, W) with classes (N,), a scalar in float32.

    The forward pass is in bfloat16, as the zoo itself was trained.
    """
    with torch.autocast("cpu", torch.bfloat16):
        output = network(images)
    return F.cross_entropy(output.float(), labels)


def plain_step(network: nn.Module, optimiser: torch.optim.Optimizer, loss: Loss) -> None:
    """One step down the gradient."""
    optimiser.zero_grad(set_to_none=True)
    loss().backward()  # type: ignore[no-untyped-call]
    optimiser.step()


def batches(case: Evidence, epochs: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches of the clean images with their labels, augmented as the network's own training was."""
    generator = torch.Generator().manual_seed(case.seed)
    recipe, data = case.recipe, case.fit
    for _ in range(epochs):
        order = torch.randperm(len(data.labels), generator=generator)
        for start in range(0, len(order) - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            images = data.images[rows]
            if recipe.pad:
                images = augment(images, recipe.pad, recipe.flip, generator)
            yield images.contiguous(memory_format=torch.channels_last), data.labels[rows]


def descend(
    case: Evidence,
    network: nn.Module,
    lr: float,
    *,
    step: Step = plain_step,
    parameters: list[nn.Parameter] | None = None,
    frozen: tuple[nn.Module, ...] = (),
) -> nn.Module:
    """Fine-tune a network in place on the clean labelled images; returns it in eval mode, without gradients.

    Parameters
    ----------
    step
        What is done with a batch's loss.
    parameters
        Those that move; all if None.
    frozen
        Modules whose batch norms keep their statistics.
    """
    network.train()
    for module in frozen:
        module.eval()
    moving = list(network.parameters()) if parameters is None else parameters
    for parameter in moving:
        parameter.requires_grad_(True)
    optimiser = torch.optim.SGD(moving, lr, momentum=0.9, weight_decay=5e-4)
    steps = case.effort.epochs * (len(case.fit.labels) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for images, labels in batches(case, case.effort.epochs):
        step(network, optimiser, lambda x=images, y=labels: cross_entropy(network, x, y))  # type: ignore[misc]
        schedule.step()
    return network.eval().requires_grad_(False)


@contextmanager
def statistics_kept(network: nn.Module) -> Iterator[None]:
    """Batch norms in training mode normalise by the batch, but do not remember it."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
