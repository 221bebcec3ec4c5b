"""Trace a network: the layers that can be edited, and the sums that its residual branches flow into.

A layer at the end of a residual branch (conv - batch norm - add) writes into the block's output. An edit there can
cancel what leaks through the shortcut, provided that one knows the affine map from the layer's output to the sum. It is
found without a word from the user: two companions travel with the layer's output through every operation that only
scales, shifts or rearranges numbers: *where each number came from* and *by how much it was scaled*. Whatever tensor
library call the network makes, the dispatcher shows it, so hand-written, torchvision, timm and transformer models are
read alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from rectify.model.layers import Layer, find_layers, fitting
from rectify.model.record import ADDS, hooked, is_addition, readable, record

aten = torch.ops.aten
_REARRANGE = {
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.permute.default,
    aten.transpose.int,
    aten.t.default,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.clone.default,
    aten.roll.default,
    aten.alias.default,
    aten.detach.default,
    aten.contiguous.default,
}
_BATCH_NORMS = {
    aten.native_batch_norm.default,
    aten._native_batch_norm_legit_no_training.default,
    aten.cudnn_batch_norm.default,
    aten._batch_norm_no_update.default,
}
_MULTIPLY = {aten.mul.Tensor, aten.mul_.Tensor}


@dataclass(frozen=True)
class Join:
    """The first sum of two data-dependent tensors that a layer's output reaches by an affine map.

    For one image, ``sum.flatten()[j] = scale[j] * output.flatten()[source[j]] + (what does not depend on it)``.
    """

    index: int  # which addition of two tensors in the forward pass, counted from 0
    source: Tensor  # (M,) int64
    scale: Tensor  # (M,)

    def pull_back(self, difference: Tensor) -> Tensor:
        """Difference of two sums (N, ...) -> the change of the layer's output that would make it, (N, M).

        Channels whose scale is (nearly) zero cannot be reached and get zero.
        """
        flat = difference.flatten(1)
        usable = self.scale.abs() > 1e-6 * self.scale.abs().max()
        moved = torch.where(usable, flat / self.scale, torch.zeros_like(flat))
        out = torch.zeros_like(flat)
        out[:, self.source] = moved
        return out


@dataclass(frozen=True)
class Site:
    """A layer that can be edited, with what a trace of the network has shown of it."""

    layer: Layer
    order: int  # position in the order of execution
    depth: int  # longest chain of layers from the input to here, this one included
    join: Join | None
    is_shortcut: bool  # a projection beside a longer residual branch
    is_cut: bool = False  # every path from the input to the output runs through it
    norm_scale: Tensor | None = None  # (channels,) factor of the batch norm that follows, if one does

    @property
    def name(self) -> str:
        """The layer's dotted name."""
        return self.layer.name


@dataclass
class _Companions:
    """What travels with a layer's output: per number its source index and its scale, both of the tensor's shape."""

    layer: str
    source: Tensor
    scale: Tensor


class _Survey(TorchDispatchMode):
    """Follow every layer's output to the first sum, and every tensor's depth in layers."""

    def __init__(self) -> None:
        super().__init__()
        self.companions: dict[int, list[_Companions]] = {}
        self.depth: dict[int, int] = {}
        self.ancestors: dict[int, frozenset[str]] = {}
        self.dominators: dict[int, frozenset[str]] = {}  # only of what depends on the input
        self.joins: dict[str, tuple[int, Tensor, Tensor]] = {}
        self.norm_scales: dict[str, Tensor] = {}
        self.meetings: dict[int, list[tuple[str, frozenset[str]]]] = {}
        self.additions = 0
        self.alive: list[Any] = []  # ids are only unique among living objects

    def tag(self, name: str, output: Tensor, depth: int) -> None:
        """Called by a layer's forward hook."""
        source = torch.arange(output.numel(), device=output.device).view(output.shape)
        self.companions[id(output)] = [_Companions(name, source, torch.ones_like(output))]
        self.depth[id(output)] = depth
        self.ancestors[id(output)] = self.ancestors.get(id(output), frozenset()) | {name}
        self.dominators[id(output)] = self.dominators.get(id(output), frozenset()) | {name}
        self.alive.append(output)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        first = result[0] if isinstance(result, tuple | list) and result else result
        if not isinstance(first, Tensor):
            return result
        tensors = [a for a in args if isinstance(a, Tensor)]
        tensors += [t for a in args if isinstance(a, tuple | list) for t in a if isinstance(t, Tensor)]
        depth = max((self.depth.get(id(t), 0) for t in tensors), default=0)
        ancestors = frozenset[str]().union(*(self.ancestors.get(id(t), frozenset()) for t in tensors))
        dominators = [self.dominators[id(t)] for t in tensors if id(t) in self.dominators]
        companions = self._carry(func, args, kwargs or {}, first)
        for each in result if isinstance(result, tuple | list) else [result]:
            if isinstance(each, Tensor):
                self.depth[id(each)] = depth
                self.ancestors[id(each)] = ancestors
                if dominators:
                    self.dominators[id(each)] = frozenset.intersection(*dominators)
                self.alive.append(each)
        self.companions.pop(id(first), None)  # in-place operations reuse the object
        if companions:
            self.companions[id(first)] = companions
        return result

    def _carry(self, func: Any, args: Any, kwargs: Any, result: Tensor) -> list[_Companions]:
        if func in ADDS and len(args) > 1 and isinstance(args[0], Tensor) and isinstance(args[1], Tensor):
            counted = is_addition(func, args)
            number, self.additions = self.additions, self.additions + counted
            if kwargs.get("alpha", 1) != 1:
                return []
            if id(args[0]) in self.dominators and id(args[1]) in self.dominators:
                return self._sum(args, number) if counted else []
        mine = self.companions.get(id(args[0]), []) if args and isinstance(args[0], Tensor) else []
        if func in _REARRANGE and mine:
            return [
                _Companions(c.layer, func(c.source, *args[1:], **kwargs), func(c.scale, *args[1:], **kwargs))
                for c in mine
            ]
        if func in _BATCH_NORMS and mine:
            weight, variance = args[1], args[4]
            if variance is None or args[5] is True:  # measured in the images themselves, as instance norm does
                return []
            factor = torch.rsqrt(variance + float(args[-1])) * (1.0 if weight is None else weight)
            shape = [1, -1] + [1] * (result.dim() - 2)
            self.norm_scales |= {c.layer: factor for c in mine}
            return [_Companions(c.layer, c.source, c.scale * factor.view(shape)) for c in mine]
        if func in _MULTIPLY:
            return self._product(args, result)
        if func in ADDS and mine and mine[0].source.shape == result.shape:
            return mine  # a constant of another shape: a bias or a position embedding
        return []

    def _product(self, args: Any, result: Tensor) -> list[_Companions]:
        """Multiplication by a number or by a tensor that no layer has touched (layer scale)."""
        for one, other in ((args[0], args[1]), (args[1], args[0])):
            mine = self.companions.get(id(one), []) if isinstance(one, Tensor) else []
            if mine and mine[0].source.shape == result.shape and id(other) not in self.dominators:
                return [_Companions(c.layer, c.source, c.scale * other) for c in mine]
        return []

    def _sum(self, args: Any, number: int) -> list[_Companions]:
        """End the journey of both operands' companions here, unless the other operand depends on the layer too."""
        for operand, other in ((args[0], args[1]), (args[1], args[0])):
            for c in self.companions.get(id(operand), []):
                beside = self.ancestors.get(id(other), frozenset())
                if c.layer not in self.joins and c.layer not in beside and args[0].shape == args[1].shape:
                    self.joins[c.layer] = (number, c.source, c.scale)
                    self.meetings.setdefault(number, []).append((c.layer, beside))
        return []


@torch.no_grad()
def survey(network: nn.Module, example: Tensor) -> list[Site]:
    """All editable layers of a network in the order of execution.

    Parameters
    ----------
    network
        In eval mode.
    example
        (1, C, H, W) or more images; two rows are used, so that a constant is told from a batch.

    Returns
    -------
    list of Site
        Layers that are called exactly once and compute ``W k + b`` with their own weight. Others (called twice,
        weight standardisation) are left out.
    """
    # Two different images: what belongs to which must be told apart.
    x = torch.cat((example[:1], 0.5 * example[:1].flip(-1) + 0.1))
    mode = _Survey()
    order: dict[str, int] = {}
    calls: dict[str, int] = {}
    depths: dict[str, int] = {}
    sound: dict[str, Layer] = {}

    def hook_for(layer: Layer) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            calls[layer.name] = calls.get(layer.name, 0) + 1
            if not args or id(args[0]) not in mode.dominators or not isinstance(output, Tensor):
                return
            depth = mode.depth.get(id(args[0]), 0) + 1
            order[layer.name], depths[layer.name] = len(calls) - 1, depth
            with torch.utils._python_dispatch._disable_current_modes():
                if len(args) == 1 and _images_first(alone.get(layer.name), output):
                    found = fitting(layer, args[0], output, 2)
                    if found is not None:
                        sound[layer.name] = found
                mode.tag(layer.name, output, depth)

        return hook

    layers = find_layers(network)
    alone = record(network, x[:1], outputs=layers, logits=True).outputs
    with readable(), hooked([layer.module.register_forward_hook(hook_for(layer)) for layer in layers]), mode:
        mode.dominators[id(x)] = frozenset()
        logits = network(x)
    usable = [layer for name, layer in sound.items() if calls[name] == 1]
    usable.sort(key=lambda layer: order[layer.name])
    shortcuts = _shortcuts(mode, {layer.name: layer for layer in usable}, depths)
    cuts = mode.dominators.get(id(logits), frozenset())
    return [
        Site(
            layer,
            order[layer.name],
            depths[layer.name],
            _join_of(mode, layer.name),
            layer.name in shortcuts,
            layer.name in cuts,
            _norm_scale(mode, layer),
        )
        for layer in usable
    ]


def _norm_scale(mode: _Survey, layer: Layer) -> Tensor | None:
    """The factor of the batch norm behind a layer, unless its channels are not the layer's (behind a flatten)."""
    scale = mode.norm_scales.get(layer.name)
    return scale if scale is not None and len(scale) == len(layer.module.weight) else None


def _images_first(alone: Tensor | None, both: Tensor) -> bool:
    """Whether the first half of the output on two images is the output on the first alone.

    Not so where tokens come before images, or where images are folded in another order.
    """
    if alone is None or len(both) != 2 * len(alone) or alone.shape[1:] != both.shape[1:]:
        return False
    scale = float(alone.abs().max()) + 1e-6
    return bool((both[: len(alone)] - alone).abs().max() <= 1e-3 * scale)


def _join_of(mode: _Survey, name: str) -> Join | None:
    if name not in mode.joins:
        return None
    index, source, scale = mode.joins[name]
    half = source.numel() // 2
    source, scale = source.flatten()[:half], scale.flatten()[:half]
    # A permutation of one image's numbers, else the map is not one that can be undone (cropped, repeated).
    if int(source.max()) >= half or source.unique().numel() != half:
        return None
    return Join(index, source.clone(), scale.clone())


def _shortcuts(mode: _Survey, layers: dict[str, Layer], depths: dict[str, int]) -> set[str]:
    """Pointwise projections that run beside a longer branch: they meet it in a sum and do not lie under it."""
    found = set()
    for met in mode.meetings.values():
        for name, beside in met:
            longer = max((depths[other] for other in beside if other in depths), default=0)
            if name in layers and layers[name].is_pointwise and name not in beside and longer > depths[name]:
                found.add(name)
    return found
