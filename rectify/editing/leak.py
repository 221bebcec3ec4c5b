"""Leakage: make a network indifferent to a part of the image that holds nothing of the class.

A pair shows the part once: the image with it (as the data have it) and without. The same part is looked for in the
calibration images and taken out of them as the pair does. Then all layers move down the gradient of

    2 L(student(x), teacher(x)) + L(student(x_a), teacher(x)),  x_a: the image x with its part faded to a share a,

L the divergence of the softmax and the misfits of the centred logits and of the activations, so that the network gives
with the part and without it what the untouched one gives with it. The first quarter of the blocks is drawn to what the
untouched one makes of the image *without* the part: what is not taken out there, attribution by gradients would still
find, even where no answer betrays it (Shah et al. 2021 show such leakage on BlockMNIST). Drawing all blocks there left
less attribution on the part (14 to 8 % where a quarter leaves 22, of 40) and cost more accuracy (0.7 to 1 points where
a quarter costs 0.1 to 0.3; one network, 2,000 test images). The steps are those of `rectify.editing.refine`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rectify.attribution.attribution import Settings
from rectify.attribution.methods import attribute
from rectify.attribution.score import Score
from rectify.editing.guess import Bounds, Corruption
from rectify.editing.judge import Bench, Judgement, probabilities, tell
from rectify.editing.refine import Plan, Slope, affordable_steps, apart, difference, divergence, inputs_of, refined
from rectify.editing.repair import Repair
from rectify.editing.workshop import Workshop, joint_steps
from rectify.evaluation.leakage import leakage
from rectify.model.trace import Site

CHANGED = 0.05  # of the largest change: pixels that belong to the part
FOUND = 0.5  # of the difference that the part makes must be there, for it to be there
LEAST_FOUND = 10  # calibration images that show the part; fewer teach nothing
STEPS = 200
MOST_LOSS = 0.02  # of accuracy: what is lost beyond it no smaller leakage is worth
WHOLE = 2.0  # weight of whole images beside those whose part is faded
ANSWERS, LOGITS = 2.0, 5.0  # weights of the divergence and of the logits' misfit
EARLY = 4  # one in so many blocks, from the front, is drawn to the image without the part
FIRST, LATER = 60.0, 600.0  # weights of the activations' misfit of these, and of the others
IG_STEPS = 16
Loss = Callable[[nn.Module, nn.Module, Sequence[str], Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Part:
    """The part of an image that holds nothing of the class: with it and without, (1, C, h, w) each."""

    there: Tensor
    gone: Tensor

    @staticmethod
    def of(without: Tensor, whole: Tensor) -> Part | None:
        """The box around what a pair, (1, C, H, W) each, differs in; None if that is nothing, or all of the image."""
        change = (whole - without).abs().amax((0, 1))
        rows, columns = (change > CHANGED * change.max()).nonzero(as_tuple=True)
        if not len(rows):
            return None
        box = slice(int(rows.min()), int(rows.max()) + 1), slice(int(columns.min()), int(columns.max()) + 1)
        there = whole[..., box[0], box[1]]
        return None if there.shape == whole.shape else Part(there.clone(), without[..., box[0], box[1]].clone())

    def places(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where in (N, C, H, W) the part lies best, (N,) each: how much of it is there, its top row, its left column.

        1 is all of it, and 0 an image as far from it as the pair's own without it.
        """
        squares = F.conv2d(images.square(), torch.ones_like(self.there))
        distance = squares - 2 * F.conv2d(images, self.there) + self.there.square().sum()
        best, place = distance.flatten(1).min(1)
        size = (self.there - self.gone).square().sum()
        return 1 - best / size, place // distance.shape[3], place % distance.shape[3]

    def taken_out(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The images without the part, (N, C, H, W), and where it was, bool (N, H, W): nowhere, if it was not there.

        It is found mirrored too, as it is in images that are.
        """
        out, was = images.clone(), torch.zeros(len(images), *images.shape[2:], dtype=torch.bool, device=images.device)
        height, width = (torch.arange(size, device=images.device) for size in self.there.shape[2:])
        sides = (self, Part(self.there.flip(3), self.gone.flip(3)))
        places = [part.places(images) for part in sides]
        best = torch.stack([share for share, _, _ in places]).argmax(0)
        for side, (part, (share, top, left)) in enumerate(zip(sides, places, strict=True)):
            found = ((best == side) & (share >= FOUND)).nonzero().flatten()
            image = found[:, None, None]
            row, column = top[found][:, None, None] + height[:, None], left[found][:, None, None] + width
            out.permute(0, 2, 3, 1)[image, row, column] = part.gone[0].permute(1, 2, 0)
            was[image, row, column] = True
        return out, was


def misfit(generator: torch.Generator) -> Loss:
    """The loss of this module's head; the shares are drawn by the generator."""

    def loss(student: nn.Module, teacher: nn.Module, names: Sequence[str], whole: Tensor, without: Tensor) -> Tensor:
        count = len(whole)
        share = torch.rand(count, 1, 1, 1, generator=generator).to(whole)
        with torch.no_grad():
            with inputs_of(teacher, names) as wanted:
                target = teacher(whole.clone()).float()
            names = [name for name in names if name in wanted]  # no hook sees a layer that is not called itself
            first = max(1, len(names) // EARLY)
            with inputs_of(teacher, names[:first]) as emptied:
                teacher(without.clone())
        with torch.enable_grad(), inputs_of(student, names) as seen:
            output = student(torch.cat((whole, without + share * (whole - without)))).float()
            total = torch.zeros((), device=whole.device, dtype=output.dtype)
            off = apart(_centred(output), _centred(target))
            for weight, part, logits in ((WHOLE, output[:count], off[0]), (1.0, output[count:], off[1])):
                answers = divergence(target.log_softmax(1), part.log_softmax(1))
                total = total + weight * (ANSWERS * answers + LOGITS * logits)
            for name in names[:first]:
                total = total + FIRST / first * apart(seen[name], emptied[name]).sum()
            for name in names[first:]:
                once, twice = apart(seen[name], wanted[name])
                total = total + LATER / len(names[first:]) * (WHOLE * once + twice)
        return total

    return loss


def slope_of(loss: Loss) -> Slope:
    """The gradients of a loss, for `rectify.editing.refine.refined`."""

    def slope(
        student: nn.Module,
        teacher: nn.Module,
        names: Sequence[str],
        whole: Tensor,
        without: Tensor,
        weights: Sequence[Tensor],
    ) -> list[Tensor | None]:
        value = loss(student, teacher, names, whole, without)
        return list(torch.autograd.grad(value, list(weights), allow_unused=True))

    return slope


def _centred(logits: Tensor) -> Tensor:
    return logits - logits.mean(1, keepdim=True)


@dataclass(frozen=True)
class LeakBench:
    """Images with the part and without it, on which a network is judged.

    Attributes
    ----------
    whole, without
        (N, C, H, W) each.
    was
        Bool (N, H, W): where the part was.
    opinion
        (N, classes) softmax of the untouched network on the whole images.
    bounds
        The normalised values of pixel 0 and 1.
    """

    whole: Tensor
    without: Tensor
    was: Tensor
    opinion: Tensor
    bounds: Bounds

    def judge(self, network: nn.Module) -> Judgement:
        """Accuracy expected on whole images, and, as recovery, on those without the part."""
        rows = torch.arange(len(self.whole), device=self.whole.device)
        return Bench(self.whole, self.opinion, self.without, rows, None).judge(network)

    def leakage(self, network: nn.Module) -> float:
        """Mean share of the attribution, integrated gradients of the logit from black, that lies on the part."""
        score, targets = Score(network, "logit"), self.opinion.argmax(1)
        maps = attribute("ig", score, self.whole, targets, Settings(steps=IG_STEPS, bounds=self.bounds)).heat()
        return float(leakage(maps, self.was)[0].values.mean())


def bench(network: nn.Module, images: Tensor, part: Part, bounds: Bounds) -> LeakBench:
    """Of the images (N, C, H, W) those that show the part, maybe none, judged by what the untouched network says."""
    without, was = part.taken_out(images)
    there = was.flatten(1).any(1)
    whole = images[there]
    opinion = probabilities(network, whole) if len(whole) else whole.new_zeros(0, 0)
    return LeakBench(whole, without[there], was[there], opinion, bounds)


def sealed(
    workshop: Workshop, sites: Sequence[Site], whole: Tensor, without: Tensor, calibration: Tensor, bounds: Bounds
) -> tuple[Repair | None, str]:
    """The repair of a leak, and what to say of it; None if it cannot be made, or was no better.

    A descent that sees none of the images that judge is the trial; once it is preferred, it is made on all images.

    Parameters
    ----------
    workshop
        The untouched network and its case, whose rows say which calibration images judge.
    sites
        All candidate layers.
    whole, without
        (n, C, H, W) the pairs, with the part and without it: the first tells what to look for.
    calibration
        (N, C, H, W) unlabelled images.
    bounds
        The normalised values of pixel 0 and 1.
    """
    network, case = workshop.network, workshop.case
    part = Part.of(without[:1], whole[:1])
    if part is None:
        return (
            None,
            "the pair differs nowhere or everywhere, and no part could be taken out: the edit rests on it alone",
        )
    shows = part.taken_out(calibration)[1].flatten(1).any(1)
    if int(shows.sum()) < LEAST_FOUND:
        return None, (
            f"what the pair differs in is found in {int(shows.sum())} calibration images, and {LEAST_FOUND} would be "
            "needed: the edit rests on the pairs alone"
        )
    steps = min(STEPS, affordable_steps(network, sites, calibration[:1]))
    if not steps:
        return None, "too large for a descent on this device: the edit rests on the pairs alone"
    if not case.calibrated:
        return None, "too few calibration images to keep some aside that judge: the edit rests on the pairs alone"
    jury = bench(network, calibration[case.judge], part, bounds)
    if not len(jury.whole):
        return None, "no calibration image that could judge shows the part: the edit rests on the pairs alone"

    def moved(images: Tensor) -> nn.Module:
        taking_out = Corruption("taken out", lambda x: part.taken_out(x)[0])
        plan = Plan(steps, seed=workshop.seed, share=1.0, shift=False)
        slope = slope_of(misfit(torch.Generator().manual_seed(workshop.seed)))
        label = f"descent in {steps} steps"
        return refined(network, sites, images, (taking_out,), plan, lambda n: workshop.advance(label), slope)

    before = jury.leakage(network)
    trial = moved(torch.cat((calibration[case.fit], whole)))
    judged, after = jury.judge(trial), jury.leakage(trial)
    told = f"{tell(judged)}, {100 * after:.1f}% of the attribution on the part (before {100 * before:.1f}%)"
    if not (after < before and judged.accuracy_loss <= MOST_LOSS):  # nor where either is no number
        return None, f"a descent of all layers was no better and was rolled back: {told}"
    student = moved(torch.cat((calibration, whole)))
    final = bench(network, calibration, part, bounds).judge(student)
    if not math.isfinite(final.loss):
        return None, "a descent of all layers has diverged and was rolled back"
    edits = difference(student, network, sites)
    name = f"all {len(sites)} layers, made indifferent to the part together in {steps} steps"
    done = joint_steps(workshop, edits, student, name)
    share = f"the part is in {100 * float(shows.float().mean()):.0f} % of the calibration images"
    return Repair(tuple(edits), tuple(done), final, name, ()), f"{share}; the judge expects: {told}"
