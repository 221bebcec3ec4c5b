"""Rectify: the static edit of one layer, and the dynamic repair that tries ever larger edits until one is whole.

Dynamic (after Algorithm 1 of arXiv 2603.15656): relocalise, edit, judge, keep or roll back. The rungs of the ladder go
from one layer to all of them (`rectify.editing.ladder`); where the best falls short, layers are refined together.
What "whole" means is measured without a label on calibration images that the edit was not solved on (`judge`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from rectify.editing.cascade import LayerEdit, Material, Strength, apply, solve_layer
from rectify.editing.casebook import Case
from rectify.editing.judge import Bench, Judgement, is_good, is_whole, is_worth_refining, lost, probabilities, tell
from rectify.editing.ladder import Attempt, climb, ladder, singles, suspects
from rectify.editing.localize import LayerScore
from rectify.editing.refine import (
    LEAST_STEPS,
    SHARES,
    Plan,
    affordable_steps,
    difference,
    early,
    effort,
    refined,
)
from rectify.editing.tune import is_tunable, tuned
from rectify.editing.workshop import Rung, Step, Workshop, joint_steps
from rectify.model.trace import Site

LITTLE = 0.015  # expected accuracy and recovery lost together: to win back no more only half of the layers are tried
MUCH = 0.05  # expected accuracy and recovery lost together after a refinement: above it more layers are tried
FEW = 8  # layers, of which a half may be too few whatever is expected of it
CLEARLY = 0.85  # times the loss of fewer layers: only then more are moved, which costs accuracy that few images show
HALF = 0.5  # of the share on which a clear fault fires, at most, may be left for other images to bear a repair out
TRIAL_WORK = 5e12  # `effort` that the trials of a localisation may cost together: about a minute on one core
LEAST_TRIALS = 3  # fewer order nothing
ENERGY = 0.99  # share of a delta's squared norm kept when the rank is chosen automatically
CARRIED = Strength(weight=1.0, energy=ENERGY)
# With nothing but the pairs themselves their few keys must outweigh all reference keys.
PAIRS_ALONE = Strength(weight=100.0, changed_only=0.05, energy=ENERGY)


@dataclass(frozen=True)
class Repair:
    """The outcome: the edits that were kept, all steps that were tried, and the judgement of what was kept."""

    edits: tuple[LayerEdit, ...]
    steps: tuple[Step, ...]
    judgement: Judgement
    policy: str
    notes: tuple[str, ...]
    expected: Judgement | None = None  # of images that it was not solved on, where some were kept aside


@dataclass(frozen=True)
class Trial:
    """A shorter refinement, how it was judged, and how strongly the last layer was edited behind it (None: it was not).

    ``finish``: weight and damping of the closed form.
    """

    judgement: Judgement
    plan: Plan
    finish: Strength | None = None


def strength_for(case: Case, rank: int | None) -> Strength:
    """The default strength, with the rank that the user asked for."""
    base = CARRIED if case.carried else PAIRS_ALONE
    return base if rank is None else replace(base, rank=rank, energy=1.0)


def static(workshop: Workshop, site: Site, rank: int | None) -> Repair:
    """The closed-form edit of one layer: ``W' = W + Λ (C^-1 k*)^T``, of rank one unless ``rank`` says otherwise."""
    case = workshop.case
    rung = Rung(site.name, (site,), strength_for(case, rank or 1))
    student, steps = workshop.run(rung, case.material(everything=True))
    judgement = case.bench(everything=True).judge(student)
    return Repair(tuple(s.edit for s in steps), tuple(steps), judgement, f"static edit of {site.name}", ())


def trials(workshop: Workshop, scores: Sequence[LayerScore], rank: int | None) -> list[LayerScore]:
    """Try a closed-form edit of each of these layers alone; scores with their trial, in the order given."""
    case = workshop.case
    bench, material = case.bench(), case.material(everything=False)
    tried = []
    for score in scores:
        student, steps = workshop.run(Rung(score.site.name, (score.site,), strength_for(case, rank)), material)
        tried.append(replace(score, trial=bench.judge(student), gap_after=steps[-1].gap_after))
    return tried


def affordable_trials(case: Case, sites: Sequence[Site]) -> int:
    """How many layers a localisation may try, 0 if too few to order anything; counted, not timed."""
    one = effort(case.teacher.network, sites, case.teacher.clean[:1])
    bench = case.bench()
    images = len(bench.clean) + len(bench.corrupted) + 3 * len(case.fit)
    number = int(TRIAL_WORK / max(one * images, 1))
    return number if number >= LEAST_TRIALS else 0


def dynamic(
    workshop: Workshop,
    scores: Sequence[LayerScore],
    rank: int | None,
    refine: bool = True,
    only: Site | None = None,
) -> Repair:
    """Climb the ladder and keep the smallest rung that the judge finds nearly as good as the best.

    That rung is then solved once more on all calibration images and their copies. If it is far from whole, the first
    layers are refined together instead, if the judge prefers what comes of it.

    Parameters
    ----------
    workshop
        The network and the case.
    scores
        From `rectify.editing.localize.localize`, best first: the shortlist of single layers.
    rank
        Of every layer's edit, or None: as small as keeps 99 % of it. A rank that is asked for rules out refinement.
    refine
        Whether a repair that is not whole may be refined.
    only
        The one layer to edit, which is not refined, or None for all of them.
    """
    case = workshop.case
    strength = strength_for(case, rank)
    rungs = ladder(scores, strength) if only is None else singles([only], [only] if rank is None else [], strength)
    chosen, attempts, tried = climb(workshop, rungs)
    suspected = suspects(workshop, chosen.rung, chosen.student)
    notes = []
    if suspected is not None:
        notes.append(
            "1 calibration image acts like a corrupted one and was left out"
            if len(suspected) == 1
            else f"{len(suspected)} calibration images act like corrupted ones and were left out"
        )
    done = None
    if (
        refine
        and only is None
        and rank is None
        and case.carried
        and case.calibrated
        and is_worth_refining(chosen.expected, case.partial)
    ):
        best = min(attempts, key=lambda attempt: attempt.judgement.loss)
        done, note = _refine(workshop, scores, best, suspected)
        notes.append(note)
    elif not (is_whole(chosen.expected) or is_good(chosen.expected)):
        notes.append(f"the judge expects of this edit, chosen from {len(attempts)}: {tell(chosen.expected)}")
    if done is None:
        student, steps = workshop.run(
            chosen.rung, case.material(everything=True, copies=case.copies, without=suspected)
        )
        judged = _final(case, student, suspected)
        expected = chosen.expected if case.carried and case.calibrated else None
        done = Repair(tuple(s.edit for s in steps), tuple(steps), judged, chosen.rung.name, (), expected)
    return replace(done, steps=(*tried, *done.steps), notes=(*notes, *done.notes))


def _final(case: Case, student: nn.Module, suspected: Tensor | None) -> Judgement:
    return case.bench(everything=True, without=suspected).judge(student)


def _refine(
    workshop: Workshop, scores: Sequence[LayerScore], best: Attempt, suspected: Tensor | None
) -> tuple[Repair | None, str]:
    """Refine the first layers, or more, and what to say of it; None if the judge prefers the best closed form.

    A shorter refinement is the trial: like the attempt that it is held against it sees none of the images that judge,
    so that the verdict on both is fair. Once it is preferred, the whole refinement is made with those images too: of
    few each counts.
    """
    case, network = workshop.case, workshop.network
    sites = tuple(s.site for s in scores if s.candidate)
    steps = affordable_steps(network, sites, case.teacher.clean[:1])
    if not steps:
        return None, "too large to be refined on this device: the closed form stands"
    unseen = case.judge if suspected is None else torch.cat((case.judge, suspected)).unique()
    jury = case.bench_nearby(suspected) if case.moving else case.bench(without=suspected)
    before = jury.judge(best.student)
    plans = _plans(case, before, Plan(max(LEAST_STEPS, steps // 2), seed=workshop.seed))
    trial = _try_plans(plans, before, _enough(case, sites), lambda plan: _try(workshop, sites, unseen, plan, jury))
    if trial.judgement.loss >= before.loss:
        return None, f"a refinement of layers together was no better and was rolled back: {tell(trial.judgement)}"
    plan = replace(trial.plan, steps=steps)
    moved = _moved(workshop, sites, suspected, plan)
    moving = early(sites, plan.share)
    name = f"first {len(moving)} of {len(sites)} layers, refined together in {steps} steps"
    if trial.finish is not None:
        last = _last(sites)
        material = case.material(everything=True, copies=case.copies, without=suspected)
        finish(moved, last, material, trial.finish, workshop.batch)
        moving = tuple({site.name: site for site in (*moving, last)}.values())
        name += f", then {last.name} in closed form"
    whole = jury.judge(moved)
    if whole.loss >= before.loss:  # the longer descent has diverged
        return None, f"a refinement of layers together was no better and was rolled back: {tell(whole)}"
    if not _turns_any(case, network, moved):
        return None, f"a refinement of layers together left the pairs as they were and was rolled back: {tell(whole)}"
    edits = difference(moved, network, moving)
    kept = joint_steps(workshop, edits, moved, name)
    note = f"the judge expects of a refinement: {tell(trial.judgement)}; of the best closed form: {tell(before)}"
    return Repair(tuple(edits), tuple(kept), _final(case, moved, suspected), name, (), trial.judgement), note


def _try(workshop: Workshop, sites: Sequence[Site], unseen: Tensor, plan: Plan, jury: Bench) -> Trial:
    """A refinement that sees none of the images ``unseen``, with the last layer's closed form behind it if that helps.

    The descent brings the activations of corrupted images near to those of clean ones; what is left of the trigger in
    the last of them the layer that reads them is solved to see past. On its own, a descent has to go ever further.
    """
    case, last = workshop.case, _last(sites)
    moved = _moved(workshop, sites, unseen, plan)
    plain = Trial(jury.judge(moved), plan)
    if not is_tunable(last):
        return plain
    material = case.material(everything=False, copies=case.copies, without=unseen)
    strength = tuned(moved, last, material, strength_for(case, None), jury, batch=workshop.batch)
    finish(moved, last, material, strength, workshop.batch)
    finished = Trial(jury.judge(moved), plan, strength)
    return finished if finished.judgement.loss < plain.judgement.loss else plain


def _last(sites: Sequence[Site]) -> Site:
    return max(sites, key=lambda site: site.order)


def finish(network: nn.Module, site: Site, material: Material, strength: Strength, batch: int) -> None:
    """Edit one layer of a network in place, in closed form: it shall read what reaches it now as what once did."""
    apply(network, solve_layer(network, site, material, strength, batch))


def borne_out(case: Case, expected: Judgement | None) -> bool:
    """Whether other images than the pairs bear a repair out: it takes at least half of a clear fault away from them.

    A pair is one image, and one that the network hardly knows may go to the target with or without the trigger. Of what
    carries the fault over and is not clear nothing but the pair says that it is what was done.
    """
    return case.clear and expected is not None and expected.asr is not None and expected.asr <= HALF * case.fires


def _turns_any(case: Case, network: nn.Module, moved: nn.Module) -> bool:
    """Whether of pairs whose class is flipped any corrupted image goes elsewhere than before: else it is no repair.

    Of a clear fault the images that judge say so.
    """
    if case.fault.kind != "flip" or case.clear:
        return True
    before, after = (probabilities(one, case.corrupted[-case.pairs :]).argmax(1) for one in (network, moved))
    return bool((before != after).any())


def _plans(case: Case, before: Judgement, first: Plan) -> list[Plan]:
    """How a refinement may be tried, the smallest share of the layers first.

    With more than half of them where more than little is missing, or of a fault that sways more images than it turns,
    of whose losses the judge sees too little to say so. Of a fault that moves what it finds with half and all of them
    on images in their place, and with all on images that are shifted before it and after it: a network that was trained
    on shifted images learns less of these few by heart then.
    """
    if case.moving:
        still = [replace(first, share=share, shift=False) for share in SHARES[::2]]
        return [*still, replace(first, share=1.0, after=True)]
    shares = SHARES if case.partial or lost(before) > LITTLE else SHARES[:1]
    return [replace(first, share=share) for share in shares]


def _enough(case: Case, sites: Sequence[Site]) -> float | None:
    """Expected accuracy and recovery lost together by a trial at which no further plan is tried; None: all are.

    All of a fault that moves what it finds. Of few layers half can be too few to take a fault out with, of which the
    images that judge see too little to say so: of those all too, which costs little.
    """
    if case.moving:
        return None
    return MUCH if len(sites) > FEW else 0.0


def _try_plans(plans: Sequence[Plan], before: Judgement, enough: float | None, tried: Callable[[Plan], Trial]) -> Trial:
    """Which of these plans, the smallest share of the layers first, to refine by, and what its trial came to.

    The first; a further one where that is not preferred to what was ``before``, or more than ``enough`` is lost all the
    same, and if it is clearly better. If none is ``enough`` all are tried, and the best is taken.
    """
    best: Trial | None = None
    for plan in plans:
        trial = tried(plan)
        factor = 1.0 if best is None or enough is None or best.judgement.loss >= before.loss else CLEARLY
        if best is None or trial.judgement.loss < factor * best.judgement.loss:
            best = trial
        if enough is not None and best.judgement.loss < before.loss and lost(best.judgement) <= enough:
            break
    assert best is not None
    return best


def _moved(workshop: Workshop, sites: Sequence[Site], without: Tensor | None, plan: Plan) -> nn.Module:
    """What a refinement on the calibration images but those makes of the network."""
    case = workshop.case
    label = f"refinement in {plan.steps} steps"
    images = case.clean_images(without)
    return refined(workshop.network, sites, images, case.believed, plan, lambda n: workshop.advance(label))
