"""DeepLIFT: against the paper by hand, against captum, and sum-to-delta on everything that torch builds networks of."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models

from fixtures import networks as fixtures
from rectify.attribution.attribution import Attribution, Settings
from rectify.attribution.deeplift import deeplift
from rectify.attribution.score import Score
from rectify.errors import UsageError
from tests.model.networks import Encoder, Folded, Scrubs, SequenceFirst, randomised

IMAGE = (3, 8, 8)


def lifted(network: nn.Module, x: Tensor, baseline: Tensor, output: str = "logit", batch: int = 64) -> Attribution:
    """DeepLIFT of the classes 0, 1, 2, ..."""
    score = Score(network, output, batch)  # type: ignore[arg-type]
    return deeplift(score, x, torch.arange(len(x)), Settings(baseline=baseline))


def pair(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    one, other = (torch.randn(2, *shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return one, other


def relative_gap(found: Attribution) -> float:
    """The gap as a share of what is added up: where a change is small because much cancels, so does rounding."""
    assert found.gap is not None
    return float((found.gap / (found.values.abs().flatten(1).sum(1) + 1e-4 * found.confidence.abs())).max())


class Flow(nn.Module):
    """A convolution, then any function, then the mean of what comes out times fixed numbers."""

    def __init__(self, flow: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.flow = nn.Conv2d(3, 4, 3, padding=1), flow

    def forward(self, x: Tensor) -> Tensor:
        y = self.flow(self.conv(x)).flatten(1)
        weights = torch.linspace(-1, 2, y.shape[1] * 3, dtype=y.dtype).view(y.shape[1], 3)
        return y @ weights


def flow(function: Callable[[Tensor], Tensor]) -> nn.Module:
    return Flow(function).double().eval().requires_grad_(False)


# ---------------------------------------------------------------- the paper, by hand


def test_it_is_the_papers_multipliers_layer_by_layer() -> None:
    linear = [nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3)]
    acts: list[Callable[[float], float]] = [lambda z: max(z, 0.0), lambda z: float(torch.tensor(z).double().sigmoid())]
    network = nn.Sequential(nn.Flatten(), linear[0], nn.ReLU(), linear[1], nn.Sigmoid(), linear[2]).double()
    x, base = pair(1, 2, 3)
    found = lifted(network.requires_grad_(False).eval(), x, base)
    for image in range(2):
        # forward passes of both, number by number
        values, bases = [x[image].flatten().tolist()], [base[image].flatten().tolist()]
        before: list[tuple[list[float], list[float]]] = []
        for number, layer in enumerate(linear):
            for kept in (values, bases):
                last = kept[-1]
                row = [
                    float(layer.bias[o]) + sum(float(layer.weight[o, i]) * last[i] for i in range(len(last)))
                    for o in range(layer.out_features)
                ]
                kept.append(row)
            before.append((values[-1], bases[-1]))
            if number < 2:
                values[-1], bases[-1] = ([acts[number](z) for z in kept[-1]] for kept in (values, bases))
        # multipliers backwards: the linear rule m_i = sum_o w_oi m_o, the Rescale rule m = (f(z) - f(z')) / (z - z')
        m = [float(i == image) for i in range(3)]
        for number in (2, 1, 0):
            if number < 2:
                z, z_base = before[number]
                f = acts[number]
                m = [m[o] * (f(z[o]) - f(z_base[o])) / (z[o] - z_base[o]) for o in range(len(m))]
            weight = linear[number].weight
            m = [sum(float(weight[o, i]) * m[o] for o in range(len(m))) for i in range(weight.shape[1])]
        expected = [(a - b) * c for a, b, c in zip(values[0], bases[0], m, strict=True)]
        torch.testing.assert_close(found.values[image].flatten(), torch.tensor(expected, dtype=torch.float64))


def test_a_linear_network_is_exact() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 3)).double()
    network.requires_grad_(False).eval()
    x, base = pair(*IMAGE)
    at = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(network(at)[torch.arange(2), torch.arange(2)].sum(), at)
    torch.testing.assert_close(lifted(network, x, base).values, (x - base) * gradient)


def test_what_the_network_never_sees_and_what_does_not_change_get_zero() -> None:
    network = Flow(lambda y: F.gelu(y) * y.sigmoid()).double()
    with torch.no_grad():
        network.conv.weight[:, 1] = 0
    x, base = pair(*IMAGE)
    base[:, :, 3] = x[:, :, 3]
    values = lifted(network.requires_grad_(False), x, base).values
    assert not values[:, 1].any() and not values[:, :, 3].any() and bool(values[:, 0].any())


def test_a_network_that_does_not_look_gets_zero() -> None:
    class Blind(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ones(len(x), 3, dtype=x.dtype)

    found = lifted(Blind(), *pair(*IMAGE))
    assert not found.values.any() and not found.change.any()  # type: ignore[union-attr]


def test_saturation_is_seen_where_the_gradient_is_zero() -> None:
    """The paper's figure 1: y = min(i_1 + i_2, 1) at (1, 1)."""

    class Saturated(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 1 - F.relu(1 - x.flatten(1).sum(1, keepdim=True))

    x = torch.ones(1, 1, 1, 2, dtype=torch.float64)
    torch.testing.assert_close(lifted(Saturated(), x, torch.zeros_like(x)).values, torch.full_like(x, 0.5))


def test_softmax_is_exact_and_blind_to_a_constant() -> None:
    class Soft(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1).softmax(1)

    x, base = pair(1, 1, 4)
    found = lifted(Soft(), x, base)
    torch.testing.assert_close(found.values.flatten(1).sum(1), found.change)
    blind = lifted(Soft(), x, x + 3).values  # nothing changes, so the multiplier is the derivative
    torch.testing.assert_close(blind.sum((1, 2, 3)), torch.zeros(2).double(), atol=1e-14, rtol=0)
    for image, p in enumerate(x.flatten(1).softmax(1)):
        expected = torch.stack([-3 * p[image] * (float(i == image) - p[i]) for i in range(4)])
        torch.testing.assert_close(blind[image].flatten(), expected)
    # of two classes it is the sigmoid of the difference, and so is its multiplier
    two, two_base = x[..., :2], base[..., :2]
    d, d_base = (t[..., 0] - t[..., 1] for t in (two, two_base))
    m = ((d.sigmoid() - d_base.sigmoid()) / (d - d_base))[:1]
    signed = torch.tensor([1.0, -1.0]).double()
    expected = signed * (two - two_base)[0] * m.view(())
    torch.testing.assert_close(lifted(Soft(), two[:1], two_base[:1]).values[0], expected)


@pytest.mark.parametrize("name", ["layer norm", "group norm", "quotient by a norm"])
def test_a_norm_stays_small_where_the_baseline_has_next_to_no_variance(name: str) -> None:
    """By the mean of both scales each part would be of the size of 1 / sqrt(eps), for the parts to cancel."""
    norms: dict[str, Callable[[Tensor], Tensor]] = {
        "layer norm": lambda y: F.layer_norm(y, (8, 8), eps=1e-12),
        "group norm": lambda y: F.group_norm(y, 2, eps=1e-12),
        "quotient by a norm": lambda y: y / (1e-12 + y.square().mean((2, 3), keepdim=True)).sqrt(),
    }
    network = flow(norms[name])
    x, base = pair(*IMAGE)
    found = lifted(network, x, 1e-6 * base)
    assert relative_gap(found) < 1e-9  # the scales differ by six digits
    assert float(found.values.abs().sum()) < 10 * float(lifted(network, x, base).values.abs().sum())


def test_a_maximum_is_shared_by_both_winners() -> None:
    class Largest(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.max_pool2d(x, (1, 2)).flatten(1)

    def shares(x: list[float], base: list[float]) -> list[float]:
        images = (torch.tensor(t, dtype=torch.float64).view(1, 1, 1, 2) for t in (x, base))
        return lifted(Largest(), *images).values.flatten().tolist()

    assert shares([3, 1], [0, -1]) == pytest.approx([3, 0])  # one winner
    assert shares([3, 0], [0, 2]) == pytest.approx([2, -1])  # Shapley: ((3 - 2) + (3 - 0)) / 2 and the rest
    assert shares([1, 5], [4, 5]) == pytest.approx([0, 0])


# ---------------------------------------------------------------- captum


def test_it_agrees_with_captum_on_a_relu_network() -> None:
    from captum.attr import DeepLift

    layers: list[nn.Module] = [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3, 2), nn.ReLU(), nn.AvgPool2d(2)]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3)).double().eval()
    x, base = pair(*IMAGE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = DeepLift(network).attribute(x, base, target=torch.arange(2))
    torch.testing.assert_close(lifted(network, x, base).values, expected.detach())


# ---------------------------------------------------------------- every operation


def attention(y: Tensor) -> Tensor:
    tokens = y.flatten(2).transpose(1, 2)
    return F.scaled_dot_product_attention(tokens, tokens.roll(1, 2), tokens * 2)


def masked_attention(y: Tensor) -> Tensor:
    tokens = y.flatten(2).transpose(1, 2)
    return F.scaled_dot_product_attention(tokens, tokens.roll(1, 2), tokens * 2, is_causal=True)


def hidden(y: Tensor) -> Tensor:
    scores = (y @ y.transpose(-2, -1)).masked_fill(torch.ones(8, 8).triu(1).bool(), float("-inf"))
    return scores.softmax(-1) @ y


def dynamic_convolution(y: Tensor) -> Tensor:
    """Every image by weights of its own, as groups."""
    weight = y.mean((2, 3)).view(-1, 1, 1, 1).expand(-1, 4, 3, 3)
    return F.conv2d(y.reshape(1, -1, 8, 8), weight, y[:, :, 0, 0].flatten(), groups=len(y)).view(len(y), 4, 6, 6)


def written_into(y: Tensor) -> Tensor:
    out = y.clone()
    out[:, 1] = y[:, 0].relu()
    out[:, 2].mul_(3).clamp_(-1, 1)
    out[:, 3].zero_()
    return out


def reused(y: Tensor, relu: nn.Module) -> Tensor:
    return relu(y - relu(y * 2) + relu(1 - y))


OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    **{f.__name__: f for f in (F.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish)},
    **{f.__name__: f for f in (F.hardswish, F.hardsigmoid, F.softplus, F.logsigmoid, F.hardtanh)},
    **{f.__name__: f for f in (torch.sigmoid, torch.tanh, torch.exp, torch.abs, torch.erf, torch.square, torch.sin)},
    "gelu tanh": lambda y: F.gelu(y, approximate="tanh"),
    "sqrt": lambda y: (y.abs() + 0.1).sqrt(),
    "sqrt at zero": lambda y: y.relu().sqrt(),
    "rsqrt": lambda y: (y * y + 0.1).rsqrt(),
    "reciprocal": lambda y: 1 / (y.abs() + 0.1),
    "log": lambda y: (y.abs() + 0.1).log(),
    "power": lambda y: y**3 + (y.abs() + 0.1) ** 0.7,
    "clamp": lambda y: y.clamp(-0.2, 0.3) + y.clamp(min=0.1) + torch.clamp(y, max=torch.tensor(0.2).double()),
    "prelu": lambda y: F.prelu(y, torch.tensor([0.1, 0.2, 0.3, -0.4]).double()),
    "glu": lambda y: F.glu(y, 1),
    "softmax": lambda y: y.softmax(1) + 0.1 * y.log_softmax(2),
    "softmax far apart": lambda y: (1e3 * y).softmax(1),
    "product": lambda y: y * y.roll(1, 1) + y.mul(y),
    "quotient": lambda y: y / (1 + y.roll(1, 1).abs()) + y / 3,
    "gate": lambda y: y * F.adaptive_avg_pool2d(y, 1).sigmoid(),
    "matmul": lambda y: y @ y.transpose(-2, -1),
    "einsum": lambda y: torch.einsum("nchw,ndhw->ncd", y, y.exp()),
    "baddbmm": lambda y: torch.baddbmm(y[:, 0], y[:, 1], y[:, 2], beta=0.5, alpha=2),
    "dynamic convolution": dynamic_convolution,
    "attention": attention,
    "causal attention": masked_attention,
    "masked": hidden,
    "max pool": lambda y: F.max_pool2d(y, 3, 2, 1),
    "max pool 1d": lambda y: F.max_pool1d(y.flatten(2), 2),
    "adaptive max pool": lambda y: F.adaptive_max_pool2d(y, 3),
    "max": lambda y: y.amax((2, 3)) + y.max(2)[0].sum(2) + torch.maximum(y, y.roll(1, 1)).sum((2, 3)),
    "min": lambda y: torch.minimum(y, 0.5 * y.roll(1, 1)),
    "average pools": lambda y: F.adaptive_avg_pool2d(F.avg_pool2d(y, 2), 3),
    "layer norm": lambda y: F.layer_norm(y, (8, 8), torch.arange(64).view(8, 8).double()),
    "group norm": lambda y: F.group_norm(y, 2, torch.arange(4).double(), torch.ones(4).double()),
    "rms norm": lambda y: F.rms_norm(y, (8,)),
    "normalize": lambda y: F.normalize(y, dim=1),
    "variance": lambda y: y.var((2, 3)) + y.std((2, 3), correction=0) + torch.var_mean(y, (2, 3))[1],
    "interpolate": lambda y: F.interpolate(y, scale_factor=2, mode="bilinear") + F.interpolate(y, size=16),
    "pads": lambda y: F.pad(y, (1, 1, 1, 1), mode="reflect") + F.pad(y, (1, 1, 1, 1)),
    "pixel shuffle": lambda y: F.pixel_shuffle(y, 2) * F.pixel_shuffle(y.relu(), 2),
    "pieces": lambda y: torch.cat([torch.stack(y.chunk(2, 1)).sum(0), *y.split(1, 1), y[:, :2].flip(2)], 1).relu(),
    "indices": lambda y: y[:, torch.tensor([0, 2])].index_select(2, torch.tensor([1, 5])) * y[:, :2, ::4],
    "where": lambda y: torch.where(torch.arange(8) > 3, y, y * y),
    "in place": lambda y: F.relu(y.clone().add_(0.1).mul_(y).div_(2), inplace=True).sub_(y.tanh()),
    "written into": written_into,
    "shapes in place": lambda y: y.clone().unsqueeze_(1).transpose_(0, 1).squeeze_(0).relu_() * y,
    "detached": lambda y: y.detach() * y.data,
    "cumulative sum": lambda y: y.cumsum(1).relu(),
    "types": lambda y: y.float().double() * y.to(torch.float64),
    "reused module": lambda y: reused(y, nn.ReLU()),
    "reused in place": lambda y: reused(y, nn.ReLU(inplace=True)),
    "instance norm by hand": lambda y: (y - y.mean((2, 3), keepdim=True)) / (y.var((2, 3), keepdim=True) + 1e-5).sqrt(),
    "dropout in eval": lambda y: F.dropout(y, 0.5, training=False).relu(),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_sums_to_delta(name: str) -> None:
    network = flow(OPERATIONS[name])
    x, base = pair(*IMAGE)
    base[1, :, :4] = x[1, :, :4]  # where nothing changes the derivative is taken
    base[0, 0, 0, 0] = x[0, 0, 0, 0] + 1e-9
    found = lifted(network, x, base)
    assert relative_gap(found) < (1e-6 if name == "types" else 1e-12)
    assert bool(found.values.isfinite().all()) and bool(found.values.any())
    torch.testing.assert_close(found.change, found.confidence - lifted(network, base, x).confidence)


# no derivative; no digits; not smooth; and what torch does not differentiate itself
WITHOUT_LIMIT = ("sqrt at zero", "types", "softmax far apart", "in place", "detached", "shapes in place")


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in WITHOUT_LIMIT])
def test_near_the_baseline_it_is_the_derivative(name: str) -> None:
    """Multipliers tend to gradients: a rule that is complete but wrong does not."""
    network = flow(OPERATIONS[name])
    x, _ = pair(*IMAGE)
    step = 1e-6 * torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    found = lifted(network, x, x - step).values
    at = (x - step / 2).requires_grad_(True)
    parts = network(at.clone())[torch.arange(2), torch.arange(2)]
    (gradient,) = torch.autograd.grad(parts.sum(), at)
    torch.testing.assert_close(found, step * gradient, rtol=1e-3, atol=1e-3 * float((step * gradient).abs().max()))


# ---------------------------------------------------------------- networks

SMALL: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet": (lambda: fixtures.resnet18(4, width=4), (3, 12, 12)),
    "vgg": (lambda: fixtures.vgg(4, width=4), (3, 12, 12)),
    "vit": (lambda: fixtures.vit(4, width=16, channels=3, image_size=12, depth=2), (3, 12, 12)),
    "mobilenet": (lambda: fixtures.mobilenet(4, width=4), (3, 12, 12)),
    "tokens first": (SequenceFirst, (4, 4, 4)),
    "tokens in the batch": (Folded, (4, 4, 4)),
    "transformer encoder": (Encoder, (4, 4, 4)),
    "changes its input": (Scrubs, IMAGE),
}
TORCHVISION: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (models.resnet18, 32),
    "vgg16_bn": (lambda: nn.Sequential(models.vgg16_bn().features, nn.Flatten(), nn.Linear(512, 10)), 32),
    "efficientnet_v2_s": (models.efficientnet_v2_s, 32),
    "convnext_tiny": (models.convnext_tiny, 32),
    "swin_t": (models.swin_t, 32),
    "mobilenet_v3_small": (models.mobilenet_v3_small, 32),
    "densenet121": (models.densenet121, 32),
    "vit": (lambda: models.VisionTransformer(32, 16, 2, 4, 32, 64, num_classes=10), 32),
}


@pytest.mark.parametrize("output", ["logit", "probability", "log-probability"])
@pytest.mark.parametrize("name", SMALL)
def test_small_networks_sum_to_delta(name: str, output: str) -> None:
    make, shape = SMALL[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = randomised(make().double())
    found = lifted(network, *pair(*shape), output)
    assert relative_gap(found) < 1e-12 and bool(found.values.any())


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_sums_to_delta(name: str) -> None:
    make, size = TORCHVISION[name]
    network = randomised(make().double())
    found = lifted(network, *(t[:1] for t in pair(3, size, size)))
    assert relative_gap(found) < 1e-10 and bool(found.values.any())


def test_batch_norm_behind_a_transpose_is_right() -> None:
    """torch's own derivative is not: see the rule."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.norm(self.conv(x)).flatten(2).transpose(1, 2)
            return self.head(tokens.reshape(-1, 8, 8, 8)[:, ::2, 1:].reshape(len(x), -1, 8).square().mean(1))

    assert relative_gap(lifted(randomised(Tokens().double()), *(t[:1] for t in pair(*IMAGE)))) < 1e-12


def test_a_scripted_network_is_as_good_as_its_source() -> None:
    network = randomised(fixtures.vgg(4, width=2).double())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(network)
    x, base = pair(*IMAGE)
    expected = lifted(network, x, base).values
    for _ in range(3):  # torch compiles anew after it has seen a call or two
        torch.testing.assert_close(lifted(scripted, x, base).values, expected)


def test_an_autograd_function_is_taken_by_what_it_computes() -> None:
    class Cheat(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, z: Tensor) -> Tensor:
            return z.relu()

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
            return 100 * gradient

    x, base = pair(*IMAGE)
    torch.manual_seed(0)
    cheating = flow(Cheat.apply)
    torch.manual_seed(0)
    torch.testing.assert_close(lifted(cheating, x, base).values, lifted(flow(torch.relu), x, base).values)


# ---------------------------------------------------------------- batches, types, traces


def test_batches_change_nothing() -> None:
    network = randomised(fixtures.resnet18(8, width=2).double())
    x, base = (t.repeat(3, 1, 1, 1)[:5] for t in pair(*IMAGE))
    x += torch.arange(5).view(-1, 1, 1, 1)
    expected = lifted(network, x, base).values
    for batch in (1, 2, 5):
        torch.testing.assert_close(lifted(network, x, base, batch=batch).values, expected)


@pytest.mark.parametrize("needs", [True, False])
def test_it_leaves_no_trace(needs: bool) -> None:
    network = randomised(fixtures.resnet18(4, width=2)).requires_grad_(needs)
    x, base = (t.float() for t in pair(*IMAGE))
    kept, before = x.clone(), network(x).detach()
    with torch.no_grad():
        found = lifted(network, x, base)
    assert found.values.dtype == torch.float32 and not found.values.requires_grad
    assert relative_gap(found) < 1e-5 and torch.equal(x, kept) and torch.equal(network(x), before)
    assert all(p.grad is None for p in network.parameters())
    assert torch.equal(found.values, lifted(network, x, base).values)
    assert type(found.values) is Tensor and found.baseline is not None and type(found.baseline) is Tensor


def test_equal_images_attribute_nothing() -> None:
    network = randomised(fixtures.vit(4, width=16, channels=3, image_size=8, depth=1))
    x = torch.randn(1, *IMAGE)
    found = lifted(network, x, x)
    assert not found.values.any() and not found.change.any()  # type: ignore[union-attr]


# ---------------------------------------------------------------- refusals

REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "sort": (lambda y: y.sort(1)[0], "torch.sort"),
    "cumprod": (lambda y: y.cumprod(1), "torch.cumprod"),
    "rounding": (lambda y: y.round(), "torch.round"),
    "comparison": (lambda y: y * (y > 0), "torch.gt"),
    "to integers": (lambda y: y.long().double(), "torch.to_copy"),
    "floor division": (lambda y: torch.div(y, 2, rounding_mode="floor"), "torch.div"),
    "exponent": (lambda y: y.abs() ** y, "torch.pow"),
    "indices of a pool": (lambda y: F.max_unpool2d(*F.max_pool2d(y, 2, return_indices=True), 2), "unpool"),
    "statistics of the batch": (lambda y: F.batch_norm(y, None, None, training=True), "statistics of the batch"),
    "written into a constant": (lambda y: torch.zeros(2, 4, 8, 8).double().copy_(y), "constant tensor"),
    "one number": (lambda y: y * float(y.sum()), "no rule for torch.local_scalar_dense"),
    "numpy": (lambda y: y + torch.from_numpy(y.numpy()), r"cannot follow .*numpy\(\)"),
    "dropout": (lambda y: F.dropout(y, 0.5, training=True), "is it random, in eval mode"),
    "a copy in python": (lambda y: torch.tensor(y.tolist(), dtype=y.dtype), r"cannot follow .*tolist\(\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_refused_in_one_line(name: str) -> None:
    function, names = REFUSED[name]
    with pytest.raises(UsageError, match=names) as caught:
        lifted(flow(function), *pair(*IMAGE))
    assert "\n" not in str(caught.value) and "--method ig" in str(caught.value)


def test_a_network_in_training_is_refused() -> None:
    with pytest.raises(UsageError, match=r"eval\(\)"):
        lifted(fixtures.vgg(4, width=2).double().train(), *pair(*IMAGE))


def test_a_compiled_network_is_refused() -> None:
    with pytest.raises(UsageError, match=r"torch\.compile"):
        lifted(torch.compile(fixtures.vgg(4, width=2).double().eval(), backend="eager"), *pair(*IMAGE))


def test_low_precision_inside_adds_up_to_its_rounding_or_is_refused() -> None:
    x, base = pair(*IMAGE)
    assert 1e-6 < relative_gap(lifted(flow(lambda y: y.bfloat16().relu().double()), x, base)) < 1e-2
    with pytest.raises(UsageError, match=r"does not add up here \(low precision"):  # the steps are of 4, or of 8
        lifted(flow(lambda y: (1000 + y).bfloat16().relu().double()), x, base)


def test_a_random_network_is_refused() -> None:
    with pytest.raises(UsageError, match="random"):
        lifted(flow(lambda y: y * torch.rand(1, dtype=y.dtype)), *pair(*IMAGE))
