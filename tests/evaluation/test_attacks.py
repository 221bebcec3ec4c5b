"""Attacks on attributions: their bounds, their labels, what they keep, and that they beat noise."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fixtures.networks import Attention
from rectify.attribution.attribution import Settings
from rectify.attribution.integrated_gradients import integrated_gradients
from rectify.attribution.score import Score
from rectify.errors import UsageError
from rectify.evaluation.attacks import (
    Budget,
    DifferentiableMap,
    Perturbed,
    attack_attribution,
    gradient_map,
    ig_map,
    robustness,
    smooth_score,
)
from tests.evaluation.attacked import BLACK, BOUNDS, attacked, heat, images, norm, rank_correlation, trained


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
