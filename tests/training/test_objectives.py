"""The objectives against slow oracles in float64, and the identities of the paper."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rectify.training.inner import Ball, attacked, steady
from rectify.training.objectives import hardest, ig_norm, ig_sum_norm, input_gradient, madry, natural
from rectify.training.path import (
    Path,
    integrated,
    losses,
    nodes_that_fit,
    right_riemann,
    size_gradient,
    size_of,
    slopes,
)
from tests.training import oracles
from tests.training.conftest import pictures, smooth_net

BALL = Ball(eps=0.1, step=0.03, steps=4)
POINTS, COARSE, WEIGHT, SEED = 6, 3, 0.7, 5


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


Made = Callable[[nn.Module, Tensor, Tensor], Tensor]
PATHS: dict[str, Any] = {"weight": WEIGHT, "points": POINTS, "attack_points": COARSE}
FAST: dict[str, Made] = {
    "natural": natural,
    "madry": lambda n, x, y: madry(n, x, y, BALL, generator()),
    "input_gradient": lambda n, x, y: input_gradient(n, x, y, WEIGHT),
    "ig_norm": lambda n, x, y: ig_norm(n, x, y, BALL, **PATHS, generator=generator()),
    "ig_sum_norm": lambda n, x, y: ig_sum_norm(n, x, y, BALL, **PATHS, generator=generator()),
}
CHUNKED: dict[str, Made] = {
    "ig_norm": lambda n, x, y: ig_norm(n, x, y, BALL, **PATHS, chunk=2, generator=generator()),
    "ig_sum_norm": lambda n, x, y: ig_sum_norm(n, x, y, BALL, **PATHS, chunk=2, generator=generator()),
}


def gradients(network: nn.Module, value: Tensor) -> list[Tensor]:
    network.zero_grad()
    value.backward()
    return [p.grad.clone() if p.grad is not None else torch.zeros_like(p) for p in network.parameters()]


def same(mine: list[Tensor], theirs: list[Tensor], tolerance: float = 1e-10) -> None:
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", FAST)
def test_value_and_gradient_are_the_oracles(kind: str) -> None:
    network, (x, y) = smooth_net(), pictures()
    fast = FAST[kind](network, x, y)
    slow = oracles.objective(kind, network, x, y, BALL, SEED, POINTS, COARSE, WEIGHT)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    same(gradients(network, fast), gradients(network, slow))


@pytest.mark.parametrize("kind", CHUNKED)
def test_in_chunks_it_is_the_same(kind: str) -> None:
    network, (x, y) = smooth_net(), pictures()
    whole, parts = FAST[kind](network, x, y), CHUNKED[kind](network, x, y)
    torch.testing.assert_close(whole, parts, rtol=1e-12, atol=1e-12)
    same(gradients(network, whole), gradients(network, parts))


def test_the_squared_norm_in_chunks_is_the_same() -> None:
    network, (x, y) = smooth_net(), pictures()
    end = x + 0.1
    sizes = [size_of(network, x, end, y, Path(right_riemann(5), "l2-squared", chunk)) for chunk in (None, 2)]
    torch.testing.assert_close(*sizes)
    same(gradients(network, 3 * sizes[0]), gradients(network, 3 * sizes[1]))


# ------------------------------------------------------------------------------------------ the paper's identities


def test_ig_sum_norm_with_weight_zero_is_adversarial_training() -> None:
    network, (x, y) = smooth_net(), pictures()
    theirs = madry(network, x, y, BALL, generator())
    exact = ig_sum_norm(network, x, y, BALL, weight=0.0, generator=generator())
    near = ig_sum_norm(network, x, y, BALL, weight=1e-12, points=5, attack_points=2, generator=generator())
    assert exact.item() == theirs.item()
    same(gradients(network, near), gradients(network, theirs))  # the path is walked here, and weighs nothing


def test_one_term_squared_ig_norm_is_input_gradient_regularisation() -> None:
    """The first term of the sum is at x itself: the ball's corners are then its maximum, eps^2 ||dl/dx||^2."""
    network, (x, y) = smooth_net(), pictures()
    x = 0.3 + 0.4 * x
    ball = Ball(eps=0.05, step=0.05, steps=3)
    one = {"points": (0.0,), "attack_points": (0.0,), "size": "l2-squared"}
    mine = ig_norm(network, x, y, ball, weight=2.0, **one)  # type: ignore[arg-type]
    theirs = input_gradient(network, x, y, 2.0 * ball.eps**2)
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    same(gradients(network, mine), gradients(network, theirs))


class OneLayer(nn.Module):
    """Logits (0, w x + b): cross entropy is then log(1 + exp(-y (w x + b))) with y = -1, +1."""

    def __init__(self, dim: int = 5) -> None:
        super().__init__()
        self.line = nn.Linear(dim, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        value = self.line(x.flatten(1))
        return torch.cat([torch.zeros_like(value), value], 1)


@pytest.mark.parametrize("label", [0, 1])
def test_a_one_layer_network_has_the_soft_margin_of_the_theorem(label: int) -> None:
    """ig_norm (lambda 1), madry, and ig_sum_norm, which adds beta times what madry adds to the natural loss.

    ||IG||_1 has a local maximum in many corners of the ball, so the attack is given several starts.
    """
    network, y = OneLayer(3), torch.tensor([label])
    x = 0.4 + 0.2 * torch.rand(1, 1, 1, 3, dtype=torch.float64)
    w, b = network.line.weight.detach()[0], float(network.line.bias.detach())
    plain, robust = (oracles.soft_margin(w, b, x.flatten(), 2 * label - 1, eps) for eps in (0.0, 0.3))
    ball, how = Ball(eps=0.3, step=0.3, steps=3), {"points": 1000, "attack_points": 5}  # right Riemann: O(1/m)
    assert madry(network, x, y, ball).item() == pytest.approx(robust, abs=1e-12)
    starts = [torch.Generator().manual_seed(seed) for seed in range(16)]
    found = [ig_norm(network, x, y, ball, **how, generator=start).item() for start in starts]
    assert max(found) == pytest.approx(robust, abs=1e-3)
    found = [ig_sum_norm(network, x, y, ball, weight=0.5, **how, generator=start).item() for start in starts]
    assert max(found) == pytest.approx(robust + 0.5 * (robust - plain), abs=1e-3)


def test_completeness_makes_the_sum_of_ig_the_difference_of_losses() -> None:
    network, (x, y) = smooth_net(), pictures()
    end = (x + 0.3 * torch.randn_like(x)).clamp(0, 1)
    difference = losses(network, end, y) - losses(network, x, y)
    gaps = []
    for points in (100, 200):
        total = integrated(network, x, end, y, right_riemann(points)).flatten(1).sum(1)
        gaps.append((total - difference).abs().max().item())
    assert gaps[0] < 5e-3 and gaps[1] == pytest.approx(gaps[0] / 2, rel=0.05)  # first order, as right Riemann is


# --------------------------------------------------------------------------------------------- second derivatives


def test_second_derivatives_by_the_weights() -> None:
    network, (x, y) = smooth_net(), pictures(2)
    end = (x + 0.2 * torch.randn_like(x)).clamp(0, 1)
    names, weights = zip(*network.named_parameters(), strict=True)

    def size(*values: Tensor) -> Tensor:
        net = _With(network, dict(zip(names, values, strict=True)))
        return integrated(net, x, end, y, right_riemann(3)).abs().sum()

    assert torch.autograd.gradcheck(size, tuple(w.detach().clone().requires_grad_(True) for w in weights))


def test_second_derivatives_by_the_end_of_the_path() -> None:
    network, (x, y) = smooth_net(), pictures(2)
    end = (x + 0.2 * torch.randn_like(x)).requires_grad_(True)

    def size(at: Tensor) -> Tensor:
        return integrated(network, x, at, y, right_riemann(3)).abs().sum()

    assert torch.autograd.gradcheck(size, (end,))
    (slope,) = torch.autograd.grad(size(end), end)
    for chunk in (None, 2):
        mine = size_gradient(network, x, end, y, Path(right_riemann(3), "l1", chunk))
        torch.testing.assert_close(mine, slope)


class _With(nn.Module):
    """A network with other weights."""

    def __init__(self, network: nn.Module, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.inner, self.weights = network, weights

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(self.inner, self.weights, (x,))
        return out


def test_second_derivatives_through_batch_norm_and_hardsigmoid() -> None:
    body = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Hardsigmoid(), nn.Flatten(), nn.Linear(12, 3))
    network, (x, y) = body.double(), pictures(2)
    network(x)  # statistics that are not the initial ones
    network.eval()
    end = x + 0.2 * torch.randn_like(x)
    names = ("0.weight", "1.weight", "4.weight")
    weights = [network.get_parameter(name).detach().clone().requires_grad_(True) for name in names]

    def size(*values: Tensor) -> Tensor:
        return (
            integrated(_With(network, dict(zip(names, values, strict=True))), x, end, y, right_riemann(2)).pow(2).sum()
        )

    assert torch.autograd.gradcheck(size, tuple(weights), fast_mode=True)


def test_the_attention_of_a_vision_transformer_can_be_differentiated_twice() -> None:
    from torchvision.models import VisionTransformer  # type: ignore[import-untyped]

    network = VisionTransformer(8, 4, 1, 2, 8, 16, num_classes=3).double()
    nn.init.normal_(network.heads[0].weight)
    x, y = pictures(2, channels=3, size=8)
    end = (x + 0.2 * torch.randn_like(x)).clamp(0, 1)
    network.eval()
    name = "encoder.layers.encoder_layer_0.self_attention.in_proj_weight"
    weight = dict(network.named_parameters())[name].detach().clone()

    def size(value: Tensor) -> Tensor:
        return integrated(_With(network, {name: value}), x, end, y, right_riemann(2)).pow(2).sum()

    assert torch.autograd.gradcheck(size, (weight.requires_grad_(True),), fast_mode=True)
    ig_sum_norm(network, x, y, Ball(0.1, 0.05, 2), points=2, attack_points=2).backward()
    assert dict(network.named_parameters())[name].grad.abs().sum() > 0


# ------------------------------------------------------------------------------------------------- ball and modes


def test_the_attack_stays_in_the_ball_and_in_the_range_of_pixels() -> None:
    mean, std = torch.tensor([0.4, 0.6]).view(2, 1, 1).double(), torch.tensor([0.2, 0.5]).view(2, 1, 1).double()
    network, (pixels, y) = smooth_net(), pictures()
    x = (pixels - mean) / std
    ball = Ball(0.1, 0.04, 10, (-mean / std, (1 - mean) / std))
    moved = hardest(network, x, y, ball) * std + mean
    assert moved.min() >= -1e-12 and moved.max() <= 1 + 1e-12
    assert (moved - pixels).abs().max() == pytest.approx(0.1, abs=1e-9)  # in pixel units in both channels
    for channel in range(2):
        assert (moved - pixels)[:, channel].abs().max() == pytest.approx(0.1, abs=1e-9)


def test_the_attack_raises_the_loss_and_the_attribution() -> None:
    network, (x, y) = smooth_net(), pictures()
    assert madry(network, x, y, BALL) > natural(network, x, y)
    plain = size_of(network, x, (x + BALL.eps * (torch.rand_like(x) * 2 - 1)).clamp(0, 1), y, Path(right_riemann(6)))
    regulariser = ig_norm(network, x, y, BALL, points=6, attack_points=6) - natural(network, x, y)
    assert regulariser * len(x) > plain


def test_a_random_start_is_random_and_repeatable() -> None:
    network, (x, y) = smooth_net(), pictures()
    idle = Ball(0.1, 0.0, 1)
    first, again = (hardest(network, x, y, idle, generator()) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, hardest(network, x, y, idle, torch.Generator().manual_seed(6)))


@pytest.mark.parametrize("kind", ["madry", "input_gradient", "ig_norm", "ig_sum_norm"])
def test_only_the_pass_of_the_cross_entropy_touches_batch_statistics(kind: str) -> None:
    x, y = pictures()
    body = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 3))
    network = body.double().train()
    network[1].eval()  # a user may hold one layer still: it stays so
    FAST[kind](network, x, y).backward()
    assert not network[1].training and network.training and network[3].training
    network[1].train()
    FAST[kind](network, x, y).backward()
    assert network[1].num_batches_tracked.item() == 1
    assert all(p.requires_grad for p in network.parameters())


def test_modes_are_restored_when_the_network_fails() -> None:
    network = smooth_net()
    network[0].weight.requires_grad_(False)
    with pytest.raises(RuntimeError), attacked(network), steady(network):
        raise RuntimeError
    assert network.training and [p.requires_grad for p in network.parameters()] == [False, True, True, True]


def test_frozen_weights_stay_frozen_in_chunks() -> None:
    network, (x, y) = smooth_net(), pictures()
    network[0].weight.requires_grad_(False)
    CHUNKED["ig_norm"](network, x, y).backward()
    assert network[0].weight.grad is None and network[3].weight.grad is not None


def test_the_memory_bound_gives_nodes_a_pass() -> None:
    network, (x, y) = smooth_net(), pictures()
    assert nodes_that_fit(network, x, y, 1) == 1
    few, many = (nodes_that_fit(network, x, y, memory) for memory in (2**17, 2**18))
    assert few > 1 and 2 * few <= many <= 2 * few + 1


def test_a_ten_line_loop_learns() -> None:
    network, (x, y) = smooth_net(), pictures()
    optimiser = torch.optim.Adam(network.parameters(), 0.05)
    before = ig_sum_norm(network, x, y, BALL, **PATHS, generator=generator()).item()
    for _ in range(15):
        loss = ig_sum_norm(network, x, y, BALL, **PATHS, generator=generator())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.7 * before


def test_slopes_and_losses_agree_with_one_pass_each() -> None:
    network, (x, y) = smooth_net(), pictures()
    end = x + 0.1
    found, values = slopes(network, x, end, y, (0.5, 1.0), graph=False)
    torch.testing.assert_close(values[1], losses(network, end, y))
    z = end.clone().requires_grad_(True)
    torch.testing.assert_close(found[1], torch.autograd.grad(losses(network, z, y).sum(), z)[0])


def test_float32_follows_float64() -> None:
    network, (x, y) = smooth_net(), pictures()
    narrow = copy.deepcopy(network).float()
    start = Ball(0.1, 0.0, 0)  # no steps: the sign of a rounding error would be another x'
    wide = ig_norm(network, x, y, start, points=5, attack_points=2, generator=torch.Generator().manual_seed(3))
    rough = ig_norm(narrow, x.float(), y, start, points=5, attack_points=2, generator=torch.Generator().manual_seed(3))
    assert rough.item() > 0 and wide.item() == pytest.approx(rough.item(), rel=0.2)
