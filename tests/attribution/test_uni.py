"""UNI against Algorithm 1 of its paper written out one image and one weight at a time, and its options."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from fixtures import networks as fixtures
from rectify.attribution.attribution import Settings
from rectify.attribution.integrated_gradients import integrated_gradients
from rectify.attribution.score import Score
from rectify.attribution.uni import Unlearning, uni, unlearned_answer, unlearned_baseline
from rectify.errors import UsageError
from tests.model.networks import randomised

BOUNDS = (torch.full((3, 1, 1), -2.0, dtype=torch.float64), torch.full((3, 1, 1), 2.0, dtype=torch.float64))


def relu_network() -> nn.Sequential:
    """Random weights, three classes, images of 8 by 8."""
    torch.manual_seed(5)
    layers = [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)]
    return nn.Sequential(*layers).eval().requires_grad_(False)


def images(count: int = 3, size: int = 8) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def slow_uni(
    network: nn.Module, x: Tensor, target: int, *, eta: float, turns: int, eps: float, mu: float, steps: int
) -> tuple[Tensor, Tensor]:
    """Algorithm 1 for one image (1, C, H, W): the map and the baseline."""
    unlearned = copy.deepcopy(network).requires_grad_(True)
    loss = -torch.log(torch.softmax(unlearned(x), 1)[0, target])
    loss.backward()
    squares = [float((p.grad**2).sum()) for p in unlearned.parameters() if p.grad is not None]
    length = math.sqrt(sum(squares))
    with torch.no_grad():
        for p in unlearned.parameters():
            if p.grad is not None:
                p += eta * p.grad / length
        wanted = torch.softmax(unlearned(x), 1)[0]
    delta = torch.zeros_like(x)
    for _ in range(turns):
        moved = delta.clone().requires_grad_(True)
        answer = torch.softmax(network(x + moved), 1)[0]
        cost = sum(wanted[c] * (torch.log(wanted[c]) - torch.log(answer[c])) for c in range(len(answer)))
        (gradient,) = torch.autograd.grad(cost, moved)
        delta = delta - mu * gradient
        delta = eps * delta / delta.norm()
    start, total = x + delta, torch.zeros_like(x)
    for k in range(1, steps + 1):
        point = (start + k / steps * (x - start)).requires_grad_(True)
        (gradient,) = torch.autograd.grad(torch.softmax(network(point), 1)[0, target], point)
        total += gradient
    return (x - start) / steps * total, start


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_it_is_algorithm_1(batch: int) -> None:
    network, x = relu_network().double(), images()
    targets = torch.tensor([0, 2, 1])
    found = uni(Score(network, batch=batch), x, targets, Settings())
    for row in range(len(x)):
        one, start = slow_uni(
            network, x[row : row + 1], int(targets[row]), eta=1.0, turns=10, eps=0.25, mu=0.1, steps=15
        )
        torch.testing.assert_close(found.values[row : row + 1], one, rtol=1e-8, atol=1e-12)
        assert found.baseline is not None
        torch.testing.assert_close(found.baseline[row : row + 1], start, rtol=1e-9, atol=1e-12)


def test_its_options_are_obeyed() -> None:
    network, x, targets = relu_network().double(), images(1), torch.tensor([1])
    options = {"eta": 0.3, "turns": 4, "eps": 0.8, "mu": 0.7}
    found = uni(Score(network), x, targets, Settings(steps=6, options=options))
    one, _ = slow_uni(network, x, 1, eta=0.3, turns=4, eps=0.8, mu=0.7, steps=6)
    torch.testing.assert_close(found.values, one, rtol=1e-8, atol=1e-12)
    told = dict(found.settings)
    assert {
        "steps": 6,
        "rule": "right-riemann",
        "baseline": "unlearned",
        "eps": 0.8,
        "turns": 4,
    }.items() <= told.items()


def test_the_network_is_left_as_it_was() -> None:
    network = randomised(fixtures.resnet18(4, width=2))
    before = copy.deepcopy(network.state_dict())
    uni(Score(network), images(2).float(), torch.tensor([0, 1]), Settings())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in network.parameters())


def test_the_sphere_is_met_and_the_ball_is_not_left() -> None:
    network, x, targets = relu_network().double(), images(), torch.tensor([0, 2, 1])
    for project in ("sphere", "ball"):
        how = Unlearning(eps=0.5, mu=1e-3, turns=3, project=project)
        length = (unlearned_baseline(Score(network), x, targets, how) - x).flatten(1).norm(dim=1)
        if project == "sphere":
            torch.testing.assert_close(length, torch.full_like(length, 0.5))
        else:
            assert bool((length < 0.1).all()) and bool((length > 0).all())


def test_pixels_are_the_unit_that_they_say() -> None:
    network, x, targets = relu_network().double(), images(), torch.tensor([0, 2, 1])
    how = Unlearning(space="pixels", eps=0.25)
    moved = unlearned_baseline(Score(network), x, targets, how, BOUNDS) - x
    in_pixels = moved / (BOUNDS[1] - BOUNDS[0])
    torch.testing.assert_close(in_pixels.flatten(1).norm(dim=1), torch.full((3,), 0.25, dtype=torch.float64))


def test_a_clamped_baseline_is_an_image() -> None:
    network, x, targets = relu_network().double(), images().clamp(-2, 2), torch.tensor([0, 2, 1])
    how = Unlearning(eps=20.0, clip="clamp")
    free = unlearned_baseline(Score(network), x, targets, Unlearning(eps=20.0))
    kept = unlearned_baseline(Score(network), x, targets, how, BOUNDS)
    assert float(free.abs().max()) > 2 and float(kept.abs().max()) <= 2


def test_unlearning_lowers_the_confidence_and_a_descent_follows_it() -> None:
    network = relu_network().double()
    x = images(4)
    score = Score(network)
    targets = score.predictions(x)
    answers = torch.cat([unlearned_answer(network, x[i : i + 1], targets[i : i + 1], 1.0) for i in range(4)])
    before = score.values(x, targets)
    assert bool((answers.gather(1, targets[:, None])[:, 0] < before).all())
    baseline = unlearned_baseline(score, x, targets, Unlearning(eps=1.0))
    assert bool((score.values(baseline, targets) < before).all())


def test_a_uniform_target_needs_no_unlearning() -> None:
    network, x, targets = relu_network().double(), images(2), torch.tensor([0, 1])
    uniform = unlearned_baseline(Score(network), x, targets, Unlearning(target="uniform", eps=2.0))
    classes = network(x).shape[1]
    moved = torch.softmax(network(uniform), 1)
    entropy = -(moved * moved.log()).sum(1)
    still = torch.softmax(network(x), 1)
    assert bool((entropy > -(still * still.log()).sum(1)).all()) and bool((entropy <= math.log(classes)).all())


def test_weights_that_share_a_gradient_each_take_their_own_step() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = (nn.Parameter(torch.randn(3, dtype=torch.float64)) for _ in range(2))
            self.head = nn.Linear(192, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x.flatten(1)) + (self.one + self.two)

    network, x = Sum().requires_grad_(False), images(1)
    answer = unlearned_answer(network, x, torch.tensor([1]), 1.0)
    unlearned = copy.deepcopy(network).requires_grad_(True)
    nn.functional.cross_entropy(unlearned(x), torch.tensor([1])).backward()
    gradients = [p.grad for p in unlearned.parameters() if p.grad is not None]
    length = torch.cat([g.flatten() for g in gradients]).norm()
    with torch.no_grad():
        for p in unlearned.parameters():
            assert p.grad is not None
            p += p.grad / length
        torch.testing.assert_close(answer, unlearned(x).softmax(1))


def test_a_certain_network_has_nothing_to_unlearn_and_gives_zeros() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.tensor([200.0, 0.0]))

        def forward(self, x: Tensor) -> Tensor:
            return self.bias + 0 * x.flatten(1).sum(1, keepdim=True)

    x = images(2).float()
    found = uni(Score(Constant().requires_grad_(False)), x, torch.tensor([0, 0]), Settings())
    assert bool(found.values.isfinite().all()) and not bool(found.values.any())
    assert found.baseline is not None and torch.equal(found.baseline, x)


def test_its_map_is_ig_from_its_baseline() -> None:
    network, x, targets = relu_network().double(), images(), torch.tensor([0, 2, 1])
    found = uni(Score(network), x, targets, Settings())
    assert found.baseline is not None
    again = integrated_gradients(
        Score(network), x, targets, Settings(baseline=found.baseline, rule="right-riemann", steps=15)
    )
    torch.testing.assert_close(found.values, again.values, rtol=0, atol=0)
    assert found.gap is not None and again.gap is not None
    torch.testing.assert_close(found.gap, again.gap)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"project": "cube"}, "sphere or ball"),
        ({"turns": 0}, "at least one turn"),
        ({"eps": 0.0}, "above 0"),
        ({"space": "pixels"}, "black and of a white"),
        ({"clip": "clamp"}, "black and of a white"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        uni(Score(relu_network().double()), images(1), torch.tensor([0]), Settings(options=options))
