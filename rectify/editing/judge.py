"""Judge an edit without a label.

Does the edited network act on clean and on corrupted images as the untouched one did on clean ones?

The untouched network's own softmax on a clean image stands for the label. A prediction that changes where the network
was undecided costs little; one that changes where it was sure costs all. So the loss of accuracy is estimated from a
few hundred unlabelled images far more sharply than by counting agreements. What a judgement means is told here too:
whether a repair is whole, good enough to climb no further, doubtful, or worth refining.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rectify.model.passes import images_a_pass

WORST = 0.02  # share of the images that a divergence leaves out
# A repair is whole when the judge expects no more than this (one image of those judged is always allowed).
MOST_ACCURACY_LOSS = 0.004
MOST_RECOVERY_LOSS = 0.005
MOST_ASR = 0.005
MOST_PULL = 0.003
MOST_DIVERGENCE = 0.008
# Good enough to climb no further: larger rungs could gain what nobody would notice.
GOOD_ACCURACY_LOSS, GOOD_RECOVERY_LOSS, GOOD_PULL = 0.003, 0.006, 0.01
DOUBTFUL_ACCURACY_LOSS, DOUBTFUL_RECOVERY_LOSS, DOUBTFUL_ASR = 0.02, 0.05, 0.03  # a warning says so
WORTH_REFINING = GOOD_ACCURACY_LOSS + GOOD_RECOVERY_LOSS  # lost together: below it a refinement is not begun


@torch.no_grad()
def probabilities(network: nn.Module, x: Tensor, batch: int = 256) -> Tensor:
    """Softmax of the network on (N, C, H, W), (N, classes) float32."""
    batch = images_a_pass(x, batch)
    parts = [network(x[i : i + batch]).float().softmax(1) for i in range(0, len(x), batch)]
    return torch.cat(parts)


@dataclass(frozen=True)
class Judgement:
    """Estimates on images without labels; all fractions.

    Attributes
    ----------
    accuracy_loss
        Expected accuracy lost on clean images.
    recovery_loss
        Expected share of corrupted images that do not get their class back.
    asr
        Share of corrupted images sent to the target (of those that are not of that class); None without a target.
    pull
        Mean probability of the target on corrupted images, less what it is on their clean twins; None without a target.
        Finer than ``asr``: it sees the images that nearly fall.
    divergence
        Mean KL of the edited from the untouched network, clean plus corrupted, without the worst 2 % of the images of
        each (at least one): how far the network has moved where it still decides alike.
    images
        Number of clean and of corrupted images judged: no share is finer than one of them.
    """

    accuracy_loss: float
    recovery_loss: float
    asr: float | None
    pull: float | None
    divergence: float
    images: tuple[int, int]

    @property
    def loss(self) -> float:
        """What the search minimises; infinite where the network has diverged."""
        parts = (self.accuracy_loss, self.recovery_loss, self.pull or 0.0, self.divergence)
        if not all(math.isfinite(part) for part in parts):
            return math.inf
        return self.accuracy_loss + self.recovery_loss + max(self.pull or 0.0, 0.0) + 0.5 * min(self.divergence, 2.0)


@dataclass(frozen=True)
class Bench:
    """Clean images with the untouched network's opinion of them, and corrupted twins of some of them.

    Attributes
    ----------
    clean, opinion
        (N, C, H, W) and the untouched network's softmax there, (N, classes).
    corrupted, rows
        (M, C, H, W) and, for each, the row of its clean twin.
    target
        The class the fault drives to, or None.
    """

    clean: Tensor
    opinion: Tensor
    corrupted: Tensor
    rows: Tensor
    target: int | None

    def judge(self, network: nn.Module) -> Judgement:
        """Judge one edited network."""
        return compare(self, probabilities(network, self.clean), probabilities(network, self.corrupted))


def compare(bench: Bench, clean: Tensor, corrupted: Tensor) -> Judgement:
    """The judgement of a network that gives these softmax outputs on the bench's images."""
    wanted = bench.opinion[bench.rows]
    asr = pull = None
    if bench.target is not None:
        others = wanted.argmax(1) != bench.target
        if bool(others.any()):
            asr = float((corrupted.argmax(1) == bench.target)[others].float().mean())
            pull = float((corrupted[:, bench.target] - wanted[:, bench.target])[others].mean())
    divergence = _divergence(bench.opinion, clean) + _divergence(wanted, corrupted)
    lost = _expected_loss(bench.opinion, clean), _expected_loss(wanted, corrupted)
    return Judgement(*lost, asr, pull, divergence, (len(clean), len(corrupted)))


def _expected_loss(opinion: Tensor, output: Tensor) -> float:
    if not len(output):
        return 0.0
    kept = opinion.gather(1, output.argmax(1, keepdim=True)).squeeze(1)
    return float((opinion.amax(1) - kept).mean())


def _divergence(opinion: Tensor, output: Tensor) -> float:
    if not len(output):
        return 0.0
    floor = 1e-8
    each = (opinion * ((opinion + floor).log() - (output + floor).log())).sum(1).sort().values
    kept = len(each) - max(1, round(WORST * len(each)))
    return float(each[:kept].mean()) if kept > 0 else float(each.mean())


def is_whole(judgement: Judgement) -> bool:
    """Whether the judge expects accuracy and recovery to be kept and the attack to be gone."""
    one_clean, one = (1 / max(count, 1) for count in judgement.images)
    return (
        judgement.accuracy_loss <= max(MOST_ACCURACY_LOSS, one_clean)
        and judgement.recovery_loss <= max(MOST_RECOVERY_LOSS, one)
        and (judgement.asr or 0.0) <= max(MOST_ASR, one)
        and (judgement.pull or 0.0) <= max(MOST_PULL, one)
        and judgement.divergence <= MOST_DIVERGENCE
    )


def is_doubtful(judgement: Judgement) -> bool:
    """Whether people should be warned that much of other images is expected to be lost, or open to attack."""
    return (
        judgement.accuracy_loss > DOUBTFUL_ACCURACY_LOSS
        or judgement.recovery_loss > DOUBTFUL_RECOVERY_LOSS
        or (judgement.asr or 0.0) > DOUBTFUL_ASR
    )


def is_good(judgement: Judgement) -> bool:
    """Whether larger edits need not be tried."""
    return (
        judgement.accuracy_loss <= GOOD_ACCURACY_LOSS
        and judgement.recovery_loss <= GOOD_RECOVERY_LOSS
        and (judgement.pull or 0.0) <= GOOD_PULL
    )


def is_worth_refining(judgement: Judgement, partial: bool = False) -> bool:
    """Whether enough is lost that a refinement could win it back.

    Of a fault that sways images more than it turns them (`Case.partial`), anything: its class is one of many, and what
    it loses is too little of the images that judge to be seen there.
    """
    return not is_whole(judgement) and (partial or lost(judgement) > WORTH_REFINING)


def lost(judgement: Judgement) -> float:
    """Expected accuracy and recovery lost together."""
    return judgement.accuracy_loss + judgement.recovery_loss


def tell(judgement: Judgement) -> str:
    """A judgement in a few words."""
    asr = "" if judgement.asr is None else f", attack success {100 * judgement.asr:.1f}%"
    kept = f"{100 * (1 - judgement.recovery_loss):.1f}% of the recovery"
    return f"{100 * (1 - judgement.accuracy_loss):.1f}% of the accuracy and {kept} expected{asr}"
