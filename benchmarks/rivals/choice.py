"""How a setting is chosen among those tried: by clean accuracy or by the pair, never by test labels or attacks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.rivals.evidence import Evidence, Labelled, Outcome

TOLERANCE = 0.01
BY_ACCURACY = (
    "the strongest setting (the last of those listed) whose accuracy on the validation images is within 1 point of the "
    "untouched network's; if none is, the most accurate"
)
BY_PAIR = (
    "of the settings that give the pair's corrupted image its class again, and of those the ones that agree with the "
    "untouched network on the calibration images within 1 point of the best, the one that gives that class the most; "
    "where none gives the class again, the one that comes nearest to it"
)


@dataclass(frozen=True)
class Attempt:
    """One setting, the network that it made, and the figures it is chosen by."""

    settings: dict[str, Any]
    network: nn.Module
    figures: dict[str, float]

    def told(self) -> dict[str, Any]:
        """As it goes into the results."""
        return {**self.settings, **{key: round(value, 4) for key, value in self.figures.items()}}


@torch.no_grad()
def logits(network: nn.Module, images: Tensor, batch: int = 500) -> Tensor:
    """(N, classes) of the network in eval mode."""
    network.eval()
    return torch.cat([network(images[i : i + batch]).float() for i in range(0, len(images), batch)])


def accuracy(network: nn.Module, data: Labelled) -> float:
    """Share of images that get their class."""
    return float((logits(network, data.images).argmax(1) == data.labels).float().mean())


def validated(case: Evidence, settings: dict[str, Any], network: nn.Module) -> Attempt:
    """An attempt, with its accuracy on the validation images."""
    return Attempt(settings, network, {"validation": accuracy(network, case.validation)})


def on_pair(case: Evidence, settings: dict[str, Any], network: nn.Module) -> Attempt:
    """An attempt, with what the pair, each (1, C, H, W), and the calibration images, (N, C, H, W), say of it.

    ``turned``: 1 if the corrupted image has the pair's class, else 0; ``confidence``: that class's probability there;
    ``agreement``: the share of calibration images that have the class that the untouched network gives them.
    """
    output = logits(network, case.corrupted)[0]
    agreement = logits(network, case.calibration).argmax(1) == logits(case.network, case.calibration).argmax(1)
    return Attempt(
        settings,
        network,
        {
            "turned": float(output.argmax() == case.label),
            "agreement": float(agreement.float().mean()),
            "confidence": float(output.softmax(0)[case.label]),
        },
    )


def by_accuracy(case: Evidence, attempts: Iterable[Attempt]) -> Outcome:
    """`BY_ACCURACY`; the attempts come from the weakest to the strongest."""
    tried = list(attempts)
    least = accuracy(case.network, case.validation) - TOLERANCE
    within = [attempt for attempt in tried if attempt.figures["validation"] >= least]
    chosen = within[-1] if within else max(tried, key=lambda a: a.figures["validation"])
    return _outcome(chosen, tried)


def by_pair(attempts: Iterable[Attempt]) -> Outcome:
    """`BY_PAIR`; of equals the first."""
    tried = list(attempts)
    left = [attempt for attempt in tried if attempt.figures["turned"]]
    best = max((attempt.figures["agreement"] for attempt in left), default=0.0)
    left = [attempt for attempt in left if attempt.figures["agreement"] >= best - TOLERANCE - 1e-9] or tried
    return _outcome(max(left, key=lambda a: a.figures["confidence"]), tried)


def _outcome(chosen: Attempt, tried: list[Attempt]) -> Outcome:
    return Outcome(chosen.network, chosen.settings, tuple(attempt.told() for attempt in tried))
