"""UNI: unlearning-based neural interpretations (arXiv 2410.08069, Algorithm 1).

The baseline is found, not chosen: take one normalised step of gradient *ascent* on the loss in weight space, so that
the network unlearns this image; then move the image until the untouched network answers as the unlearned one did.

    theta^ = theta + eta * g / ||g||,  g = grad_theta L(F(x; theta), y)
    T times:  C = KL(F(x; theta^) || F(x + delta; theta))
              delta <- delta - mu * grad_delta C,  then  delta <- eps * delta / ||delta||
    x' = x + delta
    A_i = (x_i - x'_i) / B * sum_{k=1..B} dF_c/dx_i(x' + k/B (x - x'))

With a baseline learned from the model, linearity and implementation invariance hold for a fixed baseline only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from rectify.attribution.attribution import Attribution, Settings
from rectify.attribution.integrated_gradients import along_line
from rectify.attribution.score import Score, value_and_gradient
from rectify.errors import UsageError

STEPS = 15  # B
RULE = "right-riemann"
CHOICES = {
    "space": ("normalised", "pixels"),
    "project": ("sphere", "ball"),
    "clip": ("none", "clamp"),
    "target": ("unlearned", "uniform"),
}


@dataclass(frozen=True)
class Unlearning:
    """How a baseline is found; the defaults are the paper's, and those it does not print are marked (U).

    Attributes
    ----------
    eta
        Length of the step in weight space.
    turns
        T, descents of the image.
    eps
        (U) Radius of the sphere in the L2 norm.
    mu
        (U) Step size of the descent.
    space
        (U) What ``eps`` and ``mu`` are measured in: the network's ``normalised`` input, or ``pixels`` in 0..1.
    project
        ``sphere`` (each turn ends at distance eps) or ``ball`` (at most eps).
    clip
        ``none``, or ``clamp`` the baseline to the pixel range.
    target
        ``unlearned``: the unlearned network's answer; ``uniform``: the same probability for every class.
    """

    eta: float = 1.0
    turns: int = 10
    eps: float = 0.25
    mu: float = 0.1
    space: str = "normalised"
    project: str = "sphere"
    clip: str = "none"
    target: str = "unlearned"

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise UsageError(f"uni {name} is {' or '.join(known)}, not {getattr(self, name)!r}")
        if self.turns < 1 or self.eps <= 0 or self.mu <= 0:
            raise UsageError("uni needs at least one turn, and eps and mu above 0")

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Unlearning:
        """From `Settings.options`; what concerns other methods is passed over.

        Raises
        ------
        UsageError
            If a value makes no sense.
        """
        return cls(**{field.name: options[field.name] for field in fields(cls) if field.name in options})


def uni(score: Score, x: Tensor, targets: Tensor, settings: Settings) -> Attribution:
    """UNI maps: integrated gradients from the unlearned baseline.

    Parameters
    ----------
    score
        F; the paper's is the probability.
    x, targets
        Images (N, C, H, W) and classes (N,).
    settings
        ``steps`` (15), ``rule`` (right Riemann), ``options`` with the fields of `Unlearning`.

    Raises
    ------
    UsageError
        An option that makes no sense, or one that needs the pixel range without `Settings.bounds`.
    """
    how = Unlearning.from_options(settings.options)
    baseline = unlearned_baseline(score, x, targets, how, settings.bounds)
    settings = replace(settings, rule=settings.rule or RULE, baseline=baseline)
    found = along_line(score, x, targets, baseline, settings, STEPS if settings.steps is None else settings.steps)
    return replace(found, settings={**found.settings, "baseline": "unlearned", **asdict(how)})


def unlearned_baseline(
    score: Score, x: Tensor, targets: Tensor, how: Unlearning, bounds: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """The baselines x' of images (N, C, H, W) for classes (N,).

    ``bounds`` are the values of a black and of a white pixel, needed for ``space="pixels"`` and ``clip="clamp"``.
    """
    if bounds is None and (how.space == "pixels" or how.clip == "clamp"):
        raise UsageError("uni in pixels, or clamped, needs the values of a black and of a white pixel")
    unit = torch.ones(1) if bounds is None or how.space == "normalised" else bounds[1] - bounds[0]
    unit = unit.to(x)
    answers = _targets_of_descent(score, x, targets, how)
    parts = []
    for i in range(0, len(x), score.batch):
        some, wanted = x[i : i + score.batch], answers[i : i + score.batch]
        parts.append(some + unit * _descend(score.network, some, wanted, how, unit))
    moved = torch.cat(parts)
    if how.clip == "clamp" and bounds is not None:
        moved = moved.clamp(bounds[0].to(x), bounds[1].to(x))
    return moved


def _targets_of_descent(score: Score, x: Tensor, targets: Tensor, how: Unlearning) -> Tensor:
    """(N, classes): the distribution that the baseline is to be given."""
    if how.target == "uniform":
        with torch.no_grad():
            classes = score.network(x[:1]).shape[1]
        return torch.full((len(x), classes), 1 / classes, dtype=x.dtype, device=x.device)
    return torch.cat(
        [unlearned_answer(score.network, x[i : i + 1], targets[i : i + 1], how.eta) for i in range(len(x))]
    )


def unlearned_answer(network: nn.Module, image: Tensor, target: Tensor, eta: float) -> Tensor:
    """F(x; theta^), (1, classes) probabilities of the network after one normalised step of ascent on *this* image.

    The network itself is not touched; theta^ takes the place of the gradient, so that there is one copy of the weights.
    """
    weights = {name: p.detach().requires_grad_(True) for name, p in network.named_parameters()}
    with torch.enable_grad():
        loss = F.cross_entropy(functional_call(network, weights, (image,)), target)
        found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    moved = {name: g for name, g in zip(weights, found, strict=True) if g is not None}
    del found
    norm = float(torch.stack([g.norm() for g in moved.values()]).double().norm()) if moved else 0.0
    # at a probability of exactly one there is nothing to ascend: theta^ is theta
    _step(moved, weights, eta / norm if norm > 0 else 0.0)
    with torch.no_grad():
        answer: Tensor = functional_call(network, moved, (image,)).softmax(1)
    return answer


def _step(gradients: dict[str, Tensor], weights: Mapping[str, Tensor], length: float) -> None:
    """Each gradient becomes weight + length * gradient, in its own memory where no other gradient lies there too."""
    users = Counter(g.untyped_storage().data_ptr() for g in gradients.values())
    for name, gradient in gradients.items():
        alone = users[gradient.untyped_storage().data_ptr()] == 1 and gradient.is_contiguous()
        mine = gradient if alone else gradient.clone()
        gradients[name] = mine.mul_(length).add_(weights[name].detach())


def _descend(network: nn.Module, x: Tensor, answer: Tensor, how: Unlearning, unit: Tensor) -> Tensor:
    """delta, (N, C, H, W) in ``unit``s: T descents of KL(answer || F(x + delta))."""

    def divergence(moved: Tensor, _: Tensor) -> Tensor:
        return F.kl_div(network(moved).log_softmax(1), answer, reduction="none").sum(1)

    delta = torch.zeros_like(x)
    nobody = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    for _ in range(how.turns):
        _, gradient = value_and_gradient(divergence, x + unit * delta, nobody)
        delta = delta - how.mu * unit * gradient
        norm = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        onto = how.eps / norm.clamp_min(torch.finfo(norm.dtype).tiny)
        if how.project == "ball":
            onto = onto.clamp_max(1)
        delta = torch.where(norm > 0, onto * delta, delta)
    return delta
