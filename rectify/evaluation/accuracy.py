"""Accuracy on labelled images; attack success, recovery and gap on pairs. All fractions in [0, 1]."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from rectify.errors import CheckpointError
from rectify.model.passes import images_a_pass


@dataclass(frozen=True)
class Figures:
    """What was measured of one network; None where there was nothing to measure it on.

    Attributes
    ----------
    accuracy
        Share of labelled images classified right (OA).
    asr
        Attack success rate: share of corrupted images of other classes that are sent to the target; of an attack
        from all classes to all, that are sent to the class that it gives their class.
    recovery
        Share of corrupted images of other classes that get their true class (RA).
    gap
        Mean over pairs of f(clean) - f(corrupted), f the softmax probability of the true class.
    base_rate
        Share of the *clean* images of those pairs that are sent to the target: the floor of asr.
    """

    accuracy: float | None = None
    asr: float | None = None
    recovery: float | None = None
    gap: float | None = None
    base_rate: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        """As the report holds it."""
        return asdict(self)


@torch.no_grad()
def softmax(network: nn.Module, x: Tensor, batch: int, device: torch.device) -> Tensor:
    """Softmax on (N, C, H, W), (N, classes) float32 on the CPU.

    Raises
    ------
    CheckpointError
        If the network gives what is no number: it would be judged by the class that comes first.
    """
    batch = images_a_pass(x, batch, device)
    parts = [finite_softmax(network(x[i : i + batch].to(device))).cpu() for i in range(0, len(x), batch)]
    return torch.cat(parts)


def finite_softmax(logits: Tensor) -> Tensor:
    """Softmax of logits (N, classes), in float32. Logits of -inf are classes that a network rules out.

    Raises
    ------
    CheckpointError
        If there is none.
    """
    shares = logits.float().softmax(1)
    odd = int(shares.isnan().any(1).sum())
    if odd:
        raise CheckpointError(
            f"the network gives values that are not finite on {odd} of {len(shares)} image(s): the checkpoint is "
            "damaged or its training has diverged; use an earlier one"
        )
    return shares


@torch.no_grad()
def accuracy(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor | None]], device: torch.device) -> float:
    """Share of images whose predicted class is their label; batches of (N, C, H, W) and (N,).

    Raises
    ------
    ValueError
        If there is no image, or a batch has no labels.
    CheckpointError
        As in `softmax`.
    """
    right = total = 0
    for images, labels in batches:
        if labels is None:
            raise ValueError("accuracy needs labels")
        batch = images_a_pass(images, len(images), device)
        called = [finite_softmax(network(part.to(device))).argmax(1).cpu() for part in images.split(batch)]
        right += int((torch.cat(called) == labels).sum())
        total += len(labels)
    if not total:
        raise ValueError("accuracy needs images")
    return right / total


def pair_figures(clean: Tensor, corrupted: Tensor, labels: Tensor, target: int | Tensor | None) -> Figures:
    """Attack success, recovery, gap and base rate from the softmax outputs on pairs.

    Parameters
    ----------
    clean, corrupted
        (n, classes) softmax on the clean and the corrupted images.
    labels
        (n,) true classes.
    target
        The class that the fault drives to, or (n,) that of each pair; None for a fault without one: no asr, and
        recovery over all pairs.
    """
    rows = labels.unsqueeze(1)
    gap = float((clean.gather(1, rows) - corrupted.gather(1, rows)).double().mean())
    others = torch.ones_like(labels, dtype=torch.bool) if target is None else labels != target
    if not bool(others.any()):
        return Figures(gap=gap)
    guess = corrupted.argmax(1)[others]
    recovery = float((guess == labels[others]).double().mean())
    if target is None:
        return Figures(recovery=recovery, gap=gap)
    aims = torch.as_tensor(target).expand_as(labels)[others]
    asr = float((guess == aims).double().mean())
    base = float((clean.argmax(1)[others] == aims).double().mean())
    return Figures(asr=asr, recovery=recovery, gap=gap, base_rate=base)
