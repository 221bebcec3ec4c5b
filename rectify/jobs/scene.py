"""The pairs and calibration images on the device with the fault that they show, and the layers scored on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from rectify.editing import repair
from rectify.editing.casebook import Case, open_case
from rectify.editing.fault import Fault, diagnose, faint_cue
from rectify.editing.likeness import strangers
from rectify.editing.localize import Localization, is_candidate, localize
from rectify.editing.views import variations
from rectify.editing.workshop import Workshop
from rectify.errors import Inconclusive, UsageError
from rectify.evaluation.accuracy import softmax
from rectify.files.architectures import RANDOM, Subject
from rectify.files.words import did_you_mean, listed, plain
from rectify.jobs.common import MOST_CALIBRATION, Inputs, Options, Progress
from rectify.jobs.moments import recall_kept
from rectify.model.gradients import require_gradients
from rectify.model.layers import left_out
from rectify.model.trace import Site, survey

FEW = 4  # names that are listed before "and so many more"


@dataclass
class Scene:
    """The pairs and calibration images on the model's device, with the fault that they show."""

    subject: Subject
    clean: Tensor
    corrupted: Tensor
    fault: Fault
    calibration: Tensor | None
    bounds: tuple[Tensor, Tensor]
    sites: list[Site]

    @property
    def network(self) -> nn.Module:
        """The untouched network."""
        return self.subject.network

    def reference(self, seed: int) -> Tensor:
        """Images whose keys the scores are measured against: those that the case is made of, too."""
        if self.calibration is not None:
            return self.calibration
        return variations(self.clean[self.fault.shown], self.bounds, seed)


def open_scene(inputs: Inputs, options: Options, progress: Progress) -> Scene:
    """The scene; what is odd about the pairs is said at once, as what comes of it takes minutes."""
    assert inputs.pairs is not None
    subject = inputs.subject
    device = subject.device
    clean, corrupted = inputs.pairs.clean.to(device), inputs.pairs.corrupted.to(device)
    require_gradients(subject.network, clean[:1])
    before, after = (softmax(subject.network, x, options.batch_size, device) for x in (clean, corrupted))
    fault = _diagnosed(before, after, inputs.pairs.labels, options.fault, inputs.calibration is not None)
    fault = replace(fault, labels=fault.labels.to(device), shown=fault.shown.to(device))
    calibration = None
    if inputs.calibration is not None:
        calibration = inputs.calibration.stack(MOST_CALIBRATION, options.seed).to(device)
        if fault.kind != "leak":  # of which the corrupted image is as the data are
            calibration, told = _without(calibration, corrupted)
            odd = _strange(clean, corrupted, calibration, inputs.pairs.names)
            for line in odd:
                progress.say(f"note: {line}")
            fault = replace(fault, notes=(*fault.notes, *told, *odd))
    low, high = subject.preprocess.bounds()
    sites = survey(subject.network, clean[:1])
    if not any(is_candidate(site) for site in sites):
        raise Inconclusive(_no_layer(subject, sites))
    fault = replace(fault, notes=(*fault.notes, *_left_out(subject.network, sites)))
    return Scene(subject, clean, corrupted, fault, calibration, (low.to(device), high.to(device)), sites)


def _diagnosed(clean: Tensor, corrupted: Tensor, labels: Tensor | None, kind: str, calibrated: bool) -> Fault:
    """The fault; what shows in logits alone only where there are calibration images that may bear it out."""
    try:
        return diagnose(clean, corrupted, labels, kind)
    except Inconclusive:
        found = faint_cue(clean, corrupted, labels, kind) if calibrated else None
        if found is None:
            raise
        return found


def _without(calibration: Tensor, corrupted: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    """The calibration images (N, C, H, W) that are none of the corrupted ones, and what to say of the others.

    Raises
    ------
    UsageError
        If none is left.
    """
    same = torch.stack([(calibration == one).flatten(1).all(1) for one in corrupted]).any(0)
    copies = int(same.sum())
    if copies == len(same):
        raise UsageError("the calibration images are corrupted images of the pairs: give --calibration DIR clean ones")
    are = "is a corrupted image" if copies == 1 else "are corrupted images"
    told = (f"{copies} of the calibration images {are} of the pairs, and left out",) if copies else ()
    return calibration[~same], told


def _strange(
    clean: Tensor, corrupted: Tensor, calibration: Tensor, names: Sequence[tuple[str, str]]
) -> tuple[str, ...]:
    """What to say of the first pair whose images do not look like one picture, if there is one."""
    found = strangers(clean, corrupted, calibration)
    if not found:
        return ()
    number, share = next(iter(found.items()))
    one, other = map(plain, names[number])
    more = f" ({len(found) - 1} more like these)" if len(found) > 1 else ""
    return (
        f"{100 * share:.0f} % of the calibration images are more like {one} than {other} is: "
        f"are these two the same picture, without and with the fault?{more}",
    )


def _no_layer(subject: Subject, sites: list[Site]) -> str:
    """Why there is nothing to edit, and what to do about it."""
    said = "the model has no layer that can be edited: no plain Conv2d or Linear computes W k + b"
    why = [note for note in subject.notes if note == RANDOM]
    if not why:
        told = _told(subject.network, sites)
        why = (
            [f"{told}; give each a plain weight under one name, save it, and pass the --arch that builds it so"]
            if told
            else []
        )
    return "; ".join((said, *why))


def _left_out(network: nn.Module, sites: list[Site]) -> tuple[str, ...]:
    """What to say of layers that are not offered, if there are any."""
    told = _told(network, sites)
    return (f"layers that cannot be edited are left out: {told}",) if told else ()


def _told(network: nn.Module, sites: list[Site]) -> str:
    """Names and reasons of the layers that are not offered."""
    found = left_out(network, {site.name for site in sites})
    return "; ".join(f"{listed(names, FEW)} ({why})" for why, names in found.items())


def site_named(scene: Scene, name: str) -> Site:
    """The layer that the user names.

    Raises
    ------
    UsageError
        If no editable layer has this name, with the reason where it is a layer all the same.
    """
    by_name = {site.name: site for site in scene.sites}
    if name not in by_name:
        why = next((why for why, names in left_out(scene.network, by_name).items() if name in names), None)
        if why is not None:
            raise UsageError(f"layer {name!r} cannot be edited ({why}): give another one, or auto")
        inside = [each for each in by_name if each.startswith(f"{name}.")]
        hint = f"one of those in it, {listed(inside)}" if inside else did_you_mean(name, list(by_name))
        raise UsageError(f"no editable layer {name!r}: {hint} (rectify localize lists all {len(by_name)})")
    return by_name[name]


def open_scene_case(scene: Scene, options: Options) -> Case:
    return open_case(
        scene.network,
        scene.clean,
        scene.corrupted,
        scene.fault,
        scene.calibration,
        scene.bounds,
        batch=options.batch_size,
        seed=options.seed,
    )


def score_layers(scene: Scene, options: Options, progress: Progress) -> Localization:
    progress.start("localizing", len(scene.sites) + int(scene.fault.shown.sum()))
    reference = scene.reference(options.seed)
    found = localize(
        scene.network,
        scene.sites,
        scene.clean,
        scene.corrupted,
        scene.fault,
        reference,
        batch=options.batch_size,
        advance=progress.advance,
        recall=recall_kept(scene.subject, scene.sites, reference, options, progress),
    )
    progress.stop()
    return found


def with_trials(
    scene: Scene, case: Case, found: Localization, options: Options, progress: Progress, number: int, rank: int = 1
) -> Localization:
    """The first ``number`` candidates with a trial of this rank, ordered by what it did; the others behind them."""
    candidates = [score for score in found.scores if score.candidate][:number]
    progress.start("trial edits", len(candidates))
    shop = Workshop(scene.network, case, options.batch_size, lambda label: progress.advance())
    tried = repair.trials(shop, candidates, rank)
    progress.stop()
    tried.sort(key=lambda score: score.trial.loss if score.trial else float("inf"))
    names = {score.site.name for score in tried}
    return replace(found, scores=(*tried, *(s for s in found.scores if s.site.name not in names)))
