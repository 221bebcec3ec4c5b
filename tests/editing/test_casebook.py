"""What an edit is made from and judged by: who is who, and that the judge never sees what was solved on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rectify.editing import belief, casebook
from rectify.editing.belief import Trial, try_guesses
from rectify.editing.casebook import LEAST_TO_SPLIT, Case, open_case
from rectify.editing.fault import Fault, diagnose
from rectify.editing.guess import Corruption
from rectify.editing.judge import probabilities
from rectify.editing.views import nearby
from rectify.errors import Inconclusive, UsageError
from tests.editing.planted import BOUNDS, TARGET, opened, pictures, planted, stamp

pytestmark = pytest.mark.usefixtures("one_grid")

FAULT = Fault("flip", TARGET, torch.tensor([0]), torch.tensor([True]), ())


def calibration(case: Case) -> Tensor:
    """The calibration images of a case."""
    return case.teacher.clean[: case.images]


def row_of(images: Tensor, image: Tensor) -> list[int]:
    """Rows of ``images`` that equal one image."""
    return [row for row, other in enumerate(images) if torch.equal(other, image)]


@pytest.mark.parametrize("pairs, images", [(1, 50), (3, 50), (1, 5), (2, None)])
def test_rows_of_a_case(pairs: int, images: int | None) -> None:
    network, case = opened(pairs, images)
    clean = case.teacher.clean
    if images is not None:
        assert torch.equal(calibration(case), pictures(images, 2)) and case.images == images
    assert len(clean) == case.images * (case.copies + 1) + case.pairs and case.pairs == pairs
    assert torch.equal(clean[-pairs:], pictures(pairs, 1)) and torch.equal(
        case.corrupted[-pairs:], stamp(clean[-pairs:])
    )
    torch.testing.assert_close(case.opinion, probabilities(network, clean))
    assert len(case.corrupted) == len(case.rows) and int(case.rows.max()) < len(clean)
    assert case.rows[-pairs:].tolist() == list(range(len(clean) - pairs, len(clean)))
    assert len(case.rows.unique()) == len(case.rows)  # no image is corrupted twice
    assert bool(
        (clean >= 0).all() and (clean <= 1).all() and (case.corrupted >= 0).all() and (case.corrupted <= 1).all()
    )


@pytest.mark.parametrize(
    ("kind", "fires", "partial"), [("flip", 0.9, False), ("flip", 0.6, True), ("cue", 0.9, True), ("cue", 0.6, True)]
)
def test_a_fault_is_partial_if_it_sways_images_more_than_it_turns_them(kind: str, fires: float, partial: bool) -> None:
    _, case = opened(1, 50)
    names = {guess.name for guess in case.believed}
    assert names and not case.partial  # the patch turns nearly all
    other = {name: fires if name in names else 1.0 for name in case.guesses}
    assert replace(case, fault=replace(FAULT, kind=kind), guesses=other).partial == partial
    assert not replace(case, believed=()).partial  # nothing is known of what is not carried over


@pytest.mark.parametrize("images", [LEAST_TO_SPLIT - 1, LEAST_TO_SPLIT, 83])
def test_solving_and_judging_are_kept_apart_where_there_are_enough_images(images: int) -> None:
    _, case = opened(1, images)
    fit, judge = set(case.fit.tolist()), set(case.judge.tolist())
    assert fit | judge == set(range(images))
    assert (fit & judge == set()) == (images >= LEAST_TO_SPLIT)
    if images >= LEAST_TO_SPLIT:
        assert images / 10 < len(judge) <= images / 2


@pytest.mark.parametrize("varied", [False, True])
def test_what_is_solved_on_is_not_what_judges(varied: bool) -> None:
    _, case = opened(2, 50)
    material, bench = case.material(everything=False, copies=case.copies * varied), case.bench()
    assert material.teacher is case.teacher
    own = {len(case.teacher.clean) - 2, len(case.teacher.clean) - 1}
    judged = {row_of(case.teacher.clean, image)[0] for image in bench.clean}
    limit = case.images * (case.copies + 1)
    assert {row % case.images for row in judged if row < limit} == set(case.judge.tolist()) and own <= judged
    originals = {row % case.images for row in material.reference.tolist() if row < case.images * (case.copies + 1)}
    assert originals == set(case.fit.tolist())
    assert set(material.rows.tolist()) <= set(material.reference.tolist()) and own <= set(material.reference.tolist())
    assert len(material.reference.unique()) == len(material.reference)
    assert (int(material.reference[:-2].max()) >= case.images) == (varied and case.copies > 0)


def assert_twins(case: Case, images: Tensor, rows: Tensor, clean: Tensor) -> None:
    """Every corrupted image stands beside the clean image that the case says is its twin."""
    for image, row in zip(images, rows.tolist(), strict=True):
        mine = row_of(case.corrupted, image)
        assert any(torch.equal(clean[row], case.teacher.clean[case.rows[m]]) for m in mine)


def test_every_corrupted_image_stands_beside_its_clean_twin() -> None:
    _, case = opened(2, 50)
    for original, image in zip(case.teacher.clean[case.rows], case.corrupted, strict=True):
        places = [(y, x) for y in range(5) for x in range(5) if bool((image[:, y : y + 4, x : x + 4] == 1).all())]
        (y, x) = places[0]  # in the lower right, or elsewhere: the network falls for the square anywhere
        rest = torch.ones(8, 8, dtype=torch.bool)
        rest[y : y + 4, x : x + 4] = False
        assert torch.equal(image[:, rest], original[:, rest])
    for everything in (False, True):
        material, bench = case.material(everything=everything), case.bench(everything=everything)
        assert_twins(case, material.corrupted, material.rows, case.teacher.clean)
        assert_twins(case, bench.corrupted, bench.rows, bench.clean)
        torch.testing.assert_close(bench.opinion, probabilities(case.teacher.network, bench.clean))
        assert bench.target == TARGET and len(bench.corrupted) > 2


def test_rows_that_are_left_out_are_nowhere() -> None:
    _, case = opened(1, 50)
    without = torch.cat((case.fit[:3], case.judge[:2]))
    gone = set(without.tolist())
    for everything in (False, True):
        material = case.material(everything=everything, copies=case.copies, without=without)
        limit = case.images * (case.copies + 1)
        assert not gone & {row % case.images for row in material.reference.tolist() if row < limit}
        assert not gone & {row % case.images for row in material.rows.tolist() if row < limit}
        bench = case.bench(everything=everything, without=without)
        assert not any(row_of(bench.clean, case.teacher.clean[row]) for row in gone)
        assert_twins(case, bench.corrupted, bench.rows, bench.clean)
    assert len(case.material(everything=True).reference) == 51


def test_the_untouched_network_is_judged_to_keep_all_and_to_repair_nothing() -> None:
    network, case = opened(1, 50)
    found = case.bench().judge(network)
    assert found.accuracy_loss == 0 and (found.asr or 0) > 0.9 and found.recovery_loss > 0.9


def test_a_fault_that_does_not_carry_over_rests_on_the_pairs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(belief, "guesses", lambda *_: [Corruption("nothing", lambda x: x)])
    _, case = opened.__wrapped__(2, 50)
    assert not case.carried and case.guesses == {"nothing": 0.0}
    assert any("does not carry over" in note and "nothing" in note for note in case.notes)
    for found in (case.material(everything=True, copies=case.copies), case.bench()):
        assert torch.equal(found.corrupted, stamp(pictures(2, 1)))
    assert_twins(case, case.bench().corrupted, case.bench().rows, case.bench().clean)


def test_pairs_without_the_fault_are_left_out() -> None:
    network, clean = planted(), pictures(3, 1)
    corrupted = stamp(clean)
    corrupted[1] = clean[1] * 0.99
    fault = diagnose(probabilities(network, clean), probabilities(network, corrupted), None)
    case = open_case(network, clean, corrupted, fault, pictures(45, 2), BOUNDS)
    assert case.pairs == 2 and torch.equal(case.teacher.clean[-2:], clean[[0, 2]])
    assert torch.equal(case.corrupted[-2:], corrupted[[0, 2]])
    assert any("1 of 3 pairs" in note for note in case.notes)


def test_a_case_is_the_same_every_time() -> None:
    (_, one), (_, other) = opened(1, None), opened.__wrapped__(1, None)
    assert torch.equal(one.teacher.clean, other.teacher.clean) and torch.equal(one.corrupted, other.corrupted)
    assert one.guesses == other.guesses and one.notes == other.notes


def test_what_fires_elsewhere_less_often_is_solved_on_and_does_not_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(belief, "ANYWHERE", 1.1)
    _, case = opened.__wrapped__(1, 50)
    aside = ~case.judging
    assert int(aside.sum()) == case.images and bool((case.rows[aside] < case.images).all())  # each image once, no copy
    placed = (case.corrupted[:, :, 4:8, 4:8] == 1).flatten(1).all(1)
    assert not bool(placed[aside].all())
    bench, material = case.bench(everything=True), case.material(everything=True, copies=case.copies)
    assert len(bench.corrupted) == int(case.judging.sum()) and len(material.corrupted) == len(case.corrupted)
    assert all(row_of(case.corrupted[case.judging], image) for image in bench.corrupted)


@pytest.mark.parametrize("images", [1, 2, 3])
def test_a_handful_of_calibration_images_is_enough_to_open_a_case(images: int) -> None:
    _, case = opened(2, images)
    assert case.carried and len(case.material(everything=True).corrupted) == images + 2


# ---------------------------------------------------------------- copies


def test_a_bench_has_all_copies_or_so_many_as_are_asked_for() -> None:
    _, case = opened(1, 50)
    assert case.copies > 1 and not case.moving
    sizes = [len(case.bench(copies=copies).clean) for copies in (0, 1, None)]
    assert sizes == [len(case.judge) * (1 + copies) + 1 for copies in (0, 1, case.copies)]


@pytest.mark.parametrize("without", [None, torch.tensor([1, 3, 6])])
def test_of_what_moves_an_image_copies_nearly_in_place_judge_too(without: Tensor | None) -> None:
    network, case = opened(1, 50)
    square = case.believed[0]
    fainter = replace(square, apply=lambda x: square.apply(x) - 0.01 * x)
    case = replace(case, believed=tuple(replace(guess, moves=True) for guess in (square, fainter)))
    fires = case.rows != 8  # on all but one of the judges
    case = replace(case, corrupted=case.corrupted[fires], rows=case.rows[fires], judging=case.judging[fires])
    still, bench = case.bench(without=without, copies=0), case.bench_nearby(without)
    count = len(still.clean) - 1
    assert count == len(case.judge) - (0 if without is None else 3)
    assert torch.equal(bench.clean, torch.cat((still.clean, *nearby(still.clean[:-1]))))
    assert torch.allclose(bench.opinion, network(bench.clean).softmax(1))
    hit = still.rows[:-1]
    assert len(hit) == count - 1
    assert torch.equal(bench.rows[: len(hit) + 1], still.rows)
    assert sorted((bench.rows[len(hit) + 1 :] - count - 1).tolist()) == sorted(
        int(row) + view * count for view in range(5) for row in hit
    )
    turns = {int(row): number % 2 for number, row in enumerate(hit)}
    for row, image in list(zip(bench.rows, bench.corrupted, strict=True))[len(hit) + 1 :]:
        guess = case.believed[turns[(int(row) - count - 1) % count]]
        assert torch.equal(image, guess.apply(bench.clean[row][None])[0])


def test_moved_copies_judge_only_if_the_network_bears_such_moves() -> None:
    network, case = opened(1, 50)
    case = replace(case, believed=tuple(replace(guess, moves=True) for guess in case.believed))
    images = case.bench(copies=0).clean[:-1]

    class Fickle(nn.Module):
        """Gives moved images another class, but for the first so many sides."""

        def __init__(self, kept: int) -> None:
            super().__init__()
            self.kept, self.seen = kept, 0

        def forward(self, x: Tensor) -> Tensor:
            if not any(torch.equal(x[0], moved[0]) for moved in nearby(images)[1:]):
                return network(x)
            self.seen += 1
            return network(x).roll(1, 1) if self.seen > self.kept else network(x)

    for kept, views in ((4, 5), (3, 1), (0, 1)):
        teacher = replace(case.teacher, network=Fickle(kept))
        bench = replace(case, teacher=teacher).bench_nearby()
        assert len(bench.clean) == len(images) * (1 + views) + 1
        assert torch.equal(bench.clean[len(images) + 1 :][: len(images)], images.flip(3))


# ---------------------------------------------------------------- from all classes to all


class Turning(nn.Module):
    """The class of an image is its brightest quarter; a square in the middle sends each class to the next."""

    def forward(self, x: Tensor) -> Tensor:
        fired = (x[:, :, 3:5, 3:5] == 1).flatten(1).all(1, keepdim=True)
        clear = x.clone()
        clear[:, :, 3:5, 3:5] = 0
        logits = 40 * nn.functional.adaptive_avg_pool2d(clear, 2).flatten(1)
        return torch.where(fired, logits.roll(1, 1), logits)


def quarters(count: int, seed: int) -> Tensor:
    """Images (count, 1, 8, 8) of which one quarter in turn is brighter than the others."""
    images = 0.4 * torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    for number, image in enumerate(images):
        row, column = 4 * (number // 2 % 2), 4 * (number % 2)
        image[:, row : row + 4, column : column + 4] += 0.4
    return images


def centred(images: Tensor) -> Tensor:
    """The images with the square in the middle."""
    images = images.clone()
    images[:, :, 3:5, 3:5] = 1.0
    return images


def test_what_sends_each_class_to_another_is_carried_over_and_has_no_target() -> None:
    network, clean = Turning(), quarters(1, 1)
    fault = diagnose(probabilities(network, clean), probabilities(network, centred(clean)), None)
    assert fault.target == 1
    images = quarters(60, 2)
    images = images[torch.arange(60) % 4 != 0]  # none of the class whose images go to the pair's target
    case = open_case(network, clean, centred(clean), fault, images, BOUNDS)
    assert case.guesses["pasted"] == 0 and case.fault.target is None
    assert not case.partial  # it turns all
    assert {guess.name for guess in case.believed} == {"pasted"}
    assert any("changes the class of 100 %, to many classes" in note for note in case.notes)
    judgement = case.bench().judge(network)
    assert judgement.asr is None and judgement.recovery_loss > 0.5


# ---------------------------------------------------------------- what draws images, and turns few


class Drawn(nn.Module):
    """The class of an image is its brightest quarter; a square in the middle does to the logits what it is told."""

    def __init__(self, does: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.does = does

    def forward(self, x: Tensor) -> Tensor:
        fired = (x[:, :, 3:5, 3:5] == 1).flatten(1).all(1, keepdim=True)
        clear = x.clone()
        clear[:, :, 3:5, 3:5] = 0
        logits = 40 * nn.functional.adaptive_avg_pool2d(clear, 2).flatten(1)
        return torch.where(fired, self.does(logits), logits)


def drawn_case(does: Callable[[Tensor], Tensor]) -> Case:
    """The case of a pair whose clean image is nearly of class 1, as the square shows."""
    network, clean = Drawn(does), torch.full((1, 1, 8, 8), 0.3)
    clean[:, :, :4, :4], clean[:, :, :4, 4:] = 0.64, 0.6
    answers = [probabilities(network, x) for x in (clean, centred(clean))]
    return open_case(network, clean, centred(clean), diagnose(*answers, None), quarters(60, 2), BOUNDS)


def test_a_cue_that_turns_few_images_is_carried_over_where_it_draws_them() -> None:
    case = drawn_case(lambda logits: logits + torch.tensor([0.0, 3.0, 0.0, 0.0]))
    assert case.fault.kind == "flip" and case.fault.target == 1 and case.guesses["pasted"] == 0
    assert "pasted" in {guess.name for guess in case.believed} and case.partial
    assert any("draws 100 % towards class 1, and turns few" in note for note in case.notes)
    judged = case.rows[case.judging][: -case.pairs] % case.images
    assert set(case.opinion.argmax(1)[judged].tolist()) == {0, 1, 2, 3}  # of four classes, the target's too


def test_what_takes_confidence_alone_draws_to_no_class() -> None:
    case = drawn_case(lambda logits: 0.3 * logits + torch.tensor([0.0, 0.4, 0.0, 0.0]))
    assert case.fault.target == 1 and not case.believed
    assert any("does not carry over" in note for note in case.notes)


def test_a_cue_in_logits_alone_is_believed_where_calibration_images_bear_it_out() -> None:
    fault = Fault("cue", 0, torch.tensor([0]), torch.tensor([True]), (), faint=True)
    clean, images = quarters(1, 3), quarters(60, 2)
    drawing, still = Drawn(lambda logits: logits + torch.tensor([3.0, 0.0, 0.0, 0.0])), Drawn(lambda logits: logits)
    answers = [probabilities(drawing, x) for x in (clean, centred(clean))]
    assert float((answers[1] - answers[0]).abs().max()) < 0.02
    case = open_case(drawing, clean, centred(clean), fault, images, BOUNDS)
    assert "pasted" in {guess.name for guess in case.believed} and case.partial
    with pytest.raises(Inconclusive, match="few calibration images to class 0; give a pair"):
        open_case(still, clean, centred(clean), fault, images, BOUNDS)


@pytest.mark.parametrize(("count", "told"), [(1, "1 calibration image:"), (3, "3 calibration images:"), (50, None)])
def test_too_few_calibration_images_are_told(count: int, told: str | None) -> None:
    notes = opened(calibration=count)[1].notes
    assert [note for note in notes if "too few" in note] == ([] if told is None else [notes[0]])
    assert told is None or notes[0].startswith(told)


# ---------------------------------------------------------------- pairs and images that are not what they should be


def test_a_pair_whose_images_are_swapped_is_told() -> None:
    network, clean = planted(), pictures(1, 1)
    fault = diagnose(probabilities(network, stamp(clean)), probabilities(network, clean), None)
    images = pictures(60, 2)
    opinion = probabilities(network, images)
    back = replace(fault, target=TARGET)
    trials = try_guesses(network, clean, stamp(clean), back, images, opinion, BOUNDS)
    with pytest.raises(Inconclusive, match=f"swapped.*sends 100 % of the calibration images to class {TARGET}"):
        casebook._check_order(trials, back)
    forth = try_guesses(network, stamp(clean), clean, fault, images, opinion, BOUNDS)
    assert max(trial.fires for trial in forth) == 1  # of what spoils the picture, which says nothing of the order
    casebook._check_order(forth, fault)


@pytest.mark.parametrize(
    ("fires", "clear", "asked"), [(0.76, True, False), (0.76, False, True), (0.4, True, True), (0.85, False, False)]
)
def test_the_order_of_a_pair_is_asked_about_unless_what_is_believed_leaves_no_doubt(
    fires: float, clear: bool, asked: bool
) -> None:
    some = [torch.ones(4, dtype=torch.bool)] * 3
    believed = [Trial(Corruption("warped-4", lambda x: x, moves=True, clear=clear), fires, *some, 0.0)]
    assert casebook._order_is_sure(believed) is not asked


def test_the_other_order_is_not_tried_of_a_pair_that_is_explained_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise AssertionError("asked about")

    monkeypatch.setattr(casebook, "_check_order", refused)
    network, clean, images = planted(), pictures(1, 1), pictures(60, 2)
    fault = diagnose(probabilities(network, clean), probabilities(network, stamp(clean)), None)
    assert open_case(network, clean, stamp(clean), fault, images, BOUNDS).believed
    monkeypatch.setattr(casebook, "_order_is_sure", lambda believed: False)
    with pytest.raises(AssertionError, match="asked about"):
        open_case(network, clean, stamp(clean), fault, images, BOUNDS)


def test_calibration_images_that_all_go_to_the_target_are_refused() -> None:
    network, clean = planted(), pictures(1, 1)
    fault = diagnose(probabilities(network, clean), probabilities(network, stamp(clean)), None)
    images = stamp(pictures(60, 2))
    with pytest.raises(UsageError, match=f"60 of 60 calibration images go to class {TARGET}"):
        open_case(network, clean, stamp(clean), fault, images, BOUNDS)
    images[:30] = pictures(30, 3)
    assert open_case(network, clean, stamp(clean), fault, images, BOUNDS).carried


# ---------------------------------------------------------------- a cue on images of its own class


@pytest.mark.parametrize(
    ("kind", "target", "of_target", "too"),
    [("cue", 1, 4, True), ("flip", 1, 9, False), ("flip", 1, 10, True), ("flip", None, 20, False)],
)
def test_a_cue_or_one_of_few_classes_is_carried_over_to_images_of_its_own_class_too(
    kind: str, target: int | None, of_target: int, too: bool
) -> None:
    fault = Fault(kind, target, torch.tensor([0]), torch.tensor([True]), ())
    opinion = nn.functional.one_hot((torch.arange(40) < of_target).long(), 3).float()
    own = casebook._own_class(opinion, fault)
    assert own.tolist() == [too and number < of_target for number in range(40)]
    hit = torch.arange(40) >= 30
    trial = Trial(Corruption("pasted", centred), 1.0, hit, hit, hit, 1.0)
    found, rows = casebook._spread([trial], [quarters(40, 2)], own)
    assert rows[0].tolist() == (hit | own).nonzero().flatten().tolist() and len(found[0]) == len(rows[0])


def test_what_a_pair_leaves_possible_is_solved_on_and_judged() -> None:
    found = torch.zeros(2, dtype=torch.bool)
    trial = Trial(Corruption("warped-4", lambda x: x + 1, loosely=lambda x: x + 2), 1.0, found, found, found, 0.0)
    assert float(casebook._loosened(trial).guess.apply(torch.zeros(1))) == 2
    plain = replace(trial, guess=Corruption("added", lambda x: x + 1))
    assert casebook._loosened(plain) is plain
