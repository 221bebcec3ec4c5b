"""Fine-pruning (Liu, Dolan-Gavitt, Garg, RAID 2018, arXiv 1805.12185).

Neurons of the last convolution that sleep on clean images wake for the trigger: prune its channels in the order of

    a_c = mean over clean images and positions of the channel's activation

for as long as the accuracy on validation images is within 4 points, then fine-tune what is left on clean images. The
channels are those that the classifier reads: in a residual network, the last block's output.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmarks.rivals.choice import BY_ACCURACY, Attempt, accuracy, by_accuracy, validated
from benchmarks.rivals.evidence import Evidence, Labelled, Method, Outcome
from benchmarks.rivals.training import LEARNING_RATES, SGD, Loss, descend, plain_step

MOST_LOSS = 0.04


def classifier(network: nn.Module) -> nn.Linear:
    """The last linear layer."""
    return [module for module in network.modules() if isinstance(module, nn.Linear)][-1]


@torch.no_grad()
def activations(network: nn.Module, images: Tensor, batch: int = 500) -> Tensor:
    """(channels,) mean of what the classifier reads."""
    seen: list[Tensor] = []
    handle = classifier(network).register_forward_hook(lambda _, args, __: seen.append(args[0].sum(0)))
    try:
        for start in range(0, len(images), batch):
            network(images[start : start + batch])
    finally:
        handle.remove()
    return torch.stack(seen).sum(0) / len(images)


@torch.no_grad()
def prune(network: nn.Module, images: Tensor, validation: Labelled) -> Tensor:
    """Prune in place for as long as the accuracy allows; returns the channels pruned, in their order."""
    layer = classifier(network)
    order = activations(network, images).argsort()
    least = accuracy(network, validation) - MOST_LOSS
    for count, channel in enumerate(order.tolist()):
        column = layer.weight[:, channel].clone()
        layer.weight[:, channel] = 0
        if accuracy(network, validation) < least:
            layer.weight[:, channel] = column
            return order[:count]
    return order


def _attempts(case: Evidence) -> Iterator[Attempt]:
    pruned = case.copy()
    channels = prune(pruned, case.fit.images, case.validation)

    def step(network: nn.Module, optimiser: torch.optim.Optimizer, loss: Loss) -> None:
        plain_step(network, optimiser, loss)
        with torch.no_grad():
            classifier(network).weight[:, channels] = 0

    for lr in LEARNING_RATES:
        network = case.copy()
        network.load_state_dict(pruned.state_dict())
        yield validated(case, {"pruned": len(channels), "lr": lr}, descend(case, network, lr, step=step))


def _repair(case: Evidence) -> Outcome:
    return by_accuracy(case, _attempts(case))


METHOD = Method(
    title="fine-pruning",
    source="Liu et al., RAID 2018",
    formula="prune channels asleep on clean images, then fine-tune",
    sees="5 % labelled",
    settings="pruned while the accuracy on validation images is within 4 points (the paper's threshold); then "
    f"{SGD}; learning rate {', '.join(f'{r:g}' for r in LEARNING_RATES)}",
    rule=BY_ACCURACY,
    repair=_repair,
)
