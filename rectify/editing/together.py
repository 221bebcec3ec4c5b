"""Refine layers together where closed forms one by one fall short: by which plan, and whether it is preferred to them.

Each plan has a trial, which sees none of the images that judge; the best is made on all of them. Behind it the last
layer is edited in closed form, where the judge prefers that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from rectify.editing.cascade import CARRIED, Material, Strength, apply, solve_layer
from rectify.editing.casebook import Case
from rectify.editing.judge import Bench, Judgement, lost, probabilities, tell
from rectify.editing.ladder import Attempt
from rectify.editing.localize import LayerScore
from rectify.editing.refine import LEAST_STEPS, SHARES, Plan, affordable_steps, early, refined
from rectify.editing.tune import WEIGHTS, is_tunable, tuned
from rectify.editing.workshop import Workshop
from rectify.errors import Inconclusive
from rectify.model.trace import Site

LITTLE = 0.015  # expected accuracy and recovery lost together: to win back no more only half of the layers are tried
MUCH = 0.05  # expected accuracy and recovery lost together after a refinement: above it more layers are tried
FEW = 8  # layers, of which a half may be too few whatever is expected of it
# Of a corrupted image against a clean one in the last layer's closed form: after a refinement little is left to mend
# there, so that more may be asked than of an untouched network (docs/policy.md, section 4). Not of a cue, or
# what turns few: its class was recognised without it in 56 to 59 % of the shirts then, and in 58 to 60 with the weights
# of other closed forms.
BEHIND_WEIGHTS = (3.0, 1.0)
# Times the loss of a refinement alone: so much more may be expected of the last layer's closed form behind it if less
# of the attack is left. What a few dozen images say of accuracy and recovery errs by more (docs/policy.md, section 4).
NO_WORSE = 1.2
CLEARLY = 0.85  # times the loss of fewer layers: only then more are moved, which costs accuracy that few images show


@dataclass(frozen=True)
class Trial:
    """A shorter refinement, how it was judged, and how strongly the last layer was edited behind it (None: it was not).

    ``finish``: weight and damping of the closed form.
    """

    judgement: Judgement
    plan: Plan
    finish: Strength | None = None


@dataclass(frozen=True)
class Refined:
    """A network whose layers ``sites`` were refined together, the name of how, and what the judge expects of it."""

    network: nn.Module
    sites: tuple[Site, ...]
    name: str
    expected: Judgement


def refine_together(
    workshop: Workshop, scores: Sequence[LayerScore], best: Attempt, suspected: Tensor | None
) -> tuple[Refined | None, str]:
    """Refine the first layers, or more, and what to say of it; None if the judge prefers the best closed form.

    A shorter refinement is the trial: like the attempt that it is held against it sees none of the images that judge,
    so that the verdict on both is fair. Once it is preferred, the whole refinement is made with those images too: of
    few each counts.

    Parameters
    ----------
    workshop
        The network and the case.
    scores
        Of the layers; the candidates among them take part.
    best
        The closed form that it has to beat.
    suspected
        Rows of calibration images that are left out, or None.
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
    trial = _try_plans(
        plans, before, _enough(case, sites), lambda plan: _try(workshop, sites, unseen, plan, jury, before)
    )
    if trial.judgement.loss >= before.loss:
        return None, _no_better(trial.judgement)
    made = _make(workshop, sites, suspected, trial, steps)
    whole = jury.judge(made.network)
    if whole.loss >= before.loss:  # the longer descent has diverged
        return None, _no_better(whole)
    if not _turns_any(case, network, made.network):
        return None, f"a refinement of layers together left the pairs as they were and was rolled back: {tell(whole)}"
    return made, f"the judge expects of a refinement: {tell(trial.judgement)}; of the best closed form: {tell(before)}"


def _no_better(judged: Judgement) -> str:
    return f"a refinement of layers together was no better and was rolled back: {tell(judged)}"


def _make(workshop: Workshop, sites: Sequence[Site], suspected: Tensor | None, trial: Trial, steps: int) -> Refined:
    """What was tried, in so many steps and on all images but the suspected."""
    case = workshop.case
    plan = replace(trial.plan, steps=steps)
    moved = _moved(workshop, sites, suspected, plan)
    moving = early(sites, plan.share)
    name = f"first {len(moving)} of {len(sites)} layers, refined together in {steps} steps"
    if trial.finish is not None:
        last = _last(sites)
        material = case.material(everything=True, copies=case.copies, without=suspected)
        with suppress(Inconclusive):  # the longer descent has diverged: the judge will say so
            finish(moved, last, material, trial.finish, workshop.batch)
        moving = tuple({site.name: site for site in (*moving, last)}.values())
        name += f", then {last.name} in closed form"
    return Refined(moved, moving, name, trial.judgement)


def _try(
    workshop: Workshop, sites: Sequence[Site], unseen: Tensor, plan: Plan, jury: Bench, before: Judgement
) -> Trial:
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
    label = f"{last.name} behind a refinement"
    try:
        found = tuned(
            moved,
            last,
            material,
            CARRIED,
            jury,
            weights=WEIGHTS if case.partial else BEHIND_WEIGHTS,
            batch=workshop.batch,
            advance=lambda _: workshop.advance(label),
        )
    except Inconclusive:  # the descent has diverged, as the judge says too
        return plain
    is_better = _is_better(found.judgement, plain.judgement, before, partial=case.partial)
    return Trial(found.judgement, plan, found.strength) if is_better else plain


def _is_better(finished: Judgement, plain: Judgement, before: Judgement, *, partial: bool) -> bool:
    """Whether a refinement is to have the last layer's closed form behind it.

    Of ``pull`` the images that judge see more than of their own answers: what is left of an attack shows there before
    it turns any of them. Of a fault that sways more images than it turns, a cue, it does not count, as its class may go
    with it; and a refinement that is better than what was ``before`` stays so.
    """
    less_is_left = not partial and (finished.pull or 0.0) < (plain.pull or 0.0)
    most = NO_WORSE * plain.loss if less_is_left else plain.loss
    return finished.loss < (min(most, before.loss) if plain.loss < before.loss else most)


def _last(sites: Sequence[Site]) -> Site:
    return max(sites, key=lambda site: site.order)


def finish(network: nn.Module, site: Site, material: Material, strength: Strength, batch: int) -> None:
    """Edit one layer of a network in place, in closed form: it shall read what reaches it now as what once did.

    Parameters
    ----------
    network
        Of which other layers have been moved before; the layer's weight is changed.
    site
        Of the layer, bound to this network or not.
    material
        Images, (N, C, H, W), and what the untouched network makes of them.
    strength, batch
        Of the closed form; images a pass.

    Raises
    ------
    Inconclusive
        If the keys that reach the layer are not finite, or their moment cannot be inverted.
    """
    apply(network, solve_layer(network, site, material, strength, batch))


def _turns_any(case: Case, network: nn.Module, moved: nn.Module) -> bool:
    """Whether of pairs whose class is flipped any corrupted image goes elsewhere than before: else it is no repair.

    Of a clear fault, and of pairs that the network hardly knows, the images that judge say so.
    """
    if case.fault.kind != "flip" or case.asks_others:
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
