"""DeepLIFT with the Rescale rule (Shrikumar, Greenside, Kundaje 2017, arXiv 1704.02685).

Image x and baseline x' go through the network side by side. Every operation gets a multiplier m with
``sum m * (input - input') = output - output'``, and the multipliers are chained as gradients are:

- a linear operation keeps its own weights;
- an elementwise function f has m = (f(z) - f(z')) / (z - z'), and its derivative half way where z = z' (Rescale);
- a product has the mean of the other factor, ``D(ab) = Da (b + b')/2 + Db (a + a')/2``, which is exact;
- softmax has ``Dy_i = w_i (Dz_i - sum_j w_j Dz_j / sum_j w_j)`` with w the logarithmic mean of y and y', exact since
  both sum to one and unchanged by a constant added to z;
- a maximum shares its change between the winner for x and the winner for x' (the Shapley values of the two);
- a quotient and a norm, ``a r`` with r a scale, have weights that keep to the smaller scale in place of the half and
  half of a product.

The paper defines its rule for functions of one input; the last four are choices of this program. The module does not
look at torch.nn modules but at the operations that torch really runs, so that it does not matter whether a module is
reused, works in place, or is called through torch.nn.functional. An operation without a rule is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import enable_reentrant_dispatch
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_leaves, tree_map

from rectify.attribution.attribution import Attribution, Settings
from rectify.attribution.baselines import baseline_images, baseline_name
from rectify.attribution.score import Score, twice_differentiable
from rectify.errors import UsageError
from rectify.files.words import reason
from rectify.model.trace import readable

aten = torch.ops.aten
INSTEAD = "use --method ig"
MISMATCH = 1e-3  # share by which scores and sums may be off: far above rounding


def deeplift(score: Score, x: Tensor, targets: Tensor, settings: Settings) -> Attribution:
    """DeepLIFT (Rescale) from a static baseline.

    Parameters
    ----------
    score
        F; at most ``batch // 2`` pairs go through its network at a time.
    x, targets
        Images (N, C, H, W) and classes (N,).
    settings
        ``baseline``.

    Returns
    -------
    Attribution
        ``values`` sum to ``change`` up to rounding.

    Raises
    ------
    UsageError
        Unknown baseline, or a network with an operation that has no rule, that uses statistics of the batch, or that
        does not give the same score twice.
    """
    if any(type(module).__name__ == "OptimizedModule" for module in score.network.modules()):
        raise UsageError(
            f"deeplift does not see into what torch.compile has made: give the network before it, or {INSTEAD}"
        )
    baseline = baseline_images(x, settings)
    confidence, low = score.values(x, targets), score.values(baseline, targets)
    change = confidence - low
    size = max(1, score.batch // 2)
    values = torch.empty_like(x)
    for i in range(0, len(x), size):
        part = slice(i, i + size)
        values[part], found = _contributions(score, x[part], baseline[part], targets[part])
        _check(found, confidence[part], low[part])
        _check_sum(values[part], change[part], confidence[part])
    told = {"baseline": baseline_name(settings)}
    return Attribution(values, confidence, baseline, change, None, True, told)


def _contributions(score: Score, x: Tensor, baseline: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The contributions (N, C, H, W), and F of images and baselines as the pairs have come to it, (2, N)."""
    leaf = x.detach().contiguous().clone().requires_grad_(True)
    with torch.enable_grad():
        inputs = Pair(leaf.clone(), baseline.detach().contiguous().clone())  # the network may change its input in place
    try:
        with torch.no_grad(), readable(), twice_differentiable():
            result = score(inputs, targets)
    except (RuntimeError, TypeError) as error:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        raise UsageError(f"deeplift cannot follow this network ({reason(error)}): {INSTEAD}") from error
    if not isinstance(result, Pair):  # the score does not depend on the image
        return torch.zeros_like(x), torch.stack((result, result))
    found = torch.stack((result.value.detach(), result.base))
    if not result.value.requires_grad:
        return torch.zeros_like(x), found
    (multiplier,) = torch.autograd.grad(result.value, leaf, torch.ones_like(result.value), allow_unused=True)
    return torch.zeros_like(x) if multiplier is None else (x - baseline) * multiplier, found


def _check(found: Tensor, confidence: Tensor, low: Tensor) -> None:
    """The pairs must have come to the network's own scores."""
    expected = torch.stack((confidence, low))
    wrong = (found - expected).abs() > _tolerance(found) * (1 + expected.abs())
    if bool(wrong.any()):
        raise UsageError(f"deeplift does not come to the network's own score (is it random, in eval mode?): {INSTEAD}")


def _check_sum(values: Tensor, change: Tensor, confidence: Tensor) -> None:
    """What reaches the image must add up: else a part of the network was out of sight."""
    flat = values.double().flatten(1)
    scale = flat.abs().sum(1) + 0.01 * (1 + confidence.double().abs())  # of rounding
    if bool(((flat.sum(1) - change).abs() > _tolerance(values) * scale).any()):
        raise UsageError(f"deeplift does not add up here (low precision, or a part out of its sight): {INSTEAD}")


def _tolerance(values: Tensor) -> float:
    return max(MISMATCH, 16 * torch.finfo(values.dtype).eps)


# ---------------------------------------------------------------- pairs


class Pair(Tensor):
    """What a tensor of the network is for the image (``value``, with its graph) and for the baseline (``base``).

    To the network it looks like one tensor of the shape of either; every operation on it comes to `_run`.
    """

    value: Tensor
    base: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, value: Tensor, base: Tensor) -> Pair:
        """Shape, strides and type are those of ``value``."""
        pair: Pair = Tensor._make_wrapper_subclass(
            cls,
            value.shape,
            strides=value.stride(),
            storage_offset=value.storage_offset(),
            dtype=value.dtype,
            layout=value.layout,
            device=value.device,
        )
        pair.value, pair.base = value, base
        return pair

    def __init__(self, value: Tensor, base: Tensor) -> None: ...

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Pair({self.value!r}, {self.base!r})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation by its rule, with autograd at work on the ``value`` side."""
        with enable_reentrant_dispatch(), torch.enable_grad():
            return _run(func, args, kwargs or {})


Rule = Callable[..., Any]  # (operation, *args, **kwargs) to a Pair or several


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    space, _, name = func._schema.name.partition("::")
    if space != "aten":
        _refuse(func)
    if any(isinstance(t, Pair) and not t.is_floating_point() for t in tree_leaves((args, kwargs))):
        # the indices of a maximum: pooling in one dimension drops their second one, to more they are not fit
        return Pair(*_values(func, args, kwargs)) if name in ("squeeze", "view") else _refuse(func)
    if func._schema.is_mutable:
        return _in_place(func, name, args, kwargs)
    return RULES.get(name, _refuse)(func, *args, **kwargs)


def _refuse(func: Any, *_: Any, **__: Any) -> NoReturn:
    space, _, name = func._schema.name.partition("::")
    shown = f"torch.{name.strip('_')}" if space == "aten" else f"{space}::{name}"
    raise UsageError(f"deeplift has no rule for {shown} of what depends on the image: {INSTEAD}")


def _in_place(func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The operation that is not in place, and a copy: autograd then sees to views and to what shares memory."""
    target = args[0] if args else None
    if not isinstance(target, Pair):
        raise UsageError(f"deeplift cannot follow an image that is written into a constant tensor: {INSTEAD}")
    packet = getattr(aten, name[:-1], None) if name.endswith("_") else None
    known = [] if packet is None else packet.overloads()
    overload = next((name for name in (func._overloadname, "int") if name in known), None)  # transpose_ has no "int"
    if overload is None:
        _refuse(func)
    result = _run(getattr(packet, overload), args, kwargs)
    if torch.Tag.inplace_view in func.tags:  # a new shape or new strides of the same numbers
        target.value, target.base = result.value, result.base
        return _reshaped(func, args, kwargs)
    if isinstance(result, Pair):
        target.value.copy_(result.value)
        target.base.copy_(result.base)
    else:
        target.value.copy_(result)
        target.base.copy_(result)
    return target


def _reshaped(func: Any, args: Any, kwargs: Any) -> Any:
    """The pair with the shape that it has for torch changed, as torch's own wrappers of tensors do it."""
    before = torch._C._meta_in_tls_dispatch_include()
    with no_dispatch():
        torch._C._set_meta_in_tls_dispatch_include(True)
        try:
            func(*args, **kwargs)
        finally:
            torch._C._set_meta_in_tls_dispatch_include(before)
    return args[0]


def _value(tree: Any) -> Any:
    """The image's side of all pairs; weights cut from their graphs."""
    return tree_map(lambda t: t.value if isinstance(t, Pair) else t.detach() if isinstance(t, Tensor) else t, tree)


def _base(tree: Any) -> Any:
    """The baseline's side of all pairs."""
    return tree_map(lambda t: t.base if isinstance(t, Pair) else t, tree)


@torch.no_grad()
def _values(func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The operation on either side, without a graph."""
    return func(*_value(args), **_value(kwargs)), func(*_base(args), **_base(kwargs))


def _pair(func: Any, value: Any, base: Any) -> Any:
    """Pairs of what an operation has returned on either side."""
    if isinstance(value, tuple | list):
        return type(value)(_pair(func, one, other) for one, other in zip(value, base, strict=True))
    if not isinstance(value, Tensor):
        return value
    if not value.is_floating_point():  # rounded to integers
        _refuse(func)
    return Pair(value, base)


class _Slope(torch.autograd.Function):
    """A tensor that stands for f(z), with a given derivative by z."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, slope: Tensor, result: list[Tensor]) -> Tensor:
        ctx.save_for_backward(slope)
        return result[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0] * ctx.saved_tensors[0], None, None


class _StandIn(torch.autograd.Function):
    """A tensor with the derivatives of another one of its shape."""

    @staticmethod
    def forward(ctx: Any, surrogate: Tensor, result: list[Tensor]) -> Tensor:
        return result[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0], None


# ---------------------------------------------------------------- rules


def _linear(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Linear, with an offset, in all of its pairs at once."""
    if func is aten.view.dtype:
        _refuse(func)
    value = func(*_value(args), **_value(kwargs))
    with torch.no_grad():
        base = func(*_base(args), **_base(kwargs))
    return _pair(func, value, base)


def _linear_in_first(func: Any, first: Any, *args: Any, **kwargs: Any) -> Any:
    """Linear in its first argument while no other depends on the image."""
    if _any_pair(args, kwargs):
        _refuse(func)
    return _linear(func, first, *args, **kwargs)


def _any_pair(*trees: Any) -> bool:
    return any(isinstance(leaf, Pair) for leaf in tree_leaves(trees))


def _same(func: Any, pair: Any, *_: Any, **__: Any) -> Any:
    """Detached values still depend on the image."""
    return _linear(aten.alias.default, pair)


def _as_strided(func: Any, pair: Any, *args: Any, **kwargs: Any) -> Any:
    if pair.value.stride() != pair.base.stride():
        _refuse(func)
    return _linear_in_first(func, pair, *args, **kwargs)


def _copy(func: Any, target: Any, source: Any, *_: Any) -> Any:
    """What a copy in place leaves behind, by a road that has derivatives."""
    return source.to(target.dtype).expand(target.shape).clone()


def _constant(func: Any, pair: Any, *args: Any, **kwargs: Any) -> Any:
    """A new tensor of which only shape and type come from the pair; what is filled in must not."""
    if _any_pair(args, kwargs):
        _refuse(func)
    return func(_base(pair), *args, **kwargs)


def _batch_norm(func: Any, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    """With fixed statistics. As a product and a sum, for torch's own derivative is wrong in eval mode on a CPU where
    the gradient that comes back is not contiguous (2.14: behind a flatten and a transpose)."""
    x, weight, bias, mean, variance = args[:5]
    if "_no_" not in func._schema.name and args[5]:
        raise UsageError(f"deeplift has no rule for batch norm with statistics of the batch: call eval(), or {INSTEAD}")
    if _any_pair(args[1:], kwargs):
        _refuse(func)
    factor = torch.rsqrt(variance + args[-1]) * (1 if weight is None else weight)
    offset = (0 if bias is None else bias) - mean * factor
    shape = (-1, *[1] * (x.dim() - 2))
    empty = mean.new_empty(0)
    return x * factor.view(shape) + offset.view(shape), empty, empty, *[empty] * (len(func._schema.returns) - 3)


def _product(func: Any, a: Any, b: Any, *args: Any) -> Any:
    """Linear in either of two factors; ``D(ab) = Da (b + b')/2 + (a + a')/2 Db``."""
    if not (isinstance(a, Pair) and isinstance(b, Pair)):
        return _linear(func, a, b, *args)
    value, base = _values(func, (a, b, *args), {})
    surrogate = func(a.value, _middle(b), *args) + func(_middle(a), b.value, *args)
    return Pair(_StandIn.apply(surrogate, [value]), base)


def _middle(pair: Pair) -> Tensor:
    return torch.lerp(pair.base, pair.value.detach(), 0.5)


def _convolution(func: Any, x: Any, weight: Any, bias: Any, *args: Any) -> Any:
    """Of an image by fixed weights, or by weights that an image has made."""
    if isinstance(weight, Pair) and bias is not None:
        return _product(func, x, weight, None, *args) + bias.view(-1, *[1] * (x.dim() - 2))
    return _product(func, x, weight, bias, *args)


def _linear_layer(func: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    product = x.matmul(weight.t())
    return product if bias is None else product + bias


def _add_product(product: Callable[[Any, Any], Any]) -> Rule:
    """``beta * c + alpha * a b``."""

    def rule(func: Any, c: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Any:
        if not (isinstance(a, Pair) and isinstance(b, Pair)):
            return _linear(func, c, a, b, beta=beta, alpha=alpha)
        return beta * c + alpha * product(a, b)

    return rule


def _divide(func: Any, a: Any, b: Any, *, rounding_mode: str | None = None) -> Any:
    if rounding_mode is not None:
        _refuse(func)
    if not isinstance(b, Pair):
        return _linear(func, a, b)
    if not isinstance(a, Pair):
        return a * torch.reciprocal(b)
    return _scaled_by(a, torch.reciprocal(b))


def _scaled_by(a: Any, r: Any) -> Pair:
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
    return Pair(_StandIn.apply(of_a * a.value + of_r * r.value, [value]), base)


def _elementwise(unit: float) -> Rule:
    """Rescale; ``unit`` is the scale on which f bends at zero, 0 where it has no other scale than z itself."""

    def rule(func: Any, z: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(z, Pair) or _any_pair(args, kwargs):
            _refuse(func)
        value, base = _values(func, (z, *args), kwargs)
        if value.shape != z.shape:  # bounds of a clamp that are larger than what is clamped
            z = z.expand(value.shape)
        slope = _rescale(lambda t: func(t, *_value(args), **kwargs), z.value.detach(), z.base, value - base, unit)
        return Pair(_Slope.apply(z.value, slope, [value]), base)

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


def _power(func: Any, z: Any, exponent: Any) -> Any:
    return _elementwise(0)(func, z, exponent)


def _maximum(func: Any, a: Any, b: Any) -> Any:
    return b + torch.relu(a - b)


def _minimum(func: Any, a: Any, b: Any) -> Any:
    return a - torch.relu(a - b)


def _softmax(func: Any, z: Any, dim: int, *args: Any, **kwargs: Any) -> Any:
    """``Dy_i = w_i (Dz_i - sum_j w_j Dz_j / sum_j w_j)``; of log y without the w_i in front."""
    value, base = _values(func, (z, dim, *args), kwargs)
    weight = _log_mean(*(part.to(value.dtype).log_softmax(dim) for part in (z.value.detach(), z.base)))
    share = weight / weight.sum(dim, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
    z = z.value.to(value.dtype)
    surrogate = z - (share * z).sum(dim, keepdim=True)
    if "log" not in func._schema.name:
        surrogate = weight * surrogate
    return Pair(_StandIn.apply(surrogate, [value]), base)


def _log_mean(u: Tensor, v: Tensor) -> Tensor:
    """``(e^u - e^v) / (u - v)``, zero where both are masked."""
    rise = u - v
    near = torch.lerp(u, v, 0.5).exp() * (1 + rise**2 / 24 * (1 + rise**2 / 80))  # the series of sinh(r/2) / (r/2)
    return torch.where(rise.abs() < 0.01, near, (u.exp() - v.exp()) / rise).nan_to_num(0)


def _log_sigmoid(func: Any, z: Any) -> Any:
    return -F.softplus(-z), z


def _glu(func: Any, z: Any, dim: int = -1) -> Any:
    a, b = z.chunk(2, dim)
    return a * torch.sigmoid(b)


def _lerp(func: Any, a: Any, b: Any, weight: Any) -> Any:
    return a + weight * (b - a)


def _add_times(func: Any, c: Any, a: Any, b: Any, *, value: float = 1) -> Any:
    return c + value * (a * b)


# ---------------------------------------------------------------- norms


def _standard(x: Any, dims: Sequence[int], eps: float) -> tuple[Any, Any, Any]:
    """x with mean 0 and variance 1 over ``dims``, the mean and the factor."""
    mean = x.mean(dims, keepdim=True)
    centred = x - mean
    factor = torch.rsqrt((centred * centred).mean(dims, keepdim=True) + eps)
    return _scaled_by(centred, factor) if isinstance(x, Pair) else centred * factor, mean, factor


def _scaled(x: Any, weight: Any, bias: Any) -> Any:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _layer_norm(func: Any, x: Any, shape: Sequence[int], weight: Any, bias: Any, eps: float) -> Any:
    out, mean, factor = _standard(x, list(range(-len(shape), 0)), eps)
    return _scaled(out, weight, bias), mean, factor


def _group_norm(
    func: Any, x: Any, weight: Any, bias: Any, n: int, channels: int, _: int, groups: int, eps: float
) -> Any:
    out, mean, factor = _standard(x.reshape(n, groups, -1), (-1,), eps)
    by_channel = [None if t is None else t.view(-1, *[1] * (x.dim() - 2)) for t in (weight, bias)]
    return _scaled(out.reshape(x.shape), *by_channel), mean.squeeze(-1), factor.squeeze(-1)


def _variance(
    func: Any, x: Any, dim: Any = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Any, Any]:
    """Variance and mean."""
    dims = list(range(x.dim())) if dim is None else list(dim)
    mean = x.mean(dims, keepdim=True)
    centred = x - mean
    count = x.numel() // max(1, mean.numel()) - (1 if correction is None else correction)
    return (centred * centred).sum(dims, keepdim=keepdim) / count, mean if keepdim else x.mean(dims)


def _vector_norm(
    func: Any, x: Any, ord: float = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    if ord not in (1, 2) or dtype is not None:
        _refuse(func)
    dims = list(range(x.dim())) if dim is None else dim
    return x.abs().sum(dims, keepdim=keepdim) if ord == 1 else (x * x).sum(dims, keepdim=keepdim).sqrt()


# ---------------------------------------------------------------- maxima


def _max_pool(dims: int) -> Rule:
    """Windows over the last ``dims`` dimensions."""

    def rule(func: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        (value, here), (base, there) = _values(func, (x, *args), kwargs)
        x_, base_, i, j = (t.flatten(-dims) for t in (x.value, x.base, here, there))
        surrogate = _shared(x_, base_, i, j, -1).view_as(value)
        # indices are pairs of integers, which no operation takes: they depend on the image
        return Pair(_StandIn.apply(surrogate, [value]), base), Pair(here, there)

    return rule


def _max(func: Any, x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    if dim is None:
        return _amax(func, x)
    (value, here), (base, there) = _values(func, (x, dim, keepdim), {})
    winners = (here, there) if keepdim else (here.unsqueeze(dim), there.unsqueeze(dim))
    surrogate = _shared(x.value, x.base, *winners, dim).view_as(value)
    return Pair(_StandIn.apply(surrogate, [value]), base), Pair(here, there)


def _amax(func: Any, x: Any, dim: Sequence[int] = (), keepdim: bool = False) -> Any:
    for d in sorted((d % x.dim() for d in dim or range(x.dim())), reverse=True):
        x = torch.max(x, d, keepdim=keepdim)[0]
    return x


def _shared(x: Tensor, base: Tensor, here: Tensor, there: Tensor, dim: int) -> Tensor:
    """The maximum as a sum over the winner i for x and the winner j for x', with Shapley's shares of the change.

    ``phi_i = ((max(x_i, x'_j) - x'_j) + (x_i - max(x'_i, x_j))) / 2`` and the same for j; each lies between 0 and its
    own input's change, so that the multipliers lie in [0, 1] (those of the original code, which give all of the rise
    to i and all of the fall to j, have no bound).
    """
    with torch.no_grad():
        x_i, x_j, base_i, base_j = (t.gather(dim, w) for t in (x, base) for w in (here, there))
        first, second = torch.maximum(x_i, base_j), torch.maximum(base_i, x_j)
        phi_i = ((first - base_j) + (x_i - second)) / 2
        phi_j = ((second - base_j) + (x_i - first)) / 2
        m_i, m_j = (
            torch.where(run == 0, 0.5, phi / run).clamp(0, 1)
            for phi, run in ((phi_i, x_i - base_i), (phi_j, x_j - base_j))
        )
    return m_i * x.gather(dim, here) + m_j * x.gather(dim, there)


# ---------------------------------------------------------------- which operation has which rule


def _all(names: str, rule: Rule) -> Iterable[tuple[str, Rule]]:
    return ((name, rule) for name in names.split())


REARRANGING = """view _unsafe_view _reshape_alias _reshape_copy reshape permute t transpose movedim expand select
    slice unbind split split_with_sizes squeeze unsqueeze unfold alias clone _to_copy cat stack roll flip repeat
    diagonal diag_embed tril triu constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
    replication_pad2d replication_pad3d pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle im2col
    col2im index index_select gather select_scatter slice_scatter lift lift_fresh contiguous"""
LINEAR = """add sub rsub neg positive sum mean cumsum trace avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d
    _adaptive_avg_pool3d upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d upsample_trilinear3d
    upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa where masked_fill fill"""
LINEAR_IN_FIRST = "grid_sampler_2d grid_sampler_3d"
CONSTANT = """new_zeros new_ones new_full new_empty new_empty_strided zeros_like ones_like full_like empty_like"""
# functions of z that have no other scale near zero than z itself, or bend at given places only
ELEMENTWISE = """relu leaky_relu elu celu gelu silu mish hardtanh hardswish softshrink tanh erf sin
    abs clamp clamp_min clamp_max sqrt rsqrt reciprocal log log2 log10 _prelu_kernel asinh atan sinh expm1"""
ELEMENTWISE_UNIT = "sigmoid exp exp2 softplus hardsigmoid cos cosh log1p"

RULES: dict[str, Rule] = {
    **dict(_all(REARRANGING, _linear)),
    **dict(_all(LINEAR, _linear)),
    **dict(_all(LINEAR_IN_FIRST, _linear_in_first)),
    **dict(_all(CONSTANT, _constant)),
    **dict(_all(ELEMENTWISE, _elementwise(0))),
    **dict(_all(ELEMENTWISE_UNIT, _elementwise(1))),
    **dict(_all("native_batch_norm cudnn_batch_norm miopen_batch_norm", _batch_norm)),
    **dict(_all("_native_batch_norm_legit_no_training _native_batch_norm_legit _batch_norm_no_update", _batch_norm)),
    **dict(_all("mul mm bmm mv dot", _product)),
    **dict(_all("_softmax _safe_softmax _log_softmax", _softmax)),
    **dict(_all("max_pool2d_with_indices adaptive_max_pool2d", _max_pool(2))),
    **dict(_all("max_pool3d_with_indices adaptive_max_pool3d", _max_pool(3))),
    "detach": _same,
    "copy": _copy,
    "zero": lambda func, pair: _constant(torch.zeros_like, pair),
    "as_strided": _as_strided,
    "convolution": _convolution,
    "linear": _linear_layer,
    "addmm": _add_product(torch.mm),
    "baddbmm": _add_product(torch.bmm),
    "addmv": _add_product(torch.mv),
    "addcmul": _add_times,
    "lerp": _lerp,
    "div": _divide,
    "pow": _power,
    "maximum": _maximum,
    "minimum": _minimum,
    "glu": _glu,
    "log_sigmoid_forward": _log_sigmoid,
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "var": lambda *args, **kwargs: _variance(*args, **kwargs)[0],
    "var_mean": _variance,
    "std": lambda *args, **kwargs: _variance(*args, **kwargs)[0].sqrt(),
    "linalg_vector_norm": _vector_norm,
    "max": _max,
    "amax": _amax,
}
