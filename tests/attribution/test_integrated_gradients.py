"""Integrated gradients: the axioms, the exact cases, a loop, captum, the tolerance, and the form with a graph."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from fixtures import networks as fixtures
from rectify.attribution.attribution import Settings
from rectify.attribution.integrated_gradients import integral, integrated_gradients
from rectify.attribution.quadrature import RULES, quadrature
from rectify.attribution.score import OUTPUTS, Score, batch_that_fits, bytes_kept, check_output
from rectify.errors import UsageError
from tests.attribution import slow_paths
from tests.attribution.tiny import BOUNDS, SHAPE, formula, images, pixels, tiny
from tests.model.networks import Scrubs, randomised

SMOOTH, KINKED = tiny(), tiny(nn.ReLU)
FIRST = torch.tensor([0])


def attributed(of: Callable[[Tensor, Tensor], Tensor], end: Tensor, start: Tensor, steps: int = 64) -> list[float]:
    """IG of a formula of two pixels."""
    found = integrated_gradients(formula(of), end, FIRST, Settings(steps=steps, baseline=start))
    return found.values.flatten().tolist()


# ---------------------------------------------------------------- the axioms


@pytest.mark.parametrize("output", OUTPUTS)
def test_completeness(output: str) -> None:
    x, targets = images()
    score = Score(SMOOTH, check_output(output))
    found = integrated_gradients(score, x, targets, Settings(bounds=BOUNDS))
    assert found.baseline is not None and found.change is not None and found.gap is not None
    torch.testing.assert_close(found.confidence, score(x, targets))
    torch.testing.assert_close(found.change, score(x, targets) - score(found.baseline, targets))
    assert float((found.gap / found.change.abs()).max()) < 1e-8
    assert found.complete and found.settings == {"rule": "gauss-legendre", "steps": 32, "baseline": "black"}


def test_sensitivity() -> None:
    """(a) one pixel differs and F with it: it is attributed all; (b) what F does not depend on gets nothing."""
    start = pixels(0.2, 0.7)
    one, other = attributed(lambda a, b: (a * b).tanh(), pixels(1.4, 0.7), start)
    assert one == pytest.approx(float(torch.tensor(0.98).tanh() - torch.tensor(0.14).tanh())) and other == 0
    one, other = attributed(lambda a, b: a.exp(), pixels(1.4, 3.0), start)
    assert one > 0 and other == 0


def test_implementation_invariance() -> None:
    class Other(nn.Module):
        """The same function, otherwise: relu as a maximum, and a linear layer taken apart."""

        def forward(self, x: Tensor) -> Tensor:
            x = torch.maximum(KINKED[0](x), torch.zeros(1, dtype=x.dtype))
            x = (KINKED[2](x).abs() + KINKED[2](x)) / 2
            weight = KINKED[5].weight
            return x.flatten(1) @ (2 * weight).T - F.linear(x.flatten(1), weight, -KINKED[5].bias)

    x, targets = images()
    found = [integrated_gradients(Score(n), x, targets, Settings(bounds=BOUNDS)).values for n in (KINKED, Other())]
    torch.testing.assert_close(found[0], found[1])


def test_linearity() -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * SMOOTH(x) - 3 * KINKED(x)

    x, targets = images()
    one, other, both = (
        integrated_gradients(Score(n, "logit"), x, targets, Settings(bounds=BOUNDS)).values
        for n in (SMOOTH, KINKED, Sum())
    )
    torch.testing.assert_close(both, 2 * one - 3 * other)


def test_symmetry() -> None:
    one, other = attributed(lambda a, b: (a * b).sin() + (a + b).exp(), pixels(0.9, 0.9), pixels(-0.2, -0.2))
    assert one == pytest.approx(other) and one != 0


# ---------------------------------------------------------------- exact cases


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_linear_network_is_exact_with_any_number_of_steps(rule: str, steps: int) -> None:
    if rule == "trapezoid" and steps == 1:
        return
    network = nn.Sequential(nn.Flatten(), nn.Linear(60, 4)).double().requires_grad_(False)
    x, targets = images()
    found = integrated_gradients(Score(network, "logit"), x, targets, Settings(steps=steps, rule=rule, bounds=BOUNDS))
    assert found.baseline is not None and found.gap is not None
    expected = (x - found.baseline) * network[1].weight[targets].view_as(x)
    torch.testing.assert_close(found.values, expected)
    assert float(found.gap.max()) < 1e-13


@pytest.mark.parametrize("rule", RULES)
def test_the_papers_kink(rule: str) -> None:
    """relu(relu(x1) - 1 - relu(x2)) at (3, 1): (1.5, -.5)."""
    settings = Settings(steps=1000, rule=rule, baseline="mean")
    score = formula(lambda a, b: torch.relu(torch.relu(a) - 1 - torch.relu(b)))
    found = integrated_gradients(score, pixels(3, 1), FIRST, settings)
    assert found.values.flatten().tolist() == pytest.approx([1.5, -0.5], abs=5e-3)
    if rule in ("gauss-legendre", "midpoint"):  # half of the nodes are on each side of the kink
        assert found.values.flatten().tolist() == pytest.approx([1.5, -0.5], abs=1e-12)


def test_a_saturated_gradient_does_not_hide_the_change() -> None:
    """1 - relu(1 - x) at 2 (section 2 of the paper): gradient 0, change 1."""
    one, other = attributed(lambda a, b: 1 - torch.relu(1 - a), pixels(2, 0), pixels(0, 0))
    assert one == pytest.approx(1) and other == 0


# ---------------------------------------------------------------- oracles


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("batch", [1, 4, 64])
def test_it_is_a_loop_s(rule: str, batch: int) -> None:
    x, targets = images()
    settings = Settings(steps=5, rule=rule, bounds=BOUNDS)
    found = integrated_gradients(Score(KINKED, batch=batch), x, targets, settings)
    nodes, weights = (t.tolist() for t in quadrature(rule, 5))
    assert found.baseline is not None and found.path_scores is not None
    for row, (image, target) in enumerate(zip(x, targets.tolist(), strict=True)):
        function, start = slow_paths.probability(KINKED, target), found.baseline[row]
        expected = slow_paths.integrated_gradients(function, start, image, nodes, weights)
        torch.testing.assert_close(found.values[row], expected, rtol=1e-9, atol=1e-12)
        along = torch.stack([function(start + node * (image - start)) for node in sorted({0.0, *nodes, 1.0})])
        torch.testing.assert_close(found.path_scores[row], along)


@pytest.mark.parametrize(
    ("rule", "theirs"),
    [("gauss-legendre", "gausslegendre"), ("right-riemann", "riemann_right"), ("midpoint", "riemann_middle")],
)
@pytest.mark.parametrize("steps", [2, 15])
def test_it_is_captum_s(rule: str, theirs: str, steps: int) -> None:
    x, targets = images()
    score = Score(KINKED)
    found = integrated_gradients(score, x, targets, Settings(steps=steps, rule=rule, bounds=BOUNDS))
    judge = IntegratedGradients(score.__call__)
    expected = judge.attribute(x, found.baseline, n_steps=steps, method=theirs, additional_forward_args=(targets,))
    torch.testing.assert_close(found.values, expected, rtol=1e-7, atol=1e-9)


# ---------------------------------------------------------------- tolerance, batches, bounds


def test_steps_double_until_the_tolerance_or_the_most() -> None:
    x, targets = images(4)
    score = Score(KINKED)
    for tolerance, most in ((0.02, 4096), (1e-9, 64)):
        settings = Settings(steps=4, bounds=BOUNDS, tolerance=tolerance, most_steps=most)
        found = integrated_gradients(score, x, targets, settings)
        assert found.gap is not None and found.change is not None and found.path_scores is not None
        used = [len(path) - 2 for path in found.path_scores]
        for gap, change, steps in zip(found.gap, found.change.abs(), used, strict=True):
            assert steps in (4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096) and steps <= most
            assert bool(gap <= tolerance * change) or steps == most
        assert found.settings["steps"] == max(used) and found.settings["tolerance"] == tolerance
        for row, steps in enumerate(used):  # each image as if it had been asked for with its steps
            alone = integrated_gradients(
                score, x[row : row + 1], targets[row : row + 1], Settings(steps=steps, bounds=BOUNDS)
            )
            torch.testing.assert_close(found.values[row], alone.values[0])
    assert set(used) == {64}


def test_never_more_than_the_batch_goes_through_the_network() -> None:
    sizes: list[int] = []
    network = nn.Sequential(*KINKED)
    network.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    x, targets = images(4)
    integrated_gradients(Score(network, batch=6), x, targets, Settings(steps=5, bounds=BOUNDS))
    assert max(sizes) == 6 and sum(sizes) == 4 * 5 + 2 * 4


def test_nothing_is_changed_under_no_grad_or_with_parameters_that_need_gradients() -> None:
    network = tiny(nn.ReLU).requires_grad_(True)
    x, targets = images()
    kept = x.clone()
    with torch.no_grad():
        found = integrated_gradients(Score(network), x, targets, Settings(steps=3, bounds=BOUNDS))
    assert bool(found.values.any()) and not found.values.requires_grad and torch.equal(x, kept)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_network_that_changes_its_input_in_place_changes_nobody_s_images() -> None:
    network, x = randomised(Scrubs()), torch.rand(2, 3, 8, 8)
    kept, score = x.clone(), Score(network, "logit")
    targets = score.predictions(x)
    found = integrated_gradients(score, x, targets, Settings(baseline="mean"))
    assert torch.equal(x, kept) and bytes_kept(network, x[:1]) > 0 and torch.equal(x, kept)
    torch.testing.assert_close(found.confidence, network(x.clone()).amax(1))
    assert found.gap is not None and float(found.gap.max()) < 0.1 * float(found.values.abs().sum())


# ---------------------------------------------------------------- with a graph


@pytest.mark.parametrize("chunk", [None, 1, 2, 5])
@pytest.mark.parametrize("rule", ["gauss-legendre", "trapezoid"])
def test_the_form_with_a_graph_has_the_same_value(chunk: int | None, rule: str) -> None:
    x, targets = images()
    score = Score(KINKED)
    found = integrated_gradients(score, x, targets, Settings(steps=5, rule=rule, bounds=BOUNDS))
    assert found.baseline is not None
    with torch.no_grad():
        value = integral(score, found.baseline, x, targets, rule=rule, steps=5, chunk=chunk)
    torch.testing.assert_close(value.detach(), found.values)


def smooth(weight: Tensor, head: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """softplus of a convolution, a linear head, softmax: all of it differentiable any number of times."""

    def function(x: Tensor, targets: Tensor) -> Tensor:
        logits = F.softplus(F.conv2d(x, weight)).flatten(1) @ head
        return logits.softmax(1).gather(1, targets[:, None]).squeeze(1)

    return function


@pytest.mark.parametrize("chunk", [None, 2])
def test_its_derivatives_are_right(chunk: int | None) -> None:
    weight = torch.randn(2, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    head = torch.randn(8, 3, dtype=torch.float64)
    start, end = torch.randn(2, 2, 1, 3, 3, dtype=torch.float64).unbind()
    targets = torch.tensor([0, 2])

    def of(start: Tensor, end: Tensor, weight: Tensor) -> Tensor:
        return integral(smooth(weight, head), start, end, targets, steps=3, chunk=chunk)

    assert torch.autograd.gradcheck(of, (start.requires_grad_(True), end.requires_grad_(True), weight))


def test_attention_can_be_differentiated_twice() -> None:
    network = VisionTransformer(8, 4, 1, 2, 8, 16, num_classes=3).eval()
    nn.init.normal_(network.heads.head.weight)
    x = torch.rand(2, 3, 8, 8, requires_grad=True)
    targets = torch.tensor([0, 2])
    maps = integral(Score(network), torch.zeros_like(x), x, targets, steps=3)
    plain = integrated_gradients(Score(network), x.detach(), targets, Settings(steps=3, baseline="mean"))
    torch.testing.assert_close(maps.detach(), plain.values, rtol=1e-4, atol=1e-6)
    maps.abs().sum().backward()
    query = network.encoder.layers[0].self_attention.in_proj_weight
    assert x.grad is not None and bool(x.grad.isfinite().all()) and bool(x.grad.any())
    assert query.grad is not None and bool(query.grad.isfinite().all()) and bool(query.grad.any())


# ---------------------------------------------------------------- the score


def test_outputs_are_what_they_are_called() -> None:
    x, targets = images()
    logits = SMOOTH(x)
    wanted = {"logit": logits, "probability": logits.softmax(1), "log-probability": logits.log_softmax(1)}
    for output in OUTPUTS:
        expected = torch.stack([wanted[output][row, target] for row, target in enumerate(targets)])
        for batch in (1, 2, 64):
            score = Score(SMOOTH, output, batch)
            torch.testing.assert_close(score.values(x, targets), expected)
            torch.testing.assert_close(score.gradients(x, targets)[0], expected)
    assert torch.equal(Score(SMOOTH, batch=2).predictions(x), logits.argmax(1))
    with pytest.raises(UsageError, match="probability, logit, log-probability, not 'loss'"):
        check_output("loss")


def test_a_score_that_does_not_depend_on_the_image_has_no_gradient() -> None:
    score = formula(lambda a, b: torch.ones(len(a), dtype=a.dtype))
    found = integrated_gradients(score, pixels(1, 2), FIRST, Settings(steps=2, baseline="mean"))
    assert not found.values.any() and found.confidence.tolist() == [1.0]


def test_bytes_kept_grow_with_the_image_and_bound_the_batch() -> None:
    network = fixtures.vgg(4, width=4).eval().requires_grad_(False)
    small, large = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 32, 32)
    kept = bytes_kept(network, large)
    assert 2 < kept / bytes_kept(network, small) < 5  # activations, not weights
    activations = 4 * 2 * (4 * 32**2 + 8 * 16**2 + 16 * 8**2)  # what the six batch norms see, four bytes each
    assert activations < kept < 6 * activations
    pair = bytes_kept(network, torch.rand(2, 3, 32, 32))
    assert 1.8 < pair / kept < 2.2
    assert batch_that_fits(network, large, 64, memory=10 * kept) == 10
    assert batch_that_fits(network, large, 4, memory=10 * kept) == 4
    assert batch_that_fits(network, large, 64, memory=1) == 1


def test_images_of_one_shape_with_their_maps() -> None:
    x, targets = images(2)
    found = integrated_gradients(Score(KINKED), x, targets, Settings(steps=2, bounds=BOUNDS))
    assert found.values.shape == (2, *SHAPE)
    torch.testing.assert_close(found.heat(), found.values[:, 0] + found.values[:, 1])
