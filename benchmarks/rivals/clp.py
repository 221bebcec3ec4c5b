"""Channel Lipschitz pruning, CLP (Zheng, Tang, Li, Liu, ECCV 2022, arXiv 2208.03111): no data at all.

The upper bound of a channel's Lipschitz constant, the batch norm behind the convolution included:

    σ_k = |γ_k / sqrt(var_k + eps)| * || W_k as a matrix (inputs, kernel area) ||_2

Of every convolution with a batch norm behind it, the channels with ``σ_k > mean + u * deviation`` are pruned: weight
and bias of their batch norm become zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from benchmarks.rivals.choice import BY_ACCURACY, by_accuracy, validated
from benchmarks.rivals.evidence import Evidence, Method, Outcome

DEFAULT = 3.0
TRIED = (4.0, 3.5, 3.0, 2.5, 2.0, 1.5, 1.0)


def normalised_convolutions(network: nn.Module) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Each convolution whose batch norm is defined right behind it, with that batch norm."""
    modules = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    for first, second in pairwise(modules):
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
            yield first, second


def bounds(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """(channels,) the σ_k."""
    assert norm.running_var is not None
    spectral: Tensor = torch.linalg.matrix_norm(convolution.weight.flatten(2), 2)
    return spectral * (norm.weight / (norm.running_var + norm.eps).sqrt()).abs()


@torch.no_grad()
def pruned(network: nn.Module, u: float) -> int:
    """Prune a network in place; returns the number of channels pruned."""
    count = 0
    for convolution, norm in normalised_convolutions(network):
        found = bounds(convolution, norm)
        outliers = found > found.mean() + u * found.std()
        norm.weight[outliers] = 0
        norm.bias[outliers] = 0
        count += int(outliers.sum())
    return count


def _default(case: Evidence) -> Outcome:
    network = case.copy()
    return Outcome(network, {"u": DEFAULT, "pruned": pruned(network, DEFAULT)})


def _tuned(case: Evidence) -> Outcome:
    attempts = []
    for u in TRIED:
        network = case.copy()
        attempts.append(validated(case, {"u": u, "pruned": pruned(network, u)}, network))
    return by_accuracy(case, attempts)


METHOD = Method(
    title="CLP",
    source="Zheng et al., ECCV 2022",
    formula="prune channels whose Lipschitz bound is an outlier",
    sees="nothing",
    settings=f"u = {DEFAULT:g}",
    rule="the paper's value; without data there is nothing to choose by",
    repair=_default,
)
TUNED = Method(
    title="CLP, u tuned",
    source="Zheng et al., ECCV 2022",
    formula="as CLP",
    sees="1 % labelled",
    settings=f"u = {', '.join(f'{u:g}' for u in TRIED)}",
    rule=f"{BY_ACCURACY} (of the labelled images only those are read)",
    repair=_tuned,
)
