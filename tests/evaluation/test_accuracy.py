"""Figures worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rectify.errors import CheckpointError
from rectify.evaluation.accuracy import Figures, accuracy, pair_figures, softmax

CPU = torch.device("cpu")


class Reads(nn.Module):
    """Its logits are written into the image: pixel c of the first row is the logit of class c."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        return self.scale * x[:, 0, 0]


def images(*classes: int) -> Tensor:
    """Images that `Reads` takes for these classes, of three."""
    return nn.functional.one_hot(torch.tensor(classes), 3).float().view(-1, 1, 1, 3)


def certain(*classes: int) -> Tensor:
    """Softmax outputs that are sure of these classes, of three."""
    return nn.functional.one_hot(torch.tensor(classes), 3).float()


def test_accuracy_counts_over_batches_of_any_size() -> None:
    batches = [(images(0, 1, 2), torch.tensor([0, 1, 1])), (images(2), torch.tensor([2]))]
    assert accuracy(Reads(), batches, CPU) == 3 / 4  # and not the mean of 2/3 and 1
    assert accuracy(Reads(), [(images(0, 0), torch.tensor([1, 2]))], CPU) == 0


def test_accuracy_without_images_or_labels_is_an_error() -> None:
    with pytest.raises(ValueError, match="images"):
        accuracy(Reads(), [], CPU)
    with pytest.raises(ValueError, match="labels"):
        accuracy(Reads(), [(images(0), None)], CPU)


def test_softmax_goes_in_batches_and_comes_back_without_gradients() -> None:
    network, x = Reads(), torch.randn(5, 1, 1, 3)
    found = softmax(network, x, 2, CPU)
    assert network.seen == [2, 2, 1] and not found.requires_grad and found.dtype == torch.float32
    torch.testing.assert_close(found, x[:, 0, 0].softmax(1))
    assert softmax(network.double(), x.double(), 2, CPU).dtype == torch.float32


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_what_is_no_number_is_no_class(odd: float) -> None:
    x = images(0, 1, 0)
    x[2, 0, 0, 1] = odd
    for call in (lambda: softmax(Reads(), x, 2, CPU), lambda: accuracy(Reads(), [(x, torch.tensor([0, 1, 0]))], CPU)):
        with pytest.raises(
            CheckpointError, match=r"not finite on 1 of \d image.* damaged or its training has diverged"
        ):
            call()


def test_classes_that_a_network_rules_out_are_no_fault() -> None:
    x = images(0, 1)
    x[:, 0, 0, 2] = -torch.inf
    assert softmax(Reads(), x, 2, CPU)[:, 2].tolist() == [0, 0]
    assert accuracy(Reads(), [(x, torch.tensor([0, 1]))], CPU) == 1


def test_figures_of_pairs_by_hand() -> None:
    labels = torch.tensor([0, 1, 0, 2, 1])
    clean = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.7, 0.2], [0.3, 0.1, 0.6], [0.1, 0.1, 0.8], [0.2, 0.5, 0.3]])
    corrupted = torch.tensor([[0.1, 0.1, 0.8], [0.1, 0.6, 0.3], [0.1, 0.8, 0.1], [0.0, 0.1, 0.9], [0.2, 0.2, 0.6]])
    found = pair_figures(clean, corrupted, labels, 2)
    # the fourth pair is of the target class: four others count
    assert found.asr == 2 / 4  # first and last
    assert found.recovery == 1 / 4  # the second
    assert found.base_rate == 1 / 4  # the third clean image goes to the target by itself
    assert found.gap == pytest.approx((0.7 + 0.1 + 0.2 - 0.1 + 0.3) / 5)  # over all pairs
    assert found.accuracy is None


def test_a_third_class_is_neither_attack_nor_recovery() -> None:
    found = pair_figures(certain(0, 0), certain(1, 1), torch.tensor([0, 0]), 2)
    assert (found.asr, found.recovery, found.base_rate, found.gap) == (0, 0, 0, 1)


def test_a_fault_without_a_target_has_no_attack_and_recovers_over_all_pairs() -> None:
    found = pair_figures(certain(0, 1, 2), certain(0, 2, 2), torch.tensor([0, 1, 2]), None)
    assert (found.asr, found.base_rate) == (None, None) and found.recovery == pytest.approx(2 / 3)


def test_of_an_attack_from_all_classes_to_all_each_class_has_its_own_target() -> None:
    labels, targets = torch.tensor([0, 1, 2, 2]), torch.tensor([1, 2, 0, 0])
    found = pair_figures(certain(0, 2, 2, 2), certain(1, 2, 2, 1), labels, targets)
    # the first two go where their class goes, the second by itself too; the last to another than its class goes to
    assert (found.asr, found.base_rate, found.recovery) == (0.5, 0.25, 0.25)
    unknown = pair_figures(certain(0, 2, 2, 2), certain(1, 2, 2, 1), labels, torch.tensor([1, -1, 0, 0]))
    assert (unknown.asr, unknown.recovery) == (0.25, 0.25)  # no target, no hit


def test_pairs_of_the_target_class_alone_show_only_a_gap() -> None:
    found = pair_figures(certain(2, 2), certain(2, 0), torch.tensor([2, 2]), 2)
    assert (found.asr, found.recovery, found.base_rate) == (None, None, None) and found.gap == 0.5


def test_figures_as_the_report_holds_them() -> None:
    assert Figures(accuracy=0.5, asr=0.0).to_dict() == {
        "accuracy": 0.5,
        "asr": 0.0,
        "recovery": None,
        "gap": None,
        "base_rate": None,
    }
