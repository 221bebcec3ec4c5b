"""Fine-tuning, on the pair or on clean labelled images.

    min_θ  mean CE(f(x; θ), y)    over {(x, y), (x~, y)}, or over clean images with their labels

The pair: the same information as ours has, the row "fine-tune, n = 1" of arXiv 2603.15656 (its settings are not
published); batch norms keep their statistics, since two images have none. Clean images: the FT row of BackdoorBench
(Wu et al., NeurIPS 2022, arXiv 2206.12654).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.rivals.choice import BY_ACCURACY, BY_PAIR, Attempt, by_accuracy, by_pair, on_pair, validated
from benchmarks.rivals.evidence import Evidence, Method, Outcome
from benchmarks.rivals.training import LEARNING_RATES, SGD, descend

PAIR_RATES = (1e-5, 1e-4, 1e-3)
PAIR_STEPS = 100
SURE = 0.9  # confidence in the right class at which the pair counts as learnt


def on_the_pair(case: Evidence, lr: float) -> tuple[nn.Module, int]:
    """Fine-tuned on the clean and the corrupted image with the clean one's class; and the steps that it took."""
    network = case.copy().requires_grad_(True)
    images = torch.cat((case.clean, case.corrupted))
    labels = torch.full((2,), case.label)
    optimiser = torch.optim.SGD(network.parameters(), lr, momentum=0.9)
    step = 0
    for step in range(PAIR_STEPS):  # noqa: B007
        output = network(images)
        if float(output[1].detach().softmax(0)[case.label]) >= SURE:
            break
        optimiser.zero_grad(set_to_none=True)
        F.cross_entropy(output, labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return network.requires_grad_(False), step


def _pair_attempts(case: Evidence) -> Iterator[Attempt]:
    for lr in PAIR_RATES:
        network, steps = on_the_pair(case, lr)
        yield on_pair(case, {"lr": lr, "steps": steps}, network)


def _pair(case: Evidence) -> Outcome:
    return by_pair(_pair_attempts(case))


def _clean(case: Evidence) -> Outcome:
    return by_accuracy(case, (validated(case, {"lr": lr}, descend(case, case.copy(), lr)) for lr in LEARNING_RATES))


PAIR = Method(
    title="fine-tuning on the pair",
    source="the row of arXiv 2603.15656 for n = 1",
    formula="min CE on (x, y) and (x~, y), all weights",
    sees="pair, 200 unlabelled",
    settings=f"SGD, momentum 0.9, learning rate {', '.join(f'{r:g}' for r in PAIR_RATES)}; until the corrupted image "
    f"has its class with {SURE:g}, at most {PAIR_STEPS} steps; statistics of batch norms kept",
    rule=f"{BY_PAIR} (the calibration images only choose)",
    repair=_pair,
)
CLEAN = Method(
    title="fine-tuning on clean images",
    source="Wu et al., BackdoorBench, NeurIPS 2022",
    formula="min CE on clean labelled images, all weights",
    sees="5 % labelled",
    settings=f"{SGD}; learning rate {', '.join(f'{r:g}' for r in LEARNING_RATES)}",
    rule=BY_ACCURACY,
    repair=_clean,
)
