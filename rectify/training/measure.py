"""What a training came to: accuracy, accuracy under attack, and how far an attack moves the attributions.

The attack on attributions is IFIA's top-k form as in the paper's evaluation: the map is IG of the true class's logit
from black, the search follows a softplus twin, the label holds on the real network, and correctly classified images
count. `rectify.evaluation.attacks` says what each part does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rectify.attribution.attribution import Settings
from rectify.attribution.integrated_gradients import integrated_gradients
from rectify.attribution.score import Score, batch_that_fits
from rectify.evaluation import attacks
from rectify.evaluation.measure import Measure

if TYPE_CHECKING:
    from rectify.jobs.common import Progress

AT_ONCE = 4  # images a round of the attack on attributions: what a progress bar moves by


@dataclass(frozen=True)
class Trial:
    """How a network is attacked.

    Attributes
    ----------
    eps
        Radius of both attacks, L-infinity, in pixel units.
    samples
        Images that are attacked; 0: none.
    top, attack_top
        k of the top-k intersection, and of the attack.
    label_steps, map_steps
        Iterations of the attack on the label and on the map, each 2.5 eps / iterations long.
    points, judge_points
        Path points of the map that the attack follows, and of the maps that are compared.
    seed
        Of the sample and the random starts.
    """

    eps: float
    samples: int = 50
    top: int = 100
    attack_top: int = 100
    label_steps: int = 40
    map_steps: int = 20
    points: int = 10
    judge_points: int = 50
    seed: int = 0


@dataclass(frozen=True)
class Robustness:
    """Figures with their spread; None where nothing was attacked or nothing was left to attack."""

    adversarial: Measure | None = None
    top: Measure | None = None
    kendall: Measure | None = None
    ties: Measure | None = None
    settings: dict[str, Any] | None = None


def attack(
    network: nn.Module, x: Tensor, y: Tensor, bounds: tuple[Tensor, Tensor], trial: Trial, progress: Progress
) -> Robustness:
    """Attack labels and attributions of images.

    Parameters
    ----------
    network
        In eval mode.
    x, y
        Images (N, C, H, W), normalised, and true classes (N,), on the network's device.
    bounds
        Values of a black and of a white pixel, each (C, 1, 1).
    """
    if not len(x) or trial.eps <= 0:
        return Robustness()
    score = Score(network, "logit", batch_that_fits(network, x[:1], 256))
    budget = attacks.Budget(trial.eps, "inf", bounds)
    progress.start("attacking the labels", None)
    adversarial = attack_labels(network, x, y, bounds, trial)
    labels = {**adversarial.settings, "images": len(x)}
    progress.stop()
    right = score.predictions(x) == y
    if not bool(right.any()):
        return Robustness(adversarial, settings={"label": labels})
    found, told = _attack_maps(score, x[right], y[right], budget, trial, progress)
    return Robustness(
        adversarial,
        found["robustness-top-k"],
        found["robustness-kendall"],
        found.get("robustness-tie-share-before"),
        {"label": labels, "map": told},
    )


def attack_labels(network: nn.Module, x: Tensor, y: Tensor, bounds: tuple[Tensor, Tensor], trial: Trial) -> Measure:
    """Adversarial accuracy: the share of all images that PGD on the cross entropy leaves classified right."""
    score = Score(network, "logit", batch_that_fits(network, x[:1], 256))
    budget = attacks.Budget(trial.eps, "inf", bounds)
    moved = attacks.pgd(score, x, y, budget, iterations=trial.label_steps, seed=trial.seed)
    return attacks.adversarial_accuracy(score, y, moved)


def _attack_maps(
    score: Score, x: Tensor, y: Tensor, budget: attacks.Budget, trial: Trial, progress: Progress
) -> tuple[dict[str, Measure], dict[str, Any]]:
    assert budget.bounds is not None
    black = budget.bounds[0].to(x)
    attacked = attacks.ig_map(attacks.smooth_score(score), black, trial.points, "right-riemann")
    judged = attacks.ig_map(score, black, trial.points, "right-riemann")
    how = Settings(steps=trial.judge_points, rule="right-riemann", baseline="black", bounds=budget.bounds)
    progress.start("attacking the attributions", len(x))
    rounds = []
    for number, rows in enumerate(torch.arange(len(x), device=x.device).split(AT_ONCE)):
        moved = attacks.attack_attribution(
            score,
            x[rows],
            y[rows],
            attacked,
            budget,
            judged=judged,
            objective="top-k",
            k=trial.attack_top,
            iterations=trial.map_steps,
            restarts=1,
            patience=trial.map_steps,
            seed=trial.seed + number,
        )
        rounds.append(attacks.robustness(integrated_gradients, score, x[rows], y[rows], how, moved, k=trial.top))
        progress.advance(len(rows))
    progress.stop()
    told = {**rounds[0][0].settings, "images": len(x), "judged_steps": trial.judge_points, "top": trial.top}
    for each in ("held", "constant"):
        told[each] = sum(int(measures[0].settings[each]) for measures in rounds)
    return {first.metric: _joined([m[i] for m in rounds]) for i, first in enumerate(rounds[0])}, told


def _joined(parts: list[Measure]) -> Measure:
    return Measure(parts[0].metric, torch.cat([part.values for part in parts]), None, parts[0].settings)
