"""Refine: the first half of the layers moved together, down the gradient, where closed forms one by one fall short.

A closed form asks of each layer what that layer alone can do. A fault that lies over the whole image (a blend, a wave)
is taken apart by several layers together, and a layer that is solved before the others are known pays for it in clean
accuracy. So the untouched network is the start of a short descent in the weights of its first layers on

    2 KL(teacher(x) || student(x)) + KL(teacher(x) || student(c(x)))
        + 600 mean_l ( 2 ||h_l(x) - t_l(x)||^2 + ||h_l(c(x)) - t_l(x)||^2 ) / ||t_l(x)||^2

for unlabelled clean images x (shifted, mirrored, mixed), the fault c that was carried over, the activations h of the
student and t of the untouched network, at all depths: Hinton et al. 2015 and Romero et al. 2015, with the fault as the
student's input and the clean image as the teacher's.

The first half alone moves: what is not taken out there can be taken out later only by layers that see few positions of
an image, and learn a few hundred images by heart. Moving all layers cost a CIFAR-10 network nearly three times
the accuracy and kept less of the recovery (benchmarks/results/refining.md). In a network of few layers the first half
can be too little to take a fault out with: then more move, or all.

Steps are orthogonalised momentum (Muon, Jordan et al. 2024), taken in coordinates in which the layer's clean keys have
the identity for a second moment: with ``C = L L^T`` the gradient G of a weight W becomes that of ``V = W L``, namely
``G L^-T``, and a step D of V is ``D L^-1`` of W. A step then changes what a layer gives on clean images by a known
share of its norm, and goes furthest in directions that clean keys hardly use, where the fault can be taken out at no
cost: the metric of the closed forms. Together with this the activations weigh nearly all. Where a layer sees few keys C
is shrunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rectify.editing.cascade import LayerEdit, whole_rank
from rectify.editing.guess import Corruption
from rectify.editing.localize import second_moments
from rectify.editing.solve import DAMPING, factor
from rectify.editing.values import bind
from rectify.editing.views import shifted, shifted_alike
from rectify.model.copies import copied
from rectify.model.layers import Layer
from rectify.model.passes import images_a_pass
from rectify.model.record import readable, record
from rectify.model.trace import Site

SHARES = (1 / 2, 2 / 3, 1.0)  # of the layers, from the front, that move: more than half only where that is too little
STEPS = 400
BATCH = 64  # clean images a step; as many corrupted ones go with them
RATE = 0.01  # of a step's norm to the weight's, in the metric of clean keys, at the beginning; 0.04 diverged on CIFAR
MOMENTUM = 0.9
WARM_UP = 10
CLEAN = 2.0  # weight of clean images; with 1 a CIFAR-10 blend kept 0.3 points less accuracy, and no more recovery
FEATURES = 600.0  # weight of the activations' misfit beside the two divergences: nearly all
SPARSE, MOST_SHRINKAGE = 0.1, 0.3  # of a layer's second moment: times inputs a key, and at most
LEAST_STEPS = 80  # fewer are not worth beginning
WORK = {"cpu": 8.05e13, "cuda": 2e15}  # `effort` that a whole refinement may cost; its trial costs half
MOVING = 600  # multiplications in the time that it takes to hand on one number: norms, activations, both ways
# Of student, teacher, layers' names, clean images, corrupted ones and weights: the gradients of these weights, None for
# one that has no part in what is compared.
Slope = Callable[[nn.Module, nn.Module, Sequence[str], Tensor, Tensor, Sequence[Tensor]], list[Tensor | None]]
_QUINTIC = (3.4445, -4.7750, 2.0315)  # coefficients of the Newton-Schulz iteration (Jordan et al. 2024)


@dataclass(frozen=True)
class Plan:
    """How a refinement goes: steps, images a step, relative size of the first step, seed, share of layers that move.

    ``shift``: whether images are shifted. A fault that moves what it finds does other things to images that are off
    their place than to those that the network is given: on a Fashion-MNIST ConvNeXt 81 % of the warped images got
    their class again with shifts, and 86 % without. ``after``: whether images and corrupted twins are shifted alike
    once the fault is on them. Where a network knows shifted images a warp is best taken out with both, where not with
    neither (docs/policy.md).
    """

    steps: int = STEPS
    batch: int = BATCH
    rate: float = RATE
    seed: int = 0
    share: float = SHARES[0]
    shift: bool = True
    after: bool = False


def early(sites: Sequence[Site], share: float) -> tuple[Site, ...]:
    """The first of these layers, such a share of them but at least one, in forward order."""
    ordered = sorted(sites, key=lambda site: site.order)
    return tuple(ordered[: max(1, round(share * len(ordered)))])


def affordable_steps(network: nn.Module, sites: Sequence[Site], example: Tensor, batch: int = BATCH) -> int:
    """Steps that the device can afford, at most ``STEPS``; 0 if they are too few to be of use.

    Counted, not timed, so that equal inputs give equal files. ``example`` is (1, C, H, W).
    """
    work = WORK.get(example.device.type, WORK["cpu"])
    one = 7 * batch * max(effort(network, sites, example), 1)  # teacher 1; student 2 forward, 4 backward
    steps = min(STEPS, int(work / one))
    return steps if steps >= LEAST_STEPS else 0


def effort(network: nn.Module, sites: Sequence[Site], example: Tensor) -> int:
    """What one image costs in these layers, in multiplications: positions times weights, and ``MOVING`` an output.

    Where layers have few inputs (pointwise, depthwise) memory takes most of the time: on one core a ResNet-18 of width
    64 does 76 billion multiplications a second forward and backward, EfficientNet-Lite0 nine.
    """
    total, places = 0, positions(network, sites, example)
    for site in sites:
        groups, outputs, _ = site.layer.weight().shape
        total += places[site.name] * (site.layer.module.weight.numel() + MOVING * groups * outputs)
    return total


def positions(network: nn.Module, sites: Sequence[Site], example: Tensor) -> dict[str, int]:
    """Of each of these layers the number of keys that it sees in one image, ``example`` (1, C, H, W)."""
    outputs = record(network, example, outputs=[site.layer for site in sites]).outputs
    return {site.name: int(site.layer.values(outputs[site.name], len(example)).shape[-1]) for site in sites}


def shrinkage(inputs: int, keys: int) -> float:
    """How far a layer's second moment of so many keys is shrunk before it is taken for the metric.

    Of few keys it knows few directions, and takes all others for such as clean images do not use: there a step would
    go furthest, and teach the layer these images by heart.
    """
    return min(MOST_SHRINKAGE, max(DAMPING, SPARSE * inputs / keys))


def refined(
    network: nn.Module,
    sites: Sequence[Site],
    images: Tensor,
    faults: Sequence[Corruption],
    plan: Plan,
    advance: Callable[[int], None] = lambda n: None,
    slope: Slope | None = None,
) -> nn.Module:
    """A copy of the network in which the weights of the first of these layers have moved; nothing else of it differs.

    Parameters
    ----------
    network
        The untouched one, in eval mode: the start, and the teacher.
    sites
        All candidate layers: the `early` ones move, and what reaches the later ones is compared.
    images
        (N, C, H, W) clean images.
    faults
        What carries the fault over to them; they take turns.
    slope
        What the steps go down; that of `misfit` if None.
    """
    student = copied(network).requires_grad_(False)
    moving = early(sites, plan.share)
    clean_moments = second_moments(network, moving, images)
    keys = {name: len(images) * values for name, values in positions(network, moving, images[:1]).items()}
    movers = []
    for site in moving:
        moment = clean_moments.pop(site.name)
        fit = factor(moment, shrinkage(moment.shape[-1], keys[site.name]))
        movers.append(Mover(bind(student, site).layer, fit.lower))
    names = watched(sites)
    batches, generator = _batches(images, plan), torch.Generator().manual_seed(plan.seed)
    for step in range(plan.steps):
        clean = next(batches)
        twins = clean, faults[step % len(faults)].apply(clean)
        if plan.after:
            twins = shifted_alike(*twins, generator)
        gradients = (slope or misfit_slope)(student, network, names, *twins, [mover.weight for mover in movers])
        for mover, gradient in zip(movers, gradients, strict=True):
            if gradient is not None:  # an auxiliary head has no part in what is compared
                mover.step(gradient, _rate(plan, step))
        advance(1)
    return student.requires_grad_(False)


class Mover:
    """One weight and its momentum, moved in the coordinates ``V = W L`` in which clean keys are white.

    Parameters
    ----------
    layer
        Whose weight, seen as a matrix (G, o, d), moves; it will require a gradient.
    root
        L, (G, d, d) lower triangular, with ``L L^T`` the (damped) second moment of the layer's clean keys.
    """

    def __init__(self, layer: Layer, root: Tensor) -> None:
        self.weight = layer.module.weight.requires_grad_(True)
        matrix = layer.weight().detach()
        self.root = root.to(matrix)
        self.size = float((matrix @ self.root).norm())  # of V: root of the mean squared norm of what the layer gives
        self.momentum = torch.zeros_like(matrix)

    @torch.no_grad()
    def step(self, gradient: Tensor, rate: float) -> None:
        """Move the weight down a gradient of its own shape, by ``rate`` (a share) of the norm that V had at the start.

        The momentum is that of Nesterov, on ``G L^-T``; see the head of this module for the metric and its source.
        """
        matrix = gradient.reshape(self.momentum.shape)
        white = torch.linalg.solve_triangular(self.root.mT, matrix, upper=True, left=False)  # G L^-T
        self.momentum.mul_(MOMENTUM).add_(white)
        direction = orthogonalise(white + MOMENTUM * self.momentum)
        back = torch.linalg.solve_triangular(self.root, direction, upper=False, left=False)  # D L^-1
        scale = rate * self.size / direction.norm().clamp_min(1e-12)
        self.weight.sub_((scale * back).reshape(self.weight.shape))


@dataclass(frozen=True)
class Wish:
    """What the untouched network makes of clean images.

    Attributes
    ----------
    answers
        Log-probabilities, (N, classes).
    activations
        By layer, N times as many numbers as one image has.
    sizes
        By layer, the mean square of the activations; of a part of the images that of all.
    """

    answers: Tensor
    activations: dict[str, Tensor]
    sizes: dict[str, Tensor]

    def of(self, rows: slice) -> Wish:
        """What it makes of some of the images."""
        count = len(self.answers)
        activations = {name: values.reshape(count, -1)[rows] for name, values in self.activations.items()}
        return Wish(self.answers[rows], activations, self.sizes)


@torch.no_grad()
def wish(teacher: nn.Module, names: Sequence[str], clean: Tensor, batch: int) -> Wish:
    """What the untouched network makes of clean images (N, C, H, W), so many a pass."""
    answers: list[Tensor] = []
    parts: dict[str, list[Tensor]] = {}
    for images in clean.split(batch):
        with inputs_of(teacher, names) as seen:
            answers.append(teacher(images.clone()).float().log_softmax(1))
        for name, values in seen.items():
            parts.setdefault(name, []).append(values)
    activations = {name: torch.cat(values) for name, values in parts.items()}
    return Wish(torch.cat(answers), activations, {name: _size(values) for name, values in activations.items()})


def misfit(student: nn.Module, names: Sequence[str], clean: Tensor, corrupted: Tensor, wanted: Wish) -> Tensor:
    """The loss of this module's head, a scalar, on clean images (N, C, H, W) and their corrupted twins."""
    count = len(clean)
    with torch.enable_grad(), inputs_of(student, names) as seen:
        output = student(torch.cat((clean, corrupted))).float().log_softmax(1)
        loss = CLEAN * divergence(wanted.answers, output[:count]) + divergence(wanted.answers, output[count:])
        features = [name for name in names if name in seen and name in wanted.activations]
        for name in features:
            once, twice = apart(seen[name], wanted.activations[name], wanted.sizes[name])
            loss = loss + FEATURES / len(features) * (CLEAN * once + twice)
    return loss


def misfit_slope(
    student: nn.Module,
    teacher: nn.Module,
    names: Sequence[str],
    clean: Tensor,
    corrupted: Tensor,
    weights: Sequence[Tensor],
) -> list[Tensor | None]:
    """Gradients of `misfit` for these weights; None for one that has no part in it.

    As many images are taken at a time as the device likes. The loss is a mean over images, but for what activations
    are measured by, which is known beforehand: so the gradients add up to those of all at once.
    """
    batch = max(1, images_a_pass(clean, 2 * len(clean)) // 2)  # corrupted twins go with them
    wanted = wish(teacher, names, clean, batch)
    total: list[Tensor | None] = [None] * len(weights)
    for start in range(0, len(clean), batch):
        rows = slice(start, start + batch)
        part = wanted if batch >= len(clean) else wanted.of(rows)
        value = misfit(student, names, clean[rows], corrupted[rows], part) * (len(part.answers) / len(clean))
        for number, gradient in enumerate(torch.autograd.grad(value, list(weights), allow_unused=True)):
            if gradient is not None:
                so_far = total[number]
                total[number] = gradient if so_far is None else so_far + gradient
    return total


def apart(mine: Tensor, its: Tensor, size: Tensor | None = None) -> Tensor:
    """Mean squared distance of activations (2 N, ...) from those wanted, (N, ...), relative to the wanted mean square.

    (2,): of the first half, clean images, and of the second, their corrupted twins. ``size``: the mean square, if it
    is not that of these.
    """
    halves, wanted = mine.reshape(2, -1), its.reshape(1, -1)
    return (halves - wanted).square().mean(1) / (_size(its) if size is None else size)


def _size(values: Tensor) -> Tensor:
    """Mean square, but not zero."""
    return values.square().mean().clamp_min(1e-12)


def divergence(target: Tensor, output: Tensor) -> Tensor:
    """Mean KL of log-probabilities (N, classes)."""
    return F.kl_div(output, target, reduction="batchmean", log_target=True)


def watched(sites: Sequence[Site]) -> list[str]:
    """Layers whose input shall be as the teacher's: those that read a block's output, or all but the first."""
    ordered = sorted(sites, key=lambda site: site.order)
    behind = [after.name for before, after in pairwise(ordered) if before.join is not None]
    return behind or [site.name for site in ordered[1:]]


def orthogonalise(matrix: Tensor, rounds: int = 5) -> Tensor:
    """Nearly ``U V^T`` of the singular value decomposition of (G, o, d), group by group.

    A Newton-Schulz iteration: singular values end between about 0.7 and 1.2, which is near enough for a direction.
    """
    a, b, c = _QUINTIC
    x = matrix / matrix.flatten(1).norm(dim=1)[:, None, None].clamp_min(1e-30)
    flipped = x.shape[1] > x.shape[2]
    x = x.mT if flipped else x
    for _ in range(rounds):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x.mT if flipped else x
    return result


def difference(student: nn.Module, network: nn.Module, sites: Sequence[Site]) -> list[LayerEdit]:
    """What must be added to these layers of the network to get the student's, as edits of whole rank; if anything."""
    edits = []
    for site in sorted(sites, key=lambda s: s.order):
        new, old = (bind(n, site).layer.weight() for n in (student, network))
        if torch.equal(new, old):  # it had no part in what was compared
            continue
        edits.append(whole_rank(site.name, new.double() - old.double()))
    return edits


def _rate(plan: Plan, step: int) -> float:
    """A cosine from ``plan.rate`` to zero, after a linear warm-up."""
    return plan.rate * 0.5 * (1 + math.cos(math.pi * step / plan.steps)) * min(1.0, (step + 1) / WARM_UP)


def _batches(images: Tensor, plan: Plan) -> Iterator[Tensor]:
    """Endless batches of shifted and mirrored images, half of them mixed with another."""
    generator = torch.Generator().manual_seed(plan.seed)
    number = 0
    while True:
        chosen = torch.randint(0, len(images), (plan.batch,), generator=generator).to(images.device)
        x = shifted(images[chosen], plan.seed + number, shift=plan.shift)
        share = torch.rand(plan.batch, 1, 1, 1, generator=generator)
        share = torch.where(torch.rand(plan.batch, 1, 1, 1, generator=generator) < 0.5, share, 1.0).to(x)
        yield share * x + (1 - share) * x[torch.randperm(plan.batch, generator=generator).to(x.device)]
        number += 1


@contextmanager
def inputs_of(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """What these layers are called with while the context is open."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen[name] = args[0].float() if torch.is_grad_enabled() else args[0].float().clone()

        return hook

    handles = [network.get_submodule(name).register_forward_pre_hook(keep(name)) for name in names]
    try:
        with readable():
            yield seen
    finally:
        for handle in handles:
            handle.remove()
