"""Attacks on the label, and the accuracy that is left."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from rectify.attribution.score import Score
from rectify.errors import UsageError
from rectify.evaluation.attacks import Budget, adversarial_accuracy, fgsm, pgd
from tests.evaluation.attacked import BOUNDS, images, norm, trained


def test_fgsm_by_hand() -> None:
    x, labels = images(5)
    network = trained()
    found = fgsm(Score(network, "probability", 2), x, labels, Budget(0.03, "inf", BOUNDS))
    for i in range(5):
        z = x[i : i + 1].clone().requires_grad_(True)
        F.cross_entropy(network(z), labels[i : i + 1]).backward()
        expected = (x[i] + 0.06 * z.grad[0].sign()).clamp(-0.5, 1.5)
        torch.testing.assert_close(found.images[i], expected)
    right = network(found.images).argmax(1) == labels
    assert torch.equal(found.held, right) and torch.equal(found.reached < 0, right)


@pytest.mark.parametrize("kind", ["inf", "2"])
def test_pgd_does_more_than_one_step_within_its_bounds(kind: Any) -> None:
    x, labels = images(30)
    score = Score(trained(), "probability", 11)
    budget = Budget(0.12 if kind == "inf" else 0.8, kind, BOUNDS)
    one, many = fgsm(score, x, labels, budget), pgd(score, x, labels, budget, iterations=8, restarts=2)
    assert float(many.reached.mean()) > float(one.reached.mean())
    for found in (one, many):
        assert bool((norm((found.images - x) / 2, kind) <= budget.eps + 1e-6).all())
        assert float(found.images.min()) >= -0.5 and float(found.images.max()) <= 1.5
    share = [adversarial_accuracy(score, labels, found).value for found in (one, many)]
    clean = float((score.predictions(x) == labels).double().mean())
    assert share[1] <= share[0] < clean
    again = pgd(replace(score, batch=30), x, labels, budget, iterations=8, restarts=2)
    torch.testing.assert_close(again.images, many.images, atol=1e-5, rtol=0)
    more = pgd(score, x, labels, budget, iterations=8, restarts=4)
    assert bool((more.reached >= many.reached).all())


def test_adversarial_accuracy_counts_images_that_were_wrong_from_the_start() -> None:
    x, labels = images(4)
    labels = score_labels = Score(trained()).predictions(x)
    labels = torch.where(torch.arange(4) < 1, (score_labels + 1) % 3, score_labels)
    found = adversarial_accuracy(Score(trained()), labels, pgd(Score(trained()), x, labels, Budget(1e-6)))
    assert found.values.tolist() == [0, 1, 1, 1] and found.settings["attack"] == "pgd"
    with pytest.raises(UsageError, match="at least 1"):
        pgd(Score(trained()), x, labels, Budget(0.1), iterations=0)
