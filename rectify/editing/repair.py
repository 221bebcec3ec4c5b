"""Rectify: the static edit of one layer, and the dynamic repair that tries ever larger edits until one is whole.

Dynamic (after Algorithm 1 of arXiv 2603.15656): relocalise, edit, judge, keep or roll back. The rungs of the ladder go
from one layer to all of them (`rectify.editing.ladder`); where the best falls short, layers are refined together.
What "whole" means is measured without a label on calibration images that the edit was not solved on (`judge`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from rectify.editing.cascade import CARRIED, ENERGY, LayerEdit, Strength
from rectify.editing.casebook import Case
from rectify.editing.judge import Judgement, is_good, is_whole, is_worth_refining, tell
from rectify.editing.ladder import Attempt, climb, ladder, singles, suspects
from rectify.editing.localize import LayerScore
from rectify.editing.refine import difference, effort
from rectify.editing.together import refine_together
from rectify.editing.workshop import Rung, Step, Workshop, joint_steps
from rectify.model.trace import Site

HALF = 0.5  # of the share on which a fault fires, at most, may be left for other images to bear a repair out
TRIAL_WORK = 5e12  # `effort` that the trials of a localisation may cost together: about a minute on one core
LEAST_TRIALS = 3  # fewer order nothing
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
        done, note = _refined(workshop, scores, best, suspected)
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


def _refined(
    workshop: Workshop, scores: Sequence[LayerScore], best: Attempt, suspected: Tensor | None
) -> tuple[Repair | None, str]:
    made, note = refine_together(workshop, scores, best, suspected)
    if made is None:
        return None, note
    edits = difference(made.network, workshop.network, made.sites)
    kept = joint_steps(workshop, edits, made.network, made.name)
    judged = _final(workshop.case, made.network, suspected)
    return Repair(tuple(edits), tuple(kept), judged, made.name, (), made.expected), note


def borne_out(case: Case, expected: Judgement | None) -> bool:
    """Whether other images than the pairs bear a repair out: it takes at least half of the fault away from them.

    A pair is one image, and one that the network hardly knows may go to the target with or without the trigger. Of what
    carries the fault over and is not clear nothing but the pair says that it is what was done, if it says anything.
    """
    return case.asks_others and expected is not None and expected.asr is not None and expected.asr <= HALF * case.fires
