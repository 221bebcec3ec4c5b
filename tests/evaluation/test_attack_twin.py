"""What an attack follows: the smooth twin of a network, and maps that can be differentiated by the images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rectify.attribution.attribution import Settings
from rectify.attribution.integrated_gradients import integrated_gradients
from rectify.attribution.score import Score
from rectify.errors import UsageError
from rectify.evaluation.attacks import gradient_map, ig_map, smooth_score, softplus_twin
from tests.evaluation.attacked import BLACK, BOUNDS, images, trained


class Every(nn.Module):
    """Each rectifier in each of its spellings, in place and not."""

    def __init__(self) -> None:
        super().__init__()
        self.modules_ = nn.ModuleList(
            [
                nn.ReLU(),
                nn.ReLU(inplace=True),
                nn.ReLU6(),
                nn.LeakyReLU(0.2),
                nn.Hardtanh(-2, 3),
                nn.ReLU6(inplace=True),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        found = [module(x.clone()) for module in self.modules_]
        found += [F.relu(x), F.relu(x.clone(), True), F.relu(input=x), torch.relu(x), x.relu(), F.relu6(x)]
        found += [torch.relu_(x.clone()), x.clone().relu_(), F.leaky_relu(x, 0.1), F.hardtanh(x), F.leaky_relu(x)]
        kept = x.clone()
        kept.relu_()  # the result is not used, what it did to the tensor is
        return torch.stack([*found, kept])


def rectifiers(x: Tensor, relu: Any) -> Tensor:
    """What `Every` does, by formulas on one relu."""

    def clipped(low: float, high: float) -> Tensor:
        return low + relu(x - low) - relu(x - high)

    def leaky(slope: float) -> Tensor:
        return slope * x + (1 - slope) * relu(x)

    found = [relu(x), relu(x), clipped(0, 6), leaky(0.2), clipped(-2, 3), clipped(0, 6)]
    found += [relu(x)] * 5 + [clipped(0, 6)]
    return torch.stack([*found, relu(x), relu(x), leaky(0.1), clipped(-1, 1), leaky(0.01), relu(x)])


def test_the_twin_makes_every_rectifier_smooth_and_leaves_the_network_alone() -> None:
    network, x = Every(), torch.linspace(-9, 9, 37, dtype=torch.float64)
    torch.testing.assert_close(network(x), rectifiers(x, torch.relu))
    found = softplus_twin(network, 4)(x)
    torch.testing.assert_close(found, rectifiers(x, lambda z: torch.log1p(torch.exp(4 * z)) / 4), atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(network(x), rectifiers(x, torch.relu))  # and is none afterwards
    torch.testing.assert_close(softplus_twin(network, 1e6)(x), network(x), atol=1e-5, rtol=0)


def test_the_twin_has_the_second_derivative_that_the_network_lacks() -> None:
    for bend in (nn.ReLU(), nn.ReLU(inplace=True)):
        network = nn.Sequential(nn.Flatten(), nn.Linear(9, 6), bend, nn.Linear(6, 2)).double()
        x = torch.randn(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
        sizes = []
        for score in (Score(network, "logit"), smooth_score(Score(network, "logit"), 5)):
            found = gradient_map(score).function(x, torch.tensor([0, 1]))
            sizes.append(float(torch.autograd.grad(found.square().sum(), x)[0].abs().max()))
        assert sizes[0] == 0 and sizes[1] > 1e-3


def test_the_twin_is_a_network_like_the_original() -> None:
    network = trained()
    twin = softplus_twin(network, 50)
    assert not twin.training and {id(p) for p in twin.parameters()} == {id(p) for p in network.parameters()}
    with pytest.raises(UsageError, match="beta"):
        softplus_twin(network, 0)


# ---------------------------------------------------------------- maps


def test_the_ig_that_is_attacked_is_the_one_that_is_reported() -> None:
    x, labels = images(3)
    score = Score(trained(), "logit")
    whole = integrated_gradients(score, x, labels, Settings(steps=5, bounds=BOUNDS)).values
    torch.testing.assert_close(ig_map(score, BLACK, 5).function(x, labels).detach(), whole, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(gradient_map(score).function(x, labels).detach(), score.gradients(x, labels)[1])


@pytest.mark.parametrize("make", [gradient_map, lambda score: ig_map(score, torch.zeros(1, 1, 1), 3)])
def test_maps_are_differentiable_by_the_images(make: Any) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    x = torch.randn(2, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    made = make(Score(network, "probability"))
    assert torch.autograd.gradcheck(lambda z: made.function(z, torch.tensor([0, 1])), x)
