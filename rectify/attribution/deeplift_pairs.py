"""What an image and its baseline are to a network side by side, and how every operation on the two comes to its rule.

See `rectify.attribution.deeplift` for the method, `rectify.attribution.deeplift_table` for the rules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.overrides import enable_reentrant_dispatch
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_leaves, tree_map

from rectify.errors import UsageError

aten = torch.ops.aten
INSTEAD = "use --method ig"


class Pair(Tensor):
    """What a tensor of the network is for the image (``value``, with its graph) and for the baseline (``base``).

    To the network it looks like one tensor of the shape of either; every operation on it comes to `run`.
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
            return run(func, args, kwargs or {})


Rule = Callable[..., Any]  # (operation, *args, **kwargs) to a Pair or several


def run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The operation on pairs, by its rule.

    Raises
    ------
    UsageError
        If it has none.
    """
    space, _, name = func._schema.name.partition("::")
    if space != "aten":
        refuse(func)
    if any(isinstance(t, Pair) and not t.is_floating_point() for t in tree_leaves((args, kwargs))):
        # the indices of a maximum: pooling in one dimension drops their second one, to more they are not fit
        return Pair(*both_sides(func, args, kwargs)) if name in ("squeeze", "view") else refuse(func)
    if func._schema.is_mutable:
        return _in_place(func, name, args, kwargs)
    from rectify.attribution.deeplift_table import RULES  # here, since the rules themselves are made of pairs

    return RULES.get(name, refuse)(func, *args, **kwargs)


def refuse(func: Any, *_: Any, **__: Any) -> NoReturn:
    """The rule of what has no rule: a `UsageError` that names it."""
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
        refuse(func)
    result = run(getattr(packet, overload), args, kwargs)
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


def image_side(tree: Any) -> Any:
    """The image's side of all pairs; weights cut from their graphs."""
    return tree_map(lambda t: t.value if isinstance(t, Pair) else t.detach() if isinstance(t, Tensor) else t, tree)


def baseline_side(tree: Any) -> Any:
    """The baseline's side of all pairs."""
    return tree_map(lambda t: t.base if isinstance(t, Pair) else t, tree)


@torch.no_grad()
def both_sides(func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The operation on either side, without a graph."""
    return func(*image_side(args), **image_side(kwargs)), func(*baseline_side(args), **baseline_side(kwargs))


def paired(func: Any, value: Any, base: Any) -> Any:
    """Pairs of what an operation has returned on either side."""
    if isinstance(value, tuple | list):
        return type(value)(paired(func, one, other) for one, other in zip(value, base, strict=True))
    if not isinstance(value, Tensor):
        return value
    if not value.is_floating_point():  # rounded to integers
        refuse(func)
    return Pair(value, base)


class Slope(torch.autograd.Function):
    """A tensor that stands for f(z), with a given derivative by z."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, slope: Tensor, result: list[Tensor]) -> Tensor:
        ctx.save_for_backward(slope)
        return result[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0] * ctx.saved_tensors[0], None, None


class StandIn(torch.autograd.Function):
    """A tensor with the derivatives of another one of its shape."""

    @staticmethod
    def forward(ctx: Any, surrogate: Tensor, result: list[Tensor]) -> Tensor:
        return result[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0], None


def any_pair(*trees: Any) -> bool:
    """Whether something in these arguments depends on the image."""
    return any(isinstance(leaf, Pair) for leaf in tree_leaves(trees))
