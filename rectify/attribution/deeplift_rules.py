"""The rules of DeepLIFT for what is linear, a product, a quotient, elementwise, or a softmax.

A rule takes the operation and its arguments, pairs among them, and gives a pair. What is written with the operators of
torch goes to the rules of those operations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rectify.attribution.deeplift_pairs import (
    INSTEAD,
    Pair,
    Rule,
    Slope,
    StandIn,
    any_pair,
    aten,
    baseline_side,
    both_sides,
    image_side,
    paired,
    refuse,
)
from rectify.errors import UsageError


def linear(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Linear, with an offset, in all of its pairs at once."""
    if func is aten.view.dtype:
        refuse(func)
    value = func(*image_side(args), **image_side(kwargs))
    with torch.no_grad():
        base = func(*baseline_side(args), **baseline_side(kwargs))
    return paired(func, value, base)


def linear_in_first(func: Any, first: Any, *args: Any, **kwargs: Any) -> Any:
    """Linear in its first argument while no other depends on the image."""
    if any_pair(args, kwargs):
        refuse(func)
    return linear(func, first, *args, **kwargs)


def same(func: Any, pair: Any, *_: Any, **__: Any) -> Any:
    """Detached values still depend on the image."""
    return linear(aten.alias.default, pair)


def as_strided(func: Any, pair: Any, *args: Any, **kwargs: Any) -> Any:
    if pair.value.stride() != pair.base.stride():
        refuse(func)
    return linear_in_first(func, pair, *args, **kwargs)


def copied(func: Any, target: Any, source: Any, *_: Any) -> Any:
    """What a copy in place leaves behind, by a road that has derivatives."""
    return source.to(target.dtype).expand(target.shape).clone()


def constant(func: Any, pair: Any, *args: Any, **kwargs: Any) -> Any:
    """A new tensor of which only shape and type come from the pair; what is filled in must not."""
    if any_pair(args, kwargs):
        refuse(func)
    return func(baseline_side(pair), *args, **kwargs)


def batch_norm(func: Any, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    """With fixed statistics. As a product and a sum, for torch's own derivative is wrong in eval mode on a CPU where
    the gradient that comes back is not contiguous (2.14: behind a flatten and a transpose)."""
    x, weight, bias, mean, variance = args[:5]
    if "_no_" not in func._schema.name and args[5]:
        raise UsageError(
            "deeplift has no rule for instance norm, or batch norm with statistics of the batch: call eval() for the "
            f"latter, or {INSTEAD}"
        )
    if any_pair(args[1:], kwargs):
        refuse(func)
    factor = torch.rsqrt(variance + args[-1]) * (1 if weight is None else weight)
    offset = (0 if bias is None else bias) - mean * factor
    shape = (-1, *[1] * (x.dim() - 2))
    empty = mean.new_empty(0)
    return x * factor.view(shape) + offset.view(shape), empty, empty, *[empty] * (len(func._schema.returns) - 3)


def product(func: Any, a: Any, b: Any, *args: Any) -> Any:
    """Linear in either of two factors; ``D(ab) = Da (b + b')/2 + (a + a')/2 Db``."""
    if not (isinstance(a, Pair) and isinstance(b, Pair)):
        return linear(func, a, b, *args)
    value, base = both_sides(func, (a, b, *args), {})
    surrogate = func(a.value, _middle(b), *args) + func(_middle(a), b.value, *args)
    return Pair(StandIn.apply(surrogate, [value]), base)


def _middle(pair: Pair) -> Tensor:
    return torch.lerp(pair.base, pair.value.detach(), 0.5)


def convolution(func: Any, x: Any, weight: Any, bias: Any, *args: Any) -> Any:
    """Of an image by fixed weights, or by weights that an image has made."""
    if isinstance(weight, Pair) and bias is not None:
        return product(func, x, weight, None, *args) + bias.view(-1, *[1] * (x.dim() - 2))
    return product(func, x, weight, bias, *args)


def linear_layer(func: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    product = x.matmul(weight.t())
    return product if bias is None else product + bias


def add_product(multiply: Callable[[Any, Any], Any]) -> Rule:
    """``beta * c + alpha * a b``."""

    def rule(func: Any, c: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Any:
        if not (isinstance(a, Pair) and isinstance(b, Pair)):
            return linear(func, c, a, b, beta=beta, alpha=alpha)
        return beta * c + alpha * multiply(a, b)

    return rule


def divide(func: Any, a: Any, b: Any, *, rounding_mode: str | None = None) -> Any:
    if rounding_mode is not None:
        refuse(func)
    if not isinstance(b, Pair):
        return linear(func, a, b)
    if not isinstance(a, Pair):
        return a * torch.reciprocal(b)
    return scaled_by(a, torch.reciprocal(b))


def scaled_by(a: Any, r: Any) -> Pair:
    """``a r`` for a scale r, where the mean of r and r' would be large if one of them is.

    ``D(a r) = Da (l r + (1-l) r') + Dr (l a' + (1-l) a)`` is exact for every l. With ``l = r' / (r + r')`` it is the
    harmonic mean of the scales, which stays by the smaller one, and ``Dr / (r + r') * (a r + a' r')``.
    """
    if a.shape != r.shape:
        shape = torch.broadcast_shapes(a.shape, r.shape)
        a, r = a.expand(shape), r.expand(shape)
    with torch.no_grad():
        left = torch.where(r.value * r.base > 0, r.base / (r.value + r.base), 0.5)
        of_a = left * r.value + (1 - left) * r.base
        of_r = left * a.base + (1 - left) * a.value
        value, base = a.value * r.value, a.base * r.base
    return Pair(StandIn.apply(of_a * a.value + of_r * r.value, [value]), base)


def elementwise(unit: float) -> Rule:
    """Rescale; ``unit`` is the scale on which f bends at zero, 0 where it has no other scale than z itself."""

    def rule(func: Any, z: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(z, Pair) or any_pair(args, kwargs):
            refuse(func)
        value, base = both_sides(func, (z, *args), kwargs)
        if value.shape != z.shape:  # bounds of a clamp that are larger than what is clamped
            z = z.expand(value.shape)
        slope = _rescale(lambda t: func(t, *image_side(args), **kwargs), z.value.detach(), z.base, value - base, unit)
        return Pair(Slope.apply(z.value, slope, [value]), base)

    return rule


@torch.no_grad()
def _rescale(f: Callable[[Tensor], Tensor], z: Tensor, base: Tensor, rise: Tensor, unit: float) -> Tensor:
    """``rise / (z - base)``, and f' half way where the difference has few digits left."""
    run = z - base
    # f(z) - f(z') is off by eps |f|, f' half way by f''' run^2 / 24: between the two, the root of eps
    scale = torch.maximum(z.abs(), base.abs()).clamp_min(unit)
    steep = run.abs() > torch.finfo(z.dtype).eps ** 0.5 * scale  # not so where both are infinite: run is then no number
    slope = rise / run
    if not bool(steep.all()):
        with torch.enable_grad():
            half = torch.lerp(base, z, 0.5).requires_grad_(True)
            (derivative,) = torch.autograd.grad(f(half).sum(), half)
        slope = torch.where(steep, slope, derivative)
    return slope.nan_to_num_(0, 0, 0)  # a root at zero: nothing moves there


def power(func: Any, z: Any, exponent: Any) -> Any:
    return elementwise(0)(func, z, exponent)


def maximum(func: Any, a: Any, b: Any) -> Any:
    return b + torch.relu(a - b)


def minimum(func: Any, a: Any, b: Any) -> Any:
    return a - torch.relu(a - b)


def softmax(func: Any, z: Any, dim: int, *args: Any, **kwargs: Any) -> Any:
    """``Dy_i = w_i (Dz_i - sum_j w_j Dz_j / sum_j w_j)``; of log y without the w_i in front."""
    value, base = both_sides(func, (z, dim, *args), kwargs)
    weight = _log_mean(*(part.to(value.dtype).log_softmax(dim) for part in (z.value.detach(), z.base)))
    share = weight / weight.sum(dim, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
    z = z.value.to(value.dtype)
    surrogate = z - (share * z).sum(dim, keepdim=True)
    if "log" not in func._schema.name:
        surrogate = weight * surrogate
    return Pair(StandIn.apply(surrogate, [value]), base)


def _log_mean(u: Tensor, v: Tensor) -> Tensor:
    """``(e^u - e^v) / (u - v)``, zero where both are masked."""
    rise = u - v
    near = torch.lerp(u, v, 0.5).exp() * (1 + rise**2 / 24 * (1 + rise**2 / 80))  # the series of sinh(r/2) / (r/2)
    return torch.where(rise.abs() < 0.01, near, (u.exp() - v.exp()) / rise).nan_to_num(0)


def log_sigmoid(func: Any, z: Any) -> Any:
    return -F.softplus(-z), z


def glu(func: Any, z: Any, dim: int = -1) -> Any:
    a, b = z.chunk(2, dim)
    return a * torch.sigmoid(b)


def lerp(func: Any, a: Any, b: Any, weight: Any) -> Any:
    return a + weight * (b - a)


def add_times(func: Any, c: Any, a: Any, b: Any, *, value: float = 1) -> Any:
    return c + value * (a * b)
