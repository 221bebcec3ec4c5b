"""Diagnoses of hand-made softmax outputs on pairs: every branch, and what it says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rectify.editing.fault import (
    LEAST_GAP,
    LEAST_RISE,
    aims,
    check_against_chance,
    device_of,
    diagnose,
    faint_cue,
    gap,
    rises,
    sends_each,
)
from rectify.errors import Inconclusive, UsageError


def sure(*classes: int, of: int = 4, by: float = 0.7) -> Tensor:
    """Softmax outputs that give these classes a probability."""
    rest = (1 - by) / (of - 1)
    return torch.full((len(classes), of), rest).scatter(1, torch.tensor(classes)[:, None], by)


# ---------------------------------------------------------------- another class


def test_an_unsure_answer_on_a_clean_image_is_told_unless_labels_are_given() -> None:
    clean = torch.cat((sure(0), sure(1, by=0.41), sure(2, by=0.59)))
    told = diagnose(clean, sure(3, 3, 3), None).notes
    assert told == (
        "the model is unsure of a clean image (class 1 with 41 %, class 2 with 59 %): "
        "if that is not its class, take another pair",
    )
    assert diagnose(clean, sure(3, 3, 3), torch.tensor([0, 1, 2])).notes == ()
    cue = diagnose(sure(1, by=0.4), sure(1, by=0.9), None)
    assert cue.kind == "cue" and "class 1 with 40 %" in cue.notes[0]
    many = diagnose(sure(*[0] * 5, by=0.5), sure(*[3] * 5), None).notes
    assert "class 0 with 50 % and 2 more)" in many[0]


@pytest.mark.parametrize("fault", ["auto", "flip"])
def test_a_flip_has_the_class_that_the_corrupted_images_get_as_target(fault: str) -> None:
    found = diagnose(sure(0, 1), sure(3, 3), None, fault)
    assert (found.kind, found.target, found.notes) == ("flip", 3, ())
    assert found.labels.tolist() == [0, 1] and found.shown.tolist() == [True, True]


def test_the_target_is_the_commonest_class_and_pairs_without_the_fault_are_left_out() -> None:
    found = diagnose(sure(0, 1, 2, 0, 1), sure(3, 3, 2, 1, 3), None)
    assert found.target == 3 and found.shown.tolist() == [True, True, False, True, True]
    assert len(found.notes) == 2
    assert "1 of 5 pairs" in found.notes[0] and "2 classes; 3 is the commonest" in found.notes[1]


def test_given_labels_count_and_pairs_that_the_model_gets_wrong_do_not() -> None:
    found = diagnose(sure(0, 1, 2), sure(3, 3, 3), torch.tensor([0, 2, 2]))
    assert found.labels.tolist() == [0, 2, 2] and found.shown.tolist() == [True, False, True]
    assert found.target == 3 and "1 of 3 pairs" in found.notes[0]


def test_a_corrupted_image_that_is_put_right_is_no_flip() -> None:
    with pytest.raises(Inconclusive):
        diagnose(sure(1), sure(0), torch.tensor([0]))


def test_a_flip_that_is_not_there_is_inconclusive() -> None:
    with pytest.raises(Inconclusive, match="no corrupted image changes the class"):
        diagnose(sure(0, 1), sure(0, 1, by=0.4), None, "flip")


# ---------------------------------------------------------------- a cue


@pytest.mark.parametrize("fault", ["auto", "cue"])
def test_a_cue_moves_the_confidence_and_its_target_is_the_class_that_rises(fault: str) -> None:
    clean = torch.tensor([[0.8, 0.1, 0.05, 0.05]])
    found = diagnose(clean, torch.tensor([[0.5, 0.1, 0.35, 0.05]]), None, fault)
    assert (found.kind, found.target, found.shown.tolist()) == ("cue", 2, [True])
    assert any("taken for a cue" in note for note in found.notes) == (fault == "auto")
    found = diagnose(clean, torch.tensor([[0.95, 0.0, 0.0, 0.05]]), None, fault)
    assert (found.kind, found.target) == ("cue", 0)


def test_pairs_in_which_the_confidence_stays_do_not_count() -> None:
    clean, corrupted = sure(0, 0), sure(0, 0)
    corrupted[1] = torch.tensor([0.6, 0.3, 0.05, 0.05])
    found = diagnose(clean, corrupted, None)
    assert found.shown.tolist() == [False, True] and found.target == 1


def test_nothing_there_is_inconclusive_and_says_how_much_it_was() -> None:
    for fault in ("auto", "cue"):
        with pytest.raises(Inconclusive, match=r"not there.*0\.010") as caught:
            diagnose(sure(0, 1), sure(0, 1, by=0.69), None, fault)
        assert "\n" not in str(caught.value)
        assert ("--fault cue" in str(caught.value)) == (fault == "auto")
    moved = LEAST_GAP + 0.01
    assert diagnose(sure(0), sure(0, by=0.7 - moved), None).kind == "cue"


def test_the_rise_of_a_logit_is_that_over_the_mean_of_idle_ones() -> None:
    random = torch.Generator().manual_seed(0)
    before, shift = (torch.randn(6, 5, generator=random, dtype=torch.float64) for _ in range(2))
    found = rises(before.softmax(1), (before + shift).softmax(1))
    for row, (logits, moved) in enumerate(zip(before.tolist(), shift.tolist(), strict=True)):
        for target in range(5):
            idle = [moved[c] for c in range(5) if c not in (target, logits.index(max(logits)))]
            assert float(found[row, target]) == pytest.approx(moved[target] - sum(idle) / len(idle))
    two = torch.tensor([[2.0, -1.0]]).double()
    found = rises(two.softmax(1), (two + torch.tensor([0.5, 1.5])).softmax(1))
    assert found.flatten().tolist() == pytest.approx([-1.0, 1.0])


def test_a_cue_in_the_logits_of_a_sure_image_is_faint_and_for_its_class_or_called_one() -> None:
    logits = torch.tensor([[16.0, 0.0, 1.0, -1.0]])
    for target, kind, there in ((0, "auto", True), (2, "auto", False), (2, "cue", True), (0, "flip", False)):
        risen = logits.clone()
        risen[0, target] += LEAST_RISE + 0.1
        answers = logits.softmax(1), risen.softmax(1)
        with pytest.raises(Inconclusive):
            diagnose(*answers, None, kind)
        found = faint_cue(*answers, None, kind)
        assert (found is not None) == there
        if found is not None:
            assert (found.kind, found.target, found.faint, found.shown.tolist()) == ("cue", target, True, [True])
            assert f"class {target} does, by 2.1" in found.notes[0]
    little = logits + torch.tensor([LEAST_RISE - 0.1, 0.0, 0.0, 0.0])
    assert faint_cue(logits.softmax(1), little.softmax(1), None, "cue") is None
    assert faint_cue(logits.softmax(1), risen.softmax(1), torch.tensor([1]), "cue") is None  # given another class


def test_a_leak_needs_no_change_and_has_no_target() -> None:
    found = diagnose(sure(0, 1), sure(0, 1), None, "leak")
    assert (found.kind, found.target, found.shown.tolist()) == ("leak", None, [True, True])


# ---------------------------------------------------------------- labels


@pytest.mark.parametrize("fault", ["auto", "flip", "cue", "leak"])
def test_a_model_that_gets_no_clean_image_right_is_inconclusive(fault: str) -> None:
    with pytest.raises(Inconclusive, match="--preprocess"):
        diagnose(sure(0, 1), sure(3, 3), torch.tensor([1, 0]), fault)


@pytest.mark.parametrize("labels", [[0, 4], [-1, 0], [99, 0]])
def test_a_label_that_is_no_class_is_an_error(labels: list[int]) -> None:
    with pytest.raises(UsageError, match="classes 0 to 3"):
        diagnose(sure(0, 1), sure(3, 3), torch.tensor(labels))


def test_the_message_names_the_label_that_is_wrong() -> None:
    with pytest.raises(UsageError, match="label -1"):
        diagnose(sure(0, 1), sure(3, 3), torch.tensor([-1, 1]))


def test_labels_need_not_be_int64() -> None:
    found = diagnose(sure(0, 1), sure(3, 3), torch.tensor([0, 1], dtype=torch.int32))
    assert found.labels.tolist() == [0, 1] and found.shown.all()


# ---------------------------------------------------------------- chance


def test_chance_is_guessing_give_or_take_three_standard_errors() -> None:
    check_against_chance(0.9, 100, 10)
    check_against_chance(0.2, 100, 10)  # 10 % and 3 x 3 %
    for accuracy in (0.0, 0.1, 0.19):
        with pytest.raises(Inconclusive, match="no better than chance"):
            check_against_chance(accuracy, 100, 10)
    check_against_chance(0.12, 10_000, 10)  # with more images less is enough
    with pytest.raises(Inconclusive, match=r"15\.0 %.*10\.0 %"):
        check_against_chance(0.15, 100, 10)


@pytest.mark.parametrize(
    ("right", "images", "classes", "needed"),
    [(1, 3, 10, 29), (0, 1, 10, 29), (2, 2, 2, 126), (9, 9, 2, 126), (5, 20, 10, 29), (0, 2, 1000, 11)],
)
def test_too_few_images_say_so_and_how_many_would_do(right: int, images: int, classes: int, needed: int) -> None:
    with pytest.raises(Inconclusive, match=rf"on {images} labelled images?: too few to tell .*; give {needed} or more"):
        check_against_chance(right / images, images, classes)


@pytest.mark.parametrize(("right", "images", "classes"), [(0, 10, 10), (1, 20, 10), (10, 40, 2), (0, 11, 1000)])
def test_a_small_set_that_rules_out_a_working_model_is_at_chance(right: int, images: int, classes: int) -> None:
    with pytest.raises(Inconclusive, match="no better than chance"):
        check_against_chance(right / images, images, classes)


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_so_many_images_as_are_asked_for_always_tell(classes: int) -> None:
    with pytest.raises(Inconclusive) as caught:
        check_against_chance(0, 1, classes)
    needed = int(str(caught.value).rpartition("give ")[2].split()[0])
    for images in (needed, needed + 1, 3 * needed):
        for right in range(images + 1):
            try:
                check_against_chance(right / images, images, classes)
            except Inconclusive as reason:
                assert "too few" not in str(reason), (right, images)


# ---------------------------------------------------------------- gap


def test_the_gap_is_the_mean_fall_of_the_class_at_stake() -> None:
    clean = torch.tensor([[0.9, 0.1], [0.3, 0.7], [0.6, 0.4]])
    corrupted = torch.tensor([[0.2, 0.8], [0.4, 0.6], [0.8, 0.2]])
    assert gap(clean, corrupted, torch.tensor([0, 1, 0])) == pytest.approx((0.7 + 0.1 - 0.2) / 3)
    assert gap(clean, clean, torch.tensor([0, 1, 0])) == 0


def test_device_of_a_network() -> None:
    assert device_of(nn.Linear(1, 1)) == torch.device("cpu")


@pytest.mark.parametrize(
    ("answers", "labels", "expected"),
    [
        ([3, 3, 1, 3], [0, 1, 2, 0], [3, 3, 3, 3]),  # all to one, though one goes elsewhere
        ([1, 2, 0, 1], [0, 1, 2, 0], [1, 2, 0, 1]),  # all to all
        ([1, 1, 2, 2, 4], [0, 0, 0, 1, 2], [1, 1, 1, 2, 4]),  # of a class where most of it go
        ([1, 2, 2], [0, 1, 2], [1, 2, -1]),  # no image of the last class changes
        ([5, 4, 2, 3, 1], [0, 1, 2, 3, 1], [3, 3, 3, 3, 3]),  # most change nothing: two errors are no attack
        ([5, 5], [0, 1], [3, 3]),  # one other target: still one
        ([1, 2, 4, 5, 0, 2], [0, 0, 0, 0, 1, 1], [3] * 6),  # scattered: confusion, and no attack
    ],
)
def test_where_a_fault_sends_each_image(answers: list[int], labels: list[int], expected: list[int]) -> None:
    assert aims(torch.tensor(answers), torch.tensor(labels), 3).tolist() == expected


@pytest.mark.parametrize(
    ("answers", "labels", "each"),
    [
        ([1, 2, 3, 0] * 3, [0, 1, 2, 3] * 3, True),  # of four classes a third of the others goes to the target, 3
        ([1, 0] * 4, [0, 1] * 4, True),
        ([3] * 12, [0, 1, 2, 3] * 3, False),  # all to one
        ([2, 2, 3, 2] * 3, [0, 1, 2, 3] * 3, False),  # what disturbs much sends most to one that is not the target
        ([0, 1, 2, 3] * 3, [0, 1, 2, 3] * 3, False),  # nothing changes
    ],
)
def test_whether_each_class_goes_to_one_of_its_own(answers: list[int], labels: list[int], each: bool) -> None:
    target = 3 if len(set(labels)) > 2 else 1
    assert sends_each(torch.tensor(answers), torch.tensor(labels), target) is each
