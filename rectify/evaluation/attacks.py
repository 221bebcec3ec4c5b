"""Attacks on attributions that keep the label; those on the label are in `perturbations`.

The objectives of Ghorbani, Abid, Zou 2019 (arXiv 1710.10547), and a norm-bounded search for
the greatest distance between the maps before and after. A ReLU network has no second derivative almost everywhere, so
the search may follow the map of a softplus twin; labels and success are judged on the real network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from rectify.attribution.attribution import Method, Settings
from rectify.attribution.integrated_gradients import integral
from rectify.attribution.score import Score, twice_differentiable
from rectify.errors import UsageError
from rectify.evaluation.measure import Measure, flat_heat
from rectify.evaluation.perturbations import (
    Budget,
    Perturbed,
    adversarial_accuracy,
    fgsm,
    image_generator,
    normal_noise,
    pgd,
    random_start,
)
from rectify.evaluation.ranks import (
    average_ranks,
    constant_rows,
    kendall_tau_b,
    spearman,
    tie_share,
    top_k,
    top_k_intersection,
    zero_share,
)
from rectify.evaluation.twin import network_name, smooth_score, softplus_twin

__all__ = [
    "OBJECTIVES",
    "Budget",
    "DifferentiableMap",
    "Perturbed",
    "adversarial_accuracy",
    "attack_attribution",
    "fgsm",
    "gradient_map",
    "ig_map",
    "network_name",
    "pgd",
    "robustness",
    "smooth_score",
    "softplus_twin",
]

Objective = Literal["top-k", "mass-center", "target", "random", "rank", "l2", "l1", "cosine"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
DISTANCES = ("l2", "l1", "cosine")
TOP = 100  # pixels: the published k of images of 28x28
TINY = 0.01  # start of the first restart, as a share of eps: at the image itself a distance has no gradient

# ---------------------------------------------------------------- maps that can be differentiated


@dataclass(frozen=True)
class DifferentiableMap:
    """A map with its graph: from images (B, C, H, W) and classes (B,) to (B, C, H, W).

    Attributes
    ----------
    function
        Built with ``create_graph``, so that it can be differentiated by the images.
    points
        Images that it sends through the network for each of its own: fewer of those go at a time.
    name
        For the settings.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    points: int = 1
    name: str = "map"


def gradient_map(score: Score) -> DifferentiableMap:
    """dF_c/dx, differentiable by x. Of a saturated probability it vanishes: better explain the logit."""

    def function(x: Tensor, targets: Tensor) -> Tensor:
        with twice_differentiable(), torch.enable_grad():
            if not x.requires_grad:
                x = x.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(score(x, targets).sum(), x, create_graph=True)
            return gradient

    return DifferentiableMap(function, 1, "gradient" + network_name(score))


def ig_map(score: Score, baseline: Tensor, steps: int = 10, rule: str = "gauss-legendre") -> DifferentiableMap:
    """Integrated gradients from one fixed baseline (C, H, W), (C, 1, 1) or with a leading 1, differentiable by x."""

    def function(x: Tensor, targets: Tensor) -> Tensor:
        start = baseline.to(x).expand_as(x)
        return integral(score, start, x, targets, rule=rule, steps=steps)

    return DifferentiableMap(function, steps, f"ig-{steps}{network_name(score)}")


# ---------------------------------------------------------------- attacks on attributions


def attack_attribution(
    score: Score,
    x: Tensor,
    targets: Tensor,
    attacked: DifferentiableMap,
    budget: Budget,
    *,
    judged: DifferentiableMap | None = None,
    objective: Objective = "l2",
    k: int = TOP,
    region: Tensor | None = None,
    iterations: int = 40,
    step: float | None = None,
    restarts: int = 2,
    patience: int = 10,
    seed: int = 0,
) -> Perturbed:
    """Change the map and keep the label.

    Each restart starts from its own random point, the first from a hundredth of eps: at the image itself the distance
    has no gradient. Of all iterates whose label on the real network is that of the clean image, the one with the
    greatest distance (``l2``, ``l1``, ``cosine``), or with the lowest Spearman correlation of |channel sum| (the other
    objectives), is kept. An image stops where nothing has improved ``patience`` times.

    Parameters
    ----------
    score
        The real network: it gives the labels.
    x, targets
        Images (N, C, H, W) and the classes (N,) whose maps are attacked.
    attacked
        The map that is differentiated, as a rule of `smooth_score`.
    budget
        Norm, eps and pixel range.
    judged
        The map of the real network on which iterates are compared; None: the attacked one.
    objective
        On |channel sum|, normalised to sum 1: ``top-k`` takes mass from the k pixels that were greatest,
        ``mass-center`` moves the centre of mass, ``target`` brings mass into ``region``, ``rank`` (not a published one)
        breaks the order of all pixels: of these it leads to the lowest Spearman. ``random`` tries random points of the
        budget's boundary. On the maps themselves: ``l2``, ``l1``, ``cosine`` distance from the clean map.
    region
        Bool (H, W) or (N, H, W), of ``target``.
    iterations, step, restarts
        Steps of each restart, their size in the unit of eps (2.5 eps / iterations), and how many restarts.

    Raises
    ------
    UsageError
        Unknown objective, a target without its region, or no iterations, restarts or patience.
    """
    _check_attack(objective, region, x, iterations, restarts, patience)
    judged = judged or attacked
    step = 2.5 * budget.eps / iterations if step is None else step
    plan = _Plan(score, attacked, judged, budget, objective, iterations, step, restarts, patience, seed)
    at_once = max(1, score.batch // max(attacked.points, judged.points))
    numbers = torch.arange(len(x), device=x.device)
    found: list[_Best] = []
    for rows in numbers.split(at_once):
        marked = None if region is None else region.to(x.device).expand(len(x), *x.shape[-2:])[rows]
        found.append(_attack(plan, _images(plan, x[rows], targets[rows], rows, k, marked)))
    reached = torch.cat([best.damage for best in found]) * (1 if objective in DISTANCES else -1)
    held = torch.cat([best.held for best in found])
    clean_value = 0.0 if objective in DISTANCES else 1.0
    told = {"attack": "attribution", "objective": objective, **budget.told(), "iterations": iterations, "step": step}
    told |= {"restarts": restarts, "patience": patience, "seed": seed, "attacked": attacked.name}
    told |= {"judged": judged.name, "held": int(held.sum()), "images": len(x)}
    if objective == "top-k":
        told["attack_k"] = k
    images = torch.cat([best.images for best in found])
    return Perturbed(images, held.cpu(), reached.where(held, clean_value).cpu(), told)


@dataclass(frozen=True)
class _Plan:
    score: Score
    attacked: DifferentiableMap
    judged: DifferentiableMap
    budget: Budget
    objective: Objective
    iterations: int
    step: float
    restarts: int
    patience: int
    seed: int


@dataclass(frozen=True)
class _Images:
    """What is known of the clean images of a batch; every tensor has a row for each."""

    x: Tensor
    targets: Tensor
    labels: Tensor  # as predicted by the real network
    smooth: Tensor  # the attacked map
    real: Tensor  # the judged map
    marked: Tensor  # (B, H, W) bool: the top k pixels, or the target region
    numbers: Tensor  # places among all images, for the random numbers

    def take(self, rows: Tensor) -> Self:
        return type(self)(**{entry.name: getattr(self, entry.name)[rows] for entry in fields(self)})


@dataclass
class _Best:
    """The best allowed iterate of each image so far."""

    images: Tensor
    damage: Tensor
    held: Tensor

    def update(self, rows: Tensor, images: Tensor, damage: Tensor, held: Tensor) -> Tensor:
        """Which rows improved."""
        better = held & (damage > self.damage[rows])
        improved = rows[better]
        self.images[improved], self.damage[improved] = images[better], damage[better]
        self.held[improved] = True
        return better


def _images(plan: _Plan, x: Tensor, targets: Tensor, numbers: Tensor, k: int, region: Tensor | None) -> _Images:
    smooth = plan.attacked.function(x, targets).detach()
    real = smooth if plan.judged is plan.attacked else plan.judged.function(x, targets).detach()
    marked = top_k(_heat(real), k).view(len(x), *x.shape[-2:]) if region is None else region
    return _Images(x, targets, plan.score.predictions(x), smooth, real, marked, numbers)


def _attack(plan: _Plan, clean: _Images) -> _Best:
    best = _nothing(clean)
    rows = torch.arange(len(clean.x), device=clean.x.device)
    for restart in range(plan.restarts):
        found = _climb(plan, clean, restart)
        best.update(rows, found.images, found.damage, found.held)
    return best


def _nothing(clean: _Images) -> _Best:
    never = torch.full((len(clean.x),), -torch.inf, dtype=torch.float64, device=clean.x.device)
    return _Best(clean.x.clone(), never, torch.zeros_like(clean.labels, dtype=torch.bool))


def _climb(plan: _Plan, clean: _Images, restart: int) -> _Best:
    """One restart; an image leaves it when it has not improved for a while, whatever the others do."""
    best, budget = _nothing(clean), plan.budget
    draws = [image_generator(plan.seed, restart, number) for number in clean.numbers.tolist()]
    z = budget.project(clean.x, clean.x + random_start(budget, clean.x, draws, TINY if restart == 0 else 1.0))
    stale = torch.zeros_like(clean.labels)
    rows = torch.arange(len(z), device=z.device)
    for _ in range(plan.iterations):
        some = clean.take(rows)
        if plan.objective == "random":
            moved = budget.move(some.x, normal_noise(some.x, [draws[row] for row in rows.tolist()]), budget.eps)
        else:
            moved = budget.move(z[rows], _direction(plan, some, z[rows]), plan.step)
        moved = budget.project(some.x, moved)
        z[rows] = moved
        held = plan.score.predictions(moved) == some.labels
        improved = best.update(rows, moved, _damage(plan, some, moved), held)
        stale[rows] = torch.where(improved, 0, stale[rows] + 1)
        rows = rows[stale[rows] < plan.patience]
        if not len(rows):
            break
    return best


def _direction(plan: _Plan, clean: _Images, z: Tensor) -> Tensor:
    """The gradient of the objective by the images; zero where there is none."""
    with twice_differentiable(), torch.enable_grad():
        z = z.detach().requires_grad_(True)
        value = _objective(plan.objective, plan.attacked.function(z, clean.targets), clean)
        if not value.requires_grad:
            return torch.zeros_like(z)
        (gradient,) = torch.autograd.grad(value.sum(), z, allow_unused=True)
    return torch.zeros_like(z) if gradient is None else gradient.nan_to_num(0, 0, 0)


def _objective(name: Objective, maps: Tensor, clean: _Images) -> Tensor:
    """(B,) what the attack makes great."""
    if name in DISTANCES:
        return _distance(name, maps, clean.smooth)
    heat = _mass(maps)
    if name == "rank":
        return -_rank_agreement(heat, _mass(clean.smooth))
    if name == "mass-center":
        return (_centre(heat) - _centre(_mass(clean.smooth))).square().sum(1)
    on_marked = (heat * clean.marked).sum((1, 2))
    return -on_marked if name == "top-k" else on_marked


def _damage(plan: _Plan, clean: _Images, z: Tensor) -> Tensor:
    """(B,) float64: by what iterates are compared, the greater the better."""
    maps = plan.judged.function(z, clean.targets).detach()
    if plan.objective not in DISTANCES:
        return -spearman(_heat(maps), _heat(clean.real))
    distance = _distance(plan.objective, maps.double(), clean.real.double())
    return distance.sqrt() if plan.objective == "l2" else distance


def _distance(name: str, maps: Tensor, clean: Tensor) -> Tensor:
    """L1, cosine, or the square of L2: a root has no gradient at zero."""
    one, other = maps.flatten(1), clean.flatten(1)
    if name == "cosine":
        return 1 - F.cosine_similarity(one, other, dim=1)
    difference = one - other
    return difference.square().sum(1) if name == "l2" else difference.abs().sum(1)


def _heat(maps: Tensor) -> Tensor:
    """|channel sum|, (B, H W)."""
    return maps.sum(1).abs().flatten(1)


def _mass(maps: Tensor) -> Tensor:
    """|channel sum| (B, H, W), normalised to sum 1."""
    heat = maps.sum(1).abs()
    return heat / heat.sum((1, 2), keepdim=True).clamp_min(torch.finfo(heat.dtype).tiny)


def _rank_agreement(heat: Tensor, clean: Tensor) -> Tensor:
    """Spearman's, but smooth: Pearson's of log(heat + a tenth of its mean) and the clean ranks."""
    ranks, floor = average_ranks(clean.flatten(1)).to(heat), 0.1 / clean[0].numel()
    logs = (heat.flatten(1) + floor).log()
    one, other = (rows - rows.mean(1, keepdim=True) for rows in (logs, ranks))
    return F.cosine_similarity(one, other, dim=1)


def _centre(heat: Tensor) -> Tensor:
    """(B, 2) in pixels, not rounded: rounded, the distance from the clean centre has no gradient."""
    down, across = (torch.arange(size, dtype=heat.dtype, device=heat.device) for size in heat.shape[1:])
    return torch.stack([(heat.sum(2) * down).sum(1), (heat.sum(1) * across).sum(1)], 1)


def _check_attack(
    objective: str, region: Tensor | None, x: Tensor, iterations: int, restarts: int, patience: int
) -> None:
    if objective not in OBJECTIVES:
        raise UsageError(f"unknown objective {objective!r}: give {', '.join(OBJECTIVES)}")
    if objective == "target" and region is None:
        raise UsageError("the objective target needs the region that the attribution is to move to")
    if objective != "target" and region is not None:
        raise UsageError(f"a region is of the objective target, not of {objective}")
    if region is not None and region.shape not in ((len(x), *x.shape[-2:]), x.shape[-2:]):
        raise UsageError(f"a region of {tuple(region.shape)} does not fit images of {tuple(x.shape)}")
    if min(iterations, restarts, patience) < 1:
        raise UsageError("iterations, restarts and patience are at least 1")


# ---------------------------------------------------------------- what the attacks did


def robustness(
    method: Method,
    score: Score,
    x: Tensor,
    targets: Tensor,
    settings: Settings,
    perturbed: Perturbed,
    *,
    k: int = TOP,
) -> list[Measure]:
    """How alike a method's maps (|channel sum|) of the images are before and after an attack.

    All images count, also those for which the attack found nothing and gave back the clean image (``held`` of the
    attack says which): choose the correctly classified ones beforehand, as the papers do.

    Parameters
    ----------
    method, score, x, targets, settings
        What to attribute and how.
    perturbed
        Of these images, in this order.
    k
        Pixels of the top-k intersection, at most those there are.

    Returns
    -------
    ``robustness-spearman``, ``robustness-kendall`` (tau-b), ``robustness-top-k`` (share of k);
    ``robustness-tie-share-before`` and ``-after``: share of the pixels whose value another pixel has too;
    ``robustness-zero-share-before`` and ``-after``: share of those under a millionth of the greatest. Where these are
    large, as on black backgrounds, both correlations fall, and the top k fill up with ties, on changes of no size:
    random noise does as much to them.
    """
    before, after = (flat_heat(method(score, images, targets, settings)).abs() for images in (x, perturbed.images))
    both, k = (("before", before), ("after", after)), min(k, before.shape[1])
    constant = int((constant_rows(before) | constant_rows(after)).sum())
    told = {**perturbed.settings, "map": "|channel sum|", "constant": constant}
    return [
        Measure("robustness-spearman", spearman(before, after), None, told),
        Measure("robustness-kendall", kendall_tau_b(before, after), None, told),
        Measure("robustness-top-k", top_k_intersection(before, after, k), None, {**told, "k": k}),
        *[Measure(f"robustness-tie-share-{when}", tie_share(heat), None, told) for when, heat in both],
        *[Measure(f"robustness-zero-share-{when}", zero_share(heat), None, told) for when, heat in both],
    ]
