"""The rivals of the leakage bench: what they may see, how their setting is chosen, and that they learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks import leakage, leakage_rivals
from benchmarks.leakage_rivals import RIVALS, Seen
from benchmarks.zoo import datasets


class Halves(nn.Module):
    """Two classes: which of two pixels is the brighter; the weights begin with a third pixel in the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2, bias=False)
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor([[1.0, -1.0, 1.0, 0.0], [-1.0, 1.0, -1.0, 0.0]]))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, 2, 2) to (N, 2)."""
        out: Tensor = self.linear(x.flatten(1))
        return out


def seen(count: int = 100) -> Seen:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(count, 1, 2, 2, generator=generator)
    without = x.clone()
    without[:, :, 1] = 0
    labels = (x[:, 0, 0, 1] > x[:, 0, 0, 0]).long()
    pair = torch.cat((x[:1], without[:1]))
    bounds = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    return Seen(pair, int(labels[0]), x[:20], x, without, labels, bounds, 0)


@pytest.mark.parametrize("name", RIVALS)
def test_every_rival_leaves_the_network_as_it_is_and_hands_back_another(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leakage_rivals, "IG_STEPS", 3)
    network = Halves().eval().requires_grad_(False)
    before = network.linear.weight.clone()
    settings, repaired = RIVALS[name](network, seen())
    assert torch.equal(network.linear.weight, before) and settings.split()[0] in ("rate", "eps")
    assert not torch.equal(repaired.linear.weight, before)  # type: ignore[union-attr, arg-type]
    assert not repaired.training and not any(p.requires_grad for p in repaired.parameters())


def test_the_labelled_images_without_the_block_unlearn_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leakage_rivals, "EPOCHS", 60)
    made = RIVALS["fine-tuning on 5 % labelled, with and without the block"](Halves(), seen())[1]
    weight = made.linear.weight  # type: ignore[union-attr]
    assert abs(float(weight[0, 2] - weight[1, 2])) < 0.7 * 2.0  # type: ignore[index]


def test_the_strongest_setting_that_loses_little_is_taken() -> None:
    networks = {rate: nn.Linear(1, 1) for rate in (0.1, 0.2, 0.3)}
    losses = {networks[0.1]: 0.0, networks[0.2]: 0.01, networks[0.3]: 0.02}
    assert leakage_rivals._strongest((0.1, 0.2, 0.3), networks.__getitem__, losses.__getitem__)[0] == "rate 0.2"
    worse = {network: loss + 0.1 for network, loss in losses.items()}
    assert leakage_rivals._strongest((0.1, 0.2, 0.3), networks.__getitem__, worse.__getitem__)[0] == "rate 0.1"


def test_a_fifth_of_the_labelled_images_chooses() -> None:
    assert seen(100).cut == 80


def test_the_labelled_images_are_a_part_of_the_training_set(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.arange(100) % 10
    images = np.repeat(labels.astype(np.uint8)[:, None, None, None] * 20 + 40, 28 * 28, 1).reshape(100, 28, 28, 1)
    monkeypatch.setattr(datasets, "load", lambda name: (datasets.Split(images, labels), None))
    one, top = leakage.blocks(datasets.Split(images[:1], labels[:1]), 3)
    found = leakage.labelled(0, one, top, one, labels[:1])
    assert found.whole.shape == found.without.shape == (5, 1, 56, 28) and found.pair.shape == (2, 1, 56, 28)
    assert found.label == 0 and torch.equal(found.pair[0], found.calibration[0])
    digit = ((found.whole - found.bounds[0]) / (found.bounds[1] - found.bounds[0]) * 255).amax((1, 2, 3)).round()
    shown = ((found.without - found.bounds[0]) / (found.bounds[1] - found.bounds[0]) * 255).amax((1, 2, 3)).round()
    assert (digit == 255).all()  # the frame of the null block
    assert shown.tolist() == [20.0 * label + 40 for label in found.labels.tolist()]  # without it the digit alone
