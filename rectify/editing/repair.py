"""Rectify: the static edit of one layer, and the dynamic repair that tries ever larger edits until one is whole.

Dynamic (after Algorithm 1 of arXiv 2603.15656): relocalise, edit, judge, keep or roll back. The rungs of the ladder go
from one layer to all of them; the smallest rung that is nearly as good as the best is kept: no larger than it must be.
What "wholly" means is measured without a label on calibration images that the edit was not solved on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from rectify.editing.cascade import LayerEdit, Material, Strength, cascade
from rectify.editing.casebook import Case
from rectify.editing.detector import fires
from rectify.editing.fault import gap
from rectify.editing.judge import Bench, Judgement, probabilities
from rectify.editing.localize import LayerScore, is_candidate
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
from rectify.errors import Inconclusive
from rectify.model.copies import copied
from rectify.model.trace import Site

# A repair is whole when the judge expects no more than this (one image of those judged is always allowed).
MOST_ACCURACY_LOSS = 0.004
MOST_RECOVERY_LOSS = 0.005
MOST_ASR = 0.005
MOST_PULL = 0.003
MOST_DIVERGENCE = 0.008
NEARLY, NEARLY_PLUS = 1.2, 0.001  # a smaller rung may have this times the best one's loss, plus this
# Good enough to climb no further: larger rungs could gain what nobody would notice.
GOOD_ACCURACY_LOSS, GOOD_RECOVERY_LOSS, GOOD_PULL = 0.003, 0.006, 0.01
DOUBTFUL_ACCURACY_LOSS, DOUBTFUL_RECOVERY_LOSS, DOUBTFUL_ASR = 0.02, 0.05, 0.03  # a warning says so
WORTH_REFINING = GOOD_ACCURACY_LOSS + GOOD_RECOVERY_LOSS  # lost together: below it a refinement is not begun
LITTLE = 0.015  # expected accuracy and recovery lost together: to win back no more only half of the layers are tried
MUCH = 0.05  # expected accuracy and recovery lost together after a refinement: above it more layers are tried
CLEARLY = 0.85  # times the loss of fewer layers: only then more are moved, which costs accuracy that few images show
SMALL_LOSS = 0.02  # where the best rung loses more than this, recovery counts and size does not
TRIAL_WORK = 5e12  # `effort` that the trials of a localisation may cost together: about a minute on one core
LEAST_TRIALS = 3  # fewer order nothing
COULD_WIN = 3.0  # times the best rung's loss: single layers that lose more are not tuned
SHORTLIST = 5  # single layers tried, in the order of the localisation
RANK_ONE = 2  # of these, so many also with the smallest of edits
FEW_SUSPECTS = 0.05  # of the calibration images: so many may carry the fault, whatever share of the target's they are
MOST_SUSPECTS = 0.75  # of those that are called target, if they are more: beyond it the edit has lost the class
ENERGY = 0.99  # share of a delta's squared norm kept when the rank is chosen automatically
CARRIED = Strength(weight=1.0, energy=ENERGY)
# With nothing but the pairs themselves their few keys must outweigh all reference keys.
PAIRS_ALONE = Strength(weight=100.0, changed_only=0.05, energy=ENERGY)


@dataclass(frozen=True)
class Step:
    """One edit of one layer, kept or rolled back, with the pairs' gap before and after it."""

    edit: LayerEdit
    delta_norm: float
    relative_norm: float
    gap_before: float
    gap_after: float
    kept: bool
    reason: str


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
class Rung:
    """A candidate repair: which layers, how strong."""

    name: str
    sites: tuple[Site, ...]
    strength: Strength


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
    return not is_whole(judgement) and (partial or _lost(judgement) > WORTH_REFINING)


def _lost(judgement: Judgement) -> float:
    """Expected accuracy and recovery lost together."""
    return judgement.accuracy_loss + judgement.recovery_loss


def strength_for(case: Case, rank: int | None) -> Strength:
    """The default strength, with the rank that the user asked for."""
    base = CARRIED if case.carried else PAIRS_ALONE
    return base if rank is None else replace(base, rank=rank, energy=1.0)


class Workshop:
    """Runs rungs on copies of the untouched network and remembers every step.

    The network that it is given is the same at the end as at the beginning.
    """

    def __init__(
        self,
        network: nn.Module,
        case: Case,
        batch: int = 64,
        advance: Callable[[str], None] = lambda label: None,
        seed: int = 0,
    ) -> None:
        self.network, self.case, self.batch, self.advance, self.seed = network, case, batch, advance, seed

    def run(self, rung: Rung, material: Material) -> tuple[nn.Module, list[Step]]:
        """Edit a copy of the network layer by layer, in forward order."""
        student = copied(self.network)
        gaps = [self.gap(student)]

        def done(edit: LayerEdit) -> None:
            gaps.append(self.gap(student))
            self.advance(f"{rung.name}: {edit.layer}")

        edits = cascade(student, rung.sites, material, rung.strength, batch=self.batch, advance=done)
        steps = [
            Step(edit, *_norms(self.network, edit), *before_and_after, True, rung.name)
            for edit, before_and_after in zip(edits, pairwise(gaps), strict=True)
        ]
        return student, steps

    def gap(self, network: nn.Module) -> float:
        """Mean f(clean) - f(corrupted) over the pairs."""
        clean = probabilities(network, self.case.teacher.clean[-self.case.pairs :])
        corrupted = probabilities(network, self.case.corrupted[-self.case.pairs :])
        return gap(clean, corrupted, self.case.fault.labels[self.case.fault.shown])


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
    chosen, attempts, tried = _climb(workshop, rungs)
    suspects = _suspects(workshop, chosen)
    notes = []
    if suspects is not None:
        notes.append(
            "1 calibration image acts like a corrupted one and was left out"
            if len(suspects) == 1
            else f"{len(suspects)} calibration images act like corrupted ones and were left out"
        )
    done = None
    if (
        refine
        and only is None
        and rank is None
        and case.carried
        and case.calibrated
        and is_worth_refining(chosen.judgement, case.partial)
    ):
        best = min(attempts, key=lambda attempt: attempt.judgement.loss)
        done, note = _refine(workshop, scores, best, suspects)
        notes.append(note)
    elif not (is_whole(chosen.judgement) or is_good(chosen.judgement)):
        notes.append(f"the judge expects of this edit, chosen from {len(attempts)}: {tell(chosen.judgement)}")
    if done is None:
        student, steps = workshop.run(chosen.rung, case.material(everything=True, copies=case.copies, without=suspects))
        judged = _final(case, student, suspects)
        expected = chosen.judgement if case.carried and case.calibrated else None
        done = Repair(tuple(s.edit for s in steps), tuple(steps), judged, chosen.rung.name, (), expected)
    return replace(done, steps=(*tried, *done.steps), notes=(*notes, *done.notes))


def _final(case: Case, student: nn.Module, suspects: Tensor | None) -> Judgement:
    return case.bench(everything=True, without=suspects).judge(student)


def _refine(
    workshop: Workshop, scores: Sequence[LayerScore], best: _Attempt, suspects: Tensor | None
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
    unseen = case.judge if suspects is None else torch.cat((case.judge, suspects)).unique()
    jury = case.bench(without=suspects, copies=0 if case.moving else None)
    before = jury.judge(best.student)
    plans = _plans(case, before, Plan(max(LEAST_STEPS, steps // 2), seed=workshop.seed))
    trial, plan = _try_plans(plans, before, case.moving, lambda one: jury.judge(_moved(workshop, sites, unseen, one)))
    if trial.loss >= before.loss:
        return None, f"a refinement of layers together was no better and was rolled back: {tell(trial)}"
    moved = _moved(workshop, sites, suspects, replace(plan, steps=steps))
    whole = jury.judge(moved)
    if whole.loss >= before.loss:  # the longer descent has diverged
        return None, f"a refinement of layers together was no better and was rolled back: {tell(whole)}"
    moving = early(sites, plan.share)
    name = f"first {len(moving)} of {len(sites)} layers, refined together in {steps} steps"
    edits = difference(moved, network, moving)
    kept = joint_steps(workshop, edits, moved, name)
    note = f"the judge expects of a refinement: {tell(trial)}; of the best closed form: {tell(before)}"
    return Repair(tuple(edits), tuple(kept), _final(case, moved, suspects), name, (), trial), note


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
    shares = SHARES if case.partial or _lost(before) > LITTLE else SHARES[:1]
    return [replace(first, share=share) for share in shares]


def _try_plans(
    plans: Sequence[Plan], before: Judgement, moving: bool, judged: Callable[[Plan], Judgement]
) -> tuple[Judgement, Plan]:
    """Which of these plans, the smallest share of the layers first, to refine by, and how its trial was judged.

    The first; a further one where that is not preferred to what was ``before``, or much is lost all the same, and if it
    is clearly better. Of a fault that moves what it finds, all are tried.
    """
    best: tuple[Judgement, Plan] | None = None
    for plan in plans:
        trial = judged(plan)
        factor = 1.0 if best is None or moving or best[0].loss >= before.loss else CLEARLY
        if best is None or trial.loss < factor * best[0].loss:
            best = trial, plan
        if best[0].loss < before.loss and _lost(best[0]) <= MUCH and not moving:
            break
    assert best is not None
    return best


def _moved(workshop: Workshop, sites: Sequence[Site], without: Tensor | None, plan: Plan) -> nn.Module:
    """What a refinement on the calibration images but those makes of the network."""
    case = workshop.case
    label = f"refinement in {plan.steps} steps"
    images = case.clean_images(without)
    return refined(workshop.network, sites, images, case.believed, plan, lambda n: workshop.advance(label))


def joint_steps(workshop: Workshop, edits: Sequence[LayerEdit], moved: nn.Module, name: str) -> list[Step]:
    """Each layer's part in a refinement; all share the gaps of the whole, before and after."""
    gaps = workshop.gap(workshop.network), workshop.gap(moved)
    return [Step(edit, *_norms(workshop.network, edit), *gaps, True, name) for edit in edits]


def _norms(network: nn.Module, edit: LayerEdit) -> tuple[float, float]:
    """Norm of a delta, and as a share of the norm of the weight that it is added to."""
    weight = network.get_submodule(edit.layer).weight
    assert isinstance(weight, Tensor)
    norm = float(edit.delta().norm())
    return norm, norm / max(float(weight.double().norm()), 1e-300)


@dataclass(frozen=True)
class _Attempt:
    """One rung that was tried, the network that it made, and how it was judged."""

    rung: Rung
    student: nn.Module
    judgement: Judgement


def _climb(workshop: Workshop, rungs: Sequence[Rung]) -> tuple[_Attempt, list[_Attempt], list[Step]]:
    """Try the rungs; returns the smallest that is nearly as good as the best, all attempts, and all their steps.

    Once one is whole or good enough, none is tried any more.
    """
    bench = workshop.case.bench()
    attempts: list[_Attempt] = []
    steps: list[Step] = []
    for rung in rungs:
        if any(_is_enough(attempt) for attempt in attempts):
            break
        copies = workshop.case.copies if len(rung.sites) > 1 else 0
        attempts.append(_attempt(workshop, rung, bench, copies, steps))
    if not attempts:
        raise Inconclusive("the model has no layer that can be edited: no plain Conv2d or Linear computes W k + b")
    attempts = _tuned(workshop, attempts, rungs[-1].strength, bench, steps)
    least = min(attempt.judgement.loss for attempt in attempts)
    limit = (NEARLY if least <= SMALL_LOSS else 1.0) * least + NEARLY_PLUS
    chosen = next(attempt for attempt in attempts if attempt.judgement.loss <= limit)
    return chosen, attempts, steps


def _is_enough(attempt: _Attempt) -> bool:
    """Whether nothing better need be looked for."""
    return is_whole(attempt.judgement) or is_good(attempt.judgement)


def _attempt(workshop: Workshop, rung: Rung, bench: Bench, copies: int, steps: list[Step]) -> _Attempt:
    """Try one rung on the images that solve, and judge it; its steps are added to ``steps``, as not kept."""
    student, done = workshop.run(rung, workshop.case.material(everything=False, copies=copies))
    judgement = bench.judge(student)
    steps += [replace(step, kept=False, reason=f"{rung.name}: {tell(judgement)}") for step in done]
    return _Attempt(rung, student, judgement)


def _tuned(
    workshop: Workshop, attempts: list[_Attempt], strength: Strength, bench: Bench, steps: list[Step]
) -> list[_Attempt]:
    """The attempts, and behind each single layer of this strength that could win also what it comes to when tuned.

    Nothing is tuned where an attempt is good enough, or where no images are kept aside to judge. Copies of the images
    take part, as in what is made in the end: how much a layer learns by heart depends on how many it sees.
    """
    case = workshop.case
    if not (case.carried and case.calibrated) or any(map(_is_enough, attempts)):
        return attempts
    least = min(attempt.judgement.loss for attempt in attempts)
    material = case.material(everything=False, copies=case.copies)
    result = []
    for attempt in attempts:
        result.append(attempt)
        rung = attempt.rung
        could_win = attempt.judgement.loss <= COULD_WIN * least
        if len(rung.sites) == 1 and rung.strength == strength and could_win and is_tunable(rung.sites[0]):
            better = _best_strength(workshop, rung, material, bench)
            if better != strength:
                tried = Rung(f"{rung.name}, {_tell_strength(better)}", rung.sites, better)
                result.append(_attempt(workshop, tried, bench, case.copies, steps))
    return result


def _best_strength(workshop: Workshop, rung: Rung, material: Material, bench: Bench) -> Strength:
    def advance(strength: Strength) -> None:
        workshop.advance(f"{rung.name}: {_tell_strength(strength)}")

    return tuned(workshop.network, rung.sites[0], material, rung.strength, bench, batch=workshop.batch, advance=advance)


def _tell_strength(strength: Strength) -> str:
    return f"weight {strength.weight:g}, damping {strength.damping:g}"


def ladder(scores: Sequence[LayerScore], strength: Strength) -> list[Rung]:
    """Rungs from small to large: single layers in the order given, ends of residual branches from the back, all."""
    sites = sorted((s.site for s in scores if is_candidate(s.site)), key=lambda site: site.order)
    shortlist = [score.site for score in scores if score.candidate][:SHORTLIST]
    least = shortlist[:RANK_ONE] if strength.rank is None else []
    rungs = singles(shortlist, least, strength)
    ends = [site for site in sites if site.join is not None] or sites
    what = "layers" if len(ends) == len(sites) else "block outputs"
    for count in sorted({2, (len(ends) + 1) // 2, len(ends)}):
        if 1 < count <= len(ends):
            rungs.append(Rung(f"cascade of the last {count} {what}", tuple(ends[-count:]), strength))
    if len(sites) > len(ends):
        rungs.append(Rung(f"cascade of all {len(sites)} layers", tuple(sites), strength))
    return rungs


def singles(sites: Sequence[Site], least: Sequence[Site], strength: Strength) -> list[Rung]:
    """Rungs of one layer each: of rank one the ``least``, and then of the strength's rank ``sites``."""
    ones = [Rung(f"{site.name} alone, rank one", (site,), replace(strength, rank=1, energy=1.0)) for site in least]
    return ones + [Rung(f"{site.name} alone", (site,), strength) for site in sites]


def tell(judgement: Judgement) -> str:
    """A judgement in a few words."""
    asr = "" if judgement.asr is None else f", attack success {100 * judgement.asr:.1f}%"
    kept = f"{100 * (1 - judgement.recovery_loss):.1f}% of the recovery"
    return f"{100 * (1 - judgement.accuracy_loss):.1f}% of the accuracy and {kept} expected{asr}"


def _suspects(workshop: Workshop, chosen: _Attempt) -> Tensor | None:
    """Calibration images that the untouched network calls target and the edited one does not: they carry the fault.

    Where they are many, and nearly all of the target's, the edit may have lost the class itself: then those alone
    that the fault is seen to fire in (`rectify.editing.detector`).
    """
    case = workshop.case
    if case.fault.kind != "flip" or case.fault.target is None or not case.carried:
        return None
    opinion = case.opinion[: case.images]
    sure = (opinion.argmax(1) == case.fault.target) & (opinion.amax(1) > 0.9)
    left = probabilities(chosen.student, case.teacher.clean[: case.images]).argmax(1) != case.fault.target
    found = (sure & left).nonzero().flatten()
    if len(found) > max(MOST_SUSPECTS * int(sure.sum()), FEW_SUSPECTS * case.images):
        site = min(chosen.rung.sites, key=lambda one: one.order)
        found = found[fires(workshop.network, site, case, case.teacher.clean[found], workshop.batch)]
    return found if len(found) else None
