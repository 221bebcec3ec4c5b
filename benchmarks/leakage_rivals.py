"""What else could be done about a leaking network: the rivals of ``benchmarks.leakage``, each with what it may see.

The rows beside ours in Table 5 of arXiv 2603.15656, whose settings are not published:

- fine-tuning on the pair, the image with and without its null block, by its class;
- fine-tuning on 5 % of the training images with their labels, each with and without its null block, which only one who
  knows where the block is can take out;
- IG-SUM-NORM (Chen et al. 2019, section 3.3) on the same labelled images, as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rectify.training.inner import Ball
from rectify.training.objectives import ig_sum_norm

BATCH, VALIDATION, TOLERANCE = 64, 0.2, 0.01
PAIR_RATES, PAIR_STEPS, SURE = (1e-5, 1e-4, 1e-3), 100, 0.9
RATES, EPOCHS = (0.003, 0.01, 0.03), 6
EPS, IG_BATCH, IG_STEPS, IG_RATE, POINTS, ATTACK_POINTS, SEARCH = 0.1, 32, 80, 1e-3, 5, 1, 5
Made = tuple[str, nn.Module]


@dataclass(frozen=True)
class Seen:
    """What the rivals may look at; images (N, C, H, W), normalised, classes (N,).

    Attributes
    ----------
    pair
        One image as it is and without its null block, (2, C, H, W), and its class.
    label
        That class.
    calibration
        Unlabelled images.
    whole, without, labels
        5 % of the training set as it is and without the null blocks, with the right classes.
    bounds
        The values of black and white, (C, 1, 1) each.
    """

    pair: Tensor
    label: int
    calibration: Tensor
    whole: Tensor
    without: Tensor
    labels: Tensor
    bounds: tuple[Tensor, Tensor]
    seed: int

    @property
    def cut(self) -> int:
        """The labelled images before it are learnt from, those behind it choose the setting."""
        return int((1 - VALIDATION) * len(self.labels))


@torch.no_grad()
def guesses(network: nn.Module, images: Tensor) -> Tensor:
    """Classes, (N,)."""
    network.eval()
    return torch.cat([network(part).argmax(1) for part in images.split(500)])


def on_the_pair(network: nn.Module, seen: Seen) -> Made:
    """Cross entropy of both images, batch norms kept; the largest rate that changes few calibration images."""
    before = guesses(network, seen.calibration)
    labels = torch.full((2,), seen.label)

    def made(rate: float) -> nn.Module:
        student = copy.deepcopy(network).eval().requires_grad_(True)
        optimiser = torch.optim.SGD(student.parameters(), rate, momentum=0.9)
        for _ in range(PAIR_STEPS):
            output = student(seen.pair)
            if float(output.detach().softmax(1)[:, seen.label].min()) >= SURE:
                break
            optimiser.zero_grad(set_to_none=True)
            F.cross_entropy(output, labels).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        return student.requires_grad_(False)

    def loses(student: nn.Module) -> float:
        return float((guesses(student, seen.calibration) != before).float().mean())

    return _strongest(PAIR_RATES, made, loses)


def on_labelled(network: nn.Module, seen: Seen) -> Made:
    """SGD on the labelled images with and without their null blocks."""
    images = torch.cat((seen.whole[: seen.cut], seen.without[: seen.cut]))
    labels = seen.labels[: seen.cut].repeat(2)

    def made(rate: float) -> nn.Module:
        student = copy.deepcopy(network).train().requires_grad_(True)
        optimiser = torch.optim.SGD(student.parameters(), rate, momentum=0.9, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS * (len(labels) // BATCH))
        generator = torch.Generator().manual_seed(seen.seed)
        for _ in range(EPOCHS):
            order = torch.randperm(len(labels), generator=generator)
            for rows in order[: len(labels) // BATCH * BATCH].split(BATCH):
                optimiser.zero_grad(set_to_none=True)
                F.cross_entropy(student(images[rows]), labels[rows]).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
        return student.eval().requires_grad_(False)

    before = _wrong(network, seen)
    return _strongest(RATES, made, lambda student: _wrong(student, seen) - before)


def ig_sum(network: nn.Module, seen: Seen) -> Made:
    """IG-SUM-NORM from the network's weights; the ball grows over the first half of the steps."""
    student = copy.deepcopy(network).train().requires_grad_(True)
    optimiser = torch.optim.Adam(student.parameters(), IG_RATE)
    generator = torch.Generator().manual_seed(seen.seed)
    for step in range(IG_STEPS):
        rows = torch.randint(0, seen.cut, (IG_BATCH,), generator=generator)
        eps = EPS * min(1.0, 2 * (step + 1) / IG_STEPS)
        ball = Ball(eps, eps / 4, SEARCH, seen.bounds)
        how = {"weight": 0.1, "points": POINTS, "attack_points": ATTACK_POINTS, "generator": generator}
        loss = ig_sum_norm(student, seen.whole[rows], seen.labels[rows], ball, **how)  # type: ignore[arg-type]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return f"eps {EPS:g}", student.eval().requires_grad_(False)


RIVALS: dict[str, Callable[[nn.Module, Seen], Made]] = {
    "fine-tuning on the pair": on_the_pair,
    "fine-tuning on 5 % labelled, with and without the block": on_labelled,
    "IG-SUM on 5 % labelled": ig_sum,
}
SETTINGS = f"""*Fine-tuning on the pair*: SGD at {", ".join(f"{r:g}" for r in PAIR_RATES)} until both
images have their class with {SURE:g}, at most {PAIR_STEPS} steps, batch norms kept; the
largest rate that changes the class of no more than 1 % of the calibration images. *On 5 % labelled*:
{EPOCHS} epochs of SGD at {", ".join(f"{r:g}" for r in RATES)}; the largest rate that loses no more than 1 point on the
fifth of them that is kept aside. *IG-SUM*: {IG_STEPS} steps of {IG_BATCH} images, Adam {IG_RATE:g}, eps {EPS:g} of the
range of pixels, {POINTS} path points with {ATTACK_POINTS} in the attack of {SEARCH} steps: {IG_STEPS * IG_BATCH:,}
images in all, where the `-quick` presets of training take 40,000.
"""


def _wrong(network: nn.Module, seen: Seen) -> float:
    """Error on the images that choose."""
    return float((guesses(network, seen.whole[seen.cut :]) != seen.labels[seen.cut :]).float().mean())


def _strongest(rates: Sequence[float], made: Callable[[float], nn.Module], loses: Callable[[nn.Module], float]) -> Made:
    """Of ascending rates the last whose network loses no more than the tolerance, else the one that loses least."""
    tried = [(rate, student, loses(student)) for rate in rates for student in [made(rate)]]
    within = [one for one in tried if one[2] <= TOLERANCE]
    rate, student, _ = within[-1] if within else min(tried, key=lambda one: one[2])
    return f"rate {rate:g}", student
