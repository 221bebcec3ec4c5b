"""Invariants of the static edit and of the ladder; which rung wins, and by which threshold, is not tested here."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from fixtures import networks as fixtures
from rectify.editing import ladder as climbing
from rectify.editing import repair as module
from rectify.editing.cascade import Material, Strength, apply
from rectify.editing.casebook import Case
from rectify.editing.judge import Bench, Judgement, is_whole, is_worth_refining, probabilities
from rectify.editing.ladder import climb, ladder
from rectify.editing.localize import LayerScore, localize
from rectify.editing.repair import Repair, dynamic, static, trials
from rectify.editing.workshop import Rung, Step, Workshop
from rectify.errors import Inconclusive
from rectify.model.trace import survey
from rectify.sections import edit_section
from tests.editing.planted import TARGET, opened, pictures, stamp


def workshop(pairs: int = 1, images: int | None = 50, dirty: int = 0) -> tuple[Workshop, list[LayerScore]]:
    """A workshop on the planted network, and the scores of its layers."""
    network, case = opened(pairs, images, dirty=dirty)
    return Workshop(network, case), scores_of(network, case)


def scores_of(network: nn.Module, case: Case) -> list[LayerScore]:
    """The scores on the pairs of a case."""
    clean, corrupted = case.teacher.clean[-case.pairs :], case.corrupted[-case.pairs :]
    found = localize(network, survey(network, clean), clean, corrupted, case.fault, case.teacher.clean, steps=4)
    return list(found.scores)


def assert_chain(steps: list[Step], network: nn.Module, shop: Workshop) -> None:
    """The gaps of a run's steps follow from each other, and the norms are those of the deltas."""
    before = shop.gap(network)
    for step in steps:
        assert step.gap_before == pytest.approx(before)
        before = step.gap_after
        weight = network.get_submodule(step.edit.layer).weight
        assert step.delta_norm == pytest.approx(float(step.edit.delta().norm()))
        assert step.relative_norm == pytest.approx(step.delta_norm / float(weight.norm()), rel=1e-5)


def edited(network: nn.Module, repair: Repair) -> nn.Module:
    """A copy of the network with the repair's edits applied."""
    student = copy.deepcopy(network)
    for edit in repair.edits:
        apply(student, edit)
    return student


def test_a_run_edits_a_copy_and_tells_every_step() -> None:
    shop, scores = workshop(2)
    network = shop.network
    state = {name: value.clone() for name, value in network.state_dict().items()}
    sites = tuple(score.site for score in scores)
    student, steps = shop.run(Rung("all", sites[::-1], Strength()), shop.case.material(everything=False))
    assert [step.edit.layer for step in steps] == ["conv1", "conv2", "head"] and all(step.kept for step in steps)
    assert_chain(steps, network, shop)
    assert shop.gap(student) == pytest.approx(steps[-1].gap_after) and steps[-1].gap_after < 0.1 < steps[0].gap_before
    again = copy.deepcopy(network)
    for step in steps:
        apply(again, step.edit)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in student.state_dict().items())
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_the_gap_is_the_mean_over_the_pairs() -> None:
    shop, _ = workshop(3)
    clean = pictures(3, 1)
    one, other = probabilities(shop.network, clean), probabilities(shop.network, stamp(clean))
    labels = one.argmax(1)
    falls = [float(one[row, labels[row]] - other[row, labels[row]]) for row in range(3)]
    assert shop.gap(shop.network) == pytest.approx(sum(falls) / 3)


@pytest.mark.parametrize("rank", [None, 1, 2])
def test_a_static_edit_is_one_layer_of_the_rank_asked_for(rank: int | None) -> None:
    shop, scores = workshop()
    for score in scores:
        repair = static(shop, score.site, rank)
        assert [edit.layer for edit in repair.edits] == [score.site.name] and len(repair.steps) == 1
        assert repair.edits[0].rank == (rank or 1) and score.site.name in repair.policy
        assert_chain(list(repair.steps), shop.network, shop)
        assert repair.steps[0].gap_after < repair.steps[0].gap_before


@pytest.mark.parametrize("images", [50, None, 5])
@pytest.mark.parametrize("pairs", [1, 3])
def test_the_dynamic_repair_mends_the_planted_fault(pairs: int, images: int | None) -> None:
    shop, scores = workshop(pairs, images)
    state = {name: value.clone() for name, value in shop.network.state_dict().items()}
    repair = dynamic(shop, scores, None)
    assert all(torch.equal(value, state[name]) for name, value in shop.network.state_dict().items())
    kept = [step for step in repair.steps if step.kept]
    assert [step.edit for step in kept] == list(repair.edits)
    assert all(step.reason for step in repair.steps) and list(repair.steps[-len(kept) :]) == kept
    assert all((step.expected is None) == step.kept for step in repair.steps)
    assert_chain(kept, shop.network, shop)
    student, fresh = edited(shop.network, repair), pictures(200, 9)
    wanted = probabilities(shop.network, fresh).argmax(1)
    assert float((probabilities(shop.network, stamp(fresh)).argmax(1) == TARGET).float().mean()) == 1
    assert float((probabilities(student, fresh).argmax(1) == wanted).float().mean()) > 0.97
    assert float((probabilities(student, stamp(fresh)).argmax(1) == wanted).float().mean()) > 0.8


def test_the_dynamic_repair_is_the_same_every_time() -> None:
    shop, scores = workshop()
    network, case = opened.__wrapped__()
    one, other = dynamic(shop, scores, None), dynamic(Workshop(network, case), scores_of(network, case), None)
    assert one.policy == other.policy and one.notes == other.notes and one.judgement == other.judgement
    for mine, its in zip(one.edits, other.edits, strict=True):
        assert mine.layer == its.layer and torch.equal(mine.delta(), its.delta())


@pytest.mark.parametrize("rank", [1, 2])
def test_no_step_of_the_dynamic_repair_is_of_higher_rank_than_asked_for(rank: int) -> None:
    repair = dynamic(*workshop(), rank)
    for step in repair.steps:
        assert step.edit.rank == min(rank, *step.edit.delta().shape[1:])


@pytest.mark.parametrize("refine", [False, True])
def test_images_with_the_trigger_among_the_calibration_images_do_not_spoil_the_repair(
    refine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, scores = workshop(1, 60, dirty=6)
    asked: list[Tensor | None] = []
    solved_on, moved_on = Case.material, Case.clean_images

    def material(case: Case, *, without: Tensor | None = None, **options: bool) -> Material:
        asked.append(without)
        return solved_on(case, without=without, **options)

    def clean_images(case: Case, without: Tensor | None) -> Tensor:
        asked.append(without)
        return moved_on(case, without)

    monkeypatch.setattr(Case, "material", material)
    monkeypatch.setattr(Case, "clean_images", clean_images)
    repair = dynamic(shop, scores, None, refine)
    assert ("refined together" in repair.policy) == refine
    assert any(note.startswith("6 calibration images act like corrupted ones") for note in repair.notes)
    assert asked[-1] is not None and set(range(6)) <= set(asked[-1].tolist())  # and they are left out indeed
    student, fresh = edited(shop.network, repair), pictures(200, 9)
    wanted = probabilities(shop.network, fresh).argmax(1)
    assert float((probabilities(student, stamp(fresh)).argmax(1) == TARGET).float().mean()) < 0.2
    assert float((probabilities(student, fresh).argmax(1) == wanted).float().mean()) > 0.95


def test_trials_try_every_layer_alone_and_change_nothing_else() -> None:
    shop, scores = workshop()
    tried = trials(shop, scores, 1)
    assert [score.site.name for score in tried] == [score.site.name for score in scores]
    for score, before in zip(tried, scores, strict=True):
        assert score.trial is not None and score.gap_after is not None and before.trial is None
        assert replace(score, trial=None, gap_after=None) == before
        rung = Rung("", (score.site,), Strength(rank=1))
        _, steps = shop.run(rung, shop.case.material(everything=False))
        assert score.gap_after == pytest.approx(steps[-1].gap_after, abs=0.2)


def test_the_untouched_network_is_not_whole_and_a_perfect_one_is() -> None:
    shop, _ = workshop()
    bench = shop.case.bench()
    assert not is_whole(bench.judge(shop.network))
    perfect = replace(bench, corrupted=bench.clean[bench.rows])
    assert is_whole(perfect.judge(shop.network))


@pytest.mark.parametrize(
    ("lost", "partial", "worth"), [(0.01, False, True), (0.008, False, False), (0.008, True, True)]
)
def test_a_fault_that_only_sways_is_worth_refining_for_less(lost: float, partial: bool, worth: bool) -> None:
    judgement = Judgement(lost / 2, lost / 2, 0.1, 0.01, 0.1, (100, 100))
    assert is_worth_refining(judgement, partial) == worth
    assert not is_worth_refining(Judgement(0.0, 0.0, 0.0, 0.0, 0.0, (100, 100)), partial)  # nothing is lost


# ---------------------------------------------------------------- the ladder


def test_rungs_are_candidates_without_repetition_and_grow() -> None:
    network = fixtures.resnet18(4, width=2).eval().requires_grad_(False)
    sites = survey(network, torch.randn(1, 3, 8, 8))
    scores = [LayerScore(site, not site.is_shortcut, 1.0, 1.0, 1.0, None, 1.0, 0.0) for site in sites]
    rungs = ladder(scores, Strength())
    assert len({rung.name for rung in rungs}) == len(rungs) > 3
    for rung in rungs:
        names = [site.name for site in rung.sites]
        assert len(set(names)) == len(names) > 0 and not any(site.is_shortcut for site in rung.sites)
        assert [site.order for site in rung.sites] == sorted(site.order for site in rung.sites)
        assert str(len(names)) in rung.name or (len(names) == 1 and names[0] in rung.name)
    sizes = [len(rung.sites) for rung in rungs]
    assert sizes == sorted(sizes) and sizes[0] == 1


def test_a_network_of_one_layer_has_a_ladder_of_that_layer() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    site = survey(network, torch.randn(1, 1, 2, 2))[0]
    rungs = ladder([LayerScore(site, True, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0)], Strength())
    assert [[s.name for s in rung.sites] for rung in rungs] == [["1"], ["1"]]
    assert [rung.strength.rank for rung in rungs] == [1, None]
    assert len(ladder([LayerScore(site, True, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0)], Strength(rank=2))) == 1


def test_no_larger_rung_is_tried_once_one_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    shop, scores = workshop()
    rungs = ladder(scores, Strength())
    monkeypatch.setattr(climbing, "is_good", lambda judgement: True)
    _, attempts, _ = climb(shop, rungs)
    assert [attempt.rung.name for attempt in attempts] == [rungs[0].name]
    monkeypatch.setattr(climbing, "is_good", lambda judgement: False)
    monkeypatch.setattr(climbing, "is_whole", lambda judgement: False)
    _, attempts, _ = climb(shop, rungs)
    assert [attempt.rung.name for attempt in attempts if attempt.rung in rungs] == [rung.name for rung in rungs]


def test_what_is_good_by_the_few_images_that_judge_has_to_be_good_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    shop, scores = workshop()
    rungs = ladder(scores, Strength())[:2]
    monkeypatch.setattr(climbing, "is_tunable", lambda site: False)
    lucky, poor = (Judgement(loss, loss, 0.0, 0.0, 0.05, (100, 100)) for loss in (0.001, climbing.LUCKY / 1.9))
    few = len(shop.case.bench().clean)
    monkeypatch.setattr(Bench, "judge", lambda bench, _: lucky if len(bench.clean) == few else poor)
    _, attempts, steps = climb(shop, rungs)
    assert [(attempt.judgement, attempt.expected) for attempt in attempts] == [(lucky, poor)] * len(rungs)
    assert all(step.expected == poor for step in steps)
    poor = Judgement(climbing.LUCKY / 2.1, climbing.LUCKY / 2.1, 0.0, 0.0, 0.05, (100, 100))
    _, attempts, _ = climb(shop, rungs)
    assert [attempt.expected for attempt in attempts] == [lucky]  # no more than what so few may differ by


def test_calibration_images_that_carry_the_fault_say_nothing_against_what_is_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shop, scores = workshop()
    seen: list[int] = []

    def judge(bench: Bench, _: nn.Module) -> Judgement:
        seen.append(len(bench.clean))
        return Judgement(0.0, 0.0, 0.0, 0.0, 0.0, (100, 100))

    monkeypatch.setattr(Bench, "judge", judge)
    for without in (None, torch.arange(3)):
        monkeypatch.setattr(climbing, "suspects", lambda *_, without=without: without)
        climb(shop, ladder(scores, Strength())[:1])
    jury, everything, again, rest = seen
    assert jury == again < rest == everything - 3 * (shop.case.copies + 1)


def test_where_much_is_lost_the_best_rung_is_chosen_and_where_little_is_the_smallest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shop, scores = workshop()
    rungs = ladder(scores, Strength())[:3]
    monkeypatch.setattr(climbing, "is_good", lambda judgement: False)
    monkeypatch.setattr(climbing, "is_whole", lambda judgement: False)
    monkeypatch.setattr(climbing, "is_tunable", lambda site: False)
    for losses, wanted in (((0.0110, 0.0105, 0.0100), 0), ((0.110, 0.105, 0.100), 2), ((0.2, 0.0118, 0.01), 1)):
        given = (Judgement(0.0, loss, None, None, 0.0, (100, 100)) for loss in losses)
        monkeypatch.setattr(Bench, "judge", lambda *_, given=given: next(given))
        chosen, _, _ = climb(shop, rungs)
        assert chosen.rung.name == rungs[wanted].name


def _climbed(shop: Workshop, rungs: list[Rung], better: Strength, monkeypatch: pytest.MonkeyPatch) -> list[Rung]:
    """The rungs that are tried where ``better`` is what the judge prefers of each layer, and nothing is good enough."""
    monkeypatch.setattr(climbing, "is_good", lambda judgement: False)
    monkeypatch.setattr(climbing, "is_whole", lambda judgement: False)
    monkeypatch.setattr(climbing, "tuned", lambda *_, **__: SimpleNamespace(strength=better))
    _, attempts, steps = climb(shop, rungs)
    assert {step.reason.partition(": ")[0] for step in steps} == {attempt.rung.name for attempt in attempts}
    return [attempt.rung for attempt in attempts]


def test_a_single_layer_that_could_win_is_tried_with_what_the_judge_prefers_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shop, scores = workshop()
    rungs = ladder(scores, Strength(energy=0.99))
    monkeypatch.setattr(climbing, "COULD_WIN", float("inf"))
    better = Strength(weight=0.1, damping=0.3, energy=0.99)
    tried = _climbed(shop, rungs, better, monkeypatch)
    singles = [rung for rung in rungs if len(rung.sites) == 1 and rung.strength.rank is None]
    more = [rung for rung in tried if rung not in rungs]
    assert [rung.sites for rung in more] == [rung.sites for rung in singles]
    for rung in more:
        assert rung.strength == better and "weight 0.1, damping 0.3" in rung.name
        assert tried[tried.index(rung) - 1].sites == rung.sites  # no larger rung lies between
    monkeypatch.setattr(climbing, "COULD_WIN", 0.0)
    assert _climbed(shop, rungs, better, monkeypatch) == rungs
    monkeypatch.setattr(climbing, "COULD_WIN", float("inf"))
    assert _climbed(shop, rungs, rungs[-1].strength, monkeypatch) == rungs  # nothing is better
    alone, scores = workshop(images=None)
    assert _climbed(alone, rungs, better, monkeypatch) == rungs  # no image is kept aside to judge


def test_trials_are_as_many_as_can_be_afforded(monkeypatch: pytest.MonkeyPatch) -> None:
    shop, scores = workshop()
    sites = [score.site for score in scores]
    many = module.affordable_trials(shop.case, sites)
    assert many > len(sites)
    monkeypatch.setattr(module, "TRIAL_WORK", module.TRIAL_WORK * 3.5 / many)
    assert module.affordable_trials(shop.case, sites) == 3
    monkeypatch.setattr(module, "TRIAL_WORK", module.TRIAL_WORK / 2)
    assert module.affordable_trials(shop.case, sites) == 0


def test_without_any_candidate_the_repair_is_inconclusive() -> None:
    shop, scores = workshop()
    wide = [replace(s, candidate=False, site=replace(s.site, is_shortcut=True)) for s in scores]
    with pytest.raises(Inconclusive):
        dynamic(shop, wide, None)


@pytest.mark.parametrize(
    ("judgement", "doubtful"),
    [
        (Judgement(0.019, 0.049, 0.029, 0.0, 0.0, (80, 80)), False),
        (Judgement(0.021, 0.0, 0.0, 0.0, 0.0, (80, 80)), True),
        (Judgement(0.0, 0.051, None, None, 0.0, (80, 80)), True),
        (Judgement(0.0, 0.0, 0.031, 0.0, 0.0, (80, 80)), True),
    ],
)
def test_a_repair_that_other_images_are_not_expected_to_share_is_warned_of(
    judgement: Judgement, doubtful: bool
) -> None:
    done = Repair((), (), judgement, "policy", ())
    assert edit_section(done, "dynamic")["warnings"] == []  # nothing was kept aside to expect it of
    warnings = edit_section(replace(done, expected=judgement), "dynamic")["warnings"]
    assert bool(warnings) == doubtful and all("more pairs" in line for line in warnings)


def test_what_is_expected_is_of_images_that_the_repair_was_not_solved_on() -> None:
    shop, scores = workshop()
    found = module.dynamic(shop, scores, None, refine=False)
    assert found.expected is not None and found.expected.images[1] < found.judgement.images[1]
    alone, scores = workshop(images=None)
    assert module.dynamic(alone, scores, None, refine=False).expected is None


@pytest.mark.parametrize("dirty", [0, 6])
def test_real_images_of_a_class_that_an_edit_has_lost_are_no_suspects(dirty: int) -> None:
    """The edited network never answers with the target; nearly a third of the calibration images are of that class."""
    shop, scores = workshop(1, 60, dirty=dirty)
    case = shop.case
    target = case.fault.target
    assert target is not None
    other = case.teacher.clean[: case.images].clone()
    real = torch.arange(40, 60)
    opinion = case.opinion.clone()
    opinion[real] = nn.functional.one_hot(torch.tensor(target), opinion.shape[1]).to(opinion)
    shop.case = replace(case, opinion=opinion)
    student = copy.deepcopy(shop.network)
    with torch.no_grad():
        student.get_parameter("head.bias")[target] = -1e6
    rung = Rung("conv1 alone", (next(score.site for score in scores if score.site.name == "conv1"),), Strength())
    found = climbing.suspects(shop, rung, student)
    assert ([] if found is None else found.tolist()) == list(range(dirty))
    assert torch.equal(other, case.teacher.clean[: case.images])


@pytest.mark.parametrize("rank", [None, 2])
def test_the_one_layer_that_is_named_is_edited_by_as_much_as_it_takes(rank: int | None) -> None:
    shop, scores = workshop()
    for score in scores:
        repair = dynamic(shop, scores, rank, only=score.site)
        assert {step.edit.layer for step in repair.steps} == {score.site.name}
        ranks = {step.edit.rank for step in repair.steps}
        assert ranks == {2} if rank else 1 in ranks
