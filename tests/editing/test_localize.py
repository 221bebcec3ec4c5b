"""The scores of a layer, against the formulas written out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fixtures import networks as fixtures
from rectify.editing import localize as localize_module
from rectify.editing.fault import Fault
from rectify.editing.localize import LayerScore, Space, _some, localize, objective, second_moments, triage
from rectify.editing.moments import POSITIONS
from rectify.editing.solve import DAMPING
from rectify.model.trace import survey
from tests import oracles
from tests.model.networks import Folded, randomised

STEPS = 4


def fault(*labels: int, target: int | None = 1, shown: list[bool] | None = None) -> Fault:
    """A flip of these classes to the target."""
    return Fault("flip", target, torch.tensor(labels), torch.tensor(shown or [True] * len(labels)), ())


def scored(
    network: nn.Module, clean: Tensor, corrupted: Tensor, what: Fault, reference: Tensor
) -> dict[str, LayerScore]:
    """Scores by the name of the layer."""
    sites = survey(network, clean)
    found = localize(network, sites, clean, corrupted, what, reference, batch=3, steps=STEPS)
    return {score.site.name: score for score in found.scores}


def perceptron(scale: float = 1.0) -> nn.Module:
    """Two linear layers with a ReLU between; the second one's keys are scaled, its weight divided."""
    torch.manual_seed(3)
    network = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        network[1].weight *= scale
        network[1].bias *= scale
        network[3].weight /= scale
    return network.eval().requires_grad_(False)


def pictures(count: int, *shape: int) -> Tensor:
    """Random images, float64."""
    return torch.randn(count, *shape, dtype=torch.float64)


def reference_keys(network: nn.Module, name: str, images: Tensor) -> Tensor:
    """C of a linear layer by a loop: one image, one outer product."""
    kept: list[Tensor] = []
    handle = network.get_submodule(name).register_forward_pre_hook(lambda _, args: kept.append(args[0][0]))
    for image in images:
        network(image[None])
    handle.remove()
    return torch.stack([key.outer(key) for key in kept]).mean(0)


def test_for_one_position_the_score_is_the_norm_of_m_times_that_of_the_direction() -> None:
    network = perceptron()
    clean, corrupted, reference = (pictures(n, 6, 1, 1) for n in (1, 1, 20))
    found = scored(network, clean, corrupted, fault(0), reference)
    keys = {"1": corrupted.flatten(), "3": network[:3](corrupted).flatten()}  # type: ignore[index]
    for name, key in keys.items():
        f = lambda logits: logits[:, 0] - logits[:, 1]  # noqa: E731
        m, along = oracles.layer_attribution(network, network.get_submodule(name), corrupted, clean, f, STEPS)
        moment = oracles.damped(reference_keys(network, name, reference), DAMPING)
        score = found[name]
        assert score.attribution == pytest.approx(float(m.norm()))
        assert score.editability == pytest.approx(float(m.norm() * (torch.linalg.inv(moment) @ key).norm()))
        rho = oracles.quadratic_form(key, moment)
        assert score.leverage == pytest.approx(rho)
        assert score.scale_free == pytest.approx(float(m.norm()) * rho**0.5)
        change = float((f(network(clean)) - f(network(corrupted))).item())
        assert score.completeness_gap == pytest.approx(abs(along - change) / abs(change), abs=1e-9)


def test_for_many_positions_the_score_is_the_norm_of_their_sum() -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 3, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)).double()
    network.eval().requires_grad_(False)
    clean, corrupted, reference = (pictures(n, 2, 4, 4) for n in (1, 1, 7))
    score = scored(network, clean, corrupted, fault(2, target=0), reference)["0"]
    f = lambda logits: logits[:, 2] - logits[:, 0]  # noqa: E731
    m, _ = oracles.layer_attribution(network, network[0], corrupted, clean, f, STEPS)
    columns = [key for image in reference for key in oracles.patches(image, (3, 3), 2, 1)]
    moment = oracles.damped(torch.stack([key.outer(key) for key in columns]).mean(0), DAMPING)
    inverse, root = torch.linalg.inv(moment), torch.linalg.inv(oracles.square_root(moment))
    keys, m = oracles.patches(corrupted[0], (3, 3), 2, 1), m.flatten(1)
    published = sum(torch.outer(m[:, p], inverse @ key) for p, key in enumerate(keys))
    scale_free = sum(torch.outer(m[:, p], root @ key) for p, key in enumerate(keys))
    assert isinstance(published, Tensor) and isinstance(scale_free, Tensor)
    assert score.editability == pytest.approx(float(published.norm()))
    assert score.scale_free == pytest.approx(float(scale_free.norm()))
    weights = [float(m[:, p].norm()) / sum(float(m[:, q].norm()) for q in range(4)) for p in range(4)]
    rhos = [oracles.quadratic_form(key, moment) for key in keys]
    assert score.leverage == pytest.approx(sum(w * rho for w, rho in zip(weights, rhos, strict=True)))
    outside = [oracles.outside_span(key, columns) for key in keys]
    assert score.out_of_span == pytest.approx(sum(w * o for w, o in zip(weights, outside, strict=True)), abs=1e-6)


@pytest.mark.parametrize("scale", [0.01, 7.0, 1000.0])
def test_scaling_a_layers_keys_divides_the_published_score_alone(scale: float) -> None:
    clean, corrupted, reference = (pictures(n, 6, 1, 1) for n in (2, 2, 15))
    plain = scored(perceptron(), clean, corrupted, fault(0, 2), reference)
    scaled = scored(perceptron(scale), clean, corrupted, fault(0, 2), reference)
    assert plain["3"].editability and scaled["3"].editability == pytest.approx(plain["3"].editability / scale)
    for name in ("scale_free", "attribution", "leverage", "out_of_span", "completeness_gap"):
        assert getattr(scaled["3"], name) == pytest.approx(getattr(plain["3"], name), abs=1e-7), name
    assert scaled["1"].scale_free == pytest.approx(plain["1"].scale_free)


def test_figures_are_means_over_the_pairs_that_show_the_fault() -> None:
    network = perceptron()
    clean, corrupted, reference = (pictures(n, 6, 1, 1) for n in (3, 3, 15))
    rows = [0, 2]
    together = scored(network, clean, corrupted, fault(0, 2, 2, shown=[True, False, True]), reference)
    alone = [scored(network, clean[[r]], corrupted[[r]], fault([0, 2, 2][r]), reference) for r in rows]
    for name in ("1", "3"):
        for figure in ("editability", "scale_free", "attribution", "completeness_gap", "leverage", "out_of_span"):
            mean = sum(getattr(one[name], figure) for one in alone) / 2
            assert getattr(together[name], figure) == pytest.approx(mean, abs=1e-7), figure


def test_the_objective_is_the_logit_of_the_class_against_the_target() -> None:
    logits = torch.tensor([[1.0, 5.0, 2.0], [0.0, -1.0, 4.0]])
    assert objective(fault(2, target=1), 0)(logits).tolist() == [-3.0, 5.0]
    assert objective(fault(1, 0, target=1), 1)(logits).tolist() == [-4.0, 1.0]
    assert objective(fault(1, target=1), 0)(logits).tolist() == [5.0, -1.0]
    assert objective(fault(0, target=None), 0)(logits).tolist() == [1.0, 0.0]


def test_candidates_come_first_each_part_by_its_scale_free_score(monkeypatch: pytest.MonkeyPatch) -> None:
    network = randomised(fixtures.resnet18(4, width=4))
    images = torch.randn(4, 3, 8, 8)
    monkeypatch.setattr(localize_module, "LARGEST_KEY", 150)  # layers of 16 and more input channels are too wide
    before = {name: value.clone() for name, value in network.state_dict().items()}
    sites = survey(network, images)
    found = localize(network, sites, images[:1], images[1:2], fault(0), images)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert {score.site.name for score in found.scores} == {site.name for site in sites}
    flags = [score.candidate for score in found.scores]
    assert flags == sorted(flags, reverse=True)
    for score in found.scores:
        wide = score.site.layer.key_size > 150
        assert score.candidate == (not wide and not score.site.is_shortcut)
        assert (score.editability is None) == wide and score.attribution is not None
        assert (score.completeness_gap is not None) == score.site.is_cut
    best = [score.scale_free or 0 for score in found.scores if score.candidate]
    assert best == sorted(best, reverse=True) and best[-1] > 0
    assert 0 <= found.completeness_gap < 1


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_second_moments_are_those_of_the_keys_of_all_images(batch: int) -> None:
    network = randomised(fixtures.mobilenet(4, width=2).double())
    images = pictures(5, 3, 8, 8)
    sites = survey(network, images)
    found = second_moments(network, sites, images, batch)
    assert found.keys() == {site.name for site in sites}
    stem = torch.stack([k.outer(k) for image in images for k in oracles.patches(image, (3, 3), 1, 1)]).mean(0)
    torch.testing.assert_close(found["0"][0], stem)
    for site in sites:
        matrix = found[site.name]
        assert matrix.dtype == torch.float64 and matrix.shape == (site.layer.groups,) + (site.layer.key_size,) * 2
    whole = second_moments(network, sites, images, 5)
    for name in found:
        torch.testing.assert_close(found[name], whole[name])


# ---------------------------------------------------------------- span


def test_keys_inside_and_outside_the_span() -> None:
    reference = list(pictures(4, 9))
    moment = torch.stack([k.outer(k) for k in reference]).mean(0)
    inside = reference[0] - 2 * reference[3]
    basis = torch.linalg.qr(torch.stack(reference).T)[0]
    outside = torch.randn(9, dtype=torch.float64)
    outside = outside - basis @ (basis.T @ outside)
    keys = torch.stack([inside, outside, inside + outside, 1e-6 * outside], 1)
    found = Space.of(moment[None]).outside(keys[None])[0]
    assert float(found[0]) < 1e-6 and float(found[1]) == pytest.approx(1) and float(found[3]) == pytest.approx(1)
    assert float(found[2]) == pytest.approx(oracles.outside_span(inside + outside, reference))


def test_the_span_of_every_group_is_its_own() -> None:
    axes = torch.eye(3, dtype=torch.float64)
    moment = torch.stack([axes[0].outer(axes[0]), axes[1].outer(axes[1]), torch.zeros(3, 3, dtype=torch.float64)])
    found = Space.of(moment).outside(axes[None].expand(3, 3, 3).clone())
    torch.testing.assert_close(found, torch.tensor([[0.0, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=torch.float64))


def test_the_span_survives_float32_keys() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(400, 3)).eval().requires_grad_(False)
    reference = torch.randn(40, 400, 1, 1)
    basis = torch.linalg.qr(reference.flatten(1).double().T)[0]
    away = torch.randn(400).double()
    away = (away - basis @ (basis.T @ away)).float()
    moment = second_moments(network, survey(network, reference), reference)["1"]
    found = Space.of(moment).outside(torch.stack([away.double(), reference[0].flatten().double()], 1)[None])[0]
    assert float(found[0]) > 0.99 and float(found[1]) < 1e-2


def test_a_key_of_zeros_is_in_every_span() -> None:
    moment = torch.eye(3, dtype=torch.float64)[None]
    assert float(Space.of(moment).outside(torch.zeros(1, 3, 1, dtype=torch.float64))) == 0


def test_a_network_with_tokens_folded_into_the_batch_can_be_localised() -> None:
    network = randomised(Folded().double())
    clean, corrupted, reference = (pictures(n, 4, 4, 4) for n in (1, 1, 5))
    assert len(scored(network, clean, corrupted, fault(0), reference)) == 4


# ---------------------------------------------------------------- triage


def test_triage_measures_how_far_the_most_sensitive_channel_stands_out() -> None:
    network = randomised(fixtures.resnet18(4, width=4))
    sites = survey(network, torch.randn(1, 3, 16, 16))
    found = triage(sites)
    assert [z for _, z in found] == sorted((z for _, z in found), reverse=True)
    expected = {site.name for site in sites if site.layer.kind != "linear" and site.layer.module.out_channels >= 8}
    assert {site.name for site, _ in found} == expected
    for site, z in [found[0], found[-1], *(row for row in found if row[0].name == "layer2.0.conv1")]:
        weight = site.layer.module.weight
        bounds = [oracles.spectral_norm(channel.flatten(1)) for channel in weight]
        if site.norm_scale is not None:
            bounds = [b * abs(float(s)) for b, s in zip(bounds, site.norm_scale, strict=True)]
        mean = sum(bounds) / len(bounds)
        spread = (sum((b - mean) ** 2 for b in bounds) / (len(bounds) - 1)) ** 0.5
        assert z == pytest.approx((max(bounds) - mean) / spread, rel=1e-3)


def test_triage_finds_a_planted_channel() -> None:
    network = randomised(fixtures.vgg(4, width=16))
    network.get_submodule("10").weight[5] *= 20
    sites = survey(network, torch.randn(1, 3, 16, 16))
    assert triage(sites)[0][0].name == "10"
    assert triage([replace(site, norm_scale=None) for site in sites])[0][0].name == "10"


def test_a_batch_norm_behind_a_flatten_is_none_of_the_convolutions() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.BatchNorm1d(8 * 16), nn.ReLU(), nn.Linear(8 * 16, 2)
    )
    sites = survey(randomised(network), torch.randn(1, 3, 4, 4))
    assert [site.name for site, _ in triage(sites)] == ["0"] and sites[0].norm_scale is None


def test_positions_are_drawn_from_all_columns_alike() -> None:
    """Of 128 x 128 positions the borders get their share, not none or ten times as much."""
    columns = torch.arange(128).repeat(128)[None, None, None].float()
    found = _some(columns)[0, 0, 0]
    assert len(found) == POSITIONS and len(found.unique()) > 120
    assert float(found.mean()) == pytest.approx(63.5, abs=4)
    assert torch.equal(_some(columns), _some(columns)) and torch.equal(
        _some(columns[..., :POSITIONS]), columns[..., :POSITIONS]
    )
