"""When layers are refined together, by which plan, and what is kept of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rectify.editing import cascade, repair, together
from rectify.editing import refine as module
from rectify.editing.cascade import LayerEdit, Material, Strength, solve_layer
from rectify.editing.judge import Judgement, probabilities
from rectify.editing.refine import Plan, refined
from rectify.editing.tune import Tuned, tuned
from rectify.model.trace import Site
from tests.editing.planted import TARGET, pictures, stamp
from tests.editing.test_repair import assert_chain, edited, workshop


def only_refinement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every repair is refined, in 140 steps, with nothing behind it, and closed forms do nothing."""
    monkeypatch.setattr(repair, "is_worth_refining", lambda *_: True)
    monkeypatch.setattr(together, "is_tunable", lambda site: False)
    monkeypatch.setattr(cascade, "apply", lambda network, edit: None)  # closed forms that do nothing
    monkeypatch.setattr(module, "STEPS", 140)


def test_a_repair_that_is_not_whole_is_refined_and_the_better_one_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    shop, scores = workshop()
    monkeypatch.setattr(repair, "is_worth_refining", lambda *_: True)
    monkeypatch.setattr(module, "STEPS", 80)
    found = repair.dynamic(shop, scores, None)
    refining = "refined together in 80 steps" in found.policy
    assert refining or any("rolled back" in note for note in found.notes)
    kept = [step for step in found.steps if step.kept]
    assert [step.edit for step in kept] == list(found.edits)
    assert not refining or sorted(step.edit.layer for step in kept) == ["conv1", "conv2"]
    student, fresh = edited(shop.network, found), pictures(200, 9)
    wanted = probabilities(shop.network, fresh).argmax(1)
    assert float((probabilities(student, stamp(fresh)).argmax(1) == wanted).float().mean()) > 0.9
    assert float((probabilities(student, fresh).argmax(1) == wanted).float().mean()) > 0.97


def test_a_refinement_that_does_harm_is_rolled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    shop, scores = workshop()
    monkeypatch.setattr(repair, "is_worth_refining", lambda *_: True)
    monkeypatch.setattr(together, "is_tunable", lambda site: False)  # which would mend it
    plain = repair.dynamic(shop, scores, None, refine=False)

    def harmful(start: nn.Module, *_: object) -> nn.Module:
        ruined = copy.deepcopy(start)
        with torch.no_grad():
            ruined.get_submodule("head").weight.zero_()
        return ruined

    monkeypatch.setattr(together, "refined", harmful)
    found = repair.dynamic(shop, scores, None)
    assert found.policy == plain.policy and any("rolled back" in note for note in found.notes)
    assert [step.edit.layer for step in found.steps if step.kept] == [edit.layer for edit in found.edits]
    for mine, its in zip(found.edits, plain.edits, strict=True):
        assert torch.equal(mine.delta(), its.delta())
    assert_chain([step for step in found.steps if step.kept], shop.network, shop)
    student = edited(shop.network, found)
    assert float((probabilities(student, stamp(pictures(200, 9))).argmax(1) == TARGET).float().mean()) < 0.1


def test_the_trial_never_sees_the_images_that_judge_and_the_whole_refinement_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shop, scores = workshop()
    only_refinement(monkeypatch)
    seen: list[tuple[int, Tensor]] = []

    def spy(*given: Any) -> nn.Module:
        images, plan = given[2], given[4]
        seen.append((plan.steps, images))
        return refined(*given)

    monkeypatch.setattr(together, "refined", spy)
    monkeypatch.setattr(together, "MUCH", 1.0)  # the first half will do
    monkeypatch.setattr(together, "FEW", 0)
    found = repair.dynamic(shop, scores, None)
    case = shop.case
    held_back = case.teacher.clean[case.judge]

    def among(images: Tensor) -> int:
        return sum(bool((one == images).flatten(1).all(1).any()) for one in held_back)

    assert [steps for steps, _ in seen] == [80, 140] and "refined together in 140 steps" in found.policy
    assert [among(images) for _, images in seen] == [0, len(held_back)]


def test_where_the_first_half_is_too_little_all_layers_move(monkeypatch: pytest.MonkeyPatch) -> None:
    shop, scores = workshop()
    only_refinement(monkeypatch)
    asked: list[tuple[int, float]] = []

    def useless_by_half(*given: Any) -> nn.Module:
        plan = given[4]
        asked.append((plan.steps, plan.share))
        return refined(*given) if plan.share == 1 else copy.deepcopy(given[0])

    monkeypatch.setattr(together, "refined", useless_by_half)
    found = repair.dynamic(shop, scores, None)
    assert asked == [(80, 1 / 2), (80, 2 / 3), (80, 1.0), (140, 1.0)] and found.policy.startswith(
        "first 3 of 3 layers, refined"
    )


@pytest.mark.parametrize("partial", [False, True])
def test_where_little_is_missing_half_of_the_layers_are_tried_and_no_more(
    partial: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, scores = workshop()
    only_refinement(monkeypatch)
    monkeypatch.setattr(together, "LITTLE", 10.0)
    monkeypatch.setattr(type(shop.case), "partial", partial)
    asked: list[float] = []

    def useless(*given: Any) -> nn.Module:
        asked.append(given[4].share)
        return copy.deepcopy(given[0])

    monkeypatch.setattr(together, "refined", useless)
    found = repair.dynamic(shop, scores, None)
    assert asked == ([1 / 2, 2 / 3, 1.0] if partial else [1 / 2]) and "refined" not in found.policy


@pytest.mark.parametrize(
    ("losses", "layers", "count", "taken"),
    [
        ((0.04, 0.0, 0.0), 9, 1, 1 / 2),  # the half leaves little: no more is tried
        ((0.04, 0.02, 0.018), 8, 3, 2 / 3),  # but of few layers
        ((0.04, 0.035, 0.0), 8, 3, 1.0),
        ((0.0, 0.0, 0.0), 8, 1, 1 / 2),
        ((0.08, 0.07, 0.04), 9, 3, 1.0),  # a little better is not enough, much better is
        ((0.08, 0.04, 0.0), 9, 2, 2 / 3),  # once little is left no more is tried
        ((0.08, 0.075, 0.07), 9, 3, 1 / 2),
        ((0.20, 0.19, 0.18), 9, 3, 1.0),  # worse than before by half: whatever is best
        ((math.nan, 0.08, 0.09), 9, 3, 2 / 3),
    ],
)
def test_more_layers_move_where_half_of_them_leaves_much(
    losses: tuple[float, ...], layers: int, count: int, taken: float
) -> None:
    asked: list[float] = []

    def tried(plan: Plan) -> together.Trial:
        asked.append(plan.share)
        return together.Trial(Judgement(0.0, losses[len(asked) - 1], 0.0, 0.0, 0.0, (40, 40)), plan)

    before = Judgement(0.0, 0.15, 0.0, 0.0, 0.0, (40, 40))
    enough = together._enough(workshop()[0].case, [workshop()[1][0].site] * layers)
    trial = together._try_plans([Plan(share=share) for share in module.SHARES], before, enough, tried)
    assert (len(asked), trial.plan.share) == (count, taken)
    assert trial.judgement.recovery_loss == losses[asked.index(taken)]


@pytest.mark.parametrize("better", range(3))
def test_of_a_fault_that_moves_things_three_plans_are_tried_and_the_best_is_made(
    better: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, scores = workshop()
    moves = tuple(replace(guess, moves=True) for guess in shop.case.believed)
    monkeypatch.setattr(shop, "case", replace(shop.case, believed=moves))
    assert shop.case.moving
    only_refinement(monkeypatch)
    wanted = [(0.5, False, False), (1.0, False, False), (1.0, True, True)]  # share, shifted before, and after
    asked: list[tuple[int, tuple[float, bool, bool]]] = []

    def one_is_better(*given: Any) -> nn.Module:
        plan = given[4]
        how = (plan.share, plan.shift, plan.after)
        asked.append((plan.steps, how))
        return refined(*given[:4], plan if how == wanted[better] else replace(plan, steps=20))

    monkeypatch.setattr(together, "refined", one_is_better)
    found = repair.dynamic(shop, scores, None)
    assert asked == [*((80, how) for how in wanted), (140, wanted[better])] and "140 steps" in found.policy


def test_a_refinement_that_fails_only_when_it_is_made_whole_is_rolled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    shop, scores = workshop()
    only_refinement(monkeypatch)
    plain = repair.dynamic(shop, scores, None, refine=False)

    def diverging(*given: Any) -> nn.Module:
        made = refined(*given)
        if given[4].steps == 140:
            with torch.no_grad():
                made.get_submodule("head").weight.mul_(-10)
        return made

    monkeypatch.setattr(together, "refined", diverging)
    found = repair.dynamic(shop, scores, None)
    assert found.policy == plain.policy and any("rolled back" in note for note in found.notes)


def test_a_refinement_that_leaves_the_pairs_as_they_were_is_rolled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written is checked on the pairs: such a refinement would be refused, and the closed form is not."""
    shop, scores = workshop()
    only_refinement(monkeypatch)
    plain = repair.dynamic(shop, scores, None, refine=False)
    assert "refined" in repair.dynamic(shop, scores, None).policy
    monkeypatch.setattr(together, "_turns_any", lambda *_: False)
    found = repair.dynamic(shop, scores, None)
    assert found.policy == plain.policy and any("left the pairs as they were" in note for note in found.notes)


def test_behind_a_refinement_the_last_layer_is_solved_where_the_judge_prefers_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On images that do not judge for the trial, then on all, on what the refined layers pass on."""
    shop, scores = workshop()
    case = shop.case
    only_refinement(monkeypatch)
    monkeypatch.setattr(together, "is_tunable", lambda site: True)
    monkeypatch.setattr(together, "refined", lambda *given: refined(*given[:4], replace(given[4], steps=20)))
    solved: list[tuple[nn.Module, Material, Strength]] = []

    def spy(network: nn.Module, site: Site, material: Material, strength: Strength, batch: int) -> LayerEdit:
        assert site.name == "head"
        solved.append((copy.deepcopy(network), material, strength))
        return solve_layer(network, site, material, strength, batch)

    trials: list[tuple[Material, Tuned]] = []

    def tried(network: nn.Module, site: Site, material: Material, *given: Any, **more: Any) -> Tuned:
        assert site.name == "head"
        trials.append((material, tuned(network, site, material, *given, **more)))
        return trials[-1][1]

    monkeypatch.setattr(together, "solve_layer", spy)
    monkeypatch.setattr(together, "tuned", tried)
    found = repair.dynamic(shop, scores, None)
    assert found.policy.endswith("refined together in 140 steps, then head in closed form")
    ((moved, material, strength),) = solved
    assert all(not torch.isin(case.judge, trial.reference).any() for trial, _ in trials)
    assert torch.isin(case.judge, material.reference).all() and strength in [best.strength for _, best in trials]
    kept = {edit.layer: edit for edit in found.edits}
    before = moved.get_submodule("head").weight.double()
    head = next(score.site for score in scores if score.site.name == "head")
    solved_again = solve_layer(moved, head, material, strength).delta()[0]
    wanted = before + solved_again - shop.network.get_submodule("head").weight.double()
    torch.testing.assert_close(kept["head"].delta()[0], wanted, rtol=0, atol=1e-6)  # weights are rounded to float32


@pytest.mark.parametrize(("kind", "fires"), [("flip", 1.0), ("flip", 0.6), ("cue", 1.0)])
def test_of_what_sways_more_than_it_turns_corrupted_images_weigh_no_more_than_clean_ones_behind_a_refinement(
    kind: str, fires: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, scores = workshop()
    guesses = dict.fromkeys(shop.case.guesses, fires)
    monkeypatch.setattr(shop, "case", replace(shop.case, fault=replace(shop.case.fault, kind=kind), guesses=guesses))
    only_refinement(monkeypatch)
    monkeypatch.setattr(together, "is_tunable", lambda site: True)
    asked: list[float] = []

    def spy(*given: Any, weights: Sequence[float], **more: Any) -> Tuned:
        asked.append(max(weights))
        return tuned(*given, weights=weights, **more)

    monkeypatch.setattr(together, "tuned", spy)
    repair.dynamic(shop, scores, None)
    assert set(asked) == {3.0 if (kind, fires) == ("flip", 1.0) else 1.0}


def test_a_last_layer_that_the_judge_does_not_prefer_stays_as_the_refinement_left_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shop, scores = workshop()
    only_refinement(monkeypatch)
    plain = repair.dynamic(shop, scores, None)
    monkeypatch.setattr(together, "is_tunable", lambda site: True)

    def worse(*given: Any, **more: Any) -> Tuned:
        found = tuned(*given, **more)
        return replace(found, judgement=replace(found.judgement, recovery_loss=found.judgement.recovery_loss + 1))

    monkeypatch.setattr(together, "tuned", worse)
    found = repair.dynamic(shop, scores, None)
    assert found.policy == plain.policy and "closed form" not in found.policy
    assert [edit.layer for edit in found.edits] == [edit.layer for edit in plain.edits]


def test_a_last_layer_may_be_expected_to_lose_a_little_more_if_less_of_an_attack_is_left() -> None:
    plain = Judgement(0.01, 0.02, 0.0, 0.003, 0.04, (80, 80))
    same, weaker = replace(plain, accuracy_loss=0.0199), replace(plain, accuracy_loss=0.0199, pull=-0.001)
    assert plain.loss < same.loss and weaker.loss < together.NO_WORSE * plain.loss
    poor = replace(plain, recovery_loss=0.5)  # what was before

    def is_better(finished: Judgement, before: Judgement = poor, partial: bool = False) -> bool:
        return together._is_better(finished, plain, before, partial=partial)

    assert is_better(weaker) and not is_better(same)
    assert not is_better(weaker, partial=True)  # whose class may go with it
    assert not is_better(replace(weaker, recovery_loss=0.04))
    assert is_better(replace(plain, recovery_loss=0.019), partial=True)
    assert not is_better(weaker, before=replace(weaker, accuracy_loss=0.0198))  # which plain is better than, and it not
    assert is_better(weaker, before=replace(plain, recovery_loss=0.019))  # neither is
    each = replace(plain, asr=None, pull=None)  # from all classes to all
    assert not together._is_better(replace(each, accuracy_loss=0.0101), each, poor, partial=False)


def test_what_turns_no_pair_is_told() -> None:
    shop, scores = workshop()
    repaired = edited(shop.network, repair.dynamic(shop, scores, None))
    assert together._turns_any(shop.case, shop.network, repaired)
    assert not together._turns_any(shop.case, shop.network, copy.deepcopy(shop.network))
    cue = replace(shop.case, fault=replace(shop.case.fault, kind="cue"))
    assert together._turns_any(cue, shop.network, shop.network)
    clear = replace(shop.case, believed=tuple(replace(guess, clear=True) for guess in shop.case.believed))
    assert together._turns_any(clear, shop.network, shop.network)  # other images say whether it is one


@pytest.mark.parametrize("clear", [False, True])
def test_a_pair_that_the_network_hardly_knows_says_nothing_of_a_repair(clear: bool) -> None:
    shop, _ = workshop()
    case = replace(shop.case, believed=tuple(replace(guess, clear=clear) for guess in shop.case.believed))
    opinion = case.opinion.clone()
    opinion[-case.pairs :] = torch.tensor([0.59] + [0.41 / (opinion.shape[1] - 1)] * (opinion.shape[1] - 1))
    unsure = replace(case, opinion=opinion)
    surer = opinion.clone()
    surer[-1] = torch.tensor([0.61] + [0.39 / (opinion.shape[1] - 1)] * (opinion.shape[1] - 1))
    assert case.asks_others == clear and unsure.asks_others
    assert replace(case, opinion=surer).asks_others == clear
    assert replace(unsure, believed=()).asks_others is False
    assert together._turns_any(unsure, shop.network, shop.network)
    assert repair.borne_out(unsure, Judgement(0.0, 0.0, 0.0, 0.0, 0.0, (80, 70)))


@pytest.mark.parametrize("clear", [False, True])
def test_other_images_bear_a_repair_out_if_they_lose_half_of_a_clear_fault(clear: bool) -> None:
    shop, _ = workshop()
    believed = tuple(replace(guess, clear=clear) for guess in shop.case.believed)
    case = replace(shop.case, believed=believed, guesses={guess.name: 0.8 for guess in believed})
    assert case.clear == clear

    def expected(asr: float | None) -> Judgement:
        return Judgement(0.0, 0.0, asr, asr, 0.0, (80, 70))

    assert repair.borne_out(case, expected(0.4)) == clear
    assert not repair.borne_out(case, expected(0.41)) and not repair.borne_out(case, expected(None))
    assert not repair.borne_out(case, None) and not repair.borne_out(replace(case, believed=()), expected(0.0))


@pytest.mark.parametrize("images", [None, 5])
def test_without_enough_calibration_images_nothing_is_refined(
    images: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, scores = workshop(1, images)
    monkeypatch.setattr(repair, "is_worth_refining", lambda *_: True)
    monkeypatch.setattr(together, "refined", lambda *_: pytest.fail("refined on invented images"))
    assert repair.dynamic(shop, scores, None).edits


def test_a_rank_that_is_asked_for_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    shop, scores = workshop()
    monkeypatch.setattr(repair, "is_worth_refining", lambda *_: True)
    assert all(edit.rank == 1 for edit in repair.dynamic(shop, scores, 1).edits)


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("from_steps", [80, 140])
def test_a_refinement_that_ends_in_no_number_is_rolled_back(
    finished: bool, from_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial and the whole, or the whole alone; with the last layer solved behind it, or not."""
    shop, scores = workshop()
    only_refinement(monkeypatch)
    monkeypatch.setattr(together, "is_tunable", lambda site: finished)
    plain = repair.dynamic(shop, scores, None, refine=False)

    def diverged(*given: Any) -> nn.Module:
        if given[4].steps < from_steps:
            return refined(*given)
        made = copy.deepcopy(given[0])
        with torch.no_grad():
            made.get_submodule("conv1").weight.fill_(math.nan)
        return made

    monkeypatch.setattr(together, "refined", diverged)
    found = repair.dynamic(shop, scores, None)
    assert found.policy == plain.policy and any("rolled back" in note for note in found.notes)
    assert all(bool(edit.delta().isfinite().all()) for edit in found.edits)
