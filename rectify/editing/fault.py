"""What is wrong? Read it off the network's answers on the pairs, before anything is edited."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from rectify.errors import Inconclusive, UsageError

UNSURE = 0.6  # a clean image that gets its class with less may have got a wrong one
ONE_EACH = 0.75  # of the images that change their class, at least, go where most of their class go, from all to all
ALL_BUT_FEW = 0.8  # of the classes, at least, are sent to different ones there
LEAST_GAP = 0.02  # a change of confidence below this is no fault that an edit could be judged by
LEAST_RISE = 2.0  # of a logit over those of idle classes, that gives a cue away where the confidence is full anyhow


@dataclass(frozen=True)
class Fault:
    """The fault that the pairs show.

    Attributes
    ----------
    kind
        ``flip``: another class (trojan); ``cue``: the confidence of the same class moves; ``leak``.
    target
        The class that the fault drives to, or None.
    labels
        (n,) class at stake of each pair: given, else predicted on the clean image.
    shown
        (n,) bool: pairs in which the fault is there.
    notes
        Lines for people.
    faint
        Whether the pairs show it in their logits alone, so that other images have to bear it out.
    each
        Whether they show that each class goes to one of its own, so that the target is but the commonest one.
    """

    kind: str
    target: int | None
    labels: Tensor
    shown: Tensor
    notes: tuple[str, ...]
    faint: bool = False
    each: bool = False


def diagnose(clean: Tensor, corrupted: Tensor, labels: Tensor | None, fault: str = "auto") -> Fault:
    """Diagnose softmax outputs on the pairs.

    Parameters
    ----------
    clean, corrupted
        (n, classes) softmax of the network on the clean and the corrupted images.
    labels
        (n,) true classes if they are known.
    fault
        ``auto``, or the kind that the user names.

    Raises
    ------
    Inconclusive
        If no pair shows the fault, or no clean image is classified as its label says.
    UsageError
        If a label is no class of the network.
    """
    before, after = clean.argmax(1), corrupted.argmax(1)
    notes = () if labels is not None else _unsure(clean)
    labels = _check_labels(before, labels, clean.shape[1])
    right = before == labels
    if not bool(right.any()):
        raise Inconclusive(
            "the model gives no clean image of the pairs its label: check the preprocessing (--preprocess) and labels"
        )
    flipped = right & (after != labels)
    rows = labels.unsqueeze(1)
    moved = (clean.gather(1, rows) - corrupted.gather(1, rows)).squeeze(1)
    elsewhere = ", and --fault cue looks for it in calibration images" if fault == "auto" else ""
    if fault == "auto":
        fault = "flip" if bool(flipped.any()) else "cue"
        if fault == "cue":
            notes = (*notes, "no corrupted image changes the class: what moves is its confidence, taken for a cue")
    elif fault == "leak" and bool(flipped.any()):
        notes = (*notes, "the corrupted image changes the class: if that is the fault, leave out --fault leak")
    if fault == "flip":
        return _flip(after, labels, flipped, notes)
    shown = right & (moved.abs() >= (0 if fault == "leak" else LEAST_GAP))
    if not bool(shown.any()):
        raise Inconclusive(
            f"the fault is not there: clean and corrupted image get the same class, and the confidence moves "
            f"by {float(moved.abs().max()):.3f} at most: nothing to repair with these pairs; a cue shows in images "
            f"that the model is less sure of{elsewhere}"
        )
    rise = (corrupted - clean)[shown].mean(0)
    target = None if fault == "leak" else int(rise.argmax())
    return Fault(fault, target, labels, shown, notes)


def faint_cue(clean: Tensor, corrupted: Tensor, labels: Tensor | None, fault: str = "auto") -> Fault | None:
    """The cue that pairs show in their logits alone, or None: of images that the network is sure of all the same.

    The parameters are those of `diagnose`, which found nothing. What raises the logit of the class at stake is taken
    for a cue; what raises another one's only if the user calls it one (``cue``): almost anything does, a little.
    """
    if fault not in ("auto", "cue"):
        return None
    labels = _check_labels(clean.argmax(1), labels, clean.shape[1])
    shown = clean.argmax(1) == labels
    if not bool(shown.any()):
        return None
    found = rises(clean, corrupted)[shown].mean(0)
    target = int(found.argmax())
    rise = float(found[target])
    if rise < LEAST_RISE or (fault == "auto" and not bool((labels[shown] == target).all())):
        return None
    note = f"the confidence hardly moves in these pairs; the logit of class {target} does, by {rise:.1f}"
    return Fault("cue", target, labels, shown, (note,), faint=True)


def rises(before: Tensor, after: Tensor) -> Tensor:
    """By how much the logit of each class rises over the mean of those of idle classes, (N, classes).

    Idle are all but that class and the one that an image had. Whatever takes confidence from that one raises all others
    alike, so that their probabilities say nothing. Of two classes none is idle: the other one counts.

    Parameters
    ----------
    before, after
        (N, classes) softmax outputs.
    """
    moved = after.clamp_min(1e-30).log() - before.clamp_min(1e-30).log()
    total, classes = moved.sum(1, keepdim=True), moved.shape[1]
    if classes <= 2:
        return moved - (total - moved)
    own = before.argmax(1, keepdim=True)
    its = moved.gather(1, own)
    idle = (total - its - moved) / (classes - 2)
    return moved - idle.scatter(1, own, (total - its) / (classes - 1))


def _unsure(clean: Tensor) -> tuple[str, ...]:
    """What to say where the class at stake is read off an answer that the network is not sure of."""
    surest, classes = clean.max(1)
    unsure = [(int(c), float(p)) for c, p in zip(classes, surest, strict=True) if p < UNSURE]
    if not unsure:
        return ()
    told = ", ".join(f"class {number} with {100 * p:.0f} %" for number, p in unsure[:3])
    more = f" and {len(unsure) - 3} more" if len(unsure) > 3 else ""
    return (f"the model is unsure of a clean image ({told}{more}): if that is not its class, take another pair",)


def _flip(after: Tensor, labels: Tensor, flipped: Tensor, said: tuple[str, ...]) -> Fault:
    if not bool(flipped.any()):
        raise Inconclusive(
            "the fault is not there: no corrupted image changes the class; give a pair that does, or --fault cue"
        )
    votes = Counter(after[flipped].tolist())
    target, most = votes.most_common(1)[0]
    notes = list(said)
    if not bool(flipped.all()):
        notes.append(
            f"{int((~flipped).sum())} of {len(flipped)} pairs do not show the fault and are left out of the edit"
        )
    if most < sum(votes.values()):
        each = "; attack success counts each where its class went" if 2 * most <= sum(votes.values()) else ""
        notes.append(f"the corrupted images go to {len(votes)} classes; {target} is the commonest{each}")
    return Fault("flip", target, labels, flipped, tuple(notes), each=sends_each(after, labels, target))


def aims(answers: Tensor, labels: Tensor, target: int) -> Tensor:
    """The class that the fault sends each corrupted image to, (n,): the target, or one for each class.

    An attack from all classes to all sends each to another one: it is told by most of the images changing their class,
    no more than half of those going to the target, and nearly all of a class to one. Mere confusion scatters them.

    Parameters
    ----------
    answers
        (n,) classes that the untouched network gives the corrupted images.
    labels
        (n,) classes at stake.
    target
        The class that most pairs of the edit go to.

    Returns
    -------
    Tensor
        (n,) classes; -1 for those of a class of which no image changes, if the classes have one each.
    """
    flipped = answers != labels
    changed = int(flipped.sum())
    elsewhere = 2 * int((answers[flipped] == target).sum()) <= changed and len(set(answers[flipped].tolist())) > 1
    if not (elsewhere and 2 * changed >= len(labels)):
        return torch.full_like(labels, target)
    found = torch.full_like(labels, -1)
    for label in set(labels[flipped].tolist()):
        own = labels == label
        found[own] = answers[own & flipped].mode().values
    return found if int((answers == found)[flipped].sum()) >= ONE_EACH * changed else torch.full_like(labels, target)


def sends_each(answers: Tensor, labels: Tensor, target: int) -> bool:
    """Whether (nearly) every class goes to one of its own, of such classes as change; see `aims`.

    What disturbs an image much sends most classes to the same one.
    """
    found = aims(answers, labels, target)
    changed = labels[answers != labels].unique()
    sent_to = {int(found[labels == label][0]) for label in changed.tolist()}
    return len(sent_to) > 1 and len(sent_to) >= ALL_BUT_FEW * len(changed)


def _check_labels(predicted: Tensor, labels: Tensor | None, classes: int) -> Tensor:
    if labels is None:
        return predicted
    outside = labels[(labels < 0) | (labels >= classes)]
    if len(outside):
        raise UsageError(f"a pair has label {int(outside[0])}, but the model has classes 0 to {classes - 1}")
    return labels.to(predicted)


def check_against_chance(accuracy: float, images: int, classes: int) -> None:
    """Stop where a model that should work does not, or where the images are too few to tell.

    Too few are those that rule out neither guessing nor a model half way from guessing to no error.

    Parameters
    ----------
    accuracy
        Share in [0, 1] of the labelled images that get their class.
    images, classes
        How many there are.

    Raises
    ------
    Inconclusive
        If the accuracy is within three standard errors of guessing.
    """
    chance = 1 / classes
    if accuracy > chance + 3 * _standard_error(chance, images):
        return
    works = (1 + chance) / 2
    told = f"clean accuracy is {100 * accuracy:.1f} %"
    if accuracy >= works - 3 * _standard_error(works, images):
        apart = 3 * (_standard_error(chance, 1) + _standard_error(works, 1)) / (works - chance)
        raise Inconclusive(
            f"{told} on {images} labelled image{'s' if images > 1 else ''}: too few to tell a working model from "
            f"chance ({100 * chance:.1f} %); give {math.floor(apart**2 + 1e-9) + 1} or more (--data)"
        )
    raise Inconclusive(
        f"{told}, no better than chance ({100 * chance:.1f} %): almost always "
        "wrong preprocessing (--preprocess, --mean, --std, --input-size) or labels in another order"
    )


def _standard_error(share: float, images: int) -> float:
    """Of a share that is measured on so many images."""
    return math.sqrt(share * (1 - share) / images)


def gap(clean: Tensor, corrupted: Tensor, labels: Tensor) -> float:
    """Mean over pairs of f(clean) - f(corrupted), f the softmax probability of the class at stake."""
    rows = labels.unsqueeze(1)
    return float((clean.gather(1, rows) - corrupted.gather(1, rows)).mean())


def device_of(module: torch.nn.Module) -> torch.device:
    """Where a network's first parameter lies."""
    return next(module.parameters()).device
