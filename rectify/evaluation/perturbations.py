"""Perturbations: what they may be, and the attacks on the label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rectify.attribution.score import Score
from rectify.errors import UsageError
from rectify.evaluation.measure import Measure

Norm = Literal["inf", "2"]


@dataclass(frozen=True)
class Budget:
    """The perturbations allowed: ||delta||_p <= eps, within the pixel range.

    Attributes
    ----------
    eps
        With ``bounds`` as a share of the way from a black to a white pixel (8/255, whatever the preprocessing),
        without in units of the network's input.
    norm
        ``inf`` or ``2``.
    bounds
        Values of a black and of a white pixel, each (C, 1, 1); None: the pixels are not bounded.

    Raises
    ------
    UsageError
        Unknown norm, or eps not above zero.
    """

    eps: float
    norm: Norm = "inf"
    bounds: tuple[Tensor, Tensor] | None = None

    def __post_init__(self) -> None:
        if self.norm not in get_args(Norm):
            raise UsageError(f"unknown norm {self.norm!r}: give inf or 2")
        if not self.eps > 0:
            raise UsageError(f"eps is {self.eps}: give more than 0")

    def unit(self, x: Tensor) -> Tensor:
        """What eps is measured in, (C, 1, 1) or a number."""
        if self.bounds is None:
            return torch.ones((), dtype=x.dtype, device=x.device)
        low, high = (bound.to(x) for bound in self.bounds)
        return high - low

    def move(self, x: Tensor, direction: Tensor, size: float) -> Tensor:
        """A step along a gradient: of its signs (inf), or of its direction in pixels (2). Not projected."""
        unit = self.unit(x)
        if self.norm == "inf":
            return x + size * unit * direction.sign()
        slope = direction * unit
        length = _length(slope).clamp_min(torch.finfo(x.dtype).tiny)
        return x + size * unit * slope / length

    def project(self, x: Tensor, moved: Tensor) -> Tensor:
        """The allowed image next to ``moved``, around the images ``x``."""
        unit = self.unit(x)
        delta = (moved - x) / unit
        if self.norm == "inf":
            delta = delta.clamp(-self.eps, self.eps)
        else:
            delta = delta * (self.eps / _length(delta).clamp_min(self.eps))
        moved = x + delta * unit
        if self.bounds is None:
            return moved
        low, high = (bound.to(x) for bound in self.bounds)
        # a pixel that lies outside the range already may stay, not go further
        return torch.minimum(torch.maximum(moved, torch.minimum(low, x)), torch.maximum(high, x))

    def told(self) -> dict[str, Any]:
        """As JSON values."""
        unit = "network input" if self.bounds is None else "pixel range"
        return {"eps": self.eps, "norm": self.norm, "eps_unit": unit, "clipped": self.bounds is not None}


def _length(x: Tensor) -> Tensor:
    """L2 norm of each image, (N, 1, 1, 1)."""
    length: Tensor = torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True)
    return length


@dataclass(frozen=True)
class Perturbed:
    """What an attack came to.

    Attributes
    ----------
    images
        (N, C, H, W). Of an attack on attributions: predicted as the clean ones; the clean image where no iterate was.
    held
        (N,) bool: an iterate with the label of the clean image was found; of an attack on the label: still right.
    reached
        (N,) float64: the Spearman correlation or the distance of the maps that the images were kept for; of an attack
        on the label the margin of the strongest other class, in logits.
    settings
        Every choice, as JSON values.
    """

    images: Tensor
    held: Tensor
    reached: Tensor
    settings: dict[str, Any] = field(default_factory=dict)


def image_generator(seed: int, restart: int, number: int) -> torch.Generator:
    """Of one image in one restart: what others do, and in which batches, does not change its draws."""
    mixed = np.random.SeedSequence((seed, restart, number)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed[0] >> np.uint64(1)))


def normal_noise(x: Tensor, draws: Sequence[torch.Generator]) -> Tensor:
    return torch.stack([torch.randn(x.shape[1:], generator=draw) for draw in draws]).to(x)


def random_start(budget: Budget, x: Tensor, draws: Sequence[torch.Generator], share: float) -> Tensor:
    """A random perturbation of at most ``share`` of the budget: uniform in its cube, or on its sphere."""
    unit = budget.unit(x)
    if budget.norm == "inf":
        uniform = torch.stack([torch.rand(x.shape[1:], generator=draw) for draw in draws]).to(x)
        return share * budget.eps * unit * (2 * uniform - 1)
    noise = normal_noise(x, draws)
    return share * budget.eps * unit * noise / _length(noise)


def fgsm(score: Score, x: Tensor, labels: Tensor, budget: Budget) -> Perturbed:
    """One step of the whole budget along the gradient of the cross entropy (Goodfellow et al. 2015, arXiv 1412.6572).

    Parameters
    ----------
    score
        Its network gives the logits.
    x, labels
        Images (N, C, H, W) and true classes (N,).
    budget
        A step of signs (inf), or along the gradient (2).
    """
    images = torch.empty_like(x)
    for rows in torch.arange(len(x), device=x.device).split(score.batch):
        moved = budget.move(x[rows], _slope(score, x[rows], labels[rows]), budget.eps)
        images[rows] = budget.project(x[rows], moved)
    margin = _margins(score, images, labels)
    return Perturbed(images, (margin <= 0).cpu(), margin.cpu(), {"attack": "fgsm", **budget.told()})


def pgd(
    score: Score,
    x: Tensor,
    labels: Tensor,
    budget: Budget,
    *,
    iterations: int = 20,
    step: float | None = None,
    restarts: int = 1,
    seed: int = 0,
) -> Perturbed:
    """Projected gradient ascent on the cross entropy (Madry et al. 2018, arXiv 1706.06083).

    Every restart starts from a random point; the iterate on which another class is furthest ahead is kept.

    Parameters
    ----------
    score, x, labels, budget
        As of `fgsm`.
    iterations, step, restarts
        Steps of each restart, their size in the unit of eps (2.5 eps / iterations), and how many restarts.

    Raises
    ------
    UsageError
        No iterations or restarts.
    """
    if min(iterations, restarts) < 1:
        raise UsageError("iterations and restarts are at least 1")
    step = 2.5 * budget.eps / iterations if step is None else step
    images, margin = x.clone(), _margins(score, x, labels)
    for restart in range(restarts):
        for rows in torch.arange(len(x), device=x.device).split(score.batch):
            draws = [image_generator(seed, restart, number) for number in rows.tolist()]
            z = budget.project(x[rows], x[rows] + random_start(budget, x[rows], draws, 1.0))
            for _ in range(iterations):
                z = budget.project(x[rows], budget.move(z, _slope(score, z, labels[rows]), step))
                ahead = _margins(score, z, labels[rows])
                better = ahead > margin[rows]
                images[rows[better]], margin[rows[better]] = z[better], ahead[better]
    told = {"attack": "pgd", **budget.told(), "iterations": iterations, "step": step, "restarts": restarts}
    return Perturbed(images, (margin <= 0).cpu(), margin.cpu(), {**told, "seed": seed})


def adversarial_accuracy(score: Score, labels: Tensor, perturbed: Perturbed) -> Measure:
    """Share of the perturbed images that are classified right, of all images: those wrong from the start count."""
    right = (score.predictions(perturbed.images) == labels).double().cpu()
    return Measure("adversarial-accuracy", right, None, dict(perturbed.settings))


def _slope(score: Score, x: Tensor, labels: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        loss = F.cross_entropy(score.network(x.clone()), labels, reduction="sum")
        return torch.autograd.grad(loss, x)[0]


@torch.no_grad()
def _margins(score: Score, x: Tensor, labels: Tensor) -> Tensor:
    """(N,) float64: logit of the strongest other class less that of the label; above zero if misclassified."""
    found = []
    for rows in torch.arange(len(x), device=x.device).split(score.batch):
        logits, here = score.network(x[rows].clone()).double(), labels[rows].unsqueeze(1)
        others = logits.scatter(1, here, -torch.inf).amax(1)
        found.append(others - logits.gather(1, here).squeeze(1))
    return torch.cat(found)
