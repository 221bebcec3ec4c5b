"""The ladder: candidate repairs from small to large, tried until one is good; the smallest that is nearly the best.

Rungs go from one layer to all of them. Where none is good, the single layers that could win are tuned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from rectify.editing.cascade import Material, Strength
from rectify.editing.detector import fires
from rectify.editing.judge import Bench, Judgement, is_good, is_whole, lost, probabilities, tell
from rectify.editing.localize import LayerScore, is_candidate
from rectify.editing.tune import is_tunable, tuned
from rectify.editing.workshop import Rung, Step, Workshop
from rectify.errors import Inconclusive
from rectify.model.trace import Site

NEARLY, NEARLY_PLUS = 1.2, 0.001  # a smaller rung may have this times the best one's loss, plus this
SMALL_LOSS = 0.02  # where the best rung loses more than this, recovery counts and size does not
COULD_WIN = 3.0  # times the best rung's loss: single layers that lose more are not tuned
# Expected accuracy and recovery lost together, by all images: more than this tells a lucky attempt. Of an edit of the
# shipped network that cost 0.06 and 0.22 points of 9,000 images all said 0.009, of a lucky one (0.91 and 2.9) 0.030.
LUCKY = 0.015
FEW_SUSPECTS = 0.05  # of the calibration images: so many may carry the fault, whatever share of the target's they are
MOST_SUSPECTS = 0.75  # of those that are called target, if they are more: beyond it the edit has lost the class
SHORTLIST = 5  # single layers tried, in the order of the localisation
RANK_ONE = 2  # of these, so many also with the smallest of edits


@dataclass(frozen=True)
class Attempt:
    """One rung that was tried, the network that it made, and how it was judged.

    Attributes
    ----------
    judgement
        By the images that judge, which none was solved on: attempts are held against each other by it.
    expected
        The same, or, of what is good by these, what all images say where by them more than ``LUCKY`` is lost. The
        judges are few, and of a ladder of attempts one is bound to be lucky; images that it was solved on flatter it.
    """

    rung: Rung
    student: nn.Module
    judgement: Judgement
    expected: Judgement


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


def climb(workshop: Workshop, rungs: Sequence[Rung]) -> tuple[Attempt, list[Attempt], list[Step]]:
    """Try the rungs; returns the smallest that is nearly as good as the best, all attempts, and all their steps.

    Once one is whole or good enough, none is tried any more.
    """
    bench = workshop.case.bench()
    attempts: list[Attempt] = []
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


def _is_enough(attempt: Attempt) -> bool:
    """Whether nothing better need be looked for."""
    return is_whole(attempt.expected) or is_good(attempt.expected)


def _attempt(workshop: Workshop, rung: Rung, bench: Bench, copies: int, steps: list[Step]) -> Attempt:
    """Try one rung on the images that solve, and judge it; its steps are added to ``steps``, as not kept."""
    student, done = workshop.run(rung, workshop.case.material(everything=False, copies=copies))
    judgement = expected = bench.judge(student)
    if workshop.case.calibrated and (is_whole(judgement) or is_good(judgement)):  # else all judge as it is
        without = suspects(workshop, rung, student)
        by_all = workshop.case.bench(everything=True, without=without).judge(student)
        expected = by_all if lost(by_all) > LUCKY else judgement
    reason = f"{rung.name}: {tell(expected)}"
    steps += [replace(step, kept=False, reason=reason, expected=expected) for step in done]
    return Attempt(rung, student, judgement, expected)


def _tuned(
    workshop: Workshop, attempts: list[Attempt], strength: Strength, bench: Bench, steps: list[Step]
) -> list[Attempt]:
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

    site, batch = rung.sites[0], workshop.batch
    return tuned(workshop.network, site, material, rung.strength, bench, batch=batch, advance=advance).strength


def _tell_strength(strength: Strength) -> str:
    return f"weight {strength.weight:g}, damping {strength.damping:g}"


def suspects(workshop: Workshop, rung: Rung, student: nn.Module) -> Tensor | None:
    """Calibration images that the untouched network calls target and the edited one does not: they carry the fault.

    Where they are many, and nearly all of the target's, the edit may have lost the class itself: then those alone
    that the fault is seen to fire in (`rectify.editing.detector`). Their rows in the case, (m,), or None if there are
    none; ``student`` is what the rung made of the network.
    """
    case = workshop.case
    if case.fault.kind != "flip" or case.fault.target is None or not case.carried:
        return None
    opinion = case.opinion[: case.images]
    sure = (opinion.argmax(1) == case.fault.target) & (opinion.amax(1) > 0.9)
    left = probabilities(student, case.teacher.clean[: case.images]).argmax(1) != case.fault.target
    found = (sure & left).nonzero().flatten()
    if len(found) > max(MOST_SUSPECTS * int(sure.sum()), FEW_SUSPECTS * case.images):
        site = min(rung.sites, key=lambda one: one.order)
        found = found[fires(workshop.network, site, case, case.teacher.clean[found], workshop.batch)]
    return found if len(found) else None
