"""Attacks on a small trained network: their bounds, their labels, what they keep, and that they beat noise."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from fixtures.networks import Attention
from rectify.attribution.attribution import Attribution, Settings
from rectify.attribution.integrated_gradients import integrated_gradients
from rectify.attribution.score import Score
from rectify.errors import UsageError
from rectify.evaluation.attacks import (
    Budget,
    DifferentiableMap,
    Perturbed,
    adversarial_accuracy,
    attack_attribution,
    fgsm,
    gradient_map,
    ig_map,
    pgd,
    robustness,
    smooth_score,
    softplus_twin,
)

BOUNDS = (torch.full((1, 1, 1), -0.5), torch.full((1, 1, 1), 1.5))  # a pixel range of 2: eps counts double
BLACK = BOUNDS[0]


@cache
def trained() -> nn.Module:
    """Tells which of three blobs is brighter; trained for a moment."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 3),
        )  # fmt: skip
        optimiser = torch.optim.Adam(network.parameters(), 0.01)
        for _ in range(40):
            x, labels = images(64)
            F.cross_entropy(network(x), labels).backward()
            optimiser.step()
            optimiser.zero_grad()
    return network.eval().requires_grad_(False)


def images(n: int, background: float | None = None) -> tuple[Tensor, Tensor]:
    """Images (n, 1, 8, 8) within the bounds and their classes."""
    labels = torch.arange(n) % 3
    x = torch.rand(n, 1, 8, 8) * 0.6 - 0.3 if background is None else torch.full((n, 1, 8, 8), background)
    for i, (row, column) in enumerate([(0, 0), (0, 4), (4, 2)]):
        x[labels == i, :, row : row + 4, column : column + 4] += torch.rand(1, 4, 4) * 0.5 + 0.3
    return x, labels


def attacked(score: Score, steps: int = 4) -> dict[str, Any]:
    """The map followed and the map judged, of IG from black."""
    return {"attacked": ig_map(smooth_score(score), BLACK, steps), "judged": ig_map(score, BLACK, steps)}


def heat(maps: Tensor) -> Tensor:
    return maps.detach().sum(1).abs().flatten(1).double()


def rank_correlation(one: Tensor, other: Tensor) -> list[float]:
    return [float(stats.spearmanr(a, b).statistic) for a, b in zip(heat(one), heat(other), strict=True)]


def norm(delta: Tensor, kind: str) -> Tensor:
    return delta.flatten(1).abs().amax(1) if kind == "inf" else delta.flatten(1).norm(dim=1)


# ---------------------------------------------------------------- the smooth twin


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


# ---------------------------------------------------------------- what a perturbation may be


@pytest.mark.parametrize("bounds", [None, BOUNDS])
@pytest.mark.parametrize("kind", ["inf", "2"])
def test_projection_by_hand(kind: str, bounds: Any) -> None:
    x = torch.rand(4, 1, 3, 3) * 2 - 0.5
    x[0, 0, 0, 0] = 1.7  # out of the range from the start
    budget = Budget(0.2, kind, bounds)  # type: ignore[arg-type]
    unit = 1 if bounds is None else 2
    far = budget.project(x, x + 5 * torch.randn_like(x)) - x
    near = x + torch.randn_like(x) * 1e-3
    assert bool((norm(far, kind) <= 0.2 * unit + 1e-6).all()) and float(norm(far, kind).max()) > 0.1 * unit
    if bounds is None:
        torch.testing.assert_close(norm(far, kind), torch.full((4,), 0.2))
        torch.testing.assert_close(budget.project(x, near), near)
    else:
        moved = (x + far).flatten()
        assert float(moved.min()) >= -0.5 and float(moved[1:].max()) <= 1.5 + 1e-6 and float(moved[0]) <= 1.7 + 1e-6


def test_a_pixel_outside_the_range_may_stay_but_goes_no_further() -> None:
    x = torch.tensor([-0.8, 0.0, 1.7]).view(1, 1, 1, 3)
    budget = Budget(0.2, "inf", BOUNDS)
    assert torch.equal(budget.project(x, x), x)
    assert budget.project(x, x - 9).flatten().tolist() == pytest.approx([-0.8, -0.4, 1.3])
    assert budget.project(x, x + 9).flatten().tolist() == pytest.approx([-0.4, 0.4, 1.7])


def test_a_step_is_of_signs_or_along_the_gradient_in_pixels() -> None:
    x = torch.zeros(1, 2, 1, 1)
    bounds = (torch.zeros(2, 1, 1), torch.tensor([1.0, 10.0]).view(2, 1, 1))
    gradient = torch.tensor([3.0, -0.4]).view(1, 2, 1, 1)
    assert Budget(0.1, "inf", bounds).move(x, gradient, 0.1).flatten().tolist() == pytest.approx([0.1, -1.0])
    # in pixels the gradient is (3, -4): a step of .1 is (.06, -.08), or (.06, -.8) of the input
    assert Budget(0.1, "2", bounds).move(x, gradient, 0.1).flatten().tolist() == pytest.approx([0.06, -0.8])
    for kind in ("inf", "2"):
        still = Budget(0.1, kind, bounds).move(x, 0 * gradient, 0.1)  # type: ignore[arg-type]
        assert still.tolist() == x.tolist()


def test_what_is_no_budget() -> None:
    with pytest.raises(UsageError, match="norm"):
        Budget(0.1, "1")  # type: ignore[arg-type]
    for eps in (0.0, -1.0, math.nan):
        with pytest.raises(UsageError, match="eps"):
            Budget(eps)


# ---------------------------------------------------------------- attacks on attributions


@pytest.mark.parametrize("kind", ["inf", "2"])
@pytest.mark.parametrize("objective", ["top-k", "mass-center", "target", "random", "rank", "l2", "l1", "cosine"])
def test_attacks_keep_bounds_and_labels_and_report_what_they_reached(objective: Any, kind: Any) -> None:
    x, labels = images(6)
    score = Score(trained(), "logit")
    region = torch.zeros(8, 8, dtype=torch.bool)
    region[:2] = True
    more = {"region": region} if objective == "target" else {}
    budget = Budget(0.04 if kind == "inf" else 0.3, kind, BOUNDS)
    maps = attacked(score)
    found = attack_attribution(score, x, labels, budget=budget, objective=objective, k=8, iterations=6, **maps, **more)
    assert bool((norm((found.images - x) / 2, kind) <= budget.eps + 1e-6).all())
    assert float(found.images.min()) >= -0.5 and float(found.images.max()) <= 1.5
    assert torch.equal(score.predictions(found.images), score.predictions(x))
    assert bool(found.held.all()) and bool(((found.images - x).flatten(1).abs().amax(1) > 0).all())
    before, after = (maps["judged"].function(z, labels).detach().double() for z in (x, found.images))
    flat = (before - after).flatten(1)
    if objective == "l2":
        expected = flat.square().sum(1).sqrt().tolist()
    elif objective == "l1":
        expected = flat.abs().sum(1).tolist()
    elif objective == "cosine":
        products = (before * after).flatten(1).sum(1)
        expected = (1 - products / before.flatten(1).norm(dim=1) / after.flatten(1).norm(dim=1)).tolist()
    else:
        expected = rank_correlation(before, after)
    assert found.reached.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert found.settings["objective"] == objective and found.settings["norm"] == kind
    assert found.settings["attacked"] == "ig-4 of a softplus twin, beta 30" and found.settings["judged"] == "ig-4"
    assert ("attack_k" in found.settings) == (objective == "top-k")
    assert json.loads(json.dumps(found.settings)) == found.settings


def test_each_objective_does_what_it_is_for() -> None:
    x, labels = images(6)
    score = Score(trained(), "logit")
    region = torch.zeros(6, 8, 8, dtype=torch.bool)
    region[:, 6:, :3] = True
    maps = attacked(score)

    def mass(z: Tensor) -> Tensor:
        found = heat(maps["judged"].function(z, labels)).view(6, 8, 8)
        return found / found.sum((1, 2), keepdim=True)

    clean = mass(x)
    top = torch.zeros(6, 64, dtype=torch.bool).scatter(1, clean.flatten(1).topk(8).indices, True).view(6, 8, 8)

    def centre(m: Tensor) -> Tensor:
        grid = torch.stack(torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij"))
        return (m.unsqueeze(1) * grid).sum((2, 3))

    effects: dict[str, Tensor] = {}
    for objective in ("top-k", "mass-center", "target", "random"):
        more = {"region": region} if objective == "target" else {}
        found = attack_attribution(
            score, x, labels, budget=Budget(0.06), objective=objective, k=8, iterations=15, restarts=1, **maps, **more
        )
        after = mass(found.images)
        effects["top-k", objective] = -(after * top).sum()
        effects["target", objective] = (after * region).sum()
        effects["mass-center", objective] = (centre(after) - centre(clean)).norm(dim=1).sum()
    for objective in ("top-k", "target", "mass-center"):
        assert (
            max(("top-k", "target", "mass-center", "random"), key=lambda o: float(effects[objective, o])) == objective
        )


@pytest.mark.parametrize("kind", ["inf", "2"])
def test_an_attack_does_more_than_the_best_of_as_many_random_points(kind: Any) -> None:
    x, labels = images(9)
    score = Score(trained(), "logit")
    budget = Budget(0.04 if kind == "inf" else 0.25, kind, BOUNDS)
    how: dict[str, Any] = {
        "budget": budget,
        "iterations": 12,
        "restarts": 1,
        "patience": 12,
        "k": 12,
        **attacked(score),
    }
    found = {o: attack_attribution(score, x, labels, objective=o, **how) for o in ("random", "rank", "top-k", "l2")}
    settings = Settings(steps=4, bounds=BOUNDS)
    said = {
        objective: {m.metric: m.value for m in robustness(integrated_gradients, score, x, labels, settings, p, k=12)}
        for objective, p in found.items()
    }
    rank = {objective: row["robustness-spearman"] for objective, row in said.items()}
    assert rank["rank"] < rank["random"] - 0.03 and rank["random"] < 0.99
    assert float(found["rank"].reached.mean()) == pytest.approx(rank["rank"], abs=0.01)
    assert said["top-k"]["robustness-top-k"] < said["random"]["robustness-top-k"]
    clean = how["judged"].function(x, labels).detach()
    moved = {o: (how["judged"].function(p.images, labels).detach() - clean).norm() for o, p in found.items()}
    assert float(moved["l2"]) > 1.1 * float(moved["random"])


def test_the_twin_leads_further_than_the_network_itself() -> None:
    x, labels = images(9)
    score = Score(trained(), "logit")
    real = gradient_map(score)
    how: dict[str, Any] = {"judged": real, "iterations": 10, "restarts": 1, "objective": "l2"}
    twin = attack_attribution(score, x, labels, gradient_map(smooth_score(score)), Budget(0.05), **how)
    blind = attack_attribution(score, x, labels, real, Budget(0.05), **how)
    assert float(blind.reached.max()) < 0.5 * float(twin.reached.mean())  # it only ever sees its tiny first noise


def test_results_do_not_depend_on_the_batch_and_memory_does() -> None:
    x, labels = images(5)
    network, seen = trained(), list[int]()
    handle = network.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    found = []
    for batch in (1000, 8):
        seen.clear()
        score = Score(network, "logit", batch)
        how: dict[str, Any] = {"iterations": 8, "patience": 3, "seed": 5, **attacked(score)}
        found.append([attack_attribution(score, x, labels, budget=Budget(0.05), objective=o, **how)
                      for o in ("l2", "random")])  # fmt: skip
        assert max(seen) == (20 if batch == 1000 else 8)
    handle.remove()
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one.images, other.images, atol=1e-5, rtol=0)
        torch.testing.assert_close(one.reached, other.reached, atol=1e-4, rtol=1e-4)


def test_equal_seeds_agree_and_restarts_differ() -> None:
    x, labels = images(4)
    score = Score(trained(), "logit")

    def run(seed: int, restarts: int) -> Perturbed:
        return attack_attribution(
            score, x, labels, budget=Budget(0.05), iterations=5, seed=seed, restarts=restarts, **attacked(score)
        )

    one, same, other, more = run(1, 2), run(1, 2), run(2, 2), run(1, 4)
    assert torch.equal(one.images, same.images) and not torch.equal(one.images, other.images)
    assert bool((more.reached >= one.reached).all()) and bool((more.reached > one.reached).any())
    assert bool((one.reached >= run(1, 1).reached).all())


def test_restarts_start_elsewhere() -> None:
    x, labels = images(3)
    score, starts = Score(trained(), "logit"), list[Tensor]()

    def spy(z: Tensor, targets: Tensor) -> Tensor:
        if z.requires_grad:
            starts.append(z.detach().clone())
        return 0 * z + 1  # no gradient by the images: they stay where they start

    attack_attribution(
        score, x, labels, DifferentiableMap(spy), Budget(0.1), judged=gradient_map(score), iterations=1, restarts=3
    )
    sizes = [float((start - x).abs().max()) for start in starts]
    assert sizes[0] == pytest.approx(0.001, rel=0.1) and sizes[1:] == pytest.approx([0.1, 0.1], rel=0.1)
    assert not torch.allclose(starts[1], starts[2], atol=0.01)
    assert not torch.allclose(starts[1][0] - x[0], starts[1][1] - x[1], atol=0.01)  # each image its own


class Edge(nn.Module):
    """Two classes; any pixel change of more than .01 flips the label, where the first pixel says so."""

    def forward(self, x: Tensor) -> Tensor:
        flips = (x[:, 0, 0, 0] > 0) & ((x[:, 0, 1] - 0.5).abs().amax(1) > 1e-4)
        margin = torch.where(flips, -1.0, 1.0) + 0.01 * x.tanh().square().sum((1, 2, 3))
        return torch.stack([margin, -margin], 1)


def test_an_image_whose_label_never_holds_is_given_back_and_said_so() -> None:
    x = torch.full((2, 1, 2, 2), 0.5)
    x[1, 0, 0, 0] = -0.5
    score = Score(Edge(), "logit")
    targets = torch.zeros(2, dtype=torch.long)
    found = attack_attribution(score, x, targets, gradient_map(score), Budget(0.1), iterations=4)
    assert found.held.tolist() == [False, True] and found.settings["held"] == 1
    assert torch.equal(found.images[0], x[0]) and not torch.equal(found.images[1], x[1])
    assert found.reached[0] == 0 and found.reached[1] > 0
    ranked = attack_attribution(score, x, targets, gradient_map(score), Budget(0.1), iterations=4, objective="top-k")
    assert ranked.reached[0] == 1


def test_the_best_iterate_is_kept_not_the_last() -> None:
    x, labels = images(3)
    score, seen = Score(trained(), "logit"), list[Tensor]()

    def spy(z: Tensor, targets: Tensor) -> Tensor:
        found = gradient_map(score).function(z, targets)
        seen.append(found.detach())
        return found

    found = attack_attribution(
        score, x, labels, gradient_map(smooth_score(score)), Budget(0.05), judged=DifferentiableMap(spy),
        iterations=10, step=0.05, restarts=2, patience=99,
    )  # fmt: skip
    clean, iterates = seen[0], torch.stack(seen[1:])
    assert len(iterates) == 20
    distances = (iterates - clean).flatten(2).norm(dim=2).double()
    torch.testing.assert_close(found.reached, distances.amax(0), atol=1e-5, rtol=1e-4)
    assert bool((distances[-1] < distances.amax(0)).any())


def test_random_points_are_on_the_boundary() -> None:
    x, labels = images(3)
    score = Score(trained(), "logit")
    found = attack_attribution(score, x, labels, gradient_map(score), Budget(0.02), objective="random", iterations=3)
    torch.testing.assert_close((found.images - x).abs(), torch.full_like(x, 0.02))


def test_the_map_of_any_class_can_be_attacked() -> None:
    x, _ = images(3)
    score = Score(trained(), "logit")
    others = (score.predictions(x) + 1) % 3
    found = attack_attribution(score, x, others, budget=Budget(0.01), iterations=3, **attacked(score))
    assert bool(found.held.all()) and torch.equal(score.predictions(found.images), score.predictions(x))
    clean, moved = (ig_map(score, BLACK, 4).function(z, others).detach() for z in (x, found.images))
    torch.testing.assert_close(found.reached.float(), (clean - moved).flatten(1).norm(dim=1), rtol=1e-4, atol=1e-5)


def test_the_centre_of_mass_of_images_that_are_not_square() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(21, 12), nn.Tanh(), nn.Linear(12, 2)).requires_grad_(False)
    score, x = Score(network, "logit"), torch.rand(4, 1, 3, 7)
    targets = score.predictions(x)
    how: dict[str, Any] = {"budget": Budget(0.2), "iterations": 8, "restarts": 1, "objective": "mass-center"}
    found = attack_attribution(score, x, targets, gradient_map(score), **how)

    def centre(z: Tensor) -> Tensor:
        mass = heat(gradient_map(score).function(z, targets)).view(4, 3, 7)
        mass = mass / mass.sum((1, 2), keepdim=True)
        down = sum(row * mass[:, row].sum(1) for row in range(3))
        across = sum(column * mass[:, :, column].sum(1) for column in range(7))
        return torch.stack([down, across], 1)

    noise = attack_attribution(score, x, targets, gradient_map(score), **{**how, "objective": "random"})
    moved = [float((centre(p.images) - centre(x)).norm(dim=1).mean()) for p in (found, noise)]
    assert moved[0] > 1.2 * moved[1]


def test_an_image_stops_when_nothing_improves() -> None:
    x, labels = images(3)
    score, sizes = Score(trained(), "logit"), list[int]()

    def stuck(z: Tensor, targets: Tensor) -> Tensor:
        sizes.append(len(z))
        return 0 * z + 1

    attack_attribution(score, x, labels, DifferentiableMap(stuck), Budget(0.05), iterations=50, restarts=1, patience=3)
    assert sizes == [3] * (1 + 2 * 4)  # the clean map; then a first best and three that are no better, followed, judged


def test_attention_can_be_attacked() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mix, self.head = (
                nn.Linear(4, 8),
                nn.MultiheadAttention(8, 2, batch_first=True),
                Attention(8, 2),
            )
            self.out = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            q = self.embed(x.flatten(1, 2))
            q = F.scaled_dot_product_attention(q, q, q)
            return self.out(self.head(q).mean(1))

    score = Score(Tokens().eval(), "logit")
    x = torch.randn(2, 1, 4, 4)
    targets = score.predictions(x)
    for maps in (gradient_map(score), ig_map(score, torch.zeros(1, 1, 1), 2)):
        found = attack_attribution(score, x, targets, maps, Budget(0.1), iterations=4, restarts=1)
        assert bool((found.reached > 0).all())


def test_a_linear_network_has_nothing_to_attack() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(9, 2)).requires_grad_(False)
    score, x = Score(network, "logit"), torch.rand(2, 1, 3, 3)
    found = attack_attribution(score, x, score.predictions(x), gradient_map(score), Budget(0.01), iterations=3)
    assert found.reached.tolist() == [0, 0] and bool(found.held.all())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"objective": "top"}, "unknown objective"),
        ({"objective": "target"}, "needs the region"),
        ({"region": torch.ones(8, 8, dtype=torch.bool)}, "is of the objective target"),
        ({"objective": "target", "region": torch.ones(7, 8, dtype=torch.bool)}, "does not fit"),
        ({"iterations": 0}, "at least 1"),
        ({"restarts": 0}, "at least 1"),
        ({"patience": 0}, "at least 1"),
    ],
)
def test_what_an_attack_refuses(bad: dict[str, Any], message: str) -> None:
    x, labels = images(2)
    score = Score(trained())
    with pytest.raises(UsageError, match=message):
        attack_attribution(score, x, labels, gradient_map(score), Budget(0.1), **bad)


# ---------------------------------------------------------------- attacks on the label


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


# ---------------------------------------------------------------- before and after


def pixels(score: Score, x: Tensor, targets: Tensor, settings: Settings) -> Attribution:
    """A method whose map is the image."""
    return Attribution(x, score.values(x, targets))


def test_robustness_by_scipy_and_sets() -> None:
    score = Score(trained())
    x, other = torch.randn(3, 2, 4, 4).round(decimals=1), torch.randn(3, 2, 4, 4)
    plain = Score(nn.Sequential(nn.Flatten(), nn.Linear(32, 2)))
    perturbed = Perturbed(other, torch.ones(3, dtype=torch.bool), torch.zeros(3), {"attack": "by hand"})
    found = {m.metric: m for m in robustness(pixels, plain, x, torch.zeros(3).long(), Settings(), perturbed, k=5)}
    for n in range(3):
        a, b = heat(x)[n], heat(other)[n]
        assert float(found["robustness-spearman"].values[n]) == pytest.approx(stats.spearmanr(a, b).statistic)
        assert float(found["robustness-kendall"].values[n]) == pytest.approx(stats.kendalltau(a, b).statistic)
        best = [set(z.sort(descending=True, stable=True).indices[:5].tolist()) for z in (a, b)]
        assert float(found["robustness-top-k"].values[n]) == pytest.approx(len(best[0] & best[1]) / 5)
    assert found["robustness-top-k"].settings == {
        "attack": "by hand", "map": "|channel sum|", "constant": 0, "k": 5
    }  # fmt: skip
    assert score.batch == plain.batch


def test_ties_of_a_black_background_are_reported_and_are_why_tau_falls() -> None:
    x, labels = images(3, background=-0.5)
    score = Score(trained(), "logit")
    noise = x + 1e-6 * torch.rand(x.shape)
    perturbed = Perturbed(noise, torch.ones(3, dtype=torch.bool), torch.zeros(3))
    found = {
        m.metric: m
        for m in robustness(integrated_gradients, score, x, labels, Settings(bounds=BOUNDS), perturbed, k=16)
    }
    assert found["robustness-tie-share-before"].values.tolist() == [0.75] * 3  # 48 of 64 pixels are black
    assert found["robustness-tie-share-after"].value < 0.5
    assert found["robustness-zero-share-before"].values.tolist() == [0.75] * 3
    assert found["robustness-kendall"].value < 0.9 and found["robustness-top-k"].value > 0.9
