"""Judgements worked out by hand on tables of softmax outputs."""

from __future__ import annotations

from math import log

import pytest
import torch
from torch import Tensor, nn

from rectify.editing.judge import Bench, Judgement, compare, probabilities


def table(*rows: tuple[float, ...]) -> Tensor:
    """Softmax outputs, one row an image."""
    return torch.tensor(rows)


def bench(opinion: Tensor, rows: list[int], target: int | None) -> Bench:
    """A bench whose images do not matter."""
    return Bench(torch.zeros(len(opinion), 1), opinion, torch.zeros(len(rows), 1), torch.tensor(rows).long(), target)


SURE = table((0.9, 0.1, 0.0), (0.2, 0.7, 0.1), (0.4, 0.25, 0.35))


def test_the_untouched_network_loses_nothing() -> None:
    found = compare(bench(SURE, [0, 2], 1), SURE, SURE[[0, 2]])
    assert (found.accuracy_loss, found.recovery_loss, found.asr) == (0, 0, 0)
    assert found.divergence == pytest.approx(0, abs=1e-6) and found.loss == pytest.approx(0, abs=1e-6)


def test_a_changed_prediction_costs_what_the_untouched_network_was_sure_of() -> None:
    after = table((0.1, 0.9, 0.0), (0.2, 0.7, 0.1), (0.3, 0.3, 0.4))
    found = compare(bench(SURE, [1], 1), after, SURE[[1]])
    # image 0: .9 - .1 lost; image 1: nothing; image 2 was undecided: .4 - .35
    assert found.accuracy_loss == pytest.approx((0.8 + 0 + 0.05) / 3)
    assert found.recovery_loss == 0


def test_a_corrupted_image_should_get_the_opinion_of_its_twin() -> None:
    corrupted = table((0.1, 0.8, 0.1), (0.1, 0.2, 0.7), (0.8, 0.1, 0.1))
    found = compare(bench(SURE, [0, 1, 2], 1), SURE, corrupted)
    # 0 goes to 1: .9 - .1;  1 goes to 2: .7 - .1;  2 gets its class 0
    assert found.recovery_loss == pytest.approx((0.8 + 0.6 + 0) / 3) and found.accuracy_loss == 0


def test_a_third_class_for_all_is_no_recovery() -> None:
    third = table((0, 0, 1), (0, 0, 1))
    found = compare(bench(SURE, [0, 1], 1), SURE, third)
    assert found.asr == 0 and found.recovery_loss == pytest.approx((0.9 + 0.6) / 2) and found.loss > 0.5


def test_attack_success_is_the_share_sent_to_the_target() -> None:
    corrupted = table((0.1, 0.8, 0.1), (0.9, 0.1, 0.0), (0.2, 0.3, 0.5), (0.4, 0.5, 0.1))
    assert compare(bench(SURE, [0, 0, 2, 2], 1), SURE, corrupted).asr == pytest.approx(0.5)
    assert compare(bench(SURE, [0, 0, 2, 2], 2), SURE, corrupted).asr == pytest.approx(0.25)
    assert compare(bench(SURE, [0, 0, 2, 2], None), SURE, corrupted).asr is None


def test_attack_success_is_over_images_of_other_classes() -> None:
    found = compare(bench(SURE, [0, 1], 1), SURE, SURE[[0, 1]])  # as the untouched network on clean: nothing to mend
    assert found.asr == 0


def test_divergence_is_that_of_kullback_and_leibler() -> None:
    one, other = table((0.5, 0.5)), table((0.25, 0.75))
    found = compare(bench(one, [0], None), other, one)
    assert found.divergence == pytest.approx(0.5 * log(2) + 0.5 * log(2 / 3), rel=1e-5)
    found = compare(bench(one, [0], None), one, other)
    assert found.divergence == pytest.approx(0.5 * log(2) + 0.5 * log(2 / 3), rel=1e-5)
    certain = compare(bench(table((1.0, 0.0)), [0], None), table((0.0, 1.0)), one)
    assert 10 < certain.divergence < 25  # finite


def test_without_corrupted_images_only_the_clean_ones_count() -> None:
    found = compare(bench(SURE, [], 1), table((0.0, 1, 0), (0, 1, 0), (1, 0, 0)), torch.empty(0, 3))
    assert found.asr is None and found.recovery_loss == 0 and found.accuracy_loss == pytest.approx(0.8 / 3)


def test_any_loss_makes_a_judgement_worse() -> None:
    corrupted = SURE[[0, 2]]
    calm = compare(bench(SURE, [0, 2], 1), SURE, corrupted)
    worse = [
        compare(bench(SURE, [0, 2], 1), table((0.1, 0.9, 0), (0.2, 0.7, 0.1), (0.4, 0.25, 0.35)), corrupted),
        compare(bench(SURE, [0, 2], 1), SURE, table((0.1, 0.9, 0.0), (0.4, 0.25, 0.35))),
        compare(bench(SURE, [0, 2], 1), SURE, table((0.6, 0.4, 0.0), (0.4, 0.25, 0.35))),  # nearly falls
    ]
    assert all(one.loss > calm.loss for one in worse)


def test_a_bench_judges_a_network_by_its_softmax() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 3)).eval()
    images = torch.randn(7, 1, 1, 2)
    opinion = probabilities(network, images)
    torch.testing.assert_close(opinion, network(images).detach().softmax(1))
    torch.testing.assert_close(probabilities(network, images, batch=2), opinion)
    assert not opinion.requires_grad and probabilities(network.double(), images.double()).dtype == torch.float32
    rows = torch.tensor([1, 3])
    mine = Bench(images, opinion, images[rows], rows, 0).judge(network.float())
    assert isinstance(mine, Judgement) and mine.accuracy_loss == mine.recovery_loss == 0
    negated = nn.Sequential(nn.Flatten(), nn.Linear(2, 3)).eval()
    assert Bench(images, opinion, images[rows], rows, 0).judge(negated).loss > mine.loss
