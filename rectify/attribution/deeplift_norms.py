"""The rules of DeepLIFT for norms and for maxima."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rectify.attribution.deeplift_pairs import Pair, Rule, StandIn, both_sides, refuse
from rectify.attribution.deeplift_rules import scaled_by


def _standard(x: Any, dims: Sequence[int], eps: float) -> tuple[Any, Any, Any]:
    """x with mean 0 and variance 1 over ``dims``, the mean and the factor."""
    mean = x.mean(dims, keepdim=True)
    centred = x - mean
    factor = torch.rsqrt((centred * centred).mean(dims, keepdim=True) + eps)
    return scaled_by(centred, factor) if isinstance(x, Pair) else centred * factor, mean, factor


def _scaled(x: Any, weight: Any, bias: Any) -> Any:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def layer_norm(func: Any, x: Any, shape: Sequence[int], weight: Any, bias: Any, eps: float) -> Any:
    out, mean, factor = _standard(x, list(range(-len(shape), 0)), eps)
    return _scaled(out, weight, bias), mean, factor


def group_norm(
    func: Any, x: Any, weight: Any, bias: Any, n: int, channels: int, _: int, groups: int, eps: float
) -> Any:
    out, mean, factor = _standard(x.reshape(n, groups, -1), (-1,), eps)
    by_channel = [None if t is None else t.view(-1, *[1] * (x.dim() - 2)) for t in (weight, bias)]
    return _scaled(out.reshape(x.shape), *by_channel), mean.squeeze(-1), factor.squeeze(-1)


def variance(
    func: Any, x: Any, dim: Any = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Any, Any]:
    """Variance and mean."""
    dims = list(range(x.dim())) if dim is None else list(dim)
    mean = x.mean(dims, keepdim=True)
    centred = x - mean
    count = x.numel() // max(1, mean.numel()) - (1 if correction is None else correction)
    return (centred * centred).sum(dims, keepdim=keepdim) / count, mean if keepdim else x.mean(dims)


def vector_norm(func: Any, x: Any, ord: float = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    if ord not in (1, 2) or dtype is not None:
        refuse(func)
    dims = list(range(x.dim())) if dim is None else dim
    return x.abs().sum(dims, keepdim=keepdim) if ord == 1 else (x * x).sum(dims, keepdim=keepdim).sqrt()


def max_pool(dims: int) -> Rule:
    """Windows over the last ``dims`` dimensions."""

    def rule(func: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        (value, here), (base, there) = both_sides(func, (x, *args), kwargs)
        x_, base_, i, j = (t.flatten(-dims) for t in (x.value, x.base, here, there))
        surrogate = _shared(x_, base_, i, j, -1).view_as(value)
        # indices are pairs of integers, which no operation takes: they depend on the image
        return Pair(StandIn.apply(surrogate, [value]), base), Pair(here, there)

    return rule


def maximum_along(func: Any, x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    if dim is None:
        return maximum_over(func, x)
    (value, here), (base, there) = both_sides(func, (x, dim, keepdim), {})
    winners = (here, there) if keepdim else (here.unsqueeze(dim), there.unsqueeze(dim))
    surrogate = _shared(x.value, x.base, *winners, dim).view_as(value)
    return Pair(StandIn.apply(surrogate, [value]), base), Pair(here, there)


def maximum_over(func: Any, x: Any, dim: Sequence[int] = (), keepdim: bool = False) -> Any:
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
